//! What the environment says about the hub and its cache: the variables of huggingface_hub, with its defaults (`constants.py`,
//! `utils/_auth.py`).

use super::{HubError, Result, address::Address};
use crate::checkpoint::{hf_home, hub_cache, hub_path};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

/// The hub that is asked if the environment names no other.
const HUB: &str = "https://huggingface.co";

/// Where the hub is, who asks, and where files go.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The folder of `models--ORG--NAME`: `HF_HUB_CACHE`, or what [`hub_cache`] says.
    pub cache: PathBuf,
    /// `HF_ENDPOINT`.
    pub endpoint: Address,
    /// `HF_TOKEN`, or the file that `hf auth login` writes.
    pub token: Option<Token>,
    /// `HF_HUB_ETAG_TIMEOUT`: how long an answer about a repository may take.
    pub etag_timeout: Duration,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`: how long a download may stand still.
    pub download_timeout: Duration,
    /// `HF_HUB_OFFLINE`, or `TRANSFORMERS_OFFLINE`: the network is not used.
    pub offline: bool,
    /// `HF_HUB_DISABLE_SYMLINKS`: a snapshot holds copies.
    pub no_symlinks: bool,
    /// Certificates to trust instead of the system's, with the variable that names them.
    pub ca_file: Option<(&'static str, PathBuf)>,
    /// Proxies for https and for http, with the variables that name them.
    pub proxies: [Option<(&'static str, String)>; 2],
    /// `NO_PROXY`: hosts that are asked without a proxy.
    pub no_proxy: String,
}

/// A token, which no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The value of the header `Authorization`.
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Environment {
    /// The environment of this process.
    ///
    /// # Errors
    /// [`HubError::Variable`] for a value that can't be used.
    pub fn read() -> Result<Environment> {
        Environment::of(&|name| env::var_os(name))
    }

    /// The same with another folder for the cache, or with `--offline`.
    pub fn with(mut self, cache: Option<&Path>, offline: bool) -> Environment {
        self.cache = cache.map_or(self.cache, Path::to_owned);
        self.offline |= offline;
        self
    }

    fn of(var: &dyn Fn(&str) -> Option<OsString>) -> Result<Environment> {
        let text =
            |name: &str| Some(var(name)?.to_string_lossy().trim().to_owned()).filter(|v| !v.is_empty());
        let first = |names: &[&'static str]| names.iter().find_map(|name| Some((*name, text(name)?)));
        let is_true = |name: &str| {
            text(name).is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_uppercase().as_str()))
        };
        let seconds = |name: &str| match text(name) {
            None => Ok(Duration::from_secs(10)),
            Some(value) => {
                value.parse().ok().filter(|n| (1..=86_400).contains(n)).map(Duration::from_secs).ok_or(
                    HubError::Variable {
                        name: name.into(),
                        why: format!("'{value}' is no number of seconds"),
                    },
                )
            }
        };
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| HUB.into());
        let ca = first(&["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]);
        Ok(Environment {
            cache: hub_cache(var),
            endpoint: Address::parse(endpoint.trim_end_matches('/')).map_err(|why| HubError::Variable {
                name: "HF_ENDPOINT".into(),
                why: format!("'{endpoint}': {why}"),
            })?,
            token: token(var)?,
            etag_timeout: seconds("HF_HUB_ETAG_TIMEOUT")?,
            download_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT")?,
            offline: is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE"),
            no_symlinks: is_true("HF_HUB_DISABLE_SYMLINKS"),
            ca_file: ca.map(|(name, path)| (name, path.into())),
            proxies: [
                first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
                // A web server's scripts get the header `Proxy` of a request as HTTP_PROXY, so curl reads only the small letters. This
                // program is no such script.
                first(&["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"]),
            ],
            no_proxy: first(&["NO_PROXY", "no_proxy"]).map(|(_, hosts)| hosts).unwrap_or_default(),
        })
    }
}

/// The token that goes to the hub, and nowhere else.
fn token(var: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<Token>> {
    let disabled = var("HF_HUB_DISABLE_IMPLICIT_TOKEN").unwrap_or_default();
    if ["1", "ON", "YES", "TRUE"].contains(&disabled.to_string_lossy().to_uppercase().as_str()) {
        return Ok(None);
    }
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(token) = clean(name, &var(name).unwrap_or_default().to_string_lossy())? {
            return Ok(Some(token));
        }
    }
    let file = hub_path("HF_TOKEN_PATH", var).unwrap_or_else(|| hf_home(var).join("token"));
    // A file that is not there is no login. One that can't be read is treated so too, as the hub then says what is missing.
    let text = fs::read(&file).unwrap_or_default();
    clean(&file.display().to_string(), &String::from_utf8_lossy(&text))
}

/// A token without the white space around it.
fn clean(origin: &str, text: &str) -> Result<Option<Token>> {
    let token: String = text.chars().filter(|c| !['\r', '\n'].contains(c)).collect();
    let token = token.trim();
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        let why = "this is no token: it holds other characters than letters and digits".into();
        return Err(HubError::Variable { name: origin.into(), why });
    }
    Ok(Some(Token(token.into())).filter(|_| !token.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(vars: &[(&str, &str)]) -> Result<Environment> {
        let vars = [&[("HOME", "/nowhere")], vars].concat();
        Environment::of(&|name| {
            vars.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn an_empty_environment_has_the_defaults_of_hugging_face() {
        let environment = of(&[("HF_ENDPOINT", ""), ("HF_TOKEN", " \n")]).unwrap();
        assert_eq!(environment.endpoint.to_string(), HUB);
        assert_eq!(environment.cache, Path::new("/nowhere/.cache/huggingface/hub"));
        assert!(environment.token.is_none() && !environment.offline && environment.proxies == [None, None]);
        assert_eq!(environment.download_timeout, Duration::from_secs(10));
    }

    #[test]
    fn variables_count() {
        let environment = of(&[
            ("HF_ENDPOINT", "https://mirror.example/hf/"),
            ("HF_TOKEN", "hf_abc\n"),
            ("HF_HUB_OFFLINE", "yes"),
            ("HF_HUB_ETAG_TIMEOUT", "3"),
            ("HTTPS_PROXY", "http://proxy:3128"),
            ("NO_PROXY", "localhost"),
        ])
        .unwrap();
        assert_eq!(environment.endpoint.to_string(), "https://mirror.example/hf");
        assert_eq!(environment.token.as_ref().unwrap().bearer(), "Bearer hf_abc");
        assert!(!format!("{environment:?}").contains("hf_abc"));
        assert!(environment.offline && environment.etag_timeout == Duration::from_secs(3));
        assert_eq!(environment.proxies, [Some(("HTTPS_PROXY", "http://proxy:3128".into())), None]);
        for (name, value) in [
            ("HF_ENDPOINT", "mirror"),
            ("HF_HUB_ETAG_TIMEOUT", "soon"),
            ("HF_TOKEN", "a b"),
            ("HF_TOKEN", "é"),
        ] {
            let said = of(&[(name, value)]).unwrap_err().to_string();
            assert!(said.contains(name), "{said}");
        }
    }

    #[test]
    fn the_token_of_a_login_is_found() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let home = home.path().to_str().unwrap();
        let bearer = |vars: &[(&str, &str)]| of(vars).unwrap().token.map(|token| token.bearer());
        assert_eq!(bearer(&[("HF_HOME", home)]).as_deref(), Some("Bearer hf_file"));
        let file = format!("{home}/token");
        assert_eq!(bearer(&[("HF_TOKEN_PATH", &file)]).as_deref(), Some("Bearer hf_file"));
        assert_eq!(bearer(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(bearer(&[("HF_HOME", home), ("HF_TOKEN", "hf_env")]).as_deref(), Some("Bearer hf_env"));
    }
}
