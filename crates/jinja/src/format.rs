//! `'%s' % x`, `'{}'.format(x)` and HTML's escapes.
//!
//! What a field is and what it holds is worked out here; how a number is laid out, minijinja knows.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::budget::{self, bad};
use super::operators::{attribute, item};
use super::python::{self, Number, entries, integer, is_tuple, items, repr, text, type_name};

/// The widest field.
const WIDEST: usize = 1 << 20;
/// The largest precision: Rust's formatting has a limit.
const DIGITS: usize = 10_000;

/// HTML's escapes, as MarkupSafe writes them.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

/// What is put into a text: safe texts escape it.
fn inserted(text: String, value: &Value, safe: bool) -> String {
    if safe && !value.is_safe() { escape(&text) } else { text }
}

fn ascii(text: &str) -> String {
    let escaped = |c: char| match c as u32 {
        0..=0x7f => c.to_string(),
        code @ 0x80..=0xff => format!("\\x{code:02x}"),
        code @ 0x100..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    };
    text.chars().map(escaped).collect()
}

/// The number at the start of a text.
fn width(text: &str) -> Result<usize, Error> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let width = if digits == 0 { Ok(0) } else { text[..digits].parse() };
    let width = width.ok().filter(|&width| width <= WIDEST);
    let width = width.ok_or_else(|| bad(format!("a field's width or precision is at most {WIDEST}")))?;
    budget::make(width)?;
    Ok(width)
}

/// `template % arguments`. Where the template is safe, what goes into it is escaped.
///
/// # Errors
/// If the fields and the arguments don't fit.
pub(super) fn percent(template: &str, arguments: &Value, safe: bool) -> Result<String, Error> {
    let mut positional = match is_tuple(arguments) {
        true => items(arguments)?.into_iter(),
        false => vec![arguments.clone()].into_iter(),
    };
    let missing = || bad("not enough arguments for format string");
    // What can be indexed may stay unused, except tuples and texts.
    let mut keyed = matches!(arguments.kind(), ValueKind::Map | ValueKind::Seq | ValueKind::Undefined)
        && !is_tuple(arguments);
    let mut out = String::new();
    let mut rest = template;
    while let Some((plain, field)) = rest.split_once('%') {
        out.push_str(plain);
        let (key, field) = match field.strip_prefix('(') {
            None => (None, field),
            Some(_) if arguments.kind() != ValueKind::Map => return Err(bad("format requires a mapping")),
            Some(field) => {
                let (key, field) = field.split_once(')').ok_or_else(|| bad("incomplete format key"))?;
                keyed = true;
                (Some(key), field)
            }
        };
        let end =
            field.find(|c: char| !"#0- +*.123456789".contains(c)).ok_or_else(|| bad("incomplete format"))?;
        let (layout, field) = field.split_at(end);
        let mut layout = layout.to_owned();
        while layout.contains('*') {
            let width = integer(&positional.next().ok_or_else(missing)?)?;
            layout = layout.replacen('*', &width.to_string(), 1);
        }
        for part in layout.trim_start_matches(['#', '0', '-', ' ', '+']).split('.') {
            width(part)?;
        }
        let field = field.strip_prefix(['h', 'l', 'L']).unwrap_or(field);
        let kind = field.chars().next().ok_or_else(|| bad("incomplete format"))?;
        rest = &field[kind.len_utf8()..];
        if kind == '%' && layout.is_empty() {
            out.push('%');
            continue;
        }
        let value = match key {
            Some(key) => match arguments.get_item(&key.into())? {
                value if value.is_undefined() => return Err(bad(format!("there is no '{key}' to format"))),
                value => value,
            },
            None => positional.next().ok_or_else(missing)?,
        };
        out.push_str(&percent_field(&layout, kind, &value, safe)?);
    }
    if positional.len() > 0 && !keyed {
        return Err(bad("not all arguments converted during string formatting"));
    }
    Ok(out + rest)
}

