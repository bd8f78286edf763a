//! `--log-json`: a line of JSON on standard error for each request. It has no text of a request, no key, and no query.

use axum::{
    Router,
    extract::Request,
    middleware::{Next, from_fn},
    response::Response,
};
use serde::Serialize;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A request that was answered.
#[derive(Serialize)]
struct Line<'a> {
    /// Unix time in seconds.
    time: f64,
    method: &'a str,
    path: &'a str,
    status: u16,
    /// Until the answer's head; a stream goes on.
    seconds: f64,
}

/// The router with a log, which also has what the keys refuse.
pub fn logged(router: Router) -> Router {
    router.layer(from_fn(log))
}

async fn log(request: Request, next: Next) -> Response {
    let (start, method, path) = (Instant::now(), request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let (status, seconds) = (response.status().as_u16(), start.elapsed().as_secs_f64());
    let line = Line { time, method: method.as_str(), path: &path, status, seconds };
    eprintln!("{}", serde_json::to_string(&line).unwrap_or_default());
    response
}
