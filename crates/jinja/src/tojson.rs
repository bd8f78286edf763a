//! Python's `json.dumps`, byte for byte: tools and calls are written with it, and models were trained on that.

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::budget::{self, DEPTH, bad};
use super::call::bind;
use super::filters::Filter;
use super::python::{compare, entries, integer, is_plain, is_wide, items, number, string, text, type_name};

pub(super) const FILTERS: &[(&str, Filter)] = &[("tojson", |_, value, args| tojson(value, args))];

/// The `tojson` filter as transformers defines it:
/// `json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn tojson(value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [ensure_ascii, indent, separators, sort_keys] =
        bind(args, ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let flag = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let indent = match indent.filter(|indent| !indent.is_none()) {
        Some(indent) => match indent.as_str() {
            Some(text) => Some(text.to_owned()),
            None => {
                let width = usize::try_from(integer(&indent)?).unwrap_or(0);
                budget::make(width)?;
                Some(" ".repeat(width))
            }
        },
        None => None,
    };
    let (item, key) = match separators.filter(|separators| !separators.is_none()) {
        Some(separators) => match items(&separators)?.as_slice() {
            [item, key] => (string(item)?.to_owned(), string(key)?.to_owned()),
            _ => return Err(bad("tojson: two separators are needed")),
        },
        None => ((if indent.is_some() { "," } else { ", " }).into(), ": ".into()),
    };
    let (ensure_ascii, sort_keys) = (flag(ensure_ascii), flag(sort_keys));
    let mut json = Json { out: String::new(), ensure_ascii, indent, item, key, sort_keys };
    json.value(value, 1)?;
    Ok(json.out.into())
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
        if depth > DEPTH {
            return Err(bad(format!("tojson: values lie in each other more than {DEPTH} deep")));
        }
        let start = self.out.len();
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&json_number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq => {
                self.container(('[', ']'), items(value)?, depth, |json, item, depth| {
                    json.value(item, depth)
                })?;
            }
            ValueKind::Map if !is_plain(value) => {
                let mut entries = entries(value)?;
                if self.sort_keys {
                    for pair in entries.windows(2) {
                        compare(&pair[0].0, &pair[1].0)?;
                    }
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.container(('{', '}'), entries, depth, |json, (key, value), depth| {
                    json.string(&json_key(key)?);
                    let separator = json.key.clone();
                    json.out.push_str(&separator);
                    json.value(value, depth)
                })?;
            }
            _ if is_wide(value) => self.out.push_str(&value.to_string()),
            _ => {
                return Err(bad(format!(
                    "tojson: an object of type '{}' is not JSON serializable",
                    type_name(value)
                )));
            }
        }
        // Containers have counted what is in them.
        match value.kind() {
            ValueKind::Seq | ValueKind::Map => Ok(()),
            _ => budget::make(self.out.len() - start),
        }
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
            self.line(depth)?;
            write(self, item, depth + 1)?;
        }
        if !items.is_empty() {
            self.line(depth - 1)?;
        }
        self.out.push(close);
        Ok(())
    }

    /// A new line, if there is an indent at all.
    fn line(&mut self, depth: usize) -> Result<(), Error> {
        budget::make(self.item.len() + self.key.len() + 2)?;
        if let Some(indent) = &self.indent {
            budget::make(indent.len() * depth)?;
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
        Ok(())
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
fn json_key(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(String::from(if key.is_true() { "true" } else { "false" })),
        ValueKind::Number => Ok(json_number(key)),
        ValueKind::String => text(key),
        _ => Err(bad(format!("tojson: keys must be texts or numbers, not '{}'", type_name(key)))),
    }
}
