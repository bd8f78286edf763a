//! Python's values, as far as templates see them: what they print, how they compare, and over what one can iterate.
//!
//! minijinja's own values stand for Python's, and `values.rs` has the others.

use std::cmp::Ordering;

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, Value};

use crate::NUMBER;

use super::budget::{self, CONTAINER, DEPTH, VALUE, bad};
use super::values::{Group, View, Wide};

/// JSON as a template sees it: objects keep their order.
pub(super) fn from_json(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i128(), number.as_f64()) {
            (Some(integer), _) => Value::from(integer),
            (_, float) => Value::from(float),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(fields) => match fields.get(NUMBER).and_then(Json::as_str) {
            Some(number) => number.parse().map_or_else(
                |_| Wide::value(number),
                |float: f64| match number.ends_with(|c: char| c.is_ascii_digit()) {
                    true => Wide::value(number),
                    false => Value::from(float),
                },
            ),
            None => Value::from_pairs(fields.iter().map(|(key, value)| (key.as_str(), from_json(value)))),
        },
    }
}

/// A number as Python computes with it.
#[derive(Clone, Copy)]
pub(super) enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    /// The number that a value is; booleans are numbers.
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value.kind() {
            ValueKind::Bool => Some(Self::Int(value.is_true().into())),
            ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(Self::Int),
            ValueKind::Number => f64::try_from(value.clone()).ok().map(Self::Float),
            _ => None,
        }
    }

    pub(super) fn float(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }

    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (a, b) => a.float().partial_cmp(&b.float()),
        }
    }
}

/// Whether a value is one of Python's tuples.
pub(super) fn is_tuple(value: &Value) -> bool {
    value.is_tuple() || value.downcast_object_ref::<Group>().is_some()
}

/// The type's name in Python.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String if value.is_safe() => "Markup",
        ValueKind::String => "str",
        ValueKind::Seq if is_tuple(value) => "tuple",
        ValueKind::Seq => "list",
        ValueKind::Map => "dict",
        _ if is_wide(value) => "int",
        _ => "object",
    }
}

pub(super) fn is_wide(value: &Value) -> bool {
    value.downcast_object_ref::<Wide>().is_some()
}

/// The text that a value is.
///
/// # Errors
/// If it is none.
pub(super) fn string(value: &Value) -> Result<&str, Error> {
    value.as_str().ok_or_else(|| bad(format!("a string is needed, not '{}'", type_name(value))))
}

/// The integer that a value is, or a boolean's.
///
/// # Errors
/// If it is none, or beyond 64 bits.
pub(super) fn integer(value: &Value) -> Result<i64, Error> {
    match Number::of(value) {
        Some(Number::Int(value)) => {
            i64::try_from(value).map_err(|_| bad(format!("{value} is too large here")))
        }
        _ => Err(bad(format!("an integer is needed, not '{}'", type_name(value)))),
    }
}

/// What Python's `iter(value)` gives, as a list; a generator is empty afterwards.
///
/// # Errors
/// If one cannot iterate over the value.
pub(super) fn items(value: &Value) -> Result<Vec<Value>, Error> {
    budget::fits(value.as_str().map_or(0, str::len) * size_of::<Value>())?;
    let iterates = value.is_undefined() || value.kind() == ValueKind::String || value.as_object().is_some();
    let items = if iterates && !value.is_none() { value.try_iter().ok() } else { None };
    let items: Vec<Value> =
        items.ok_or_else(|| bad(format!("'{}' object is not iterable", type_name(value))))?.collect();
    budget::look(items.len() * size_of::<Value>())?;
    Ok(items)
}

pub(super) fn entries(value: &Value) -> Result<Vec<(Value, Value)>, Error> {
    let value_of = |key: Value| (key.clone(), value.get_item(&key).unwrap_or_default());
    Ok(items(value)?.into_iter().map(value_of).collect())
}

/// A list that a template makes.
///
/// # Errors
/// If the rendering has made too much.
pub(super) fn list(items: Vec<Value>) -> Result<Value, Error> {
    made(&items)?;
    Ok(Value::from(items))
}

/// As [`list`].
pub(super) fn tuple(items: Vec<Value>) -> Result<Value, Error> {
    made(&items)?;
    Ok(Tuple::new(items).into())
}

/// Counts a container of these items; all that is in them counts as looked through, so none grows exponentially by
/// holding another twice.
pub(super) fn made(items: &[Value]) -> Result<(), Error> {
    budget::make(CONTAINER.max(size_of_val(items)))?;
    items.iter().try_for_each(|item| walk(item, 1))
}

fn walk(value: &Value, depth: usize) -> Result<(), Error> {
    budget::look(VALUE)?;
    if depth > DEPTH {
        return Err(bad(format!("values lie in each other more than {DEPTH} deep")));
    }
    match value.kind() {
        ValueKind::Seq => value.try_iter()?.try_for_each(|item| walk(&item, depth + 1)),
        ValueKind::Map => entries(value)?.iter().try_for_each(|(_, item)| walk(item, depth + 1)),
        _ => Ok(()),
    }
}

/// A text that a template makes.
///
/// # Errors
/// If the rendering has made too much.
pub(super) fn made_text(text: impl Into<String>, is_safe: bool) -> Result<Value, Error> {
    let text = text.into();
    budget::make(text.len())?;
    Ok(if is_safe { Value::from_safe_string(text) } else { text.into() })
}

