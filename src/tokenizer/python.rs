//! Chat templates are written for Python: what Python prints, serialises and calls, for minijinja.
//!
//! minijinja knows Jinja. It differs where Jinja2 hands a value to Python: printing floats and containers,
//! methods of strings, and a few tests (`tojson`, Python's `json.dumps`, has a file of its own). A model was
//! trained on what Python gave, so each byte counts.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter};
use minijinja_contrib::pycompat;

/// Adds Python's ways to a template environment.
pub(super) fn install(env: &mut Environment<'static>) {
    env.set_formatter(print);
    env.set_unknown_method_callback(call_method);
    env.add_filter("string", |value: &Value| text(value));
    env.add_filter("trim", |value: &Value, chars: Option<&str>| {
        strip(&text(value), chars, true, true).to_string()
    });
    // Jinja2 asks Python: strings and mappings iterate and have a length; booleans are numbers.
    let iterates = |v: &Value| v.is_undefined() || v.kind() == ValueKind::String || v.try_iter().is_ok();
    env.add_test("iterable", move |v: &Value| !v.is_none() && iterates(v));
    env.add_test("sequence", |v: &Value| {
        v.is_undefined() || matches!(v.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
    env.add_test("number", |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool));
}

/// JSON as a template sees it: objects keep their order.
pub(super) fn from_json(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(integer), ..) => Value::from(integer),
            (_, Some(integer), _) => Value::from(integer),
            (.., float) => Value::from(float),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
    }
}

/// `{{ value }}`
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map => Ok(out.write_str(&text(value))?),
        _ => escape_formatter(out, state, value),
    }
}

/// Python's `str(value)`.
pub(super) fn text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_string(),
        None => repr(value),
    }
}

/// Python's `repr(value)`.
fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::String => repr_str(value.as_str().unwrap_or_default()),
        ValueKind::Number => number(value),
        ValueKind::Seq => {
            let items: Vec<String> = items(value).iter().map(repr).collect();
            match (value.is_tuple(), items.as_slice()) {
                (true, [one]) => format!("({one},)"),
                (true, _) => format!("({})", items.join(", ")),
                (false, _) => format!("[{}]", items.join(", ")),
            }
        }
        ValueKind::Map if value.is_kwargs() || value.as_object().is_some() => {
            let pairs = entries(value).into_iter().map(|(k, v)| format!("{}: {}", repr(&k), repr(&v)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
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
            c if (c as u32) < 0x20 || (0x7f..=0xa0).contains(&(c as u32)) || c == '\u{ad}' => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

pub(super) fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
}

/// Python's `repr` of a float: the shortest digits that read back the same, with an exponent when it is
/// below -4 or from 16 on.
fn float(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "nan".into()
        } else if value > 0.0 {
            "inf".into()
        } else {
            "-inf".into()
        };
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

pub(super) fn items(value: &Value) -> Vec<Value> {
    value.try_iter().map(Iterator::collect).unwrap_or_default()
}

pub(super) fn entries(value: &Value) -> Vec<(Value, Value)> {
    items(value).into_iter().map(|key| (key.clone(), value.get_item(&key).unwrap_or_default())).collect()
}

/// Methods of Python's values. Those of strings that minijinja-contrib lacks or has otherwise are here.
fn call_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return pycompat::unknown_method_callback(state, value, method, args);
    };
    match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Ok(strip(text, chars, method != "rstrip", method != "lstrip").into())
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        "split" | "rsplit" => split(text, method == "rsplit", args),
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let parts =
                if method == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            let (before, middle, after) = match (parts, method) {
                (Some((before, after)), _) => (before, separator, after),
                (None, "partition") => (text, "", ""),
                (None, _) => ("", "", text),
            };
            Ok(Tuple::from([before, middle, after].map(Value::from)).into())
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// Python counts four separators as white space that Unicode's property leaves out.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn strip<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let drop = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(drop) } else { text };
    if right { text.trim_end_matches(drop) } else { text }
}

