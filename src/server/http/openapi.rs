//! `/openapi.json`: the API as programs read it. Handlers describe themselves; this file holds the parts that they share.

use std::collections::BTreeMap;

use axum::{
    body::Bytes,
    http::{HeaderValue, Method, header},
    response::{IntoResponse, Response},
};
use utoipa::{
    IntoResponses, Path,
    openapi::{
        self, ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr,
        ResponseBuilder,
        path::PathItem,
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

use super::{
    access::OPEN,
    error::{ErrorBody, ErrorDetail},
};

/// A document without routes, for [`OpenApiRouter::with_openapi`](utoipa_axum::router::OpenApiRouter::with_openapi).
pub fn empty() -> OpenApi {
    let info = InfoBuilder::new()
        .title("stairwell")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("OpenAI's API, and SGLang's /generate, over one language model."));
    let key = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = ComponentsBuilder::new()
        .schema_from::<ErrorBody>()
        .schema_from::<ErrorDetail>()
        .security_scheme("key", key)
        .build();
    OpenApiBuilder::new().info(info.build()).components(Some(components)).build()
}

/// The routes of a document, with their paths as written there: `/v1/models/{id}`.
pub fn routes(document: &OpenApi) -> Vec<(Method, String)> {
    let methods = |item: &PathItem| {
        let known = [
            (Method::GET, &item.get),
            (Method::POST, &item.post),
            (Method::PUT, &item.put),
            (Method::DELETE, &item.delete),
        ];
        known
            .into_iter()
            .filter_map(|(method, operation)| operation.as_ref().map(|_| method))
            .collect::<Vec<_>>()
    };
    let paths = document.paths.paths.iter();
    paths.flat_map(|(path, item)| methods(item).into_iter().map(|method| (method, path.clone()))).collect()
}

/// Adds a route that the router doesn't list by itself.
pub fn add<P: Path>(document: &mut OpenApi) {
    let methods = P::methods().into_iter().collect();
    document.paths.add_path_operation(P::path(), methods, P::operation());
}

/// The finished document, as bytes.
#[derive(Clone, Debug)]
pub struct Document(Bytes);

impl Document {
    /// `needs_key`: all routes but the open ones ask for a key.
    pub fn new(mut document: OpenApi, needs_key: bool) -> Document {
        if needs_key {
            document.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>("key", [])]);
            for (path, item) in &mut document.paths.paths {
                if OPEN.contains(&path.as_str()) {
                    let operations = [&mut item.get, &mut item.post].into_iter().flatten();
                    operations.for_each(|operation| operation.security = Some(Vec::new()));
                }
            }
        }
        Document(serde_json::to_vec(&document).expect("a document is JSON").into())
    }
}

impl IntoResponse for &Document {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], self.0.clone())
            .into_response()
    }
}

/// Errors of a route that reads a body: `responses((status = 200, …), BodyErrors)`.
pub struct BodyErrors;

/// Errors of a route that reads none.
pub struct Errors;

impl IntoResponses for BodyErrors {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let of_the_body = [
            ("400", "The request is no JSON, or a field of it is missing, of a wrong type, or out of range"),
            ("404", "There is no such model"),
            ("413", "The body is too large"),
            ("415", "The body is not called JSON"),
        ];
        let mut responses = Errors::responses();
        responses.extend(of_the_body.map(refusal));
        responses
    }
}

impl IntoResponses for Errors {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        BTreeMap::from(
            [
                ("401", "The server needs a key, and this is none of its keys"),
                ("403", "The key is not the administrator's, or another website asks"),
                ("500", "The server failed"),
                ("503", "The server is loading, full, or about to end; Retry-After says when to come back"),
            ]
            .map(refusal),
        )
    }
}

fn refusal((status, why): (&str, &str)) -> (String, RefOr<openapi::Response>) {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
    (status.into(), ResponseBuilder::new().description(why).content("application/json", body).build().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::http::{access::tests::assert_guarded, fallback::answer_in_json};
    use serde_json::Value;
    use utoipa_axum::{router::OpenApiRouter, routes};

    #[utoipa::path(get, path = "/health", responses((status = 200), Errors))]
    async fn health() {}

    #[utoipa::path(post, path = "/generate", responses((status = 200), BodyErrors))]
    async fn generate() {}

    #[utoipa::path(get, path = "/v1/models/{id}", params(("id" = String, Path)), responses((status = 200), Errors))]
    async fn model() {}

    #[utoipa::path(post, path = "/flush_cache", responses((status = 200), Errors))]
    async fn flush_cache() {}

    fn router() -> (axum::Router, OpenApi) {
        let router = OpenApiRouter::with_openapi(empty());
        router
            .routes(routes!(health))
            .routes(routes!(generate))
            .routes(routes!(model))
            .routes(routes!(flush_cache))
            .split_for_parts()
    }

    #[tokio::test]
    async fn the_routes_of_the_document_are_those_of_the_router_and_are_guarded() {
        let (router, document) = router();
        let routes = routes(&document);
        let mut names: Vec<String> = routes.iter().map(|(method, path)| format!("{method} {path}")).collect();
        names.sort();
        assert_eq!(names, ["GET /health", "GET /v1/models/{id}", "POST /flush_cache", "POST /generate"]);
        assert_guarded(answer_in_json(router), &routes).await;
    }

    #[test]
    fn the_document_has_each_error_and_asks_for_a_key_where_one_is_needed() {
        let text =
            |needs_key| -> Value { serde_json::from_slice(&Document::new(router().1, needs_key).0).unwrap() };
        let open = text(false);
        assert!(open["openapi"].as_str().unwrap().starts_with("3."), "{}", open["openapi"]);
        let responses = &open["paths"]["/generate"]["post"]["responses"];
        for status in ["400", "401", "404", "413", "415", "500", "503"] {
            let schema = &responses[status]["content"]["application/json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/ErrorBody", "{status}");
        }
        let detail = &open["components"]["schemas"]["ErrorDetail"];
        assert_eq!(detail["required"].as_array().unwrap().len(), 4, "{detail}");
        assert_eq!(detail["properties"]["code"]["type"], serde_json::json!(["string", "null"]));
        assert_eq!(open["security"], Value::Null);

        let closed = text(true);
        assert!(closed["security"][0]["key"].is_array());
        assert_eq!(closed["paths"]["/health"]["get"]["security"], serde_json::json!([]));
        assert_eq!(closed["paths"]["/generate"]["post"]["security"], Value::Null);
    }
}