/// Python's `a == b`.
///
/// # Errors
/// If the rendering has compared too much.
pub(super) fn equal(a: &Value, b: &Value) -> Result<bool, Error> {
    budget::look(VALUE)?;
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return Ok(a.compare(b) == Some(Ordering::Equal));
    }
    Ok(match (a.kind(), b.kind()) {
        (ValueKind::String, ValueKind::String) => {
            budget::look(a.as_str().map_or(0, str::len))?;
            a.as_str() == b.as_str()
        }
        (ValueKind::Undefined, ValueKind::Undefined) | (ValueKind::None, ValueKind::None) => true,
        (ValueKind::Seq, ValueKind::Seq) if is_tuple(a) == is_tuple(b) && a.len() == b.len() => {
            for (a, b) in items(a)?.iter().zip(&items(b)?) {
                if !equal(a, b)? {
                    return Ok(false);
                }
            }
            true
        }
        (ValueKind::Map, ValueKind::Map) if a.len() == b.len() => {
            for (key, value) in entries(a)? {
                if !equal(&value, &b.get_item(&key)?)? {
                    return Ok(false);
                }
            }
            true
        }
        (ValueKind::Plain | ValueKind::Iterable, ValueKind::Plain | ValueKind::Iterable) => {
            match is_wide(a) {
                true => is_wide(b) && a.to_string() == b.to_string(),
                false => a == b,
            }
        }
        _ => false,
    })
}

/// How `a` and `b` are ordered, for Python's `<` and its like; none for NaN.
///
/// # Errors
/// If Python has no order for them.
pub(super) fn compare(a: &Value, b: &Value) -> Result<Option<Ordering>, Error> {
    budget::look(VALUE)?;
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return Ok(a.compare(b));
    }
    match (a.kind(), b.kind()) {
        (ValueKind::String, ValueKind::String) => {
            budget::look(a.as_str().map_or(0, str::len))?;
            Ok(a.as_str().partial_cmp(&b.as_str()))
        }
        (ValueKind::Seq, ValueKind::Seq) if is_tuple(a) == is_tuple(b) => {
            for (a, b) in items(a)?.iter().zip(&items(b)?) {
                if !equal(a, b)? {
                    return compare(a, b);
                }
            }
            Ok(a.len().partial_cmp(&b.len()))
        }
        _ if is_wide(a) || is_wide(b) => Err(bad("integers beyond 128 bits cannot be compared here")),
        _ => Err(bad(format!("'<' is not supported between '{}' and '{}'", type_name(a), type_name(b)))),
    }
}

/// Python's `str(value)`.
///
/// # Errors
/// If it would be an address in memory, or too much text.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_string()),
        None if value.is_undefined() => Ok(String::new()),
        None => repr(value),
    }
}

/// Python's `repr(value)`.
///
/// # Errors
/// As [`text`].
pub(super) fn repr(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write_repr(&mut out, value, 0)?;
    Ok(out)
}

fn write_repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > DEPTH {
        return Err(bad(format!("values lie in each other more than {DEPTH} deep")));
    }
    let start = out.len();
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String if value.is_safe() => {
            out.push_str(&format!("Markup({})", repr_str(value.as_str().unwrap_or_default())));
        }
        ValueKind::String => out.push_str(&repr_str(value.as_str().unwrap_or_default())),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::Seq => {
            let (open, close) = if is_tuple(value) { ('(', ')') } else { ('[', ']') };
            out.push(open);
            let items = items(value)?;
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(out, item, depth + 1)?;
            }
            out.push_str(if is_tuple(value) && items.len() == 1 { "," } else { "" });
            out.push(close);
        }
        ValueKind::Map if !is_plain(value) => {
            out.push('{');
            for (i, (key, item)) in entries(value)?.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(out, key, depth + 1)?;
                out.push_str(": ");
                write_repr(out, item, depth + 1)?;
            }
            out.push('}');
        }
        _ => match value.downcast_object_ref::<View>() {
            Some(view) if view.is_range && !view.printed.is_empty() => out.push_str(&view.printed),
            Some(view) if !view.is_range => {
                out.push_str(&format!("{}({})", view.printed, repr(&view.items.clone().into())?))
            }
            None if is_wide(value) => out.push_str(&value.to_string()),
            _ => return Err(bad("a generator, function or other object has no text that can be known")),
        },
    }
    // What is inside has been counted, and what is around it is short.
    budget::look(out.len() - start)?;
    budget::make(if depth == 0 { out.len() } else { 0 })
}

/// Whether a mapping of minijinja's is no mapping in Python: a namespace, a macro, `loop`.
pub(super) fn is_plain(value: &Value) -> bool {
    let name = value.as_object().map(|object| object.type_name()).unwrap_or_default();
    ["Namespace", "Macro", "Loop", "Module"].iter().any(|plain| name.ends_with(plain))
}

/// Whether a value is the variable `loop`, which has a length and goes on with the iteration.
pub(super) fn is_loop(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("Loop"))
}

/// Python's `repr` of a string: single quotes unless only they occur inside.
fn repr_str(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => match c as u32 {
                code @ 0..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    out.push(quote);
    out
}

/// Python's `str.isprintable` of a character. Rust's debug form knows the same categories.
pub(super) fn is_printable(c: char) -> bool {
    match c {
        ' '..='~' => true,
        c if c.is_ascii() => false,
        c => format!("{:?}", format!("a{c}")).len() == c.len_utf8() + 3,
    }
}

pub(super) fn number(value: &Value) -> String {
    match Number::of(value) {
        Some(Number::Float(value)) => float(value),
        _ => value.to_string(),
    }
}

/// Python's `repr` of a float: the shortest digits that read back the same, with an exponent when it is
/// below -4 or from 16 on.
pub(super) fn float(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string().to_lowercase();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
