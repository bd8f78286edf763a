//! A request in JSON: an object of its fields, or the envelope that OpenAI's batches put around one.

use super::{Fields, Members};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::value::RawValue;

/// A request as it arrives.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// The caller's name for it, in OpenAI's envelope.
    pub custom_id: Option<Box<RawValue>>,
    pub fields: Fields,
}

impl Line {
    /// Reads an object such as `{"prompt": "Once", "max_tokens": 5}` or `{"custom_id": "a", "url": "/v1/completions", "body": {…}}`.
    /// A field that is null is absent.
    ///
    /// # Errors
    /// What is wrong with the JSON; or the field, its value and what it takes.
    pub fn parse(text: &[u8]) -> Result<Line> {
        let members = Members::parse(text)?;
        if !["body", "custom_id"].iter().any(|name| members.contains(name)) {
            return Ok(Line { custom_id: None, fields: members.read().map_err(|wrong| wrong.within(""))? });
        }
        let Envelope { custom_id, url, body, .. } = members.read().map_err(|wrong| wrong.within(""))?;
        let fields: Fields = body.read().map_err(|wrong| wrong.within("body."))?;
        match (url, fields.messages.is_some()) {
            (Some(Url::Chat), false) => {
                Err(Error::Request("body: /v1/chat/completions takes messages".into()))
            }
            (Some(Url::Completions), true) => {
                Err(Error::Request("body: /v1/completions takes prompt, no messages".into()))
            }
            _ => Ok(Line { custom_id, fields }),
        }
    }
}

/// OpenAI's envelope.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Envelope {
    custom_id: Option<Box<RawValue>>,
    #[serde(rename = "method")]
    _method: Option<Method>,
    url: Option<Url>,
    body: Members,
}

#[derive(Deserialize)]
enum Method {
    #[serde(rename = "POST")]
    Post,
}

#[derive(Deserialize)]
enum Url {
    #[serde(rename = "/v1/chat/completions")]
    Chat,
    #[serde(rename = "/v1/completions")]
    Completions,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_chat_keeps_numbers_that_json_crates_round() {
        let line = r#"{"messages": [{"role": "user", "content": "a", "id": 340282366920938463463374607431768211456}]}"#;
        let messages = Line::parse(line.as_bytes()).unwrap().fields.messages.unwrap();
        assert_eq!(messages[0]["id"][stairwell_jinja::NUMBER], "340282366920938463463374607431768211456");
        assert!(Line::parse(br#"{"messages": null, "prompt": "a"}"#).unwrap().fields.messages.is_none());
    }

    fn said(line: &str) -> String {
        Line::parse(line.as_bytes()).map(|line| format!("{line:?}")).unwrap_err().to_string()
    }

    /// Every field, by the list in the message about an unknown one, so that a new field is in it too.
    #[test]
    fn null_is_absent_in_every_field() {
        let fields = said(r#"{"no": 1}"#);
        let names = fields.split('`').skip(3).step_by(2).collect::<Vec<_>>();
        assert!(names.len() > 20 && names.contains(&"logit_bias"), "{fields}");
        for name in names {
            let line = Line::parse(json!({"prompt_ids": [1], name: null}).to_string().as_bytes());
            assert!(line.is_ok(), "{name}: {line:?}");
        }
    }

    #[test]
    fn errors_name_the_field_and_what_it_takes() {
        for (line, parts) in [
            (r#"{"temperature": "hot"}"#, &["temperature: ", "\"hot\"", "a number"][..]),
            (r#"{"max_tokens": -1}"#, &["max_tokens: ", "-1", "a whole number, 0 or more"]),
            (r#"{"max_tokens": 1.5}"#, &["max_tokens: ", "1.5", "a whole number"]),
            (r#"{"prompt": 3}"#, &["prompt: ", "3", "a string"]),
            (r#"{"messages": {}}"#, &["messages: ", "a sequence"]),
            (r#"{"stop": [1]}"#, &["stop: ", "a string or a list of strings"]),
            (r#"{"logprobs": "x"}"#, &["logprobs: ", "a number or a boolean"]),
            (r#"{"logit_bias": [1]}"#, &["logit_bias: ", "an object of token ids and numbers"]),
            (r#"{"ignore_eos": 1}"#, &["ignore_eos: ", "a boolean"]),
            (r#"{"seed": -2}"#, &["seed: ", "-2", "-1 for none"]),
            (r#"{"temperature": NaN}"#, &["temperature: ", "NaN", "a number"]),
            (r#"{"max_tokens": 1, "max_completion_tokens": 2}"#, &["duplicate field `max_tokens`"]),
            (r#"{"body": {"top_k": []}}"#, &["body.top_k: ", "a whole number"]),
            (r#"{"body": [1]}"#, &["body: ", "expected a map"]),
            (r#"{"body": {"messages": []}, "url": "/v1/completions"}"#, &["/v1/completions takes prompt"]),
            (
                r#"{"body": {}, "url": "/v1/embeddings"}"#,
                &["url: ", "`/v1/embeddings`", "`/v1/chat/completions`"],
            ),
            (r#"{"body": {}, "method": "GET"}"#, &["method: ", "`GET`", "`POST`"]),
            ("[1]", &["expected a map"]),
        ] {
            let said = said(line);
            assert!(parts.iter().all(|part| said.contains(part)), "{line}: {said}");
        }
    }

    #[test]
    fn names_keep_their_text() {
        for id in ["1.0", "1e400", "12345678901234567890123", r#"{"a": [1.50]}"#, r#""\u00e9""#] {
            let line = Line::parse(format!(r#"{{"id": {id}}}"#).as_bytes()).unwrap();
            assert_eq!(line.fields.id.unwrap().get(), id);
            let line = Line::parse(format!(r#"{{"custom_id": {id}, "body": {{}}}}"#).as_bytes()).unwrap();
            assert_eq!(line.custom_id.unwrap().get(), id);
        }
        assert_eq!(Line::parse(br#"{"seed": -1}"#).unwrap().fields.seed, None);
        assert_eq!(Line::parse(br#"{"seed": 18446744073709551615}"#).unwrap().fields.seed, Some(u64::MAX));
    }
}