fn percent_field(layout: &str, kind: char, value: &Value, safe: bool) -> Result<String, Error> {
    let needs = |what: &str| bad(format!("%{kind} format: {what} is needed, not {}", type_name(value)));
    let rest = layout.trim_start_matches(['#', '0', '-', ' ', '+']);
    let (flags, (wide, precision)) =
        (&layout[..layout.len() - rest.len()], rest.split_once('.').unwrap_or((rest, "-")));
    let precision = if precision == "-" { None } else { Some(width(precision)?) };
    let as_text = |text: String| match precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text,
    };
    if precision.is_some_and(|precision| precision > DIGITS) {
        return Err(bad(format!("a precision is at most {DIGITS}")));
    }
    let sign = if flags.contains('+') {
        "+"
    } else if flags.contains(' ') {
        " "
    } else {
        ""
    };
    let number = |kind: char, value: Value| {
        let alternative = if flags.contains('#') { "#" } else { "" };
        let precision = precision.map(|precision| format!(".{precision}")).unwrap_or_default();
        let precision = if "doxX".contains(kind) { "" } else { &precision };
        format(FormatStyle::StrFormat, &format!("{{:{sign}{alternative}{precision}{kind}}}"), &[value])
    };
    let body = match kind {
        's' => as_text(inserted(text(value)?, value, safe)),
        'r' => as_text(inserted(repr(value)?, &Value::UNDEFINED, safe)),
        'a' => as_text(inserted(ascii(&repr(value)?), &Value::UNDEFINED, safe)),
        'c' => match (value.as_str(), Number::of(value)) {
            (Some(text), _) if text.chars().count() == 1 => text.into(),
            (_, Some(Number::Int(code))) => {
                let c = u32::try_from(code).ok().and_then(char::from_u32);
                c.ok_or_else(|| needs("a character"))?.to_string()
            }
            _ => return Err(needs("a character")),
        },
        'd' | 'i' | 'u' => match Number::of(value) {
            Some(Number::Float(float)) if !float.is_finite() => return Err(needs("an integer")),
            Some(Number::Float(float)) => number('d', (float.trunc() as i128).into())?,
            Some(Number::Int(integer)) => number('d', integer.into())?,
            None if python::is_wide(value) => value.to_string(),
            None => return Err(needs("a number")),
        },
        'o' | 'x' | 'X' => match Number::of(value) {
            Some(Number::Int(integer)) => number(kind, integer.into())?,
            _ => return Err(needs("an integer")),
        },
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match Number::of(value) {
            Some(value) => number(kind, value.float().into())?,
            None => return Err(needs("a number")),
        },
        _ => return Err(bad(format!("unsupported format character '{kind}'"))),
    };
    let is_number = !"srac".contains(kind);
    let digits = if "diuoxX".contains(kind) { precision.unwrap_or(0) } else { 0 };
    let body = if digits > 0 { padded(&body, digits + prefix(&body), '0', '=') } else { body };
    let (fill, align) = match (flags.contains('-'), flags.contains('0') && is_number) {
        (true, _) => (' ', '<'),
        (_, true) => ('0', '='),
        _ => (' ', '>'),
    };
    Ok(padded(&body, width(wide)?, fill, align))
}

/// The length of a number's sign and "0x".
fn prefix(body: &str) -> usize {
    let digits = body.trim_start_matches(['+', '-', ' ']);
    let base = usize::from(digits.starts_with('0') && digits[1..].starts_with(['x', 'X', 'o', 'b'])) * 2;
    body.len() - digits.len() + base
}

/// A text of at least this many characters; '=' fills after a number's sign.
fn padded(body: &str, width: usize, fill: char, align: char) -> String {
    let missing = width.saturating_sub(body.chars().count());
    let (left, split) = match align {
        '<' => (0, 0),
        '^' => (missing / 2, 0),
        '=' => (missing, prefix(body)),
        _ => (missing, 0),
    };
    let fill = |times| fill.to_string().repeat(times);
    format!("{}{}{}{}", &body[..split], fill(left), &body[split..], fill(missing - left))
}

/// `template.format(…)`.
///
/// # Errors
/// If the fields and the arguments don't fit.
pub(super) fn str_format(template: &str, args: &[Value], safe: bool) -> Result<String, Error> {
    let (args, keywords) = match args.split_last() {
        Some((last, args)) if last.is_kwargs() => (args, entries(last)?),
        _ => (args, Vec::new()),
    };
    Fields { args, keywords, next: 0, safe }.all(template, 0)
}

/// The arguments of one `format`.
struct Fields<'a> {
    args: &'a [Value],
    keywords: Vec<(Value, Value)>,
    /// The field that the next `{}` is.
    next: usize,
    safe: bool,
}

