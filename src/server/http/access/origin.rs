//! Browsers tell about the page behind a request, in `Host` and `Origin`, and CORS answers them.
//!
//! A page of evil.example may send requests to 127.0.0.1 from its visitor's browser. Two things keep its hands off: the browser doesn't
//! show it the answers unless a CORS header allows that, and it must not look as if it were our own page. DNS rebinding is the trick with
//! which it would: the page's name, evil.example, is made to mean 127.0.0.1, and then page and server have one origin. The name still
//! stands in `Host`.

use std::net::IpAddr;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, request::Parts},
    response::Response,
};

use crate::error::{Error, Result};

/// The origins whose pages may read our answers; usually none.
#[derive(Debug)]
pub(super) struct Origins(Vec<String>);

impl Origins {
    /// `https://chat.example`, `http://localhost:3000`, or `*` for every page.
    pub fn new(origins: &[String]) -> Result<Origins> {
        let origins = origins.iter().map(|origin| {
            let uri = origin.parse::<Uri>().ok();
            let whole = uri.is_some_and(|uri| uri.scheme().is_some() && uri.path() == "/" && uri.query().is_none());
            if origin != "*" && (!whole || origin.ends_with('/')) {
                let why = "it must be an origin, as browsers send it: scheme, host and port, as in http://localhost:3000";
                return Err(Error::Parameter { field: "cors_origin", value: origin.clone(), why: why.into() });
            }
            Ok(origin.to_ascii_lowercase())
        });
        Ok(Origins(origins.collect::<Result<_>>()?))
    }

    /// The request's origin, if its page may read the answer.
    pub fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let listed = self.0.iter().any(|listed| listed == "*" || listed.as_bytes() == origin.as_bytes());
        listed.then(|| origin.clone())
    }

    /// The answer to a browser that asks, without any key, if a listed page may send a request.
    pub fn preflight(&self, head: &Parts) -> Option<Response> {
        if head.method != Method::OPTIONS || !head.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        {
            return None;
        }
        let origin = self.allowed(&head.headers)?;
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        // The page is trusted, so it may send the headers that it wants: openai-node has a dozen of its own.
        if let Some(wanted) = head.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        self.mark(headers, Some(origin));
        Some(response)
    }

    /// Lets the page of `origin` read an answer, and tells caches that the answer depends on who asks.
    pub fn mark(&self, headers: &mut HeaderMap, origin: Option<HeaderValue>) {
        if self.0.is_empty() {
            return;
        }
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let shown = HeaderValue::from_static("Retry-After, X-Request-Id");
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, shown);
        }
    }

    /// A page of another origin, which is not listed, caused the request. Browsers say so; other clients say nothing.
    pub fn foreign(&self, head: &Parts) -> bool {
        const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
        if self.allowed(&head.headers).is_some() {
            return false;
        }
        let site = head.headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
        let host = head.headers.get(header::HOST).map_or(&[][..], HeaderValue::as_bytes);
        let own = |origin: &HeaderValue| {
            let schemes = [&b"http://"[..], b"https://"];
            schemes.iter().any(|scheme| origin.as_bytes().strip_prefix(*scheme) == Some(host))
        };
        site.is_some_and(|site| site != b"same-origin" && site != b"none")
            || head.headers.get(header::ORIGIN).is_some_and(|origin| !own(origin))
    }
}

/// Every name by which the request calls us means this machine: `localhost` or a loopback address, with or without a port.
///
/// An address can't be rebound, only a name can. A request without `Host` comes from no browser we know, and is refused with the others.
pub(super) fn calls_loopback(head: &Parts) -> bool {
    let mut hosts = head.headers.get_all(header::HOST).iter().peekable();
    let target = head.uri.authority().is_none_or(|authority| is_loopback(authority.as_str()));
    target && hosts.peek().is_some() && hosts.all(|host| host.to_str().is_ok_and(is_loopback))
}

fn is_loopback(host: &str) -> bool {
    let (name, rest) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address, rest),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let port = rest
        .strip_prefix(':')
        .map_or(rest.is_empty(), |port| port.bytes().all(|digit| digit.is_ascii_digit()));
    let address = name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    port && (address || name.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    #[test]
    fn only_loopback_names_mean_this_machine() {
        for host in
            ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8000", "127.9.9.9", "[::1]", "[::1]:80"]
        {
            assert!(is_loopback(host), "{host}");
        }
        let evil = "evil.example evil.example:80 127.0.0.1.evil.example localhost.evil.example 127.0.0.1@evil.example \
                    localhost:80@evil.example [::1].evil.example 192.168.0.1 0.0.0.0 1";
        for host in evil.split(' ').chain([""]) {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn each_host_and_the_target_itself_are_looked_at() {
        let head = |target: &str, hosts: &[&str]| {
            let request =
                hosts.iter().fold(Request::get(target), |request, host| request.header("Host", *host));
            request.body(()).unwrap().into_parts().0
        };
        assert!(calls_loopback(&head("/", &["localhost"])));
        assert!(!calls_loopback(&head("/", &["localhost", "evil.example"])));
        assert!(!calls_loopback(&head("/", &[])));
        assert!(!calls_loopback(&head("http://evil.example/", &["localhost"])));
    }

    #[test]
    fn an_origin_is_listed_as_browsers_send_it() {
        let origins =
            |list: &[&str]| Origins::new(&list.iter().map(|&origin| origin.into()).collect::<Vec<_>>());
        for bad in ["", "localhost", "http://a.example/", "http://a.example/x", "a.example:80", "http://"] {
            let error = origins(&[bad]).unwrap_err().to_string();
            assert!(error.starts_with("cors_origin"), "{error}");
        }
        let listed = origins(&["http://localhost:3000", "https://A.example"]).unwrap();
        let allowed = |origins: &Origins, origin: &'static str| {
            let headers = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(origin))]);
            origins.allowed(&headers).is_some()
        };
        assert!(allowed(&listed, "http://localhost:3000") && allowed(&listed, "https://a.example"));
        for other in ["http://localhost:3001", "http://localhost", "https://a.example.evil", "null"] {
            assert!(!allowed(&listed, other), "{other}");
        }
        assert!(allowed(&origins(&["*"]).unwrap(), "https://any.example"));
    }
}
