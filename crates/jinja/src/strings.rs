//! Methods of Python's strings.

use minijinja::{Error, Value};

use super::budget::{self, bad};
use super::call::bind;
use super::format;
use super::methods::clamp;
use super::python::{integer, is_printable, is_tuple, items, list, made_text, string, text, tuple};

/// # Errors
/// If the arguments are wrong.
pub(super) fn call(text: &str, safe: bool, name: &str, args: &[Value]) -> Result<Value, Error> {
    budget::look(text.len())?;
    let give = |text: String| made_text(text, safe);
    match name {
        "format" => return give(format::str_format(text, args, safe)?),
        "upper" | "lower" | "title" | "capitalize" | "swapcase" | "casefold" => {
            bind(args, [])?;
            return give(recased(text, name));
        }
        _ if name.starts_with("is") => {
            bind(args, [])?;
            return Ok(is(text, name).into());
        }
        _ => (),
    }
    let names = match name {
        "split" | "rsplit" => ["sep", "maxsplit", ""],
        "splitlines" => ["keepends", "", ""],
        "expandtabs" => ["tabsize", "", ""],
        _ => ["", "", ""],
    };
    let [first, second, third] = bind(args, names)?;
    let need =
        |value: &Option<Value>| value.clone().ok_or_else(|| bad(format!("{name}() needs an argument")));
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let chars = first.filter(|chars| !chars.is_none());
            let chars = chars.as_ref().map(string).transpose()?;
            give(strip(text, chars, name != "rstrip", name != "lstrip").into())
        }
        "removeprefix" => give(text.strip_prefix(string(&need(&first)?)?).unwrap_or(text).into()),
        "removesuffix" => give(text.strip_suffix(string(&need(&first)?)?).unwrap_or(text).into()),
        "split" | "rsplit" => {
            let parts = split(text, first, second, name == "rsplit")?;
            list(parts.into_iter().map(|part| give(part.into())).collect::<Result<_, _>>()?)
        }
        "splitlines" => {
            let keep = first.is_some_and(|keep| keep.is_true());
            list(lines(text, keep).into_iter().map(|line| give(line.into())).collect::<Result<_, _>>()?)
        }
        "partition" | "rpartition" => {
            let separator = need(&first)?;
            let separator = string(&separator)?;
            if separator.is_empty() {
                return Err(bad("empty separator"));
            }
            let is_left = name == "partition";
            let parts = if is_left { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match parts {
                Some((before, after)) => [before, separator, after],
                None if is_left => [text, "", ""],
                None => ["", "", text],
            };
            tuple(parts.into_iter().map(|part| give(part.into())).collect::<Result<_, _>>()?)
        }
        "startswith" | "endswith" => affix(text, name == "startswith", &need(&first)?, second, third),
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, name, &need(&first)?, second, third),
        "replace" => replace(text, safe, &need(&first)?, &need(&second)?, third),
        "zfill" | "ljust" | "rjust" | "center" => pad(text, safe, name, &need(&first)?, second),
        "expandtabs" => give(expand_tabs(text, first)?),
        _ => join(text, safe, &need(&first)?),
    }
}

/// Python counts four separators as white space that Unicode's property leaves out.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

pub(super) fn strip<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let drop = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(drop) } else { text };
    if right { text.trim_end_matches(drop) } else { text }
}

fn is_titlecase(c: char) -> bool {
    matches!(c as u32, 0x1c5 | 0x1c8 | 0x1cb | 0x1f2 | 0x1f88..=0x1f8f | 0x1f98..=0x1f9f | 0x1fa8..=0x1faf | 0x1fbc | 0x1fcc | 0x1ffc)
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || is_titlecase(c)
}

/// A word's first letter, as titles have it.
fn to_title(c: char) -> String {
    match c as u32 {
        0x1c4..=0x1cc | 0x1f1..=0x1f3 => char::from_u32(match c as u32 {
            0x1c4..=0x1c6 => 0x1c5,
            0x1c7..=0x1c9 => 0x1c8,
            0x1ca..=0x1cc => 0x1cb,
            _ => 0x1f2,
        })
        .into_iter()
        .collect(),
        _ => {
            let mut upper = c.to_uppercase();
            let first = upper.next().into_iter();
            first.chain(upper.flat_map(char::to_lowercase)).collect()
        }
    }
}

