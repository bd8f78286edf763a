//! What a server says of itself: to load balancers, to Prometheus, to people.

use super::{
    App,
    openapi::{Document, Errors},
    page::{Page, PageFacts},
};
use crate::server::{
    error::ApiError, metrics::CONTENT_TYPE, status::Phase, tokenizer_manager::TokenizerManager,
};
use axum::{
    Extension, Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::sync::atomic::Ordering::Relaxed;
use utoipa::ToSchema;

#[derive(Serialize, ToSchema)]
pub struct Health {
    status: &'static str,
}

/// Says that the process is alive. It asks nobody: an engine in the middle of a long step doesn't make it late.
#[utoipa::path(get, path = "/health", tag = "state", responses((status = 200, body = Health), Errors))]
pub async fn health(State(app): State<App>) -> Result<Json<Health>, ApiError> {
    match app.status.phase() {
        Phase::Dead => Err(ApiError::unavailable("the engine has failed, and the server is ending")),
        _ => Ok(Json(Health { status: "ok" })),
    }
}

/// Says whether requests are taken.
#[utoipa::path(get, path = "/ready", tag = "state", responses((status = 200, body = Health), Errors))]
pub async fn ready(State(app): State<App>) -> Result<Json<Health>, ApiError> {
    app.manager()?.check_serving()?;
    Ok(Json(Health { status: "ready" }))
}

#[derive(Serialize, ToSchema)]
pub struct Version {
    version: &'static str,
}

/// The program's version.
#[utoipa::path(get, path = "/version", tag = "state", responses((status = 200, body = Version)))]
pub async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}

/// The model, and how it is sampled where a request doesn't say.
#[derive(Serialize, ToSchema)]
pub struct ModelInfo {
    model_path: String,
    tokenizer_path: String,
    is_generation: bool,
    model_type: &'static str,
    architectures: Vec<String>,
    served_model_names: Vec<String>,
    max_model_len: usize,
    vocab_size: usize,
    weight_version: u64,
    has_chat_template: bool,
    /// Each value with its source: generation_config.json, or a default that changes nothing.
    #[schema(value_type = Object)]
    sampling_defaults: serde_json::Map<String, serde_json::Value>,
}

fn model(app: &App) -> Result<Json<ModelInfo>, ApiError> {
    let manager = app.manager()?;
    let checkpoint = &manager.checkpoint;
    let defaults = checkpoint.sampling_defaults()?;
    let path = checkpoint.directory.root().display().to_string();
    Ok(Json(ModelInfo {
        model_path: path.clone(),
        tokenizer_path: path,
        is_generation: true,
        model_type: checkpoint.config.architecture.names().model_type,
        architectures: vec![checkpoint.config.architecture.names().class.into()],
        served_model_names: app.names.clone(),
        max_model_len: manager.limits.max_model_len,
        vocab_size: checkpoint.config.vocab_size,
        weight_version: app.status.weight_version.load(Relaxed),
        has_chat_template: checkpoint.tokenizer().is_ok_and(|tokenizer| tokenizer.chat_template().is_ok()),
        sampling_defaults: defaults
            .describe()
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    }))
}

/// What is served.
#[utoipa::path(get, path = "/model_info", tag = "state", responses((status = 200, body = ModelInfo), Errors))]
pub async fn model_info(State(app): State<App>) -> Result<Json<ModelInfo>, ApiError> {
    model(&app)
}

/// The same, under SGLang's older name.
#[utoipa::path(get, path = "/get_model_info", tag = "state", responses((status = 200, body = ModelInfo), Errors))]
pub async fn get_model_info(State(app): State<App>) -> Result<Json<ModelInfo>, ApiError> {
    model(&app)
}

/// How much there is to do; a router of requests reads it.
#[derive(Serialize, ToSchema)]
pub struct Loads {
    version: &'static str,
    loads: Vec<Load>,
}

#[derive(Serialize, ToSchema)]
struct Load {
    dp_rank: usize,
    num_running_reqs: usize,
    num_waiting_reqs: usize,
    /// Tokens of running requests that have K and V. What only the prefix cache holds does not count.
    num_used_tokens: usize,
    max_total_num_tokens: usize,
    /// 0 to 1.
    token_usage: f64,
}

/// How many requests run and wait, and how full the KV cache is.
#[utoipa::path(get, path = "/v1/loads", tag = "state", responses((status = 200, body = Loads)))]
pub async fn loads(State(app): State<App>) -> Json<Loads> {
    Json(Loads { version: env!("CARGO_PKG_VERSION"), loads: vec![load(&app)] })
}

fn load(app: &App) -> Load {
    let status = &app.status;
    let (used, total) = (status.kv_used.load(Relaxed), status.kv_total.load(Relaxed));
    Load {
        dp_rank: 0,
        num_running_reqs: status.running.load(Relaxed),
        num_waiting_reqs: status.queued(),
        num_used_tokens: used,
        max_total_num_tokens: total,
        token_usage: used as f64 / total.max(1) as f64,
    }
}

/// Counters and gauges in Prometheus's text format.
#[utoipa::path(get, path = "/metrics", tag = "state", responses((status = 200, body = String, content_type = "text/plain")))]
pub async fn metrics(State(app): State<App>) -> Response {
    let (status, usage) = (&app.status, load(&app).token_usage);
    app.metrics.set_gauges(status.running.load(Relaxed), status.queued(), usage);
    let text = app.metrics.encode();
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

/// This interface, as an OpenAPI document.
#[utoipa::path(get, path = "/openapi.json", tag = "state", responses((status = 200, description = "OpenAPI 3.1")))]
pub async fn openapi(Extension(document): Extension<Document>) -> Response {
    (&document).into_response()
}

/// A page for people: the model, and a place to try it.
#[utoipa::path(get, path = "/", tag = "state", responses((status = 200, body = String, content_type = "text/html")))]
pub async fn page(State(app): State<App>) -> Response {
    match app.manager() {
        Ok(manager) => app.page.get_or_init(|| Page::new(&facts(&app, &manager))).into_response(),
        Err(loading) => loading.into_response(),
    }
}

fn facts(app: &App, manager: &TokenizerManager) -> PageFacts {
    let chat = manager.checkpoint.tokenizer().is_ok_and(|tokenizer| tokenizer.chat_template().is_ok());
    if app.needs_key {
        return PageFacts { chat, needs_key: true, ..PageFacts::default() };
    }
    let tokens = |n: usize| format!("{n} tokens");
    let limits = vec![
        ("context".into(), tokens(manager.limits.max_model_len)),
        ("K and V for".into(), tokens(app.status.kv_total.load(Relaxed))),
        ("at a time".into(), format!("{} requests", manager.limits.max_running)),
    ];
    PageFacts { model: Some(app.names[0].clone()), limits, chat, needs_key: false }
}
