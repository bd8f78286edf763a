//! Python's numbers from text, and its `round`.

use minijinja::{Error, Value};

use super::budget::bad;
use super::python::Number;
use super::strings::is_space;
use super::values::Wide;

/// Python's `int(text, base)`.
pub(super) fn integer(text: &str, base: i64) -> Option<Value> {
    let text = text.trim_matches(is_space);
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let prefix = unsigned.get(..2).unwrap_or_default().to_lowercase();
    let named = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().find(|(name, _)| *name == prefix);
    let (digits, base) = match (named, base) {
        (Some((_, named)), 0) => (&unsigned[2..], named),
        (Some((_, named)), base) if named == base => (&unsigned[2..], base),
        (None, 0)
            if unsigned.len() > 1
                && unsigned.starts_with('0')
                && !unsigned.trim_matches(['0', '_']).is_empty() =>
        {
            return None;
        }
        (_, base) => (unsigned, if base == 0 { 10 } else { base }),
    };
    let digits = digits.strip_prefix('_').filter(|_| named.is_some()).unwrap_or(digits);
    if !(2..=36).contains(&base) || digits.is_empty() || digits.split('_').any(str::is_empty) {
        return None;
    }
    let digits: String = digits.chars().filter(|&c| c != '_').map(ascii_digit).collect();
    let sign = if text.starts_with('-') { "-" } else { "" };
    let base = base as u32;
    if !digits.chars().all(|c| c.is_digit(base)) {
        return None;
    }
    match i128::from_str_radix(&format!("{sign}{digits}"), base) {
        Ok(value) => Some(value.into()),
        Err(_) if base == 10 => Some(Wide::value(&format!("{sign}{}", digits.trim_start_matches('0')))),
        Err(_) => None,
    }
}

/// A decimal digit of any script as ASCII: they stand in blocks of ten whose first ends in 0 or 6.
fn ascii_digit(c: char) -> char {
    let starts = [
        0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xe50, 0xed0,
        0xf20, 0xff10,
    ];
    let digit = starts.iter().find_map(|start| (c as u32).checked_sub(*start).filter(|digit| *digit < 10));
    digit.and_then(|digit| char::from_digit(digit, 10)).unwrap_or(c)
}

/// Python's `float(value)`.
pub(super) fn float_of(value: &Value) -> Option<f64> {
    if let Some(number) = Number::of(value) {
        return Some(number.float());
    }
    let text: String = value.as_str()?.trim_matches(is_space).chars().map(ascii_digit).collect();
    let between_digits = |(at, _): (usize, &str)| {
        let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        digit(text[..at].chars().next_back()) && digit(text[at + 1..].chars().next())
    };
    let is_good = text.match_indices('_').all(between_digits);
    text.replace('_', "").parse().ok().filter(|_| is_good)
}

/// Jinja2's `round`.
///
/// # Errors
/// If the value is no number or the method unknown.
pub(super) fn round(value: &Value, precision: i64, method: &str) -> Result<Value, Error> {
    let number = Number::of(value).ok_or_else(|| bad("round: a number is needed"))?;
    let scale = 10f64.powi(precision.clamp(-400, 400) as i32);
    match (method, number) {
        ("common", Number::Int(integer)) if precision >= 0 => Ok(integer.into()),
        ("common", Number::Int(integer)) => {
            let unit = 10i128.checked_pow(precision.unsigned_abs().min(60) as u32);
            let Some(unit) = unit else { return Ok(0.into()) };
            let (down, rest) = (integer.div_euclid(unit), integer.rem_euclid(unit));
            let up = rest * 2 > unit || (rest * 2 == unit && down % 2 != 0);
            Ok(((down + i128::from(up)) * unit).into())
        }
        ("common", Number::Float(float)) if !float.is_finite() => Ok(float.into()),
        // Python rounds the decimal digits of the number, half to even, which Rust's formatting does too.
        ("common", Number::Float(float)) if precision >= 0 => {
            let text = format!("{float:.*}", precision.min(400) as usize);
            Ok(text.parse().unwrap_or(float).into())
        }
        ("common", Number::Float(float)) => Ok(((float * scale).round_ties_even() / scale).into()),
        ("ceil" | "floor", number) => {
            let scaled = number.float() * scale;
            if !scaled.is_finite() {
                return Err(bad("round: the number is too large"));
            }
            let scaled = if method == "ceil" { scaled.ceil() } else { scaled.floor() };
            Ok((scaled / scale + 0.0).into())
        }
        _ => Err(bad("round: the method is common, ceil or floor")),
    }
}
