//! Reading typed fields out of a JSON object, with errors that name the file and the field.

use super::{ConfigError, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// A JSON object of a config file. A `null` counts as absent unless a method says otherwise.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    path: &'a Path,
    /// What precedes a field's name in messages: "" or "rope_parameters."
    prefix: &'a str,
}

impl<'a> Fields<'a> {
    pub fn new(object: &'a Map<String, Value>, path: &'a Path) -> Fields<'a> {
        Fields { object, path, prefix: "" }
    }

    pub fn error(&self, field: &str, reason: impl Into<String>) -> ConfigError {
        let field = format!("{}{field}", self.prefix);
        ConfigError::Field { path: self.path.into(), field, reason: reason.into() }
    }

    /// The value as it stands; `Some(Value::Null)` for an explicit null.
    pub fn raw(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field)
    }

    /// The names of the fields that are not null.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.object.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str())
    }

    fn get(&self, field: &str) -> Option<&'a Value> {
        self.raw(field).filter(|v| !v.is_null())
    }

    fn typed<T>(&self, field: &str, kind: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let other = || self.error(field, format!("expected {kind}, found {}", shorten(value)));
        read(value).map(Some).ok_or_else(other)
    }

    pub fn size(&self, field: &str) -> Result<Option<usize>> {
        // The bound keeps every product of two sizes in range.
        let read = |v: &Value| v.as_u64().filter(|&n| n <= u32::MAX as u64).map(|n| n as usize);
        self.typed(field, "a size (a whole number below 2^32)", read)
    }

    /// A size that must be there and must not be zero.
    pub fn extent(&self, field: &str) -> Result<usize> {
        let n = self.size(field)?.ok_or_else(|| self.error(field, "it is missing"))?;
        if n == 0 { Err(self.error(field, "it is 0")) } else { Ok(n) }
    }

    pub fn float(&self, field: &str) -> Result<Option<f64>> {
        self.typed(field, "a number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    pub fn flag(&self, field: &str) -> Result<Option<bool>> {
        self.typed(field, "true or false", Value::as_bool)
    }

    pub fn text(&self, field: &str) -> Result<Option<&'a str>> {
        self.typed(field, "a string", Value::as_str)
    }

    pub fn list(&self, field: &str) -> Result<Option<&'a Vec<Value>>> {
        self.typed(field, "a list", Value::as_array)
    }

    /// A nested object; an empty one counts as absent.
    pub fn object(&self, field: &str, prefix: &'a str) -> Result<Option<Fields<'a>>> {
        let object = self.typed(field, "an object", Value::as_object)?.filter(|o| !o.is_empty());
        Ok(object.map(|object| Fields { object, path: self.path, prefix }))
    }

    /// Whether it is -1, which old checkpoints write for "none".
    pub fn is_minus_one(&self, field: &str) -> bool {
        self.raw(field).and_then(Value::as_i64) == Some(-1)
    }

    /// A token id or a list of them; empty if absent.
    pub fn token_ids(&self, field: &str) -> Result<Vec<u32>> {
        if self.is_minus_one(field) {
            return Ok(Vec::new());
        }
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = self.typed(field, "a token id or a list of token ids", |v| match v {
            Value::Array(list) => list.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }
}

fn shorten(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 40 { text } else { text.chars().take(40).collect::<String>() + "…" }
}
