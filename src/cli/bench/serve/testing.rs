//! A server for tests: it answers each request with the bytes that it is told to, in the pieces and with the pauses that it is told to.

use super::prompts::Work;
use clap::Parser;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// The workload that these flags ask for.
pub fn work(flags: &[&str]) -> Work {
    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        work: Work,
    }
    Command::parse_from([&["test"], flags].concat()).work
}

/// A part of an answer.
#[derive(Clone, Debug)]
pub enum Part {
    Send(Vec<u8>),
    Wait(u64),
    /// Closes the connection.
    Close,
}

pub fn send(text: &str) -> Part {
    Part::Send(text.into())
}

/// The head of a stream, and then the text as a chunked body in pieces of so many bytes.
pub fn stream(text: &str, piece: usize) -> Vec<Part> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    let pieces = text.as_bytes().chunks(piece).map(chunk);
    [send(head)].into_iter().chain(pieces).chain([send("0\r\n\r\n")]).collect()
}

/// One chunk of a chunked body.
pub fn chunk(bytes: &[u8]) -> Part {
    let size = format!("{:x}\r\n", bytes.len());
    Part::Send([size.as_bytes(), bytes, b"\r\n"].concat())
}

/// A whole answer.
pub fn whole(status: &str, headers: &str, body: &str) -> Vec<Part> {
    let length = body.len();
    vec![send(&format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}"))]
}

/// What the server saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub connections: usize,
    /// Heads and bodies, as they came.
    pub requests: Vec<String>,
}

/// Answers the n-th request with the n-th answer, and later ones with the last. Returns its base URL.
pub async fn server(answers: Vec<Vec<Part>>) -> (String, Arc<Mutex<Seen>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (seen, answers) = (Arc::new(Mutex::new(Seen::default())), Arc::new(answers));
    let shared = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            shared.lock().unwrap().connections += 1;
            tokio::spawn(serve(stream, answers.clone(), shared.clone()));
        }
    });
    (url, seen)
}

/// One connection, until the client or a part closes it.
async fn serve(mut stream: TcpStream, answers: Arc<Vec<Vec<Part>>>, seen: Arc<Mutex<Seen>>) {
    while let Some(request) = read_request(&mut stream).await {
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.requests.push(request);
            seen.requests.len() - 1
        };
        for part in &answers[number.min(answers.len() - 1)] {
            match part {
                Part::Send(bytes) if stream.write_all(bytes).await.is_err() => return,
                Part::Send(_) => _ = stream.flush().await,
                Part::Wait(milliseconds) => sleep(Duration::from_millis(*milliseconds)).await,
                Part::Close => return,
            }
        }
    }
}

/// A request with a `content-length`, head and body; `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some(text);
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
