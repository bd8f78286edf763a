//! OpenAI's error: one JSON object with a status, for a plain answer and for an event of a stream alike.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{error::Error, request::WrongMember, sampling::SamplingError, tokenizer::TokenizerError};

/// A message is cut to this many bytes, so that a request can't make the server answer with more than it was sent.
pub const MAX_MESSAGE_BYTES: usize = 1_000;

/// Why a request got no answer.
///
/// The official clients choose their exception by `status` alone; `code` and `param` are for programs, `message` for people. A message names
/// the field and the limit, and never repeats the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub status: StatusCode,
    /// At most [`MAX_MESSAGE_BYTES`] bytes.
    pub message: String,
    /// OpenAI's `type`.
    pub kind: &'static str,
    /// The field at fault, dotted: `messages.0.content`.
    pub param: Option<String>,
    pub code: Option<&'static str>,
    /// Seconds after which a client should try again.
    pub retry_after: Option<u32>,
}

/// The error as it goes over the wire.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

/// The error itself, as OpenAI's schema `Error` has it: `param` and `code` are present, and null if there is none.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    pub message: String,
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: &'static str,
    #[schema(required)]
    pub param: Option<String>,
    #[schema(required, value_type = Option<String>)]
    pub code: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, message: cut(message.into()), kind, param: None, code: None, retry_after: None }
    }

    /// 400: a field that is missing, of a wrong type or out of range. `None` if no one field is at fault, as with broken JSON.
    pub fn invalid<'a>(param: impl Into<Option<&'a str>>, message: impl Into<String>) -> ApiError {
        let error = ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", message);
        ApiError { param: param.into().map(str::to_owned), ..error }
    }

    /// 400: prompt and answer don't fit in the context. The message should have both numbers.
    pub fn context_length(message: impl Into<String>) -> ApiError {
        ApiError { code: Some("context_length_exceeded"), ..ApiError::invalid(None, message) }
    }

    /// 401: no key, or a wrong one. The answer asks for `Authorization: Bearer`.
    pub fn unauthorized() -> ApiError {
        let message = "this server needs an API key: send it as `Authorization: Bearer KEY`";
        let error = ApiError::new(StatusCode::UNAUTHORIZED, "authentication_error", message);
        ApiError { code: Some("invalid_api_key"), ..error }
    }

    /// 403: who asks is known, and may not.
    pub fn forbidden(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    /// 404: a path that leads nowhere.
    pub fn not_found(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found_error", message)
    }

    /// 404: a model that this server doesn't serve.
    pub fn model_not_found() -> ApiError {
        let message = "this server has no model of that name; GET /v1/models lists the names";
        let error = ApiError::not_found(message);
        ApiError { param: Some("model".into()), code: Some("model_not_found"), ..error }
    }

    /// 405. The router adds `Allow`.
    pub fn method_not_allowed() -> ApiError {
        let message = "this path takes another method; the header Allow lists those it takes";
        let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message);
        ApiError { code: Some("method_not_allowed"), ..error }
    }

    /// 413: a body of more than `limit` bytes.
    pub fn too_large(limit: usize) -> ApiError {
        let message = format!("the body is larger than this server's limit of {limit} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// 415: a body that doesn't say that it is JSON. A form of another website can't say so without asking first.
    pub fn media_type() -> ApiError {
        let message = "the body must be JSON, with the header `Content-Type: application/json`";
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message)
    }

    /// 415: a body that is compressed: it may be a thousand times as large as it looks.
    pub fn content_encoding() -> ApiError {
        let message = "compressed bodies can't be read: send it without `Content-Encoding`";
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message)
    }

    /// 503: there is too much to do now; a second later there may be less.
    pub fn overloaded(message: impl Into<String>) -> ApiError {
        let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message);
        ApiError { retry_after: Some(1), ..error }
    }

    /// 503: the server is loading, or about to end.
    pub fn unavailable(message: impl Into<String>) -> ApiError {
        let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
        ApiError { retry_after: Some(5), ..error }
    }

    /// 500: the server's own fault.
    pub fn server_error(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// The object that a client reads: the body of a plain answer, or the data of a stream's last event but one.
    pub fn body(&self) -> ErrorBody {
        let ApiError { message, kind, param, code, .. } = self.clone();
        ErrorBody { error: ErrorDetail { message, kind, param, code } }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.body()).expect("strings are JSON");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The library's errors, by whose fault they are. Paths on the server's disk stay in its log.
impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        let message = error.to_string();
        match error {
            Error::Parameter { field, .. } => ApiError::invalid(field, message),
            Error::Request(_) => ApiError::invalid(None, message),
            Error::Limit(_) => ApiError::context_length(message),
            Error::Refused(_) => ApiError::overloaded(message),
            Error::Sampling(error) => by_sampling(&error),
            Error::Tokenizer(error) => by_tokenizer(error),
            Error::Dead(_) | Error::Device(_) | Error::Parallel(_) => ApiError::server_error(message),
            Error::RankFailed { .. } | Error::RankSilent { .. } => ApiError::server_error(message),
            _ => ApiError::server_error("the server failed; its log says why"),
        }
    }
}