pub(super) fn recased(text: &str, how: &str) -> String {
    match how {
        "upper" => text.to_uppercase(),
        "lower" => text.to_lowercase(),
        "capitalize" => {
            let mut rest = text.chars();
            rest.next().map(to_title).unwrap_or_default() + &rest.as_str().to_lowercase()
        }
        "swapcase" => text
            .chars()
            .flat_map(|c| match c.is_uppercase() {
                true => c.to_lowercase().collect::<Vec<_>>(),
                false if c.is_lowercase() => c.to_uppercase().collect(),
                false => vec![c],
            })
            .collect(),
        "casefold" => text
            .chars()
            .flat_map(|c| match c {
                'ς' => vec!['σ'],
                'ſ' => vec!['s'],
                c if c.is_lowercase() && c.to_uppercase().len() > 1 => {
                    c.to_uppercase().flat_map(char::to_lowercase).collect::<Vec<_>>()
                }
                c => c.to_lowercase().collect(),
            })
            .collect(),
        _ => {
            let mut in_word = false;
            text.chars()
                .map(|c| {
                    let was_in_word = std::mem::replace(&mut in_word, is_cased(c));
                    if was_in_word { c.to_lowercase().collect() } else { to_title(c) }
                })
                .collect()
        }
    }
}

/// `isupper` and its like; "" is nothing but ASCII and printable.
pub(super) fn is(text: &str, what: &str) -> bool {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    let is_fraction = |c: char| matches!(c as u32, 0xbc..=0xbe | 0x2150..=0x218b | 0x3007 | 0x3021..=0x3029);
    let is_raised =
        |c: char| matches!(c as u32, 0xb2 | 0xb3 | 0xb9 | 0x2070..=0x2089 | 0x2460..=0x249b | 0x24ea);
    let mut chars = text.chars();
    match what {
        "isascii" => text.is_ascii(),
        "isprintable" => chars.all(is_printable),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isspace" => all(is_space),
        "isnumeric" => all(char::is_numeric),
        "isdigit" => !text.is_empty() && chars.all(|c| c.is_numeric() && !is_fraction(c)),
        "isdecimal" => !text.is_empty() && chars.all(|c| c.is_numeric() && !is_fraction(c) && !is_raised(c)),
        "isidentifier" => {
            chars.next().is_some_and(|c| c.is_alphabetic() || c == '_')
                && chars.all(|c| c.is_alphanumeric() || c == '_')
        }
        "islower" => {
            text.chars().any(char::is_lowercase) && !chars.any(|c| c.is_uppercase() || is_titlecase(c))
        }
        "isupper" => {
            text.chars().any(char::is_uppercase) && !chars.any(|c| c.is_lowercase() || is_titlecase(c))
        }
        _ => {
            let mut in_word = false;
            let fits = |c: char| {
                let was_in_word = std::mem::replace(&mut in_word, is_cased(c));
                !is_cased(c) || c.is_lowercase() == was_in_word
            };
            text.chars().any(is_cased) && chars.all(fits)
        }
    }
}

/// `split(sep, maxsplit)`
fn split(
    text: &str,
    separator: Option<Value>,
    most: Option<Value>,
    from_right: bool,
) -> Result<Vec<&str>, Error> {
    let most = most.as_ref().map_or(Ok(-1), integer)?;
    let limit = usize::try_from(most).unwrap_or(usize::MAX);
    let separator = separator.filter(|separator| !separator.is_none());
    match separator.as_ref().map(string).transpose()? {
        Some("") => Err(bad("empty separator")),
        Some(separator) if from_right => {
            let mut parts: Vec<&str> = text.rsplitn(limit.saturating_add(1), separator).collect();
            parts.reverse();
            Ok(parts)
        }
        Some(separator) => Ok(text.splitn(limit.saturating_add(1), separator).collect()),
        None => Ok(split_spaces(text, from_right, limit)),
    }
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

/// `splitlines(keepends)`
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends = ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(ends).unwrap_or(rest.len());
        let after = match rest[end..].chars().next() {
            Some('\r') if rest[end..].starts_with("\r\n") => end + 2,
            c => end + c.map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if keep_ends { after } else { end }]);
        rest = &rest[after..];
    }
    lines
}

