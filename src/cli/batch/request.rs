//! The requests of `stairwell batch`: one JSON object a line, with the field names of OpenAI's API.

use serde_json::value::{RawValue, to_raw_value};
use stairwell::{
    error::{Error, Result},
    files::read_input,
    request::{Checkpoint, Line, Resolved},
};
use std::{collections::HashMap, path::Path};

/// A request that can be run.
pub struct BatchRequest {
    /// Line of the file, from 1.
    pub line: usize,
    /// As it is written, or the line's number.
    pub id: Box<RawValue>,
    /// The same, if it came in OpenAI's envelope.
    pub custom_id: Option<Box<RawValue>>,
    pub request: Resolved,
}

/// What two spellings of an id have in common: the text of a string, whatever its escapes, and of anything else what is written.
pub fn key(id: &RawValue) -> String {
    serde_json::from_str::<String>(id.get()).map_or_else(|_| id.get().to_owned(), |text| format!("{text:?}"))
}

/// One line.
fn request(checkpoint: &Checkpoint, line: usize, text: &[u8]) -> Result<BatchRequest> {
    let Line { custom_id, mut fields } = Line::parse(text).map_err(|error| match error {
        Error::Request(message) => Error::Request(plain(&message)),
        error => error,
    })?;
    let number = || to_raw_value(&line).map_err(|error| Error::Request(error.to_string()));
    let id = fields.id.take().or_else(|| custom_id.clone()).map_or_else(number, Ok)?;
    Ok(BatchRequest { line, id, custom_id, request: checkpoint.resolve(fields)? })
}

/// serde_json counts lines within the line.
fn plain(message: &str) -> String {
    let message = message.replace(" at line 1 column ", " at column ");
    match message.contains("EOF while parsing") {
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
    let lines = read_input(path)?;
    let (mut good, mut bad, mut seen) = (Vec::new(), Vec::new(), HashMap::new());
    for (line, bytes) in (1..).zip(lines.split(|&byte| byte == b'\n')) {
        // The byte order mark of Windows' editors is in the middle where files were put together.
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let text = std::str::from_utf8(bytes).map_err(|e| Error::Request(format!("not UTF-8: {e}")));
        match text.and_then(|text| request(checkpoint, line, text.as_bytes())) {
            Ok(request) => match *seen.entry(key(&request.id)).or_insert(line) {
                first if first == line => good.push(request),
                first => bad.push((line, format!("id {} is already that of line {first}", request.id))),
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
