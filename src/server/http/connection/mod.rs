//! From a port to requests: accepts connections, gives each a task and bounds, and ends them.
//!
//! ```text
//! accept ─▶ task ─▶ Impatient (TCP) ─▶ hyper (HTTP/1.1) ─▶ router
//!                        │                  │
//!                        │                  └── the client leaves: the handler and its body are dropped
//!                        └── a write is stuck: the same, by an error
//! ```
//!
//! hyper drops a request's future, and the answer's body, as soon as the client closes its side: so whoever holds something for a request
//! (its place in the queue, its blocks) frees it in `Drop`, in one place, and every way to leave leads there.

mod descriptors;
mod impatient;
#[cfg(test)]
mod tests;
mod tracked;

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
    time::Duration,
};

use axum::{
    Router,
    response::{IntoResponse, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::Service;

use super::{closing::Closing, error::ApiError};
use crate::error::{Error, Result};
use impatient::Impatient;
use tracked::{Tracked, UnderWay};

/// Bounds of one connection, and the number of connections.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Connections at a time, within the process's limit of open files. More wait in the kernel's queue.
    pub connections: usize,
    /// For a request's head, and for the next request on a connection that is idle.
    pub head_timeout: Duration,
    pub head_bytes: usize,
    /// A client that reads nothing for this long is cut off.
    pub slow_reader_timeout: Duration,
    /// For answers that are under way when the server ends.
    pub grace: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> ConnectionLimits {
        ConnectionLimits {
            connections: 8_192,
            head_timeout: Duration::from_secs(30),
            head_bytes: 32 << 10,
            slow_reader_timeout: Duration::from_secs(60),
            grace: Duration::from_secs(1),
        }
    }
}

/// A port that is ours. Clients can connect, and wait until [`Listening::serve`] accepts them.
#[derive(Debug)]
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listening {
    /// Takes `port` of `host`, a name or an address of this machine; 0 takes a free port. Of a name's addresses, IPv4 comes first.
    ///
    /// # Errors
    ///
    /// Names `port` or `host`, whichever another value would help.
    pub async fn bind(host: &str, port: u16) -> Result<Listening> {
        let name = host.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(host);
        let bad_host = |why: String| Error::Parameter { field: "host", value: host.into(), why: why.into() };
        let found = lookup_host((name, port)).await;
        let found =
            found.map_err(|error| bad_host(format!("it has no address that could be found: {error}")))?;
        let mut addresses: Vec<SocketAddr> = found.collect();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let mut failed = bad_host("it has no address".into());
        for address in addresses {
            match listen(address) {
                Ok(listening) => return Ok(listening),
                Err(error) => failed = not_bound(host, address, &error),
            }
        }
        Err(failed)
    }

    /// The address with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL, as clients write it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves until `closing`, and returns when no connection is left.
    ///
    /// Then the port is free, idle connections are closed, and answers that are under way have had `grace` to end.
    pub async fn serve(self, router: Router, limits: ConnectionLimits, mut closing: Closing) {
        let most = limits.connections.min(descriptors::raise_limit().saturating_sub(128)).max(1);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = closing.closed() => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept(), if connections.len() < most => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, router.clone(), limits.clone(), closing.clone()));
                }
                // The client was gone before we came, or there is no descriptor left: it must not end the server.
                Err(error) => wait_after(&error).await,
            }
        }
        drop(self.listener);
        let ended = async { while connections.join_next().await.is_some() {} };
        // Each connection keeps the grace itself; this is for one that can't.
        let _ = timeout(limits.grace + Duration::from_millis(500), ended).await;
        connections.shutdown().await;
    }
}

fn listen(address: SocketAddr) -> io::Result<Listening> {
    /// The kernel holds twice as many bytes for a slow reader; without this, it would hold megabytes.
    const SEND_BUFFER: u32 = 128 << 10;
    const QUEUE: u32 = 4_096;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    let listener = socket.listen(QUEUE)?;
    let address = listener.local_addr()?;
    Ok(Listening { listener, address })
}

fn not_bound(host: &str, address: SocketAddr, error: &io::Error) -> Error {
    let port =
        |why: String| Error::Parameter { field: "port", value: address.port().to_string(), why: why.into() };
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            port(format!("another program listens on {address}; choose another port, or 0 for a free one"))
        }
        io::ErrorKind::PermissionDenied => {
            port(format!("the system doesn't let you listen on {address}; choose a port from 1024 on"))
        }
        _ => {
            let why = format!("{address} can't be listened on: {error}").into();
            Error::Parameter { field: "host", value: host.into(), why }
        }
    }
}

async fn wait_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        eprintln!("no connection can be accepted now: {error}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// One connection, until either side closes it.
async fn connection(stream: TcpStream, router: Router, limits: ConnectionLimits, closing: Closing) {
    /// For bytes of an answer that is done, on their way into the socket.
    const BRIEFLY: Duration = Duration::from_millis(50);
    // Without this, a token waits for the client's acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let io = Impatient::new(stream, limits.slow_reader_timeout, closing.clone());
    let left = io.left();
    let under_way = UnderWay::default();
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(closing.clone());
        let turn = under_way.begin();
        let answer = answer(router.clone(), request);
        async move { Ok::<_, Infallible>(answer.await.map(|body| Tracked { body, _turn: turn })) }
    });
    let mut http = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_header_size(limits.head_bytes)
            // One write of a copy is cheaper than one of three pieces: the events of a stream are small.
            .writev(false)
            .max_buf_size((2 * limits.head_bytes).max(64 << 10))
            .serve_connection(TokioIo::new(io), service)
    );
    let mut word = closing.clone();
    tokio::select! {
        biased;
        // An error is the client's: it left, or its bytes aren't HTTP. There is nobody to tell.
        _ = http.as_mut() => return,
        () = left => return,
        () = word.closed() => {}
    }
    http.as_mut().graceful_shutdown();
    let grace = if under_way.any() { limits.grace } else { BRIEFLY };
    let _ = timeout(grace, http).await;
}

// ANCHOR: answer
/// The router's answer. If a handler panics, that is a 500 of its own request and of no other.
async fn answer(mut router: Router, request: hyper::Request<Incoming>) -> Response {
    let mut answer = pin!(router.call(request));
    let caught = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    });
    match caught.await {
        Some(Ok(response)) => response,
        None => ApiError::server_error("the handler of this request failed; the server's log says where")
            .into_response(),
    }
}
// ANCHOR_END: answer
