//! The edge: connections, keys, bodies and errors, before any handler sees a request; and the routes.

pub mod access;
pub mod admin;
pub mod body;
pub mod closing;
pub mod connection;
pub mod fallback;
pub mod info;
pub mod log;
pub mod native;
pub mod openai;
pub mod openapi;
pub mod page;
pub mod sse;

use super::{error, metrics::Metrics, status::Status, tokenizer_manager::TokenizerManager};
use access::Access;
use axum::{
    Extension, Router,
    extract::{FromRequest, Request},
    http::HeaderMap,
    routing::get,
};
use body::{BodyLimits, Received};
use error::ApiError;
use page::Page;
use std::{
    hash::{BuildHasher, RandomState},
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

/// What handlers share. A clone is the same one.
#[derive(Clone)]
pub struct App(Arc<AppState>);

/// See [`App`].
pub struct AppState {
    /// The names under which the model is served; the first one is the default.
    pub names: Vec<String>,
    /// Unix seconds.
    pub started: u64,
    /// Requests that were given a name, and what makes the names hard to guess.
    pub requests: AtomicU64,
    pub secret: RandomState,
    pub status: Arc<Status>,
    pub metrics: Arc<Metrics>,
    pub bodies: BodyLimits,
    /// The API needs a key.
    pub needs_key: bool,
    /// Set when the model is loaded.
    pub manager: OnceLock<Arc<TokenizerManager>>,
    /// Made then, when it is asked for.
    pub page: OnceLock<Page>,
}

impl Deref for App {
    type Target = AppState;
    fn deref(&self) -> &AppState {
        &self.0
    }
}

impl App {
    /// An app whose model is not loaded yet.
    pub fn new(state: AppState) -> App {
        App(Arc::new(state))
    }

    /// The way to the engine.
    ///
    /// # Errors
    /// 503 while the model is being loaded.
    pub fn manager(&self) -> Result<Arc<TokenizerManager>, ApiError> {
        let loading = || ApiError::unavailable("the model is being loaded");
        self.manager.get().cloned().ok_or_else(loading)
    }

    /// A name that no other request has, nor one of another process.
    fn new_rid(&self) -> String {
        let number = self.requests.fetch_add(1, Relaxed);
        format!("{:016x}{number:08x}", self.secret.hash_one(number))
    }

    /// The name of a request: the client's (`X-Request-Id`), or a new one.
    pub fn rid(&self, headers: &HeaderMap) -> String {
        let given = headers.get("x-request-id").and_then(|id| id.to_str().ok());
        let given = given.filter(|id| !id.is_empty() && id.len() <= 128);
        given.map_or_else(|| self.new_rid(), str::to_owned)
    }
}

/// The bytes of a JSON body, read within the server's limits.
pub struct JsonBody(pub Received);

impl FromRequest<App> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<JsonBody, ApiError> {
        app.bodies.read(request).await.map(JsonBody)
    }
}

// ANCHOR: router
/// All routes behind one layer that knows who may do what.
pub fn router(app: App, access: Access) -> Router {
    let (router, _) = unguarded(app, access.needs_key());
    access.guard(router)
}

/// All routes, each with its entry in `/openapi.json`.
fn unguarded(app: App, needs_key: bool) -> (Router, OpenApi) {
    let routes = OpenApiRouter::with_openapi(openapi::empty())
        .routes(routes!(openai::models::models))
        .routes(routes!(openai::chat::chat_completions))
        .routes(routes!(openai::completions::completions))
        .routes(routes!(native::generate))
        .routes(routes!(native::tokenize))
        .routes(routes!(native::detokenize))
        .routes(routes!(info::health))
        .routes(routes!(info::ready))
        .routes(routes!(info::version))
        .routes(routes!(info::model_info))
        .routes(routes!(info::get_model_info))
        .routes(routes!(info::loads))
        .routes(routes!(info::metrics))
        .routes(routes!(info::openapi))
        .routes(routes!(info::page))
        .routes(routes!(admin::flush_cache))
        .routes(routes!(admin::abort_request))
        .routes(routes!(admin::server_info));
    let (router, mut document) = routes.split_for_parts();
    // The name of a model may have slashes, which a path of the document can't say.
    let router = router.route("/v1/models/{*id}", get(openai::models::retrieve_model));
    openapi::add::<openai::models::__path_retrieve_model>(&mut document);
    let extension = Extension(openapi::Document::new(document.clone(), needs_key));
    (fallback::answer_in_json(router).layer(extension).with_state(app), document)
}
// ANCHOR_END: router

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn every_route_is_guarded() {
        let app = App::new(AppState {
            names: vec!["a".into()],
            started: 0,
            requests: AtomicU64::new(0),
            secret: RandomState::new(),
            status: Arc::default(),
            metrics: Arc::default(),
            bodies: BodyLimits::new(1 << 20, Duration::from_secs(1)),
            needs_key: true,
            manager: OnceLock::new(),
            page: OnceLock::new(),
        });
        let (router, document) = unguarded(app, true);
        let routes = openapi::routes(&document);
        assert!(routes.len() > 18, "{routes:?}");
        access::tests::assert_guarded(router, &routes).await;
    }
}
