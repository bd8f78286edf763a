//! The page at `/`: one file that loads nothing, and that a browser lets do nothing but talk to this server.

use axum::{
    body::Bytes,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("page.html");

/// The facts that the page shows about the server.
///
/// The page is open to everybody, also where the API needs a key: then leave `model` and `limits` empty.
#[derive(Clone, Debug, Default)]
pub struct PageFacts {
    pub model: Option<String>,
    /// Names and values, in this order: "context", "2,048 tokens".
    pub limits: Vec<(String, String)>,
    /// The model has a chat template. Without one, the page offers completions only.
    pub chat: bool,
    /// The API needs a key, so the page asks for one.
    pub needs_key: bool,
}

/// The page with its facts, made once.
#[derive(Clone, Debug)]
pub struct Page {
    html: Bytes,
    policy: HeaderValue,
}

impl Page {
    pub fn new(facts: &PageFacts) -> Page {
        let yes = |yes: bool| if yes { "yes" } else { "no" };
        let row = |(name, value): &(String, String)| {
            format!("<div><dt>{}</dt><dd>{}</dd></div>", escaped(name), escaped(value))
        };
        let model = escaped(facts.model.as_deref().unwrap_or("A language model"));
        let limits: String = facts.limits.iter().map(row).collect();
        let html = filled(&[
            ("model", &model),
            ("version", env!("CARGO_PKG_VERSION")),
            ("facts", &limits),
            ("chat", yes(facts.chat)),
            ("key", yes(facts.needs_key)),
        ]);
        Page { html: html.into(), policy: policy() }
    }
}

impl IntoResponse for &Page {
    fn into_response(self) -> Response {
        let fixed = |name, value| (name, HeaderValue::from_static(value));
        let headers = [
            fixed(header::CONTENT_TYPE, "text/html; charset=utf-8"),
            fixed(header::CACHE_CONTROL, "no-cache"),
            fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            fixed(header::X_FRAME_OPTIONS, "DENY"),
            fixed(header::REFERRER_POLICY, "no-referrer"),
            fixed(HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
            (header::CONTENT_SECURITY_POLICY, self.policy.clone()),
        ];
        (headers, self.html.clone()).into_response()
    }
}

/// The page with `{{name}}` replaced by its value. Values are not searched for more names.
fn filled(values: &[(&str, &str)]) -> String {
    let mut parts = PAGE.split("{{");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |page, part| {
        let (name, rest) = part.split_once("}}").expect("page.html closes its braces");
        let value =
            values.iter().find(|(known, _)| *known == name).expect("page.html knows these names only").1;
        page + value + rest
    })
}

/// Script and style run by their hashes: a browser runs no other, whatever text a model writes into the page.
fn policy() -> HeaderValue {
    let [script, style] = ["script", "style"].map(|tag| {
        let inside =
            PAGE.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
        base64(&Sha256::digest(inside.expect("page.html has one of each").0))
    });
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).expect("a policy is ASCII")
}

/// RFC 4648's base64, which Content-Security-Policy wants its hashes in.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for digit in 0..=three.len() {
            text.push(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63] as char);
        }
        text.extend(std::iter::repeat_n('=', 3 - three.len()));
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(facts: PageFacts) -> String {
        String::from_utf8(Page::new(&facts).html.to_vec()).unwrap()
    }

    #[test]
    fn the_page_is_small_and_loads_nothing() {
        let html = page(PageFacts::default());
        assert!(html.len() < 80_000 && html.ends_with("</html>\n"));
        for part in
            ["http://", "https://", "src=", "@import", "url(", "{{", "innerHTML", " style=", " onclick="]
        {
            assert!(!html.contains(part), "{part}");
        }
        assert_eq!(html.matches("<script").count(), 1);
    }

    #[test]
    fn facts_are_shown_as_text_whatever_they_hold() {
        let evil = "<script>alert('1')</script>{{model}}\"&";
        let facts = PageFacts {
            model: Some(evil.into()),
            limits: vec![("context".into(), evil.into())],
            chat: true,
            needs_key: true,
        };
        let html = page(facts);
        assert_eq!(html.matches("<script").count(), 1);
        assert!(
            html.contains("<h1>&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;{{model}}&quot;&amp;</h1>")
        );
        assert!(html.contains("<dt>context</dt>") && html.contains("data-chat=\"yes\" data-key=\"yes\""));
    }

    #[test]
    fn a_browser_is_told_to_run_this_script_only() {
        let response = (&Page::new(&PageFacts::default())).into_response();
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            !policy.contains('*') && !policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        let html = page(PageFacts::default());
        let script = html.split_once("<script>").unwrap().1.split_once("</script>").unwrap().0;
        assert!(policy.contains(&base64(&Sha256::digest(script))), "{policy}");
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("\u{7f}", "fw=="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
