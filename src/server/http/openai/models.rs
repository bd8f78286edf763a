//! `GET /v1/models`.

use super::super::{App, openapi::BodyErrors};
use crate::server::error::ApiError;
use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use serde::Serialize;
use utoipa::ToSchema;

/// All models, which are names of the one that is served.
#[derive(Serialize, ToSchema)]
pub struct ModelList {
    object: &'static str,
    data: Vec<Model>,
}

/// A model.
#[derive(Serialize, ToSchema)]
pub struct Model {
    id: String,
    object: &'static str,
    /// When this server began, in Unix seconds.
    created: u64,
    owned_by: &'static str,
    /// vLLM's: the longest sequence in tokens.
    max_model_len: Option<usize>,
}

fn model(app: &App, id: &str) -> Model {
    let max_model_len = app.manager().ok().map(|manager| manager.limits.max_model_len);
    Model { id: id.into(), object: "model", created: app.started, owned_by: "stairwell", max_model_len }
}

/// Lists the names that are served.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, body = ModelList)))]
pub async fn models(State(app): State<App>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: app.names.iter().map(|name| model(&app, name)).collect() })
}

/// Looks up one.
#[utoipa::path(
    get, path = "/v1/models/{id}", tag = "OpenAI", params(("id" = String, Path, description = "A name, which may have slashes")),
    responses((status = 200, body = Model), BodyErrors)
)]
pub async fn retrieve_model(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    // A path that isn't UTF-8 names no model either.
    match id {
        Ok(Path(id)) if app.names.contains(&id) => Ok(Json(model(&app, &id))),
        _ => Err(ApiError::model_not_found()),
    }
}
