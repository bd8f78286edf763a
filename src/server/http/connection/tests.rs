//! Connections over real sockets.

use super::*;
use crate::server::http::closing::{Closer, channel};
use axum::{
    body::{Body, Bytes},
    extract::State,
    routing::{get, post},
};
use hyper::body::Frame;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Context,
    time::Instant,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

const SECOND: Duration = Duration::from_secs(1);

/// Requests that are held, as the guard of a real request would count them.
type Held = Arc<AtomicUsize>;

struct Guard(Held);

impl Guard {
    fn new(held: &Held) -> Guard {
        held.fetch_add(1, Relaxed);
        Guard(held.clone())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Chunks without end.
struct Endless(#[allow(dead_code, reason = "it is there to be dropped")] Guard);

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 16 << 10])))))
    }
}

struct Server {
    address: SocketAddr,
    held: Held,
    closer: Closer,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(limits: ConnectionLimits) -> Server {
        let held = Held::default();
        let router = Router::new()
            .route("/", get("hello"))
            .route("/panic", get(async || -> () { panic!("as the test wants it") }))
            .route("/endless", get(async |State(held): State<Held>| Body::new(Endless(Guard::new(&held)))))
            .route(
                "/stuck",
                post(async |State(held): State<Held>, _: Bytes| {
                    let _guard = Guard::new(&held);
                    std::future::pending::<()>().await
                }),
            )
            .route("/slow", get(async || sleep(Duration::from_millis(300)).await))
            .route("/unread", post("not read"))
            .with_state(held.clone());
        let listening = Listening::bind("127.0.0.1", 0).await.unwrap();
        let (closer, closing) = channel();
        let address = listening.address();
        Server { address, held, closer, task: tokio::spawn(listening.serve(router, limits, closing)) }
    }

    async fn connect(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Waits until as many requests are held.
    async fn holds(&self, count: usize) {
        let came = async {
            while self.held.load(Relaxed) != count {
                sleep(Duration::from_millis(5)).await
            }
        };
        let came = timeout(3 * SECOND, came).await;
        assert!(came.is_ok(), "{count} requests expected, {} are held", self.held.load(Relaxed));
    }

    /// Seconds until the server has ended.
    async fn end(self) -> f32 {
        let began = Instant::now();
        self.closer.close();
        self.task.await.unwrap();
        began.elapsed().as_secs_f32()
    }
}

/// Everything until the server closes the connection, or resets it.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(5 * SECOND, stream.read_to_end(&mut bytes)).await;
    assert!(read.is_ok(), "the connection is still open, after {} bytes", bytes.len());
    String::from_utf8_lossy(&bytes).into_owned()
}

