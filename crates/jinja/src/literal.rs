//! Literals in templates, read as Python reads them.

use minijinja::Value;

use super::values::Wide;

/// The length of the token that begins `rest`; adjacent texts are one. None if a text has no end.
pub(super) fn token(rest: &str) -> Option<usize> {
    let first = rest.chars().next()?;
    let run = |more: fn(char) -> bool| rest.find(|c| !more(c)).unwrap_or(rest.len());
    match first {
        '\'' | '"' => {
            let end = end_of_text(rest)?;
            let next = rest[end..].trim_start();
            match next.starts_with(['\'', '"']) {
                true => Some(rest.len() - next.len() + token(next)?),
                false => Some(end),
            }
        }
        c if c.is_whitespace() => Some(run(char::is_whitespace)),
        c if c.is_alphanumeric() || c == '_' => Some(run(|c| c.is_alphanumeric() || c == '_')),
        _ => Some(
            ["==", "!=", "<=", ">=", "//", "**"]
                .iter()
                .find(|op| rest.starts_with(**op))
                .map_or(first.len_utf8(), |op| op.len()),
        ),
    }
}

/// The length of a quoted text.
fn end_of_text(rest: &str) -> Option<usize> {
    let quote = rest.chars().next()?;
    let mut escaped = false;
    let end = rest.char_indices().skip(1).find(|&(_, c)| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    Some(end?.0 + 1)
}

/// The value of a token of texts.
///
/// # Errors
/// The escape that Python refuses, or whose character UTF-8 cannot hold.
pub(super) fn text(token: &str) -> Result<String, String> {
    let end = end_of_text(token).unwrap_or(token.len());
    let first = unescape(&token[1..end - 1])?;
    match token[end..].trim_start() {
        "" => Ok(first),
        rest => Ok(first + &text(rest)?),
    }
}

/// Jinja2 writes what is not ASCII as escapes and lets Python's `unicode_escape` read the whole.
fn unescape(text: &str) -> Result<String, String> {
    if !text.contains('\\') {
        return Ok(text.into());
    }
    let mut ascii = String::new();
    for c in text.chars() {
        match c as u32 {
            0..=0x7f => ascii.push(c),
            code @ 0x80..=0xff => ascii += &format!("\\x{code:02x}"),
            code @ 0x100..=0xffff => ascii += &format!("\\u{code:04x}"),
            code => ascii += &format!("\\U{code:08x}"),
        }
    }
    let mut out = String::new();
    let mut rest = ascii.as_str();
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let (c, length) = escaped(escape)?;
        out.extend(c);
        rest = &escape[length..];
    }
    Ok(out + rest)
}

/// The character that an escape stands for (none for a newline), and the escape's length after its backslash.
fn escaped(escape: &str) -> Result<(Option<char>, usize), String> {
    let first = escape.chars().next().ok_or("a text ends with a backslash")?;
    let number = |from: usize, length: usize, radix: u32| {
        let digits = escape.get(from..from + length).filter(|digits| !digits.starts_with('+'));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, radix).ok());
        let c = code.and_then(char::from_u32);
        c.map(|c| (Some(c), from + length))
            .ok_or_else(|| format!("'\\{}' is no character", &escape[..escape.len().min(from + length)]))
    };
    let simple = match first {
        '\n' => return Ok((None, 1)),
        'x' => return number(1, 2, 16),
        'u' => return number(1, 4, 16),
        'U' => return number(1, 8, 16),
        'N' => {
            let name =
                escape[1..].strip_prefix('{').and_then(|name| name.split_once('}')).map(|(name, _)| name);
            let c = name.and_then(unicode_names2::character);
            let (name, c) = name
                .zip(c)
                .ok_or_else(|| format!("'\\N{{{}}}' is no character", name.unwrap_or_default()))?;
            return Ok((Some(c), name.len() + 3));
        }
        '0'..='7' => {
            let digits = escape.bytes().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
            return number(0, digits, 8);
        }
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\\' | '\'' | '"' => first,
        _ => return Ok((Some('\\'), 0)),
    };
    Ok((Some(simple), 1))
}

/// The integer that a token writes, if minijinja has none as large.
pub(super) fn wide_integer(token: &str) -> Option<Value> {
    let digits = token.replace('_', "");
    let is_wide = digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<i128>().is_err();
    is_wide.then(|| Wide::value(&digits))
}