/// What was found is not repeated: it may be long, and somebody else's.
impl From<WrongMember> for ApiError {
    fn from(WrongMember { name, what }: WrongMember) -> ApiError {
        let what = match what.rsplit_once(", expected ") {
            Some((_, expected)) => format!("{expected} is expected"),
            None => what,
        };
        let param = Some(name.as_str()).filter(|name| !name.is_empty());
        ApiError::invalid(param, format!("{}{what}", param.map_or(String::new(), |name| format!("{name}: "))))
    }
}

fn by_sampling(error: &SamplingError) -> ApiError {
    use SamplingError::*;
    let message = error.words().to_string();
    match error {
        OutOfRange { field, .. } => ApiError::invalid(*field, message),
        BiasToken { .. } | BiasTwice { .. } => ApiError::invalid("logit_bias", message),
        PromptToken { .. } => ApiError::invalid("prompt", message),
        PenaltyOverflow { .. } => ApiError::invalid("repetition_penalty", message),
        _ => ApiError::server_error(message),
    }
}

fn by_tokenizer(error: TokenizerError) -> ApiError {
    use TokenizerError::*;
    let chat = |message: String| ApiError::invalid("messages", message);
    match error {
        NoChatTemplate { .. } => chat(
            "this model has no chat template, so it is probably a base model; use /v1/completions".into(),
        ),
        BadChat { reason } => chat(reason),
        ChatRefused { message, .. } => {
            chat(format!("the model's chat template refuses this chat: {message}"))
        }
        ChatFailed { reason, .. } => chat(format!("the model's chat template failed on this chat: {reason}")),
        Encode { reason, .. } => {
            ApiError::invalid("prompt", format!("the tokenizer cannot encode this text: {reason}"))
        }
        _ => ApiError::server_error("the tokenizer can't be used; the server's log says why"),
    }
}

/// The message within its bound, cut between two characters.
fn cut(mut message: String) -> String {
    const MORE: &str = "…";
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES - MORE.len()));
        message.push_str(MORE);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    async fn answer(error: ApiError) -> (StatusCode, axum::http::HeaderMap, Value) {
        let (head, body) = error.into_response().into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (head.status, head.headers, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn an_answer_has_openais_four_fields_and_the_headers_of_its_status() {
        let (status, headers, body) = answer(ApiError::invalid("n", "n is 0; it must be 1 to 128")).await;
        assert_eq!(status, 400);
        assert_eq!(headers[header::CONTENT_TYPE], "application/json");
        let detail = json!({"message": "n is 0; it must be 1 to 128", "type": "invalid_request_error", "param": "n", "code": null});
        assert_eq!(body, json!({ "error": detail }));

        let (status, headers, body) = answer(ApiError::overloaded("the queue is full")).await;
        assert_eq!((status.as_u16(), headers[header::RETRY_AFTER].to_str().unwrap()), (503, "1"));
        assert_eq!((&body["error"]["param"], &body["error"]["type"]), (&Value::Null, &json!("overloaded")));

        let (status, headers, body) = answer(ApiError::unauthorized()).await;
        assert_eq!((status.as_u16(), headers[header::WWW_AUTHENTICATE].to_str().unwrap()), (401, "Bearer"));
        assert_eq!(body["error"]["code"], "invalid_api_key");
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let short = "é".repeat(500);
        assert_eq!(ApiError::invalid(None, short.clone()).message, short);
        for shift in 0..4 {
            let message = ApiError::invalid(None, "x".repeat(shift) + &"é".repeat(5_000)).message;
            assert!(message.ends_with("é…"), "{message}");
            assert!((997..=1_000).contains(&message.len()), "{} bytes", message.len());
        }
    }

    #[test]
    fn the_librarys_errors_keep_their_field_and_show_no_path() {
        let of = |error: Error| {
            let error = ApiError::from(error);
            (error.status.as_u16(), error.param.clone(), error)
        };
        let (status, param, error) = of(Error::parameter("top_k", "it is too large"));
        assert_eq!((status, param.as_deref()), (400, Some("top_k")));
        assert_eq!(error.message, "top_k: it is too large");

        let range =
            SamplingError::OutOfRange { field: "top_p", value: "2".into(), limit: "at most 1".into() };
        assert_eq!(of(Error::Sampling(range)).1.as_deref(), Some("top_p"));
        assert_eq!(of(Error::Sampling(SamplingError::NanLogit { token: 3 })).0, 500);
        assert_eq!(of(Error::Refused("full".into())).2.retry_after, Some(1));
        assert_eq!(of(Error::Limit("too long".into())).2.code, Some("context_length_exceeded"));

        let path = std::path::PathBuf::from("/srv/secret");
        let error = std::io::Error::other("gone");
        for error in [
            Error::Io { path: path.clone(), error },
            Error::Tokenizer(TokenizerError::NoChatTemplate { origin: path.clone() }),
            Error::Tokenizer(TokenizerError::ChatFailed { file: path.clone(), reason: "x".into() }),
            Error::Tokenizer(TokenizerError::NoTokenizerJson { origin: path }),
        ] {
            let error = ApiError::from(error);
            assert!(!error.message.contains("secret"), "{}", error.message);
        }
    }
}
