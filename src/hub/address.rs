//! Where a request goes: a URL in the parts that decide who may see a token.

use std::fmt;

/// A URL of http or https, without a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    https: bool,
    /// In lower case; an IPv6 address has its brackets.
    host: String,
    port: u16,
    /// Path and query; empty, or it begins with `/`.
    path: String,
}

impl Address {
    /// # Errors
    /// What is wrong with the URL, as the end of a sentence.
    pub fn parse(url: &str) -> Result<Address, String> {
        let (scheme, rest) = url.split_once("://").ok_or("it does not begin with https:// or http://")?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(format!("its scheme is {scheme}, and only https and http are spoken")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err("it holds a user name or a password; give a token by HF_TOKEN".into());
        }
        // The colons of an IPv6 address stand within brackets.
        let after_brackets = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority[after_brackets..].split_once(':') {
            Some((host, port)) => (&authority[..after_brackets + host.len()], Some(port)),
            None => (authority, None),
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err("it names no host".into());
        }
        let default = if https { 443 } else { 80 };
        let port = port.map_or(Ok(default), |port| {
            port.parse().map_err(|_| format!("its port {port} is no number of a port"))
        })?;
        let slash = if path.starts_with('?') { "/" } else { "" };
        Ok(Address { https, host: host.to_ascii_lowercase(), port, path: format!("{slash}{path}") })
    }

    /// Whether both are one origin: scheme, host and port.
    pub fn same_origin(&self, other: &Address) -> bool {
        (self.https, &self.host, self.port) == (other.https, &other.host, other.port)
    }

    pub fn is_https(&self) -> bool {
        self.https
    }

    /// The host in lower case.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The address of a path below this one, which ends without `/`.
    pub fn below(&self, path: &str) -> Address {
        Address { path: format!("{}/{path}", self.path.trim_end_matches('/')), ..self.clone() }
    }

    /// Where a `Location` header leads (RFC 3986, section 5.2, without `..`).
    ///
    /// # Errors
    /// As [`Address::parse`].
    pub fn join(&self, location: &str) -> Result<Address, String> {
        let scheme = if self.https { "https" } else { "http" };
        if location.starts_with("//") {
            return Address::parse(&format!("{scheme}:{location}"));
        }
        // A query may hold "://", so that alone does not make a URL absolute.
        let is_absolute = location.find("://").is_some_and(|at| !location[..at].contains(['/', '?', '#']));
        if is_absolute {
            return Address::parse(location);
        }
        let location = location.split('#').next().unwrap_or_default();
        if location.starts_with('/') {
            return Ok(Address { path: location.into(), ..self.clone() });
        }
        let path = self.path.split('?').next().unwrap_or_default();
        let folder = path.rfind('/').map_or("", |at| &path[..at]);
        Ok(Address { path: format!("{folder}/{location}"), ..self.clone() })
    }

    /// The address without its query, which may hold a signature: for messages.
    pub fn for_people(&self) -> String {
        let all = self.to_string();
        all.split('?').next().unwrap_or_default().to_owned()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (scheme, default) = if self.https { ("https", 443) } else { ("http", 80) };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port != default {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.path)
    }
}

/// A part of a path, with everything escaped that is not plain there; `/` stays if `slash`.
pub fn quote(text: &str, slash: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || slash && b == b'/';
    let escaped = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_an_origin() {
        let address = |url| Address::parse(url).unwrap();
        for (a, b, same) in [
            ("https://hub.co", "https://HUB.co:443/x?y", true),
            ("https://hub.co", "http://hub.co", false),
            ("https://hub.co", "http://hub.co:443", false),
            ("https://hub.co", "https://hub.co:8443", false),
            ("https://hub.co", "https://hub.co.evil.com", false),
            ("http://[::1]:80/a", "http://[::1]/b", true),
            ("http://127.0.0.1:1", "http://localhost:1", false),
        ] {
            assert_eq!(address(a).same_origin(&address(b)), same, "{a} {b}");
        }
        for bad in
            ["hub.co", "ftp://hub.co", "https://", "https://a:b@hub.co", "https://hub.co:99999", "https://:1"]
        {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn locations_are_joined_as_browsers_do() {
        let from = Address::parse("https://hub.co:8443/a/b?x=1").unwrap();
        for (location, want) in [
            ("/c", "https://hub.co:8443/c"),
            ("c?d", "https://hub.co:8443/a/c?d"),
            ("//cdn.co/c", "https://cdn.co/c"),
            ("http://hub.co:8443/c", "http://hub.co:8443/c"),
            ("/login?to=http://x.co", "https://hub.co:8443/login?to=http://x.co"),
            ("https://cdn.co?sig=1#frag", "https://cdn.co/?sig=1"),
        ] {
            assert_eq!(from.join(location).unwrap().to_string(), want, "{location}");
        }
        assert_eq!(from.for_people(), "https://hub.co:8443/a/b");
        assert_eq!(from.join("/").unwrap().below("x").to_string(), "https://hub.co:8443/x");
        assert_eq!(
            (quote("refs/pr/1", false), quote("a b/c%", true)),
            ("refs%2Fpr%2F1".into(), "a%20b/c%25".into())
        );
    }
}
