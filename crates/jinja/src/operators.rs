//! Python's operators.

use std::cmp::Ordering;

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::budget::{self, CONTAINER, bad};
use super::call::Call;
use super::python::{
    self, Number, compare, equal, is_plain, is_tuple, is_wide, items, list, made, made_text, text, tuple,
    type_name,
};
use super::values::View;
use super::{format, methods};

/// The functions that `compile.rs` calls.
pub(super) const OPERATORS: &[(&str, Call)] = &[
    ("+", |_, args| add(&args[0], &args[1])),
    ("-", |_, args| match args {
        [value] => arithmetic("-", &Value::from(0), value),
        _ => arithmetic("-", &args[0], &args[1]),
    }),
    ("*", |_, args| multiply(&args[0], &args[1])),
    ("/", |_, args| arithmetic("/", &args[0], &args[1])),
    ("//", |_, args| arithmetic("//", &args[0], &args[1])),
    ("**", |_, args| arithmetic("**", &args[0], &args[1])),
    ("%", |_, args| match args[0].as_str() {
        Some(template) => {
            let safe = args[0].is_safe();
            made_text(format::percent(template, &args[1], safe)?, safe)
        }
        None => arithmetic("%", &args[0], &args[1]),
    }),
    ("~", |_, args| {
        let left = text(&args[0])?;
        made_text(left + &text(&args[1])?, false)
    }),
    ("==", |_, args| Ok(equal(&args[0], &args[1])?.into())),
    ("!=", |_, args| Ok((!equal(&args[0], &args[1])?).into())),
    ("<", |_, args| Ok(compares(2, &args[0], &args[1])?.into())),
    ("<=", |_, args| Ok(compares(3, &args[0], &args[1])?.into())),
    (">", |_, args| Ok(compares(4, &args[0], &args[1])?.into())),
    (">=", |_, args| Ok(compares(5, &args[0], &args[1])?.into())),
    ("in", |_, args| Ok(contains(&args[1], &args[0])?.into())),
    ("chain", |_, args| {
        let operator = args[2].as_usize().unwrap_or_default();
        Ok(Tuple::from([compares(operator, &args[0], &args[1])?.into(), args[1].clone()]).into())
    }),
    ("list of", |_, args| list(args.to_vec())),
    ("tuple of", |_, args| tuple(args.to_vec())),
    ("mapping of", |_, args| {
        made(args)?;
        let pairs: Vec<_> = args.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        mapping(pairs)
    }),
    ("iter", |_, args| iterable(&args[0])),
    ("[]", |_, args| item(&args[0], &args[1])),
    (".", |_, args| attribute(&args[0], args[1].as_str().unwrap_or_default())),
    ("[:]", |_, args| slice(&args[0], &args[1..])),
];

/// # Errors
/// If a key cannot be one.
pub(super) fn mapping(pairs: Vec<(Value, Value)>) -> Result<Value, Error> {
    pairs.iter().try_for_each(|(key, _)| hashable(key))?;
    Ok(Value::from_pairs(pairs))
}

/// Lists and mappings cannot be keys; tuples only where they hold nothing but texts and numbers.
pub(super) fn hashable(key: &Value) -> Result<(), Error> {
    let is_plain = |key: &Value| !matches!(key.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable);
    match is_plain(key) || (is_tuple(key) && items(key)?.iter().all(is_plain)) {
        true => Ok(()),
        false => Err(bad(format!("unhashable type: '{}'", type_name(key)))),
    }
}

/// What a loop or an unpacking goes over.
fn iterable(value: &Value) -> Result<Value, Error> {
    let iterates = value.as_object().is_some() && !is_wide(value);
    match iterates {
        true if value.kind() != ValueKind::Plain => Ok(value.clone()),
        _ => Ok(items(value)?.into()),
    }
}

fn wrong(operator: &str, a: &Value, b: &Value) -> Error {
    if a.is_undefined() || b.is_undefined() {
        return Error::from(ErrorKind::UndefinedError);
    }
    if is_wide(a) || is_wide(b) {
        return bad("integers beyond 128 bits cannot be computed with here");
    }
    bad(format!("unsupported operand types for {operator}: '{}' and '{}'", type_name(a), type_name(b)))
}