/// The part of a text from `start` to `end` in characters, and the first's number; none if `start` is beyond.
fn part(text: &str, start: Option<Value>, end: Option<Value>) -> Result<Option<(usize, &str)>, Error> {
    let length = text.chars().count();
    let (start, end) = clamp(length, start, end)?;
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Ok((start <= end).then(|| (start, &text[byte(start)..byte(end)])))
}

fn affix(
    text: &str,
    is_start: bool,
    wanted: &Value,
    start: Option<Value>,
    end: Option<Value>,
) -> Result<Value, Error> {
    let part = part(text, start, end)?;
    let wanted = if is_tuple(wanted) { items(wanted)? } else { vec![wanted.clone()] };
    for wanted in &wanted {
        let wanted = string(wanted)?;
        let fits = |part: &str| if is_start { part.starts_with(wanted) } else { part.ends_with(wanted) };
        if part.is_some_and(|(_, part)| fits(part)) {
            return Ok(true.into());
        }
    }
    Ok(false.into())
}

fn search(
    text: &str,
    name: &str,
    wanted: &Value,
    start: Option<Value>,
    end: Option<Value>,
) -> Result<Value, Error> {
    let wanted = string(wanted)?;
    let part = part(text, start, end)?;
    if name == "count" {
        return Ok(part.map_or(0, |(_, part)| part.matches(wanted).count()).into());
    }
    let found = part.and_then(|(first, part)| {
        let at = if name.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
        at.map(|at| first + part[..at].chars().count())
    });
    match found {
        Some(at) => Ok(at.into()),
        None if name.ends_with("index") => Err(bad("substring not found")),
        None => Ok((-1).into()),
    }
}

/// `replace(old, new, count)`
pub(super) fn replace(
    text: &str,
    safe: bool,
    old: &Value,
    new: &Value,
    count: Option<Value>,
) -> Result<Value, Error> {
    let (old, escaped) = (string(old)?, format::escape(string(new)?));
    let new = if safe && !new.is_safe() { &escaped } else { string(new)? };
    let count = count.as_ref().map_or(Ok(-1), integer)?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    budget::make(new.len().saturating_mul(found.min(count)))?;
    made_text(text.replacen(old, new, count), safe)
}

/// `zfill`, `ljust`, `rjust`, `center`
fn pad(text: &str, safe: bool, how: &str, width: &Value, fill: Option<Value>) -> Result<Value, Error> {
    let width = usize::try_from(integer(width)?).unwrap_or(0);
    let fill = fill.as_ref().map_or(Ok(" "), string)?;
    let fill = if how == "zfill" { "0" } else { fill };
    if fill.chars().count() != 1 {
        return Err(bad("the fill character must be exactly one character long"));
    }
    let missing = width.saturating_sub(text.chars().count());
    budget::make(missing.saturating_mul(fill.len()))?;
    let left = match how {
        "ljust" => 0,
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    let (sign, text) = match text.as_bytes().first() {
        Some(b'+' | b'-') if how == "zfill" => text.split_at(1),
        _ => ("", text),
    };
    made_text(format!("{sign}{}{text}{}", fill.repeat(left), fill.repeat(missing - left)), safe)
}

fn expand_tabs(text: &str, size: Option<Value>) -> Result<String, Error> {
    let size = usize::try_from(size.as_ref().map_or(Ok(8), integer)?).unwrap_or(0);
    budget::make(size.saturating_mul(text.matches('\t').count()))?;
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' if size == 0 => (),
            '\t' => {
                let spaces = size - column % size;
                out.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(out)
}

/// `separator.join(items)`; safe separators escape the items.
fn join(separator: &str, safe: bool, values: &Value) -> Result<Value, Error> {
    let mut parts = Vec::new();
    for value in items(values)? {
        let part = if safe { text(&value)? } else { string(&value)?.to_owned() };
        let part = if safe && !value.is_safe() { format::escape(&part) } else { part };
        budget::make(part.len() + separator.len())?;
        parts.push(part);
    }
    made_text(parts.join(separator), safe)
}
