//! Methods of Python's strings, mappings and lists. Those that change a value are refused, as transformers' sandbox does.

use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::budget::bad;
use super::call::bind;
use super::operators::item;
use super::python::{entries, equal, integer, is_plain, items, tuple, type_name};
use super::strings;
use super::values::View;

const OF_STRINGS: &str = "capitalize casefold center count endswith expandtabs find format index isalnum isalpha isascii \
    isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust \
    lower lstrip partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit \
    rstrip split splitlines startswith strip swapcase title upper zfill";
/// Known, and refused by name.
const REFUSED: &str = "append clear encode extend format_map fromkeys insert maketrans pop popitem remove setdefault \
    sort translate update";
const OF_MAPPINGS: &str = "copy get items keys values";
const OF_LISTS: &str = "copy count index";

fn is_one(names: &str, name: &str) -> bool {
    names.split(' ').any(|one| one == name)
}

/// A method that a template got without calling it: `d.items`.
#[derive(Debug)]
pub(super) struct Bound(Value, String);

impl Bound {
    /// The method of this name, if the value has one.
    pub(super) fn of(value: &Value, name: &str) -> Option<Value> {
        let methods = match value.kind() {
            ValueKind::String => OF_STRINGS,
            ValueKind::Map if !is_plain(value) => OF_MAPPINGS,
            ValueKind::Seq => OF_LISTS,
            _ => return None,
        };
        is_one(methods, name).then(|| Value::from_object(Self(value.clone(), name.into())))
    }
}

impl Object for Bound {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        call(state, &self.0, &self.1, args)
    }
}

/// `value.name(…)`
///
/// # Errors
/// If there is no such method, or its arguments are wrong.
pub(super) fn call(_: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    match (value.as_str(), value.kind()) {
        (Some(text), _) if is_one(OF_STRINGS, name) => strings::call(text, value.is_safe(), name, args),
        (_, ValueKind::Map) if !is_plain(value) && is_one(OF_MAPPINGS, name) => of_mapping(value, name, args),
        (_, ValueKind::Seq) if is_one(OF_LISTS, name) => of_list(value, name, args),
        (_, ValueKind::String | ValueKind::Seq | ValueKind::Map)
            if is_one(REFUSED, name) && !is_plain(value) =>
        {
            Err(bad(format!("the method '{name}' of a {} is not allowed in a template", type_name(value))))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn of_mapping(value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if name == "get" {
        let [key, default] = bind(args, ["", ""])?;
        let key = key.ok_or_else(|| bad("get() needs a key"))?;
        let found = value.as_object().and_then(|map| map.get_value(&key));
        return Ok(found.or(default).unwrap_or_else(|| ().into()));
    }
    bind(args, [])?;
    let pairs = entries(value)?;
    let items = match name {
        "copy" => return Ok(value.clone()),
        "keys" => pairs.into_iter().map(|(key, _)| key).collect(),
        "values" => pairs.into_iter().map(|(_, value)| value).collect(),
        _ => pairs.into_iter().map(|(key, value)| tuple(vec![key, value])).collect::<Result<_, _>>()?,
    };
    Ok(Value::from_object(View { items, printed: format!("dict_{name}"), is_range: false }))
}

fn of_list(value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let all = items(value)?;
    if name == "copy" {
        return Ok(value.clone());
    }
    let [wanted, start, end] = bind(args, [""; 3])?;
    let wanted = wanted.ok_or_else(|| bad(format!("{name}() needs a value")))?;
    let (start, end) = clamp(all.len(), start, end)?;
    let mut count = 0;
    for (at, item) in all.iter().enumerate().take(end).skip(start) {
        match equal(item, &wanted)? {
            true if name == "index" => return Ok(at.into()),
            found => count += usize::from(found),
        }
    }
    if name == "index" { Err(bad("index(): the value is not in the list")) } else { Ok(count.into()) }
}

/// Python's rules for `start` and `end` beside a length.
pub(super) fn clamp(
    length: usize,
    start: Option<Value>,
    end: Option<Value>,
) -> Result<(usize, usize), Error> {
    let at = |value: Option<Value>, default: usize| match value.filter(|value| !value.is_none()) {
        None => Ok::<_, Error>(default),
        Some(value) => {
            let at = integer(&value)?;
            Ok(usize::try_from(if at < 0 { at.saturating_add(length as i64).max(0) } else { at })
                .unwrap_or(0))
        }
    };
    Ok((at(start, 0)?, at(end, length)?.min(length)))
}

/// `value.a.0`, for filters that take an attribute.
///
/// # Errors
/// As [`item`].
pub(super) fn path(value: &Value, path: &Value, default: Option<&Value>) -> Result<Value, Error> {
    let mut value = value.clone();
    let parts: Vec<Value> = match path.as_str() {
        Some(path) => path
            .split('.')
            .map(|part| part.parse::<u32>().map_or_else(|_| part.into(), Value::from))
            .collect(),
        None if path.is_none() => Vec::new(),
        None => vec![path.clone()],
    };
    for part in parts {
        value = item(&value, &part)?;
        if let (true, Some(default)) = (value.is_undefined(), default) {
            value = default.clone();
        }
    }
    Ok(value)
}