/// # Errors
/// If Python has no sum of these, or the rendering has made too much.
pub(super) fn add(a: &Value, b: &Value) -> Result<Value, Error> {
    match (a.as_str(), b.as_str()) {
        (Some(left), Some(right)) => {
            budget::make(left.len() + right.len())?;
            let is_safe = a.is_safe() || b.is_safe();
            let part = |value: &Value, text: &str| match is_safe && !value.is_safe() {
                true => format::escape(text),
                false => text.to_owned(),
            };
            let sum = part(a, left) + &part(b, right);
            Ok(if is_safe { Value::from_safe_string(sum) } else { sum.into() })
        }
        (None, None)
            if a.kind() == ValueKind::Seq && b.kind() == ValueKind::Seq && is_tuple(a) == is_tuple(b) =>
        {
            let sum = [items(a)?, items(b)?].concat();
            budget::make(CONTAINER.max(size_of_val(sum.as_slice())))?;
            Ok(if is_tuple(a) { Tuple::new(sum).into() } else { sum.into() })
        }
        _ => arithmetic("+", a, b),
    }
}

fn multiply(a: &Value, b: &Value) -> Result<Value, Error> {
    let (sequence, times) =
        if matches!(b.kind(), ValueKind::String | ValueKind::Seq) { (b, a) } else { (a, b) };
    let Some(Number::Int(times)) = Number::of(times) else { return arithmetic("*", a, b) };
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    match (sequence.as_str(), sequence.kind()) {
        (Some(text), _) => {
            budget::make(text.len().saturating_mul(times))?;
            let text = text.repeat(times);
            Ok(if sequence.is_safe() { Value::from_safe_string(text) } else { text.into() })
        }
        (None, ValueKind::Seq) => {
            let items = items(sequence)?;
            budget::make(CONTAINER.max(size_of_val(items.as_slice()).saturating_mul(times)))?;
            let items: Vec<Value> = std::iter::repeat_n(items, times).flatten().collect();
            if is_tuple(sequence) { tuple(items) } else { list(items) }
        }
        _ => arithmetic("*", a, b),
    }
}

pub(super) fn arithmetic(operator: &str, left: &Value, right: &Value) -> Result<Value, Error> {
    let (Some(a), Some(b)) = (Number::of(left), Number::of(right)) else {
        return Err(wrong(operator, left, right));
    };
    let is_division = matches!(operator, "/" | "//" | "%");
    if is_division && b.float() == 0.0 {
        return Err(bad("division by zero"));
    }
    if let (Number::Int(a), Number::Int(b)) = (a, b) {
        let value = match operator {
            "+" => a.checked_add(b),
            "-" => a.checked_sub(b),
            "*" => a.checked_mul(b),
            "//" => a.checked_div_euclid(b).map(|q| q - i128::from(b < 0 && a.rem_euclid(b) != 0)),
            "%" => a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
            "**" if b >= 0 => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
            _ => return float(operator, a as f64, b as f64),
        };
        let value = value.ok_or_else(|| bad("integers beyond 128 bits cannot be computed with here"))?;
        return Ok(value.into());
    }
    float(operator, a.float(), b.float())
}

fn float(operator: &str, a: f64, b: f64) -> Result<Value, Error> {
    let remainder = || {
        let r = a % b;
        if r != 0.0 && (r < 0.0) != (b < 0.0) {
            r + b
        } else {
            r.abs().copysign(if r == 0.0 { b } else { r })
        }
    };
    Ok(Value::from(match operator {
        "+" => a + b,
        "-" => a - b,
        "*" => a * b,
        "/" => a / b,
        "%" => remainder(),
        "//" => match ((a - remainder()) / b).round() {
            0.0 => 0f64.copysign(a / b),
            quotient => quotient,
        },
        _ if a == 0.0 && b < 0.0 => return Err(bad("0.0 cannot be raised to a negative power")),
        _ if a < 0.0 && b.fract() != 0.0 => return Err(bad("complex numbers are not known here")),
        _ => a.powf(b),
    }))
}

/// A comparison by minijinja's number of the operator.
fn compares(operator: usize, a: &Value, b: &Value) -> Result<bool, Error> {
    match operator {
        0 => equal(a, b),
        1 => Ok(!equal(a, b)?),
        6 => contains(b, a),
        7 => Ok(!contains(b, a)?),
        _ => {
            let order = compare(a, b)?;
            Ok(match operator {
                2 => order == Some(Ordering::Less),
                3 => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                4 => order == Some(Ordering::Greater),
                _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            })
        }
    }
}