fn request(method: &str, path: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_connection_takes_one_request_after_the_other() {
    let server = Server::start(ConnectionLimits::default()).await;
    let mut stream = server.connect("").await;
    let mut buffer = [0; 1_000];
    for _ in 0..3 {
        stream.write_all(request("GET", "/", "").as_bytes()).await.unwrap();
        let bytes = stream.read(&mut buffer).await.unwrap();
        let answer = str::from_utf8(&buffer[..bytes]).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    }
}

#[tokio::test]
async fn a_reader_that_reads_nothing_is_cut_and_one_that_reads_is_not() {
    let limits =
        ConnectionLimits { slow_reader_timeout: Duration::from_millis(400), ..ConnectionLimits::default() };
    let server = Server::start(limits).await;
    let silent = server.connect(&request("GET", "/endless", "")).await;
    let mut slow = server.connect(&request("GET", "/endless", "")).await;
    server.holds(2).await;
    let began = Instant::now();
    let mut buffer = vec![0; 1 << 20];
    while began.elapsed() < SECOND {
        assert!(slow.read(&mut buffer).await.unwrap() > 0);
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        server.held.load(Relaxed),
        1,
        "the silent reader's request has ended, and the other one's not"
    );
    drop((silent, slow));
    server.holds(0).await;
}

#[tokio::test]
async fn a_client_that_leaves_drops_its_handler_also_if_it_sent_more_than_its_request() {
    let server = Server::start(ConnectionLimits::default()).await;
    for more in ["", "\r\n", "GET / HTTP/1.1\r\n"] {
        let stream = server.connect(&(request("POST", "/stuck", "{}") + more)).await;
        server.holds(1).await;
        drop(stream);
        server.holds(0).await;
    }
    let stream = server.connect(&request("GET", "/endless", "")).await;
    server.holds(1).await;
    drop(stream);
    server.holds(0).await;
}

#[tokio::test]
async fn a_head_that_comes_slowly_or_is_huge_is_cut() {
    let limits = ConnectionLimits { head_timeout: Duration::from_millis(200), ..ConnectionLimits::default() };
    let server = Server::start(limits).await;
    let mut slow = server.connect("GET / HTTP/1.1\r\nHost:").await;
    assert_eq!(rest(&mut slow).await, "");

    let mut huge = server.connect("GET / HTTP/1.1\r\nHost: localhost\r\nX: ").await;
    let (mut read, mut write) = huge.split();
    let sent = async {
        let many = vec![b'a'; 64 << 10];
        for _ in 0..64 {
            if write.write_all(&many).await.is_err() {
                return;
            }
        }
    };
    let mut answer = Vec::new();
    let came = timeout(5 * SECOND, async { tokio::join!(sent, read.read_to_end(&mut answer)) }).await;
    assert!(came.is_ok(), "the connection is still open");
    assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    assert!(
        rest(&mut server.connect("GET / HTTP/1.0\r\n\r\n").await).await.ends_with("hello"),
        "the server goes on"
    );
}

#[tokio::test]
async fn an_answer_reaches_a_client_that_is_still_sending_its_body() {
    let server = Server::start(ConnectionLimits::default()).await;
    let head = "POST /unread HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\n\r\n";
    let mut stream = server.connect(head).await;
    let written = timeout(5 * SECOND, stream.write_all(&vec![b'a'; 8_000_000])).await.unwrap();
    assert!(written.is_ok(), "the connection was reset: {written:?}");
    assert!(rest(&mut stream).await.ends_with("not read"));
}

#[tokio::test]
async fn a_panic_is_a_500_of_its_own_request() {
    let server = Server::start(ConnectionLimits::default()).await;
    let both = request("GET", "/panic", "") + "GET / HTTP/1.0\r\n\r\n";
    let answers = rest(&mut server.connect(&both).await).await;
    assert!(answers.starts_with("HTTP/1.1 500") && answers.contains("server_error"), "{answers}");
    assert!(answers.ends_with("hello"), "{answers}");
}

#[tokio::test]
async fn idle_connections_and_half_heads_do_not_hold_up_the_end() {
    let server = Server::start(ConnectionLimits { grace: 4 * SECOND, ..ConnectionLimits::default() }).await;
    let _fresh = server.connect("").await;
    let _half = server.connect("GET / HTT").await;
    let mut idle = server.connect(&request("GET", "/", "")).await;
    idle.read_exact(&mut [0; 20]).await.unwrap();
    let seconds = server.end().await;
    assert!(seconds < 1.0, "the end took {seconds} s");
}

#[tokio::test]
async fn an_answer_under_way_is_finished_and_a_stuck_one_has_its_grace() {
    let server = Server::start(ConnectionLimits { grace: 3 * SECOND, ..ConnectionLimits::default() }).await;
    let mut slow = server.connect(&request("GET", "/slow", "")).await;
    sleep(Duration::from_millis(50)).await;
    let seconds = server.end().await;
    assert!((0.2..2.0).contains(&seconds), "the end took {seconds} s");
    let answer = rest(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");

    let server = Server::start(ConnectionLimits { grace: SECOND / 2, ..ConnectionLimits::default() }).await;
    let _stuck = server.connect(&request("POST", "/stuck", "{}")).await;
    server.holds(1).await;
    let held = server.held.clone();
    let seconds = server.end().await;
    assert!((0.4..2.0).contains(&seconds), "the end took {seconds} s");
    assert_eq!(held.load(Relaxed), 0);
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_one_that_ends() {
    let server = Server::start(ConnectionLimits { connections: 1, ..ConnectionLimits::default() }).await;
    let first = server.connect("").await;
    sleep(Duration::from_millis(50)).await;
    let mut second = server.connect("GET / HTTP/1.0\r\n\r\n").await;
    assert!(timeout(SECOND / 5, second.readable()).await.is_err(), "the second was answered too early");
    drop(first);
    assert!(rest(&mut second).await.ends_with("hello"));
}

#[tokio::test]
async fn a_port_that_is_taken_and_a_host_that_is_none_are_named() {
    let first = Listening::bind("localhost", 0).await.unwrap();
    let port = first.address().port();
    assert_eq!(first.url(), format!("http://127.0.0.1:{port}"));
    let error = Listening::bind("127.0.0.1", port).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("port {port}: ")) && error.contains("another program"), "{error}");
    for host in ["nowhere.invalid", "8.8.8.8", ""] {
        let error = Listening::bind(host, 0).await.unwrap_err().to_string();
        assert!(error.starts_with("host"), "{host}: {error}");
    }
}
