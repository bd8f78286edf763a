//! What an operator asks for. These routes need the administrator's key; see [`super::access`].

use super::{
    App, JsonBody,
    openapi::{BodyErrors, Errors},
};
use crate::{
    request::Members,
    server::{error::ApiError, io_struct::InternalState},
};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering::Relaxed;
use utoipa::ToSchema;

#[derive(Serialize, ToSchema)]
pub struct Done {
    success: bool,
    message: String,
}

/// Empties the prefix cache. It can't be emptied while requests run or wait.
#[utoipa::path(post, path = "/flush_cache", tag = "admin", responses((status = 200, body = Done), BodyErrors))]
pub async fn flush_cache(State(app): State<App>) -> Result<Json<Done>, ApiError> {
    match app.manager()?.flush_cache().await?.success {
        true => Ok(Json(Done { success: true, message: "the prefix cache is empty".into() })),
        false => Err(ApiError::invalid(
            None,
            "requests run or wait; the prefix cache can be emptied when they have ended",
        )),
    }
}

/// Which requests to end.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code)] // read by the schema alone
pub struct Abort {
    /// Those of this name.
    rid: Option<String>,
    /// All.
    abort_all: Option<bool>,
}

#[derive(Serialize, ToSchema)]
pub struct Aborted {
    aborted: usize,
}

/// Ends requests. Their clients hear of it.
#[utoipa::path(
    post, path = "/abort_request", tag = "admin", request_body = Abort,
    responses((status = 200, body = Aborted), BodyErrors)
)]
pub async fn abort_request(
    State(app): State<App>,
    JsonBody(body): JsonBody,
) -> Result<Json<Aborted>, ApiError> {
    let manager = app.manager()?;
    let read = |mut members: Members| {
        let all = members.take("abort_all")?.unwrap_or(false);
        let rid = members.take::<String>("rid")?;
        Ok(if all { None } else { Some(rid.unwrap_or_default()) })
    };
    let rid = app.bodies.parse(body, read).await?;
    Ok(Json(Aborted { aborted: manager.abort(rid).await? }))
}

/// The engine's limits, and what it has done.
#[derive(Serialize, ToSchema)]
pub struct ServerInfo {
    version: &'static str,
    served_model_names: Vec<String>,
    max_model_len: usize,
    max_running_requests: usize,
    max_queued_requests: usize,
    max_batched_tokens: usize,
    max_total_num_tokens: usize,
    open_requests: usize,
    #[schema(value_type = Object)]
    engine: crate::engine::EngineStats,
}

/// Shows how the server is set up, and its engine's counters.
#[utoipa::path(get, path = "/server_info", tag = "admin", responses((status = 200, body = ServerInfo), Errors))]
pub async fn server_info(State(app): State<App>) -> Result<Json<ServerInfo>, ApiError> {
    let manager = app.manager()?;
    let InternalState { stats, max_running, max_batched_tokens } = manager.internal_state().await?;
    Ok(Json(ServerInfo {
        version: env!("CARGO_PKG_VERSION"),
        served_model_names: app.names.clone(),
        max_model_len: manager.limits.max_model_len,
        max_running_requests: max_running,
        max_queued_requests: manager.limits.max_queued,
        max_batched_tokens,
        max_total_num_tokens: app.status.kv_total.load(Relaxed),
        open_requests: manager.open(),
        engine: stats,
    }))
}