/// Python's `value in container`.
///
/// # Errors
/// If the container is none.
pub(super) fn contains(container: &Value, value: &Value) -> Result<bool, Error> {
    if let Some(text) = container.as_str() {
        budget::look(text.len())?;
        return Ok(text.contains(python::string(value)?));
    }
    if container.kind() == ValueKind::Map && !is_plain(container) {
        hashable(value)?;
        return Ok(container.as_object().is_some_and(|map| map.get_value(value).is_some()));
    }
    for item in items(container)? {
        if equal(&item, value)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Python's `container[key]` as Jinja2 has it: undefined where there is none.
///
/// # Errors
/// If the container is undefined.
pub(super) fn item(container: &Value, key: &Value) -> Result<Value, Error> {
    if container.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    let index = match Number::of(key) {
        Some(Number::Int(index)) => i64::try_from(index).ok(),
        _ => None,
    };
    let at = |length: usize, index: i64| {
        usize::try_from(if index < 0 { index.saturating_add(length as i64) } else { index }).ok()
    };
    let found = match (container.as_str(), index) {
        (Some(text), Some(index)) => {
            budget::look(text.len())?;
            let c = at(text.chars().count(), index).and_then(|index| text.chars().nth(index));
            c.map(|c| match container.is_safe() {
                true => Value::from_safe_string(c.into()),
                false => c.into(),
            })
        }
        _ => match (container.downcast_object_ref::<View>(), container.kind(), index) {
            (Some(view), _, Some(index)) if view.is_range => {
                at(view.items.len(), index).and_then(|index| view.items.get(index).cloned())
            }
            (None, ValueKind::Seq, Some(index)) => {
                let index = at(container.len().unwrap_or_default(), index);
                index.and_then(|index| container.get_item_by_index(index).ok())
            }
            (None, ValueKind::Map, _) => {
                hashable(key).ok().and_then(|()| container.as_object()?.get_value(key))
            }
            _ => None,
        },
    };
    match (found, key.as_str()) {
        (Some(found), _) => Ok(found),
        (None, Some(name)) => attribute(container, name),
        _ => Ok(Value::UNDEFINED),
    }
}

/// `value.name`: a method comes before a key, as in Python.
///
/// # Errors
/// If the value is undefined, or the sandbox forbids the attribute.
pub(super) fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    if let Some(method) = methods::Bound::of(value, name) {
        return Ok(method);
    }
    match (value.kind(), name) {
        (ValueKind::Number | ValueKind::Bool, "real" | "imag" | "numerator" | "denominator") => {
            Ok(match (Number::of(value), name) {
                (Some(Number::Int(value)), "real" | "numerator") => value.into(),
                (Some(Number::Int(_)), "imag") => 0.into(),
                (Some(Number::Int(_)), _) => 1.into(),
                (_, "real") => value.clone(),
                (_, "imag") => 0.0.into(),
                _ => Value::UNDEFINED,
            })
        }
        (ValueKind::Map, "arguments") if is_plain(value) => tuple(items(&value.get_attr(name)?)?),
        _ => Ok(value.as_object().and_then(|object| object.get_value_by_str(name)).unwrap_or_default()),
    }
}

/// Python's `value[start:stop:step]`.
fn slice(value: &Value, bounds: &[Value]) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    let is_range = value.downcast_object_ref::<View>().is_some_and(|view| view.is_range);
    if !is_range && !matches!(value.kind(), ValueKind::String | ValueKind::Seq) {
        return Err(bad(format!("'{}' object cannot be sliced", type_name(value))));
    }
    let items = items(value)?;
    let bound = |at: usize| match bounds[at].is_none() {
        true => Ok(None),
        false => python::integer(&bounds[at]).map(Some),
    };
    let step = bound(2)?.unwrap_or(1);
    if step == 0 {
        return Err(bad("slice step cannot be zero"));
    }
    let length = items.len() as i64;
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |at: i64| (if at < 0 { at.saturating_add(length) } else { at }).clamp(low, high);
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    let (mut at, stop) = (bound(0)?.map_or(first, clamp), bound(1)?.map_or(last, clamp));
    let mut out = Vec::new();
    while if step > 0 { at < stop } else { at > stop } {
        out.push(items[at as usize].clone());
        at = at.saturating_add(step);
    }
    match value.kind() {
        ValueKind::String => {
            made_text(out.iter().filter_map(Value::as_str).collect::<String>(), value.is_safe())
        }
        _ if is_tuple(value) => tuple(out),
        _ if is_range => Ok(Value::from_object(View { items: out, printed: String::new(), is_range })),
        _ => list(out),
    }
}
