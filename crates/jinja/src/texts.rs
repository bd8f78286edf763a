//! Jinja2's filters over texts.

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::budget::{self, bad};
use super::call::bind;
use super::filters::Filter;
use super::format::{escape, percent};
use super::methods::{self, path};
use super::operators::mapping;
use super::python::{entries, integer, is_plain, is_tuple, items, made_text, repr, string, text, tuple};
use super::strings::{self, is_space, lines, recased, strip};

pub(super) const FILTERS: &[(&str, Filter)] = &[
    ("capitalize", |_, value, _| made_text(recased(&text(value)?, "capitalize"), value.is_safe())),
    ("lower", |_, value, _| made_text(recased(&text(value)?, "lower"), value.is_safe())),
    ("upper", |_, value, _| made_text(recased(&text(value)?, "upper"), value.is_safe())),
    ("title", |_, value, _| {
        let value_text = text(value)?;
        let mut starts = true;
        let mut out = String::new();
        for c in value_text.chars() {
            match starts {
                true => out.extend(c.to_uppercase()),
                false => out.extend(c.to_lowercase()),
            }
            starts = is_space(c) || "-({[<".contains(c);
        }
        made_text(out, value.is_safe())
    }),
    ("string", |_, value, _| made_text(text(value)?, value.is_safe())),
    ("safe", |_, value, _| made_text(text(value)?, true)),
    ("e", |_, value, _| escaped(value)),
    ("escape", |_, value, _| escaped(value)),
    ("forceescape", |_, value, _| made_text(escape(&text(value)?), true)),
    ("trim", |_, value, args| {
        let [chars] = bind(args, ["chars"])?;
        let chars = chars.filter(|chars| !chars.is_none());
        made_text(strip(&text(value)?, chars.as_ref().map(string).transpose()?, true, true), value.is_safe())
    }),
    ("center", |state, value, args| {
        let [width] = bind(args, ["width"])?;
        let value = made_text(text(value)?, value.is_safe())?;
        methods::call(state, &value, "center", &[width.unwrap_or(80.into())])
    }),
    ("replace", |_, value, args| {
        let [old, new, count] = bind(args, ["old", "new", "count"])?;
        let plain = |value: Option<Value>| {
            Ok::<_, Error>(Value::from(text(&value.ok_or_else(|| bad("replace: two texts are needed"))?)?))
        };
        let count = count.filter(|count| !count.is_none());
        strings::replace(&text(value)?, false, &plain(old)?, &plain(new)?, count)
    }),
    ("join", |_, value, args| {
        let [separator, by] = bind(args, ["d", "attribute"])?;
        let separator = text(&separator.unwrap_or("".into()))?;
        let mut out = String::new();
        for (i, item) in items(value)?.iter().enumerate() {
            let part = text(&path(item, &by.clone().unwrap_or(().into()), None)?)?;
            budget::make(part.len() + separator.len())?;
            out.push_str(if i > 0 { &separator } else { "" });
            out.push_str(&part);
        }
        Ok(out.into())
    }),
    ("format", |_, value, args| {
        let template = text(value)?;
        let args = match args.split_last() {
            Some((last, [])) if last.is_kwargs() => mapping(entries(last)?)?,
            Some((last, _)) if last.is_kwargs() => {
                return Err(bad("format: either positions or names, not both"));
            }
            _ => tuple(args.to_vec())?,
        };
        made_text(percent(&template, &args, value.is_safe())?, value.is_safe())
    }),
    ("indent", |_, value, args| {
        let [width, first, blank] = bind(args, ["width", "first", "blank"])?;
        let flag = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
        let width = width.unwrap_or(4.into());
        let source = string(value)?;
        let count = source.len() + 1;
        let by = match width.as_str() {
            Some(by) if value.is_safe() && !width.is_safe() => escape(by),
            Some(by) => by.to_owned(),
            None => {
                let width = usize::try_from(integer(&width)?).unwrap_or(0);
                budget::make(width)?;
                " ".repeat(width)
            }
        };
        let (first, blank) = (flag(first), flag(blank));
        let source = format!("{source}\n");
        let all = lines(&source, false);
        budget::make(count + by.len().saturating_mul(all.len()))?;
        let mut out = if first { by.clone() } else { String::new() };
        for (i, line) in all.iter().enumerate() {
            if i > 0 {
                out.push('\n');
                out.push_str(if blank || !line.is_empty() { &by } else { "" });
            }
            out.push_str(line);
        }
        Ok(if value.is_safe() { Value::from_safe_string(out) } else { out.into() })
    }),
    ("truncate", |_, value, args| {
        let [length, kill, end, leeway] = bind(args, ["length", "killwords", "end", "leeway"])?;
        let length = length.as_ref().map_or(Ok(255), integer)?;
        let leeway = leeway.filter(|leeway| !leeway.is_none()).as_ref().map_or(Ok(5), integer)?;
        let end = end.map_or(Ok("...".into()), |end| string(&end).map(String::from))?;
        let kept = usize::try_from(length).ok().and_then(|length| length.checked_sub(end.chars().count()));
        let kept = kept
            .filter(|_| leeway >= 0)
            .ok_or_else(|| bad("truncate: the length is shorter than the end"))?;
        let source = string(value)?;
        if source.chars().count() as i64 <= length + leeway {
            return Ok(value.clone());
        }
        let mut cut: String = source.chars().take(kept).collect();
        if !kill.is_some_and(|kill| kill.is_true()) {
            cut.truncate(cut.rfind(' ').unwrap_or(cut.len()));
        }
        let end = if value.is_safe() { escape(&end) } else { end };
        made_text(cut + &end, value.is_safe())
    }),
    ("wordcount", |_, value, _| {
        let source = text(value)?;
        let words = source.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        Ok(words.filter(|word| !word.is_empty()).count().into())
    }),
    ("wordwrap", |_, value, args| {
        let [width, long, newline, hyphens] =
            bind(args, ["width", "break_long_words", "wrapstring", "break_on_hyphens"])?;
        let width = usize::try_from(width.as_ref().map_or(Ok(79), integer)?).unwrap_or(0);
        if width == 0 {
            return Err(bad("wordwrap: the width is at least 1"));
        }
        let newline = newline.filter(|newline| !newline.is_none()).map_or(Ok("\n".into()), |n| text(&n))?;
        let flag = |flag: Option<Value>| flag.is_none_or(|flag| flag.is_true());
        let (long, hyphens) = (flag(long), flag(hyphens));
        let source = string(value)?;
        if hyphens && source.contains('-') {
            return Err(bad("wordwrap: where Python breaks words at hyphens is not known here"));
        }
        budget::make(source.len().saturating_mul(newline.len() + 1))?;
        let wrapped = lines(source, false).into_iter().map(|line| wrap(line, width, long).join(&newline));
        made_text(wrapped.collect::<Vec<_>>().join(&newline), false)
    }),
    ("striptags", |_, value, _| made_text(minijinja_contrib::filters::striptags(text(value)?), false)),
    ("urlencode", |_, value, _| {
        let pair = |key: &Value, value: &Value| {
            Ok::<_, Error>(format!("{}={}", quote(&text(key)?, true)?, quote(&text(value)?, true)?))
        };
        let is_mapping = value.kind() == ValueKind::Map && !is_plain(value);
        let pairs: Vec<String> = match value.kind() {
            _ if is_mapping => {
                entries(value)?.iter().map(|(key, value)| pair(key, value)).collect::<Result<_, _>>()?
            }
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Undefined => {
                let pairs = items(value)?.into_iter().map(|item| match items(&item)?.as_slice() {
                    [key, value] => pair(key, value),
                    _ => Err(bad("urlencode: pairs are needed")),
                });
                pairs.collect::<Result<_, _>>()?
            }
            _ => vec![quote(&text(value)?, false)?],
        };
        made_text(pairs.join("&"), false)
    }),
    ("xmlattr", |_, value, args| {
        let [space] = bind(args, ["autospace"])?;
        if value.kind() != ValueKind::Map {
            return Err(bad("xmlattr: a mapping is needed"));
        }
        let mut out = Vec::new();
        for (key, value) in
            entries(value)?.iter().filter(|(_, value)| !value.is_none() && !value.is_undefined())
        {
            if string(key)?.contains([' ', '\t', '\n', '\r', '\u{b}', '\u{c}', '/', '>', '=']) {
                return Err(bad("xmlattr: invalid character in the name of an attribute"));
            }
            out.push(format!("{}=\"{}\"", text(&escaped(key)?)?, text(&escaped(value)?)?));
        }
        let space = if space.is_none_or(|space| space.is_true()) && !out.is_empty() { " " } else { "" };
        made_text(format!("{space}{}", out.join(" ")), false)
    }),
    ("filesizeformat", |_, value, args| {
        let [binary] = bind(args, ["binary"])?;
        let binary = binary.is_some_and(|binary| binary.is_true());
        let bytes =
            super::numbers::float_of(value).ok_or_else(|| bad("filesizeformat: a number is needed"))?;
        let (base, unit) = if binary { (1024.0, "iB") } else { (1000.0, "B") };
        if bytes == 1.0 {
            return Ok("1 Byte".into());
        }
        if bytes < base {
            return Ok(format!("{} Bytes", bytes as i64).into());
        }
        let prefixes = if binary { "KMGTPEZY" } else { "kMGTPEZY" };
        let power = (1..8).find(|power| bytes < f64::powi(base, power + 1)).unwrap_or(8);
        let prefix = &prefixes[power as usize - 1..power as usize];
        Ok(format!("{:.1} {prefix}{unit}", base * bytes / f64::powi(base, power + 1)).into())
    }),
    ("pprint", |_, value, _| {
        // Python breaks lines from 80 characters on, by rules of its own.
        let line = repr(&with_sorted_keys(value)?)?;
        match line.chars().count() {
            0..=80 => Ok(line.into()),
            _ => Err(bad("pprint: a value that takes more than one line is not known here")),
        }
    }),
    ("urlize", |_, value, _| {
        let source = text(value)?;
        let links = ["://", "www.", "@", ".com", ".net", ".int", ".edu", ".gov", ".org", ".info", ".mil"];
        match links.iter().any(|link| source.to_lowercase().contains(link)) {
            true => Err(bad("urlize: what Jinja2 makes of links is not known here")),
            false => made_text(text(&escaped(value)?)?, false),
        }
    }),
];

