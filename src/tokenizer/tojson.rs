//! Python's `json.dumps`, byte for byte: tools and calls are written with it, and models were trained on that.

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, Value};

use super::python::{entries, items, number, text};

/// The `tojson` filter as transformers defines it:
/// `json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let mut args = args.into_values();
    let kwargs = match args.last() {
        Some(last) if last.is_kwargs() => Kwargs::try_from(args.pop().unwrap_or_default())?,
        _ => Kwargs::from_iter(Vec::<(String, Value)>::new()),
    };
    let mut args = args.into_iter();
    let mut option = |name: &str| match args.next() {
        Some(value) => Ok(value),
        None => Ok::<_, Error>(kwargs.get::<Option<Value>>(name)?.unwrap_or_default()),
    };
    let ensure_ascii = option("ensure_ascii")?.is_true();
    let indent = option("indent")?;
    let separators = option("separators")?;
    let sort_keys = option("sort_keys")?.is_true();
    kwargs.assert_all_used()?;

    let indent = match (indent.as_i64(), indent.as_str()) {
        (Some(spaces), _) => Some(" ".repeat(usize::try_from(spaces.clamp(0, 64)).unwrap_or(0))),
        (None, text) => text.map(String::from),
    };
    let (item, key) = match items(&separators).as_slice() {
        [item, key] => (text(item), text(key)),
        _ if indent.is_some() => (",".into(), ": ".into()),
        _ => (", ".into(), ": ".into()),
    };
    let mut json = Json { out: String::new(), ensure_ascii, indent, item, key, sort_keys };
    json.value(value, 1)?;
    Ok(json.out)
}

/// Python's `json.dumps`.
struct Json {
    out: String,
    ensure_ascii: bool,
    indent: Option<String>,
    /// Between items, and between a key and its value.
    item: String,
    key: String,
    sort_keys: bool,
}

impl Json {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&json_number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.container(('[', ']'), items(value), depth, |json, item, depth| json.value(item, depth))?;
            }
            ValueKind::Map => {
                let mut entries = entries(value);
                if self.sort_keys {
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.container(('{', '}'), entries, depth, |json, (key, value), depth| {
                    json.string(&json_key(key));
                    let separator = json.key.clone();
                    json.out.push_str(&separator);
                    json.value(value, depth)
                })?;
            }
            kind => {
                let reason = format!("tojson: a value of kind {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
        }
        Ok(())
    }

    fn container<T>(
        &mut self,
        (open, close): (char, char),
        items: Vec<T>,
        depth: usize,
        mut write: impl FnMut(&mut Self, &T, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                let separator = self.item.clone();
                self.out.push_str(&separator);
            }
            self.line(depth);
            write(self, item, depth + 1)?;
        }
        if !items.is_empty() {
            self.line(depth - 1);
        }
        self.out.push(close);
        Ok(())
    }

    /// A new line, if there is an indent at all.
    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ensure_ascii && (c as u32) > 0x7e) => {
                    let units = c.encode_utf16(&mut [0; 2]).to_vec();
                    units.iter().for_each(|unit| self.out.push_str(&format!("\\u{unit:04x}")));
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn json_number(value: &Value) -> String {
    match number(value).as_str() {
        "nan" => "NaN".into(),
        "inf" => "Infinity".into(),
        "-inf" => "-Infinity".into(),
        number => number.into(),
    }
}

/// `json.dumps` makes strings of keys that are none.
fn json_key(key: &Value) -> String {
    match key.kind() {
        ValueKind::None => "null".into(),
        ValueKind::Bool => String::from(if key.is_true() { "true" } else { "false" }),
        ValueKind::Number => json_number(key),
        _ => text(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::python;
    use serde_json::json;

    fn render(template: &str, x: serde_json::Value) -> String {
        let mut env = minijinja::Environment::new();
        env.add_filter("tojson", tojson);
        env.render_str(template, minijinja::context! { x => python::from_json(&x) }).expect("it renders")
    }

    /// Expected values are Python's.
    #[test]
    fn json_as_python_writes_it() {
        let x = json!({"b": [1, 2.0, null, true], "a": {"é\"\n\u{1}": "<&>'\u{7f}"}, "empty": [{}, []]});
        assert_eq!(
            render("{{ x | tojson }}", x.clone()),
            "{\"b\": [1, 2.0, null, true], \"a\": {\"é\\\"\\n\\u0001\": \"<&>'\u{7f}\"}, \"empty\": [{}, []]}"
        );
        assert_eq!(
            render("{{ x | tojson(indent=2) }}", json!({"a": [1], "e": {}})),
            "{\n  \"a\": [\n    1\n  ],\n  \"e\": {}\n}"
        );
        assert_eq!(render("{{ x | tojson(separators=(',', ':')) }}", json!({"a": [1, 2]})), "{\"a\":[1,2]}");
        assert_eq!(
            render("{{ x | tojson(sort_keys=true) }}", json!({"b": 1, "a": 2})),
            "{\"a\": 2, \"b\": 1}"
        );
        assert_eq!(render("{{ x | tojson(ensure_ascii=true) }}", json!("é😀")), "\"\\u00e9\\ud83d\\ude00\"");
    }
}
