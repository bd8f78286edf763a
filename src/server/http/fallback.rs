//! Paths and methods that lead nowhere, answered in JSON as everything else is.

use axum::{Router, http::Uri};

use super::error::ApiError;

/// The router with 404 and 405 as OpenAI's errors; a 405 keeps the router's `Allow`.
///
/// Call it when all routes are there: it looks at each of them.
pub fn answer_in_json<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.fallback(not_found).method_not_allowed_fallback(async || ApiError::method_not_allowed())
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::not_found(match uri.path() {
        "/v1/embeddings" | "/embeddings" => {
            "this server has no embedding model: it generates text, at /v1/completions and /v1/chat/completions"
        }
        "/v1/responses" => "this server has no /v1/responses; use /v1/chat/completions",
        _ => "this server has no such path; GET /openapi.json lists all paths",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{
        body::{Body, to_bytes},
        http::{Method, Request, header},
        routing::{get, post},
    };
    use serde_json::Value;
    use tower::ServiceExt;

    #[tokio::test]
    async fn wrong_paths_and_methods_are_answered_in_json() {
        let router = Router::new()
            .route("/health", get(""))
            .route("/generate", post(""))
            .route("/both", get("").post(""));
        let router = answer_in_json(router);
        for (method, path, status, allow) in [
            (Method::GET, "/nowhere", 404, None),
            (Method::POST, "/v1/embeddings", 404, None),
            (Method::GET, "/generate", 405, Some("POST")),
            (Method::DELETE, "/health", 405, Some("GET,HEAD")),
            (Method::PUT, "/both", 405, Some("GET,HEAD,POST")),
        ] {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
            assert_eq!(
                response.headers().get(header::ALLOW).map(|allow| allow.to_str().unwrap()),
                allow,
                "{path}"
            );
            let body: Value =
                serde_json::from_slice(&to_bytes(response.into_body(), 2_000).await.unwrap()).unwrap();
            assert!(body["error"]["message"].as_str().is_some_and(|message| message.len() > 20), "{body}");
        }
    }
}
