//! Server-sent events: `data: `, one line of JSON, an empty line.
//!
//! ```text
//! data: {"choices":[{"index":0,"text":" cat"}]}⏎
//! ⏎
//! : ping⏎                     a comment: every client skips it, and a dead connection is noticed
//! ⏎
//! data: [DONE]⏎
//! ⏎
//! ```
//!
//! A reader of events splits at line ends: at a raw newline within the data, an event would fall apart. JSON writes newlines of a text as
//! `\n`, two characters, so one line of JSON is always one line. U+2028 and U+2029 are line ends to JavaScript and not to this format.

use axum::{
    body::Bytes,
    http::{HeaderName, HeaderValue, header},
};
use serde::Serialize;
use utoipa::ToSchema;

/// An event, as the OpenAPI document describes it.
#[derive(ToSchema)]
#[allow(dead_code)] // read by the document alone
pub struct Event {
    /// One line of JSON, or `[DONE]`.
    data: String,
}

/// Ends a stream, after its last event.
pub const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// A comment, for a stream that has nothing to say for some seconds.
pub const PING: Bytes = Bytes::from_static(b": ping\n\n");

/// One event with `data` as its JSON.
///
/// Numbers that JSON lacks (NaN, infinities) become null. `data` must have strings as its maps' keys, as all our types have.
pub fn event(data: &impl Serialize) -> Bytes {
    let mut line = Vec::with_capacity(256);
    event_into(&mut line, data);
    line.into()
}

// ANCHOR: event
/// [`event`], at the end of a buffer: several events can go out in one write.
pub fn event_into(buffer: &mut Vec<u8>, data: &impl Serialize) {
    buffer.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut *buffer, data).expect("our types are JSON, and memory takes every write");
    buffer.extend_from_slice(b"\n\n");
}
// ANCHOR_END: event

/// The members that all events of a stream begin with, as JSON: most of an event of one token, and written once.
pub struct Opening(Vec<u8>);

impl Opening {
    /// `members` is an object with at least one member.
    pub fn new(members: &impl Serialize) -> Opening {
        let mut event = Vec::new();
        event_into(&mut event, members);
        event.truncate(event.len() - "}\n\n".len());
        Opening(event)
    }

    /// One event at the end of a buffer: these members, and then those of `rest`, an object with at least one.
    pub fn event_into(&self, buffer: &mut Vec<u8>, rest: &impl Serialize) {
        buffer.extend_from_slice(&self.0);
        let brace = buffer.len();
        serde_json::to_writer(&mut *buffer, rest).expect("our types are JSON, and memory takes every write");
        buffer[brace] = b',';
        buffer.extend_from_slice(b"\n\n");
    }
}

/// The headers of a stream: its type, no cache, and no buffering by nginx, which would hold tokens back.
pub fn headers() -> [(HeaderName, HeaderValue); 3] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The data of each event, split as a reader does.
    fn read(stream: &[u8]) -> Vec<String> {
        let text = std::str::from_utf8(stream).unwrap();
        let lines = text.split("\n\n").filter(|event| !event.is_empty());
        lines.map(|event| event.strip_prefix("data: ").unwrap().to_owned()).collect()
    }

    #[test]
    fn an_event_is_one_line_whatever_the_text() {
        for text in [
            "a\nb\r\nc\n\n",
            "\u{2028}\u{2029}\u{85}",
            "ü 你 🦀",
            "\u{0}\u{1b}\"\\",
            "data: x\n\ndata: [DONE]\n\n",
        ] {
            let bytes = event(&json!({ "text": text }));
            let lines = bytes.iter().filter(|&&byte| byte == b'\n' || byte == b'\r').count();
            assert_eq!(lines, 2, "{text:?}: {bytes:?}");
            let [data] = &read(&bytes)[..] else { panic!("{bytes:?}") };
            assert_eq!(serde_json::from_str::<Value>(data).unwrap()["text"], text);
        }
    }

    #[test]
    fn an_event_begins_with_the_opening_of_its_stream() {
        #[derive(Serialize)]
        struct Members {
            id: &'static str,
            created: u64,
        }
        let opening = Opening::new(&Members { id: "a\"}", created: 1 });
        let mut buffer = Vec::new();
        opening.event_into(&mut buffer, &json!({"choices": []}));
        opening.event_into(&mut buffer, &json!({"choices": [{}], "usage": null}));
        let head = r#"{"id":"a\"}","created":1,"choices":"#;
        assert_eq!(read(&buffer), [format!("{head}[]}}"), format!(r#"{head}[{{}}],"usage":null}}"#)]);
    }

    #[test]
    fn characters_go_out_as_utf_8() {
        assert_eq!(&event(&json!({"text": "ü🦀"}))[..], "data: {\"text\":\"ü🦀\"}\n\n".as_bytes());
    }

    #[test]
    fn events_one_after_the_other_are_read_one_after_the_other() {
        let mut buffer = Vec::new();
        event_into(&mut buffer, &json!({"a": 1}));
        event_into(&mut buffer, &f64::NEG_INFINITY);
        buffer.extend_from_slice(&DONE);
        assert_eq!(read(&buffer), ["{\"a\":1}", "null", "[DONE]"]);
        assert!(PING.starts_with(b":") && PING.ends_with(b"\n\n"));
    }
}
