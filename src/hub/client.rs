//! HTTP to the hub, and to wherever the hub redirects: one GET at a time, redirects followed by hand.
//!
//! Redirects are followed here and not by ureq, because of two rules. The token goes to the hub's own origin (scheme, host and port) and
//! nowhere else, so that a download from a CDN carries none. And a request that began with https never goes on without it.

use super::environment::{Environment, Token};
use super::{HubError, Result, address::Address, connect};
use std::time::Duration;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body, Proxy};

/// Redirects of one request; more are a loop.
const MOST_REDIRECTS: usize = 8;

/// The longest that a server is waited for when it says itself how long.
pub const MOST_WAIT: Duration = Duration::from_secs(120);

/// Asks the hub.
pub struct Client {
    agent: Agent,
    /// For https and for http.
    proxies: [Option<Proxy>; 2],
    no_proxy: String,
    endpoint: Address,
    token: Option<Token>,
}

/// One GET.
pub struct Get<'a> {
    pub address: &'a Address,
    /// The first byte that is wanted.
    pub from: u64,
    /// How long nothing may come.
    pub timeout: Duration,
}

/// What a GET brought, of whatever status.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Body,
    /// Where it came from, after redirects.
    pub address: Address,
}

/// Why one try failed, by what may help.
pub enum Failure {
    /// No connection came about, or no answer.
    Unreachable(String),
    /// The connection broke or stood still after that, or an answer made no sense: try again.
    Cut(String),
    /// The server is busy: try again, after a time if it names one.
    Busy { status: u16, after: Option<Duration> },
    /// Another try brings the same.
    Final(HubError),
}

impl Client {
    /// # Errors
    /// [`HubError::Variable`] for a proxy or a file of certificates that can't be used.
    pub fn new(environment: &Environment) -> Result<Client> {
        Ok(Client {
            agent: connect::agent(environment)?,
            proxies: connect::proxies(environment)?,
            no_proxy: environment.no_proxy.clone(),
            endpoint: environment.endpoint.clone(),
            token: environment.token.clone(),
        })
    }

    /// The hub.
    pub fn endpoint(&self) -> &Address {
        &self.endpoint
    }

    /// Whether the hub gets a token.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether an answer is the hub's own, and not that of a CDN.
    pub fn is_hub(&self, address: &Address) -> bool {
        address.same_origin(&self.endpoint)
    }

    /// One try: a GET, and those that it is redirected to.
    ///
    /// # Errors
    /// [`Failure`]. A status is none, but for those of a busy server.
    pub fn get(&self, get: &Get) -> Result<Answer, Failure> {
        let mut address = get.address.clone();
        for _ in 0..=MOST_REDIRECTS {
            let response = self.once(&address, get)?;
            let status = response.status().as_u16();
            if matches!(status, 408 | 429 | 500 | 502 | 503 | 504) {
                return Err(Failure::Busy { status, after: wait_asked_for(response.headers()) });
            }
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                let (parts, body) = response.into_parts();
                return Ok(Answer { status, headers: parts.headers, body, address });
            }
            address = next(&address, response.headers()).map_err(Failure::Final)?;
        }
        let (from, to) = (get.address.for_people(), address.for_people());
        Err(Failure::Final(HubError::Redirect { from, to, why: "there are too many redirects".into() }))
    }

    fn once(&self, address: &Address, get: &Get) -> Result<Response<Body>, Failure> {
        let proxy = self.proxies[usize::from(!address.is_https())].clone();
        let proxy = proxy.filter(|_| !connect::is_without_proxy(&self.no_proxy, address));
        let wait = Some(get.timeout);
        let mut request = self.agent.get(address.to_string());
        if let Some(token) = self.token.as_ref().filter(|_| self.is_hub(address)) {
            request = request.header("Authorization", token.bearer());
        }
        if get.from > 0 {
            request = request.header("Range", format!("bytes={}-", get.from));
        }
        // Of a body that is compressed on the way, neither a length nor a range would mean what the list says.
        let request = request.header("Accept-Encoding", "identity");
        // A download may take as long as it wants, if something comes at each read.
        let request = request.config().proxy(proxy).timeout_resolve(wait).timeout_connect(wait);
        let request = request.timeout_recv_response(wait).timeout_per_read(wait).build();
        request.call().map_err(|error| connect::failure(address, error))
    }
}

/// A header's value.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Where a redirect leads.
fn next(from: &Address, headers: &HeaderMap) -> Result<Address> {
    let refused = |to: String, why: String| HubError::Redirect { from: from.for_people(), to, why };
    let location = header(headers, "Location")
        .ok_or_else(|| refused("nowhere".into(), "it has no header Location".into()))?;
    let to = from.join(location).map_err(|why| refused(location.into(), why))?;
    if from.is_https() && !to.is_https() {
        return Err(refused(to.for_people(), "https must not become http".into()));
    }
    Ok(to)
}

/// How long a busy server wants to be left alone: `Retry-After` in seconds, or the `t` of the hub's `RateLimit` header.
fn wait_asked_for(headers: &HeaderMap) -> Option<Duration> {
    let after = header(headers, "Retry-After").and_then(|value| value.trim().parse().ok());
    let limit = || {
        let fields = header(headers, "RateLimit")?;
        let mut fields = fields.split([';', ',']).filter_map(|field| field.trim().strip_prefix("t="));
        fields.next()?.parse().ok()
    };
    after.or_else(limit).map(Duration::from_secs)
}

/// Counts tries that brought nothing, and waits between them.
#[derive(Default)]
pub struct Patience {
    tries: u32,
}

impl Patience {
    /// Tries without any progress, after which there is no more.
    const TRIES: u32 = 6;

    /// Waits before another try: as long as the server asks, or 0.5 s and twice as long each time. False if there should be none.
    pub fn wait(&mut self, asked: Option<Duration>) -> bool {
        self.tries += 1;
        if self.tries >= Self::TRIES || asked.is_some_and(|asked| asked > MOST_WAIT) {
            return false;
        }
        let backoff = Duration::from_millis(500) * 2u32.pow(self.tries - 1);
        std::thread::sleep(asked.unwrap_or(backoff));
        true
    }

    /// Something came.
    pub fn refresh(&mut self) {
        self.tries = 0;
    }

    /// Tries in a row that brought nothing.
    pub fn tries(&self) -> u32 {
        self.tries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn https_stays_https() {
        let hub = Address::parse("https://hub.co/a").unwrap();
        let to = |location| next(&hub, &headers(&[("location", location)])).map(|to| to.to_string());
        assert_eq!(to("https://cdn.co/x").unwrap(), "https://cdn.co/x");
        assert_eq!(to("/new/name").unwrap(), "https://hub.co/new/name");
        assert!(to("http://hub.co/a").unwrap_err().to_string().contains("https must not become http"));
        assert!(to("ftp://hub.co/a").is_err() && next(&hub, &HeaderMap::new()).is_err());
    }

    #[test]
    fn a_busy_server_says_how_long() {
        let wait =
            |pairs: &[(&'static str, &str)]| wait_asked_for(&headers(pairs)).map(|wait| wait.as_secs());
        assert_eq!(wait(&[("retry-after", " 3 ")]), Some(3));
        assert_eq!(wait(&[("ratelimit", "\"api\";r=0;t=55")]), Some(55));
        assert_eq!(wait(&[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")]), None);
        assert!(!Patience::default().wait(Some(Duration::from_secs(9999))));
    }
}
