//! A chat's messages, checked before a template sees them.

use crate::server::error::ApiError;
use serde_json::{Value, json};

const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// The messages as templates know them: `developer` is OpenAI's newer name of `system`.
///
/// # Errors
/// The message and what is wrong with it.
pub fn checked(mut messages: Vec<Value>) -> Result<Vec<Value>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "messages: give at least one"));
    }
    for (at, message) in messages.iter_mut().enumerate() {
        let wrong = |field: &str, why: &str| {
            let param = format!("messages.{at}{field}");
            Err(ApiError::invalid(param.as_str(), format!("{param}: {why}")))
        };
        if !message.is_object() {
            return wrong("", "an object such as {\"role\": \"user\", \"content\": \"Hi\"} is expected");
        }
        match message["role"].as_str() {
            Some("developer") => message["role"] = json!("system"),
            Some(role) if ROLES.contains(&role) => {}
            _ => return wrong(".role", "one of system, developer, user, assistant and tool is expected"),
        }
        let parts = match &message["content"] {
            Value::String(_) | Value::Null => continue,
            Value::Array(parts) => parts,
            _ => return wrong(".content", "a text or a list of parts is expected"),
        };
        if let Some(part) = parts.iter().position(|part| !is_text(part)) {
            return wrong(
                &format!(".content.{part}"),
                "only parts of type `text`, with a `text`, can be read",
            );
        }
    }
    Ok(messages)
}

fn is_text(part: &Value) -> bool {
    part["type"] == "text" && part["text"].is_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        for (messages, param) in [
            (json!([]), "messages"),
            (json!([5]), "messages.0"),
            (json!([{"role": "user", "content": "a"}, {"role": "king", "content": "a"}]), "messages.1.role"),
            (json!([{"content": "a"}]), "messages.0.role"),
            (json!([{"role": "user", "content": 5}]), "messages.0.content"),
            (
                json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "b"}}]}]),
                "messages.0.content.1",
            ),
        ] {
            let error = checked(messages.as_array().unwrap().clone()).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{messages}");
        }
        let good = json!([{"role": "developer", "content": "a"}, {"role": "assistant", "content": null, "refusal": null}]);
        let read = checked(good.as_array().unwrap().clone()).unwrap();
        assert_eq!(read[0]["role"], "system");
    }
}