impl Fields<'_> {
    fn all(&mut self, template: &str, depth: usize) -> Result<String, Error> {
        let mut out = String::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let (here, after) = (&rest[at..=at], &rest[at + 1..]);
            rest = match after.strip_prefix(here) {
                Some(after) => {
                    out.push_str(here);
                    after
                }
                None if here == "}" => return Err(bad("single '}' encountered in format string")),
                None => {
                    let end = end_of_field(after).ok_or_else(|| bad("expected '}' before end of string"))?;
                    out.push_str(&self.field(&after[..end], depth)?);
                    &after[end + 1..]
                }
            };
        }
        Ok(out + rest)
    }

    /// `name!r:spec`
    fn field(&mut self, field: &str, depth: usize) -> Result<String, Error> {
        if depth > 1 {
            return Err(bad("max string recursion exceeded"));
        }
        let end = field.find(['!', ':']).unwrap_or(field.len());
        let value = self.value(&field[..end])?;
        let (conversion, spec) = match field[end..].strip_prefix('!') {
            Some(rest) => {
                let (conversion, spec) = rest.split_once(':').unwrap_or((rest, ""));
                (Some(conversion), spec)
            }
            None => (None, field[end..].strip_prefix(':').unwrap_or_default()),
        };
        let spec = self.all(spec, depth + 1)?;
        let value = match conversion {
            None => value,
            Some("s") => text(&value)?.into(),
            Some("r") => repr(&value)?.into(),
            Some("a") => ascii(&repr(&value)?).into(),
            Some(other) => return Err(bad(format!("unknown conversion specifier '{other}'"))),
        };
        Ok(inserted(lay_out(&value, &spec)?, &value, self.safe && depth == 0))
    }

    /// `0.name[key]`
    fn value(&mut self, path: &str) -> Result<Value, Error> {
        let end = path.find(['.', '[']).unwrap_or(path.len());
        let name = &path[..end];
        let position = if name.is_empty() { Some(self.next) } else { name.parse().ok() };
        self.next += usize::from(name.is_empty());
        let found = match position {
            Some(position) => self.args.get(position),
            None => self.keywords.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value),
        };
        let mut value = found.cloned().ok_or_else(|| bad(format!("there is no '{name}' to format")))?;
        let mut rest = &path[end..];
        while !rest.is_empty() {
            let is_item = rest.starts_with('[');
            let end = if is_item {
                rest.find(']')
            } else {
                rest[1..].find(['.', '[']).map(|at| at + 1).or(Some(rest.len()))
            };
            let end = end.ok_or_else(|| bad("missing ']' in format string"))?;
            let name = &rest[1..end];
            value = match name.parse::<i64>() {
                _ if !is_item => attribute(&value, name)?,
                Ok(index) => item(&value, &index.into())?,
                Err(_) => item(&value, &name.into())?,
            };
            rest = &rest[end + usize::from(is_item)..];
        }
        Ok(value)
    }
}

/// Where a field's closing brace is.
fn end_of_field(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => (),
        }
        None
    })
}

/// Python's `format(value, spec)`: `[[fill]align][sign][#][0][width][grouping][.precision][kind]`.
fn lay_out(value: &Value, spec: &str) -> Result<String, Error> {
    if spec.is_empty() {
        return text(value);
    }
    let unknown =
        || bad(format!("the format '{spec}' does not fit '{}', or is not known here", type_name(value)));
    let mut start = spec.chars();
    let (first, second) = (start.next(), start.next());
    let is_align = |c: Option<char>| c.is_some_and(|c| "<>^=".contains(c));
    let (mut fill, mut align, mut rest) = match (is_align(second), is_align(first)) {
        (true, _) => (first, second, start.as_str()),
        (_, true) => (None, first, &spec[1..]),
        _ => (None, None, spec),
    };
    let signs = rest.len() - rest.trim_start_matches(['+', '-', ' ', '#']).len();
    let flags = &rest[..signs];
    rest = &rest[signs..];
    if let Some(after) = rest.strip_prefix('0') {
        rest = after;
        fill = fill.or(Some('0'));
        align = align.or(if value.as_str().is_some() { None } else { Some('=') });
    }
    let wide = width(rest)?;
    rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let (grouping, rest) = rest.split_at(usize::from(rest.starts_with([',', '_'])));
    let precision = rest.strip_prefix('.');
    let kind = precision.unwrap_or(rest).trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &rest[..rest.len() - kind.len()];
    let precision = precision.map(width).transpose()?;
    if precision.is_some_and(|precision| precision > DIGITS) {
        return Err(bad(format!("a precision is at most {DIGITS}")));
    }
    let laid = |kind: &str, value: Value| {
        format(FormatStyle::StrFormat, &format!("{{:{flags}{grouping}{digits}{kind}}}"), &[value])
    };
    if !grouping.is_empty() && fill == Some('0') && wide > 0 {
        return Err(unknown());
    }
    let (body, default) = match (value.as_str(), Number::of(value), kind) {
        (Some(text), _, "" | "s") if flags.is_empty() && grouping.is_empty() && align != Some('=') => {
            (text.chars().take(precision.unwrap_or(usize::MAX)).collect(), '<')
        }
        (None, Some(value), "%") => {
            let percent = |value: f64| {
                format(FormatStyle::StrFormat, &format!("{{:{flags}{grouping}{digits}f}}"), &[value.into()])
            };
            (percent(value.float() * 100.0)? + "%", '>')
        }
        (None, Some(Number::Int(value)), "n" | "d" | "") if precision.is_none() => {
            (laid("d", value.into())?, '>')
        }
        (None, Some(Number::Int(value)), "b" | "o" | "x" | "X" | "c") if precision.is_none() => {
            (laid(kind, value.into())?, '>')
        }
        (None, Some(value), "e" | "E" | "f" | "F" | "g" | "G") => (laid(kind, value.float().into())?, '>'),
        (None, Some(Number::Float(value)), "n") => (laid("g", value.into())?, '>'),
        (None, Some(Number::Float(value)), "") => (laid("", value.into())?, '>'),
        _ => return Err(unknown()),
    };
    Ok(padded(&body, wide, fill.unwrap_or(' '), align.unwrap_or(default)))
}
