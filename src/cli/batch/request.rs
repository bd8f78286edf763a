//! The requests of `stairwell batch`: one JSON object a line, with the field names of OpenAI's API.

use serde_json::Value;
use stairwell::{
    error::{Error, Result},
    request::{Checkpoint, Fields, Resolved},
};
use std::{collections::HashMap, fs, path::Path};

/// A request that can be run.
pub struct BatchRequest {
    /// Line of the file, from 1.
    pub line: usize,
    /// As it was given, or the line's number.
    pub id: Value,
    pub request: Resolved,
}

/// One line.
fn request(checkpoint: &Checkpoint, line: usize, text: &str) -> Result<BatchRequest> {
    let bad = |e: serde_json::Error| Error::Request(plain(&e.to_string()));
    let fields: Fields = serde_json::from_str(text).map_err(bad)?;
    let id = match &fields.id {
        None | Some(Value::Null) => line.into(),
        Some(id @ (Value::String(_) | Value::Number(_))) => id.clone(),
        Some(id) => return Err(Error::Request(format!("id {id} is neither a string nor a number"))),
    };
    Ok(BatchRequest { line, id, request: checkpoint.resolve(fields)? })
}

/// serde_json counts lines within the line.
fn plain(message: &str) -> String {
    let message = message.replace(" at line 1 column ", " at column ");
    match message.starts_with("EOF") {
        true => format!("the JSON ends too early ({message})"),
        false => message,
    }
}

/// The number of a line, and what is wrong with it.
pub type BadLine = (usize, String);

/// The good requests of a file, and what is wrong with the other lines.
///
/// # Errors
/// If the file can't be read.
pub fn read_requests(path: &Path, checkpoint: &Checkpoint) -> Result<(Vec<BatchRequest>, Vec<BadLine>)> {
    let bytes = fs::read(path).map_err(|error| Error::Io { path: path.into(), error })?;
    let lines = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes); // the byte order mark of Windows' editors
    let (mut good, mut bad, mut seen) = (Vec::new(), Vec::new(), HashMap::new());
    for (line, bytes) in (1..).zip(lines.split(|&byte| byte == b'\n')) {
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let text = std::str::from_utf8(bytes).map_err(|e| Error::Request(format!("not UTF-8: {e}")));
        match text.and_then(|text| request(checkpoint, line, text)) {
            Ok(request) => match seen.insert(request.id.to_string(), line) {
                None => good.push(request),
                Some(first) => {
                    bad.push((line, format!("id {} is already that of line {first}", request.id)));
                    seen.insert(request.id.to_string(), first);
                }
            },
            Err(error) => bad.push((line, error.to_string())),
        }
    }
    Ok((good, bad))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_speak_of_fields() {
        assert_eq!(plain("trailing comma at line 1 column 7"), "trailing comma at column 7");
    }
}