/// `str.split(sep=None, maxsplit=-1)` and `rsplit`.
fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, maxsplit, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        Some(separator) => separator,
        None => kwargs.get::<Option<Value>>("sep")?.unwrap_or_default(),
    };
    let maxsplit = maxsplit.or(kwargs.get("maxsplit")?).unwrap_or(-1);
    kwargs.assert_all_used()?;
    let limit = usize::try_from(maxsplit).unwrap_or(usize::MAX);
    let parts = match separator.as_str() {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "split: empty separator")),
        Some(separator) if from_right => {
            let mut parts: Vec<&str> = text.rsplitn(limit.saturating_add(1), separator).collect();
            parts.reverse();
            parts
        }
        Some(separator) => text.splitn(limit.saturating_add(1), separator).collect(),
        None => split_spaces(text, from_right, limit),
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Splits at runs of white space, at most `limit` times; the rest stays one part.
fn split_spaces(text: &str, from_right: bool, limit: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = strip(text, None, !from_right, from_right);
    while !rest.is_empty() {
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(cut) = cut.filter(|_| parts.len() < limit) else { break };
        let after = cut + rest[cut..].chars().next().map_or(0, char::len_utf8);
        let (part, remains) =
            if from_right { (&rest[after..], &rest[..cut]) } else { (&rest[..cut], &rest[after..]) };
        parts.push(part);
        rest = strip(remains, None, !from_right, from_right);
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    if from_right {
        parts.reverse();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str, x: serde_json::Value) -> String {
        let mut env = Environment::new();
        install(&mut env);
        env.render_str(template, minijinja::context! { x => from_json(&x) }).expect("it renders")
    }

    /// Expected values are Python's.
    #[test]
    fn floats_as_python_prints_them() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e22, "1.25e+22"),
            (1e300, "1e+300"),
            (5e-324, "5e-324"),
            (123456.789, "123456.789"),
            (f64::INFINITY, "inf"),
        ];
        for (value, want) in cases {
            assert_eq!(float(value), want);
        }
    }

    #[test]
    fn printing() {
        assert_eq!(
            render("{{ x }}", json!([1.0, "it's", null, {"k": "\n"}])),
            "[1.0, \"it's\", None, {'k': '\\n'}]"
        );
        assert_eq!(render("{{ x }} {{ none }} {{ 1 == 1 }}", json!(1e20)), "1e+20 None True");
        assert_eq!(render("{{ (1,) }}{{ (1, 2) }}{{ x | string }}", json!(["a"])), "(1,)(1, 2)['a']");
    }

    #[test]
    fn methods_of_strings() {
        assert_eq!(render("{{ x.split() }}", json!(" a  b\tc ")), "['a', 'b', 'c']");
        assert_eq!(render("{{ x.split(none, 1) }}", json!(" a  b\tc ")), "['a', 'b\\tc ']");
        assert_eq!(render("{{ x.rsplit(maxsplit=1) }}", json!(" a  b\tc ")), "[' a  b', 'c']");
        assert_eq!(render("{{ x.split('--')[-1] }}{{ x.rsplit('--', 1)[0] }}", json!("a--b--c")), "ca--b");
        assert_eq!(
            render("{{ x.partition('=') }}{{ x.removeprefix('a').removesuffix('c') }}", json!("a=b=c")),
            "('a', '=', 'b=c')=b="
        );
        assert_eq!(
            render("[{{ x.strip() }}|{{ x.lstrip('\\n') }}|{{ x | trim }}]", json!("\n \u{1f}a\n")),
            "[a| \u{1f}a\n|a]"
        );
        assert_eq!(render("{{ x.startswith('<t>') and x.endswith('b') }}", json!("<t>b")), "True");
    }

    #[test]
    fn tests_of_kinds() {
        let kinds = "{{ [x is string, x is iterable, x is sequence, x is mapping, x is number] }}";
        assert_eq!(render(kinds, json!("s")), "[True, True, True, False, False]");
        assert_eq!(render(kinds, json!({"a": 1})), "[False, True, True, True, False]");
        assert_eq!(render(kinds, json!([])), "[False, True, True, False, False]");
        assert_eq!(render(kinds, json!(true)), "[False, False, False, False, True]");
        assert_eq!(render(kinds, json!(null)), "[False, False, False, False, False]");
    }

    #[test]
    fn a_key_named_items_does_not_hide_the_method() {
        assert_eq!(
            render("{% for k, v in x.items() %}{{ k }}={{ v }};{% endfor %}", json!({"items": 1, "get": 2})),
            "items=1;get=2;"
        );
    }
}
