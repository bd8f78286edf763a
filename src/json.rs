//! JSON as Python writes it: every small file of a checkpoint is read here.
//!
//! `json.dumps` writes `NaN`, `Infinity` and `-Infinity`, which JSON does not have, and editors on Windows put a byte order mark first.
//! transformers reads the numbers, so a field that nobody uses may hold one. Such a number becomes a text here: a field that is used then
//! refuses it by name, as it refuses any other text.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, error::Category, json};
use stairwell_jinja::NUMBER;
use std::str;

/// The value in `bytes`, or what is wrong with them.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let strict = serde_json::from_slice(bytes);
    let read = match strict {
        Err(error) if error.classify() == Category::Syntax => {
            // The first error is about the file as it stands, with its line and column.
            serde_json::from_slice(&numbers_as_text(bytes)).map_err(|_| error)
        }
        read => read,
    };
    read.map_err(|error| match bytes {
        [] => "not JSON (the file is empty)".into(),
        _ if error.classify() == Category::Data => error.to_string(),
        _ => format!("not JSON ({error})"),
    })
}

/// The value in `bytes` with the numbers that `serde_json` lacks and Python has: integers beyond 64 bits, NaN and infinities. Each
/// becomes an object with the key [`NUMBER`] and the number's text. Chats are read like this, because templates print what
/// is in them.
///
/// # Errors
/// What is wrong with the JSON.
pub fn exact(bytes: &[u8]) -> Result<Value, String> {
    let strict: Value = parse(bytes)?;
    let is_wide = |word: &[u8]| {
        let digits = word.strip_prefix(b"-").unwrap_or(word);
        digits.len() > 18 && digits.iter().all(u8::is_ascii_digit)
    };
    let other = |word: &[u8]| match word {
        b"-0" => Some(b"0".to_vec()),
        _ if is_wide(word) || is_pythons(word) => {
            Some(json!({NUMBER: String::from_utf8_lossy(word)}).to_string().into())
        }
        _ => None,
    };
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    Ok(serde_json::from_slice(&replace_words(bytes, other)).unwrap_or(strict))
}

/// The object in `bytes`, or what is wrong with them.
pub fn object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    match parse(bytes)? {
        Value::Object(object) => Ok(object),
        _ => Err("not a JSON object".into()),
    }
}

/// The same JSON with quotes around each number that only Python has.
fn numbers_as_text(json: &[u8]) -> Vec<u8> {
    replace_words(json, |word| is_pythons(word).then(|| [b"\"", word, b"\""].concat()))
}

/// The same JSON with other words outside of its strings.
fn replace_words(mut rest: &[u8], other: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(rest.len() + 16);
    while let Some(&first) = rest.first() {
        let length = match first {
            b'"' => string_length(rest),
            _ => rest.iter().position(|byte| !is_of_word(*byte)).unwrap_or(rest.len()).max(1),
        };
        let (token, after) = rest.split_at(length);
        let is_word = is_of_word(first);
        out.extend(is_word.then(|| other(token)).flatten().unwrap_or_else(|| token.to_vec()));
        rest = after;
    }
    out
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)
}

/// Bytes of the string that `text` begins with, quotes included.
fn string_length(text: &[u8]) -> usize {
    let mut escaped = true; // the opening quote
    let end = text.iter().position(|&byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 1)
}

/// NaN, an infinity, or digits that no f64 holds, which are an infinity in Python.
fn is_pythons(token: &[u8]) -> bool {
    let number = str::from_utf8(token).ok().and_then(|text| text.parse::<f64>().ok());
    let digits = token.iter().any(u8::is_ascii_digit);
    matches!(token, b"NaN" | b"Infinity" | b"-Infinity") || digits && number.is_some_and(f64::is_infinite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_python_are_texts() {
        let json = "\u{feff}{\"a\": NaN, \"b\": [-Infinity, Infinity,1e999], \"c\": \"NaN \\\" NaN\", \"d\": -1.5e-3}";
        let read = object(json.as_bytes()).unwrap();
        let expected = r#"{"a":"NaN","b":["-Infinity","Infinity","1e999"],"c":"NaN \" NaN","d":-0.0015}"#;
        assert_eq!(Value::from(read).to_string(), expected);
    }

    #[test]
    fn exact_numbers() {
        let read = exact(b"[1, -0, 340282366920938463463374607431768211456, \"1e999\", NaN, 1e20]").unwrap();
        let wide = |text: &str| serde_json::json!({NUMBER: text});
        let expected = serde_json::json!([
            1,
            0,
            wide("340282366920938463463374607431768211456"),
            "1e999",
            wide("NaN"),
            1e20
        ]);
        assert_eq!(read, expected);
    }

    #[test]
    fn what_is_no_json_is_said_with_its_place() {
        for (json, want) in [
            ("", "empty"),
            ("{\"a\": NaN,\n \"b\": nan}", "line 1 column"),
            ("[1]", "not a JSON object"),
            ("{\"a\": \"\\", "not JSON"),
            ("{\"a\": 1}}", "trailing"),
        ] {
            let said = object(json.as_bytes()).unwrap_err();
            assert!(said.contains(want), "{json}: {said}");
        }
        // Python gives up at some depth, too.
        let deep = "[".repeat(1 << 20);
        assert!(object(deep.as_bytes()).unwrap_err().contains("recursion limit"));
    }
}
