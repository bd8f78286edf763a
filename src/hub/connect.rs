//! Connections: whose certificates are trusted, which proxy is used, and what it means when none comes about.

use super::client::Failure;
use super::{HubError, Result, address::Address, environment::Environment};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy};

/// Where systems keep the certificates that they trust. A company's own CA is installed there.
const SYSTEM_CA_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// An agent that follows no redirect and takes every status as an answer.
///
/// # Errors
/// [`HubError::Variable`] for a file of certificates that can't be read.
pub fn agent(environment: &Environment) -> Result<Agent> {
    let config = Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(root_certs(environment)?).build())
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .proxy(None)
        .user_agent(concat!("stairwell/", env!("CARGO_PKG_VERSION")));
    Ok(config.build().new_agent())
}

/// The environment's certificates, else the system's, else those of Mozilla that are in the program.
fn root_certs(environment: &Environment) -> Result<RootCerts> {
    let read = |path: &Path| -> std::io::Result<Vec<Certificate<'static>>> {
        let pem = fs::read(path)?;
        let certificate = |item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        };
        let certificates: Vec<_> = parse_pem(&pem).filter_map(certificate).collect();
        if certificates.is_empty() {
            return Err(std::io::Error::other("there is no certificate in it"));
        }
        Ok(certificates)
    };
    if let Some((name, path)) = &environment.ca_file {
        let certificates = read(path).map_err(|error| HubError::Variable {
            name: (*name).into(),
            why: format!("{}: {error}", path.display()),
        })?;
        return Ok(RootCerts::new_with_certs(&certificates));
    }
    let system = SYSTEM_CA_FILES.iter().find_map(|path| read(Path::new(path)).ok());
    Ok(system.map_or(RootCerts::WebPki, |certificates| RootCerts::new_with_certs(&certificates)))
}

/// The environment's proxies for https and for http.
///
/// # Errors
/// [`HubError::Variable`].
pub fn proxies(environment: &Environment) -> Result<[Option<Proxy>; 2]> {
    let parse = |(name, url): &(&'static str, String)| {
        let why = |_| "this is no proxy's URL; write http://HOST:PORT".into();
        Proxy::new(url).map_err(|error| HubError::Variable { name: (*name).into(), why: why(error) })
    };
    let [https, http] = &environment.proxies;
    Ok([https.as_ref().map(parse).transpose()?, http.as_ref().map(parse).transpose()?])
}

/// Whether `NO_PROXY` names a host: itself, its domain (with or without a dot or `*.`), or everything by `*`. A port is passed over.
pub fn is_without_proxy(no_proxy: &str, address: &Address) -> bool {
    let host = address.host();
    no_proxy.split([',', ' ']).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        let name = entry
            .rsplit_once(':')
            .filter(|(_, port)| port.parse::<u16>().is_ok())
            .map_or(&*entry, |(n, _)| n);
        let name = name.trim_start_matches('*').trim_start_matches('.');
        entry == "*" || host == name || !name.is_empty() && host.ends_with(&format!(".{name}"))
    })
}

/// What an error of a try means.
pub fn failure(address: &Address, error: ureq::Error) -> Failure {
    let text = error.to_string();
    if text.contains("certificate") || text.contains("UnknownIssuer") {
        return Failure::Final(HubError::Certificate { address: address.for_people(), why: text });
    }
    let no_connection = match &error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::ConnectProxyFailed(_) => {
            true
        }
        // Also of a server that takes a connection and says nothing.
        ureq::Error::Timeout(_) => true,
        ureq::Error::Io(error) => {
            let kinds = [
                ErrorKind::ConnectionRefused,
                ErrorKind::HostUnreachable,
                ErrorKind::NetworkUnreachable,
                ErrorKind::AddrNotAvailable,
            ];
            kinds.contains(&error.kind()) || text.contains("lookup")
        }
        _ => false,
    };
    if no_connection { Failure::Unreachable(text) } else { Failure::Cut(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_names_hosts_and_domains() {
        let address = Address::parse("https://cdn.hub.co/x").unwrap();
        for (no_proxy, want) in [
            ("", false),
            ("cdn.hub.co", true),
            ("localhost, HUB.co", true),
            (".hub.co:443", true),
            ("*.hub.co", true),
            ("*", true),
            ("b.co,ub.co,cdn.hub", false),
        ] {
            assert_eq!(is_without_proxy(no_proxy, &address), want, "{no_proxy}");
        }
        let loopback = Address::parse("http://127.0.0.1:8801").unwrap();
        assert!(is_without_proxy("127.0.0.1", &loopback) && !is_without_proxy("127.0.0.2", &loopback));
    }
}
