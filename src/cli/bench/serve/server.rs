//! The server that is measured: its URL, its addresses and the key for it.

use hyper::{Uri, header::HeaderValue};
use stairwell::error::{Error, Result};
use std::{
    env,
    net::{SocketAddr, ToSocketAddrs},
};

/// A server, as requests need it.
#[derive(Clone, Debug)]
pub struct Server {
    /// Every address of its name; the first that answers is taken.
    pub addresses: Vec<SocketAddr>,
    /// The header `Host`.
    pub host: String,
    /// The path before `/v1`: empty, or such as `/llm`.
    pub prefix: String,
    /// The header `Authorization`.
    pub key: Option<HeaderValue>,
}

/// A URL's host, port, and the path before `/v1`.
type Parts = (String, u16, String);

/// Reads `http://HOST[:PORT][/PATH]`. The base URL that OpenAI's clients take, with `/v1` at its end, names the same server.
fn parts(url: &str) -> Result<Parts> {
    let wrong = |why: &str| Error::Usage(format!("--url {url}: {why}"));
    let uri: Uri = url.parse().map_err(|_| wrong("this is no URL; write http://127.0.0.1:8000"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(wrong(
                "this client speaks no TLS; give the http:// address behind the proxy, or a local tunnel's",
            ));
        }
        _ => return Err(wrong("it must begin with http://")),
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it names no host"))?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(wrong("it has a user's name; keys go into --api-key"));
    }
    let path = uri.path().trim_end_matches('/');
    let prefix = path.strip_suffix("/v1").unwrap_or(path);
    Ok((host.into(), uri.port_u16().unwrap_or(80), prefix.into()))
}

impl Server {
    /// Finds the server's addresses.
    ///
    /// # Errors
    /// [`Error::Usage`] for a URL that is none, is not `http://`, or whose host has no address, and for a key that no header can hold.
    pub fn find(url: &str, key: Option<&str>) -> Result<Server> {
        let (host, port, prefix) = parts(url)?;
        // An IPv6 address stands in brackets in a URL, and without them everywhere else.
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let found = (name, port).to_socket_addrs();
        let addresses: Vec<SocketAddr> = found
            .map_err(|error| Error::Usage(format!("--url {url}: the host {name} can't be found ({error})")))?
            .collect();
        let header = |key: &str| {
            let value = HeaderValue::from_str(&format!("Bearer {key}"));
            let wrong = || Error::Usage("the API key has characters that no header can hold".into());
            value.map_err(|_| wrong())
        };
        let key = key.map(header).transpose()?;
        Ok(Server { addresses, host: format!("{host}:{port}"), prefix, key })
    }
}

/// The key from the environment, if no flag gives one.
pub fn key_from_environment() -> Option<String> {
    let names = ["STAIRWELL_API_KEY", "OPENAI_API_KEY"];
    names.into_iter().find_map(|name| env::var(name).ok().filter(|key| !key.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_names_the_same_server() {
        for (url, host, port, prefix) in [
            ("http://127.0.0.1:8000", "127.0.0.1", 8000, ""),
            ("http://localhost/", "localhost", 80, ""),
            ("http://a.example:9/v1", "a.example", 9, ""),
            ("http://a.example:9/llm/v1/", "a.example", 9, "/llm"),
            ("http://[::1]:8000/llm", "[::1]", 8000, "/llm"),
        ] {
            assert_eq!(parts(url).unwrap(), (host.into(), port, prefix.into()), "{url}");
        }
        let server = Server::find("http://[::1]:8000", Some("secret")).unwrap();
        assert_eq!((server.addresses[0].to_string(), &*server.host), ("[::1]:8000".into(), "[::1]:8000"));
        assert_eq!(server.key.unwrap(), "Bearer secret");
    }

    #[test]
    fn other_urls_are_refused_with_a_way_out() {
        for (url, part) in [
            ("https://127.0.0.1:8000", "no TLS"),
            ("127.0.0.1:8000", "http://"),
            ("ftp://a", "begin with http://"),
            ("http://", "URL"),
            ("http://me:secret@a.example", "--api-key"),
            ("http://a b", "no URL"),
        ] {
            let error = Server::find(url, None).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("--url"), "{url}: {error}");
        }
        assert!(Server::find("http://127.0.0.1:1", Some("a\nb")).is_err());
    }
}