fn escaped(value: &Value) -> Result<Value, Error> {
    if value.is_safe() { Ok(value.clone()) } else { made_text(escape(&text(value)?), true) }
}

/// `pprint` sorts the keys of mappings.
fn with_sorted_keys(value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Map if !is_plain(value) => {
            let mut pairs = entries(value)?;
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            let pairs = pairs.into_iter().map(|(key, value)| Ok((key, with_sorted_keys(&value)?)));
            mapping(pairs.collect::<Result<_, Error>>()?)
        }
        ValueKind::Seq => {
            let items = items(value)?.iter().map(with_sorted_keys).collect::<Result<Vec<_>, _>>()?;
            if is_tuple(value) { tuple(items) } else { Ok(items.into()) }
        }
        _ => Ok(value.clone()),
    }
}

/// Python's `textwrap.wrap` of a line without hyphens.
fn wrap(line: &str, width: usize, break_long_words: bool) -> Vec<String> {
    let is_blank = |c: &char| c.is_ascii_whitespace() || *c == '\u{b}';
    let chars: Vec<char> = line.chars().collect();
    let mut chunks: Vec<&[char]> = chars.chunk_by(|a, b| is_blank(a) == is_blank(b)).collect();
    chunks.reverse();
    let mut out: Vec<String> = Vec::new();
    while !chunks.is_empty() {
        if !out.is_empty() {
            chunks.pop_if(|chunk| is_blank(&chunk[0]));
        }
        let (mut row, mut length) = (Vec::new(), 0);
        while let Some(chunk) = chunks.pop_if(|chunk| length + chunk.len() <= width) {
            length += chunk.len();
            row.push(chunk);
        }
        let is_too_long = |chunk: &mut &[char]| chunk.len() > width && (break_long_words || length == 0);
        if let Some(chunk) = chunks.pop_if(is_too_long) {
            let (fits, rest) = chunk.split_at(if break_long_words { width - length } else { chunk.len() });
            chunks.extend(Some(rest).filter(|rest| !rest.is_empty()));
            row.push(fits);
        }
        row.pop_if(|chunk| chunk.first().is_none_or(is_blank));
        if !row.is_empty() {
            out.push(row.concat().into_iter().collect());
        }
    }
    out
}

/// URLs' `%41`.
fn quote(text: &str, for_query: bool) -> Result<String, Error> {
    budget::make(text.len() * 3)?;
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b' ' if for_query => out.push('+'),
            b'/' if !for_query => out.push('/'),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(out)
}
