//! The rules, asked over a router.

use super::*;
use axum::{
    Extension,
    body::Body,
    http::{HeaderValue, Method, StatusCode, header},
    routing::{get, post},
};
use tower::ServiceExt;

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const WORLD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

fn options(keys: &[&str], admin: Option<&str>) -> AccessOptions {
    let api_key = keys.iter().map(|&key| key.into()).collect();
    AccessOptions { api_key, admin_api_key: admin.map(Into::into), ..AccessOptions::default() }
}

/// A router with a route of each kind, which answer with the tenant.
fn routes() -> Router {
    let tenant = async |Extension(Tenant(tenant)): Extension<Tenant>| {
        tenant.map_or("nobody".into(), |salt| salt.to_string())
    };
    Router::new()
        .route("/health", get(tenant))
        .route("/v1/models", get(tenant))
        .route("/v1/completions", post(tenant))
        .route("/flush_cache", post(tenant))
}

fn router(options: &AccessOptions, address: IpAddr) -> Router {
    Access::new(options, address).unwrap().guard(routes())
}

async fn ask(router: &Router, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = Request::builder().method(method).uri(path);
    let named = headers.iter().any(|(name, _)| *name == "Host");
    let request = if named { request } else { request.header("Host", "127.0.0.1:8000") };
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn status(router: &Router, method: Method, path: &str, headers: &[(&str, &str)]) -> u16 {
    ask(router, method, path, headers).await.status().as_u16()
}

async fn tenant(router: &Router, key: &str) -> String {
    let response =
        ask(router, Method::GET, "/v1/models", &[("Authorization", &format!("Bearer {key}"))]).await;
    assert_eq!(response.status(), 200);
    let bytes = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Asserts, for each of the routes of a router, who gets in with which key. `{…}` in a path stands for any text.
pub(crate) async fn assert_guarded(router: Router, routes: &[(Method, String)]) {
    let router =
        Access::new(&options(&["key-one", "key-two"], Some("admin-key")), LOCAL).unwrap().guard(router);
    let bearer = |key: &str| ("Authorization", format!("Bearer {key}"));
    let wrong = [
        bearer("wrong"),
        bearer(""),
        bearer("key-one-"),
        bearer("key-on"),
        ("Authorization", "Basic key-one".into()),
    ];
    for (method, path) in routes {
        let path = path.replace(['{', '}'], "");
        let who = format!("{method} {path}");
        let asked = async |(name, value): &(&str, String)| {
            status(&router, method.clone(), &path, &[(name, value)]).await
        };
        for header in wrong.iter().chain([&("X-Other", "key-one".to_owned())]) {
            let open = OPEN.contains(&&*path);
            assert_eq!(asked(header).await == 401, !open, "{who} with {header:?}");
        }
        for key in ["key-one", "key-two"] {
            let expected = if ADMIN.contains(&&*path) { 403 } else { 0 };
            let came = asked(&bearer(key)).await;
            assert_eq!(if matches!(came, 401 | 403) { came } else { 0 }, expected, "{who} with {key}");
        }
        let came = asked(&bearer("admin-key")).await;
        assert!(!matches!(came, 401 | 403 | 405), "{who} with the admin key: {came}");
    }
}

#[tokio::test]
async fn every_route_needs_its_key() {
    let paths = [(Method::GET, "/health"), (Method::GET, "/v1/models"), (Method::POST, "/v1/completions")];
    let all = paths.into_iter().chain([(Method::POST, "/flush_cache"), (Method::GET, "/nowhere")]);
    assert_guarded(routes(), &all.map(|(method, path)| (method, path.to_owned())).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn another_spelling_of_a_path_is_no_way_round() {
    let router = router(&options(&["key-one"], None), WORLD);
    let spellings = "//v1/completions /v1/completions/ /V1/completions /v1/%63ompletions /health/../v1/completions \
                     /v1/completions?api_key=key-one /v1//completions /health/ //health /Health /%68ealth";
    for path in spellings.split(' ') {
        assert_eq!(status(&router, Method::POST, path, &[]).await, 401, "{path}");
    }
    assert_eq!(
        status(&router, Method::POST, "/v1/completions", &[("X-Forwarded-For", "127.0.0.1")]).await,
        401
    );
}

#[tokio::test]
async fn a_key_may_come_in_either_header() {
    let router = router(&options(&["key-one"], None), WORLD);
    for header in
        [("Authorization", "bearer key-one"), ("Authorization", "Bearer  key-one"), ("x-api-key", "key-one")]
    {
        assert_eq!(status(&router, Method::GET, "/v1/models", &[header]).await, 200, "{header:?}");
    }
    let response = ask(&router, Method::GET, "/v1/models", &[("x-api-key", "key-two")]).await;
    assert_eq!(
        (response.status(), &response.headers()[header::WWW_AUTHENTICATE]),
        (StatusCode::UNAUTHORIZED, &HeaderValue::from_static("Bearer"))
    );
}

#[tokio::test]
async fn a_tenant_is_told_by_the_key_and_is_nobody_without() {
    let router = router(&options(&["key-one", "key-two"], Some("admin")), LOCAL);
    let (one, two) = (tenant(&router, "key-one").await, tenant(&router, "key-two").await);
    assert!(one != two && one.len() == 32 && tenant(&router, "key-one").await == one);
    assert_eq!(tenant(&super::tests::router(&options(&[], None), LOCAL), "any").await, "nobody");
}

#[tokio::test]
async fn admin_routes_are_open_on_loopback_without_any_key_and_nowhere_else() {
    let flush = async |options: &AccessOptions, address, key: &str| {
        let key = format!("Bearer {key}");
        let headers: &[(&str, &str)] = if key == "Bearer " { &[] } else { &[("Authorization", &key)] };
        status(&router(options, address), Method::POST, "/flush_cache", headers).await
    };
    let bare = options(&[], None);
    assert_eq!(flush(&bare, LOCAL, "").await, 200);
    assert_eq!(flush(&bare, LOCAL, "none").await, 200, "clients that insist on a key send any");
    assert_eq!(flush(&AccessOptions { no_auth: true, ..bare }, WORLD, "").await, 403);
    let users = options(&["key-one"], None);
    assert_eq!((flush(&users, LOCAL, "").await, flush(&users, LOCAL, "key-one").await), (401, 403));
    let admin = options(&[], Some("admin"));
    assert_eq!((flush(&admin, LOCAL, "").await, flush(&admin, LOCAL, "admin").await), (401, 200));
    assert_eq!(status(&router(&admin, LOCAL), Method::POST, "/v1/completions", &[]).await, 200);
}

#[tokio::test]
async fn another_websites_page_gets_nothing_done() {
    let router = router(&options(&[], None), LOCAL);
    for path in ["/v1/models", "/health", "/nowhere"] {
        assert_eq!(status(&router, Method::GET, path, &[("Host", "evil.example:8000")]).await, 403, "{path}");
    }
    let flush = async |headers: &[(&str, &str)]| status(&router, Method::POST, "/flush_cache", headers).await;
    assert_eq!(flush(&[("Origin", "https://evil.example")]).await, 403);
    assert_eq!(flush(&[("Origin", "null")]).await, 403);
    assert_eq!(flush(&[("Sec-Fetch-Site", "cross-site")]).await, 403);
    assert_eq!(flush(&[("Origin", "http://127.0.0.1:8000"), ("Sec-Fetch-Site", "same-origin")]).await, 200);

    let response = ask(&router, Method::GET, "/v1/models", &[("Origin", "https://evil.example")]).await;
    assert!(response.headers().keys().all(|name| !name.as_str().starts_with("access-control")));
}

#[tokio::test]
async fn a_listed_page_may_ask_and_read_but_still_needs_the_key() {
    let cors_origin = vec!["http://localhost:3000".to_owned()];
    let router = router(&AccessOptions { cors_origin, ..options(&["key-one"], None) }, LOCAL);
    let page = ("Origin", "http://localhost:3000");
    let wants = [
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,x-stainless-os"),
    ];
    let response = ask(&router, Method::OPTIONS, "/v1/completions", &[page, wants[0], wants[1]]).await;
    assert_eq!(response.status(), 204);
    assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], page.1);
    assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_HEADERS], wants[1].1);
    let evil =
        ask(&router, Method::OPTIONS, "/v1/completions", &[("Origin", "https://evil.example"), wants[0]])
            .await;
    assert_eq!(
        (evil.status().as_u16(), evil.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN)),
        (401, None)
    );

    let response = ask(&router, Method::POST, "/v1/completions", &[page]).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()[header::VARY]),
        (401, &HeaderValue::from_static("Origin"))
    );
    assert_eq!(
        response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN],
        page.1,
        "the page must be able to read the error"
    );
}

#[test]
fn no_key_is_in_what_a_log_may_show() {
    let options = options(&["key-one"], Some("root-key"));
    let shown = format!("{options:?} {:?}", Access::new(&options, WORLD).unwrap());
    assert!(!shown.contains("key-one") && !shown.contains("root-key"), "{shown}");
}

#[test]
fn a_network_is_not_served_without_a_key_unless_that_is_said() {
    for (options, starts) in [
        (options(&[], None), false),
        (options(&[], Some("admin")), false),
        (options(&["key-one"], None), true),
        (AccessOptions { no_auth: true, ..options(&[], None) }, true),
    ] {
        match Access::new(&options, WORLD) {
            Ok(access) => {
                assert!(starts && access.needs_key() == (options.api_key.len() == 1), "{options:?}")
            }
            Err(error) => {
                let error = error.to_string();
                assert!(!starts && error.contains("api_key") && error.contains("no_auth"), "{error}");
            }
        }
    }
    assert!(Access::new(&options(&[], None), "::1".parse().unwrap()).is_ok());
    assert!(Access::new(&options(&[], None), "::ffff:127.0.0.1".parse().unwrap()).is_ok());
}
