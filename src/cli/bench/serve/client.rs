//! One request over HTTP/1.1, and when each part of its streamed answer came.

use super::{
    server::Server,
    sse::{Event, Events},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use std::{
    fmt,
    sync::Mutex,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

/// Bytes of an answer that is no stream: an error, or a list of models.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// How long a server may keep its connection open after `[DONE]` until we give the connection up.
const END_OF_STREAM: Duration = Duration::from_millis(250);

/// Why a request failed. Failures of one kind are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No connection.
    Connect,
    /// 503 or 429 with `Retry-After`: the server is full.
    Refused,
    /// Any other status that is not 200.
    Status(u16),
    /// An error event in the stream.
    ErrorEvent,
    /// A connection or stream that ends in the middle.
    Cut,
    /// An answer that is not OpenAI's.
    Protocol,
    Timeout,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Kind::Connect => f.write_str("no connection"),
            Kind::Refused => f.write_str("refused"),
            Kind::Status(status) => write!(f, "status {status}"),
            Kind::ErrorEvent => f.write_str("error event"),
            Kind::Cut => f.write_str("cut off"),
            Kind::Protocol => f.write_str("protocol"),
            Kind::Timeout => f.write_str("timeout"),
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A request that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
    /// When the server would have the request again.
    retry_after: Option<Duration>,
}

impl Failure {
    fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), retry_after: None }
    }

    /// An error with its causes.
    fn of(kind: Kind, error: impl Into<anyhow::Error>) -> Failure {
        Failure::new(kind, format!("{:#}", error.into()))
    }
}

/// A request that can be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    pub path: &'static str,
    /// JSON, with `stream` on.
    pub body: Bytes,
    /// Where the prompt is token ids.
    pub prompt_tokens: Option<usize>,
}

/// OpenAI's count of a request's tokens.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
}

/// A stream that came to its `[DONE]`.
#[derive(Debug, Default)]
pub struct Answer {
    /// When each chunk with tokens came.
    pub token_times: Vec<Instant>,
    /// When the last chunk came that belongs to the answer: it has the last text, or says why the answer ends.
    pub last: Option<Instant>,
    /// If the server counts.
    pub usage: Option<Usage>,
}

/// What became of a request.
#[derive(Debug)]
pub struct Outcome {
    pub sent: Instant,
    pub result: Result<Answer, Failure>,
    /// Times that the server was full and the request was sent again.
    pub retries: usize,
}

/// Sends requests to one server, over connections that it keeps for the next request.
pub struct Client {
    pub server: Server,
    pub timeout: Duration,
    /// Whether a full server is asked again after its `Retry-After`.
    pub retry: bool,
    idle: Mutex<Vec<Connection>>,
}

type Connection = SendRequest<Full<Bytes>>;

impl Client {
    pub fn new(server: Server, timeout: Duration, retry: bool) -> Client {
        Client { server, timeout, retry, idle: Mutex::default() }
    }

    /// Sends a request, and reads its stream to the end. The clock starts before the connection is made.
    pub async fn stream(&self, request: &Prepared) -> Outcome {
        let (sent, mut retries) = (Instant::now(), 0);
        let answer = async {
            loop {
                match self.stream_once(request).await {
                    Err(Failure { retry_after: Some(after), .. }) if self.retry => sleep(after).await,
                    result => return result,
                }
                retries += 1;
            }
        };
        let late = || {
            let seconds = self.timeout.as_secs_f64();
            Err(Failure::new(Kind::Timeout, format!("no end of the answer after {seconds} s")))
        };
        let result = timeout(self.timeout, answer).await.unwrap_or_else(|_| late());
        Outcome { sent, result, retries }
    }

    async fn stream_once(&self, request: &Prepared) -> Result<Answer, Failure> {
        let (response, connection) = self.send(Method::POST, request.path, request.body.clone()).await?;
        if response.status() != StatusCode::OK {
            return Err(self.failure(response, connection).await);
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        if !kind.starts_with("text/event-stream") {
            let message = format!("the answer is no event stream, but has the content type {kind:?}");
            return Err(Failure::new(Kind::Protocol, message));
        }
        let (mut body, mut reader) = (response.into_body(), Reader::default());
        while !reader.done {
            let frame = body.frame().await;
            let frame =
                frame.ok_or_else(|| Failure::new(Kind::Cut, "the stream ended before data: [DONE]"))?;
            let frame = frame.map_err(|error| Failure::of(Kind::Cut, error))?;
            frame.data_ref().map_or(Ok(()), |bytes| reader.take(bytes, Instant::now()))?;
        }
        // Whatever follows, such as the LF of a last CR LF, is no part of the answer.
        let end = async { while let Some(Ok(_)) = body.frame().await {} };
        if timeout(END_OF_STREAM, end).await.is_ok() {
            self.keep(connection);
        }
        Ok(reader.answer)
    }

    /// The JSON that a path answers with; `body` makes it a POST. It has the timeout of any request.
    ///
    /// # Errors
    /// [`Failure`], also if the answer is no JSON.
    pub async fn json(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let bytes = body.map_or(Bytes::new(), |body| body.to_string().into());
        let answer = async {
            let (response, connection) = self.send(method, path, bytes).await?;
            if response.status() != StatusCode::OK {
                return Err(self.failure(response, connection).await);
            }
            let answer = self.whole(response, connection).await?;
            serde_json::from_slice(&answer).map_err(|error| Failure::of(Kind::Protocol, error))
        };
        let late = || Err(Failure::new(Kind::Timeout, "no answer in time"));
        timeout(self.timeout, answer).await.unwrap_or_else(|_| late())
    }

    /// Sends a request on an idle connection or a new one. A server may close an idle connection at any time, so a request that an old
    /// connection loses is sent again.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Connection), Failure> {
        let request = self.request(method, path, body)?;
        while let Some(mut connection) = self.idle() {
            if connection.ready().await.is_err() {
                continue;
            }
            match connection.send_request(request.clone()).await {
                Ok(response) => return Ok((response, connection)),
                Err(error) if error.is_canceled() || error.is_closed() || error.is_incomplete_message() => {}
                Err(error) => return Err(Failure::of(Kind::Cut, error)),
            }
        }
        let mut connection = self.connect().await?;
        let sent = connection.send_request(request).await;
        sent.map(|response| (response, connection)).map_err(|error| Failure::of(Kind::Cut, error))
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
        let Server { host, prefix, key, .. } = &self.server;
        let request = Request::builder().method(method).uri(format!("{prefix}{path}"));
        let request =
            request.header(HOST, host).header(CONTENT_TYPE, "application/json").header(ACCEPT, "*/*");
        let request = key.iter().fold(request, |request, key| request.header(AUTHORIZATION, key));
        request.body(Full::new(body)).map_err(|error| Failure::of(Kind::Protocol, error))
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(&*self.server.addresses).await;
        let stream = stream.map_err(|error| Failure::of(Kind::Connect, error))?;
        // A request is one small packet, and must not wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::of(Kind::Connect, error))?;
        // The task reads and writes until the sender is dropped; its error comes to whoever waits for the answer.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn idle(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop()
    }

    fn keep(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(connection);
    }

    /// A whole body that is not too long.
    async fn whole(&self, response: Response<Incoming>, connection: Connection) -> Result<Bytes, Failure> {
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body
            .map_err(|error| Failure::new(Kind::Cut, format!("the answer can't be read: {error}")))?
            .to_bytes();
        self.keep(connection);
        Ok(body)
    }

    /// What an answer says whose status is not 200.
    async fn failure(&self, response: Response<Incoming>, connection: Connection) -> Failure {
        let (status, header) = (response.status(), response.headers().get(RETRY_AFTER).cloned());
        let full = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&status);
        // A date instead of seconds is allowed too, and rare: one second will do. No server is asked again without a pause.
        let pause =
            |text: &str| Duration::from_secs(text.parse().unwrap_or(1)).max(Duration::from_millis(50));
        let retry_after =
            header.filter(|_| full).map(|value| value.to_str().map_or(Duration::from_secs(1), pause));
        let message = match self.whole(response, connection).await {
            Ok(body) => format!("{status}: {}", message_in(&String::from_utf8_lossy(&body))),
            Err(_) => status.to_string(),
        };
        let kind = if retry_after.is_some() { Kind::Refused } else { Kind::Status(status.as_u16()) };
        Failure { kind, message, retry_after }
    }
}

/// Reads the events of one answer.
#[derive(Default)]
struct Reader {
    events: Events,
    answer: Answer,
    done: bool,
}

/// What we read of a chunk.
#[derive(Deserialize)]
struct Chunk {
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    text: Option<String>,
    delta: Option<Delta>,
    finish_reason: Option<Value>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    /// What a model thinks before it answers, by vLLM's and SGLang's name.
    reasoning_content: Option<String>,
    tool_calls: Option<Value>,
}

impl Choice {
    /// Whether it brings tokens. In a chat, the chunk with the role has none. In a completion, every chunk has some but the one that says
    /// why the answer ends, even where its text is empty: a token may be a part of a character, or invisible.
    fn has_tokens(&self) -> bool {
        let has = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let in_delta = |d: &Delta| has(&d.content) || has(&d.reasoning_content) || d.tool_calls.is_some();
        has(&self.text)
            || self.text.is_some() && self.finish_reason.is_none()
            || self.delta.as_ref().is_some_and(in_delta)
    }
}

impl Reader {
    /// Takes a packet that came at `now`.
    fn take(&mut self, bytes: &[u8], now: Instant) -> Result<(), Failure> {
        let events = self.events.take(bytes).map_err(|message| Failure::new(Kind::Protocol, message))?;
        events.into_iter().try_for_each(|event| self.event(&event, now))
    }

    fn event(&mut self, event: &Event, now: Instant) -> Result<(), Failure> {
        let data = event.data.trim();
        self.done = self.done || data == "[DONE]";
        if self.done {
            return Ok(());
        }
        if event.name == "error" {
            return Err(Failure::new(Kind::ErrorEvent, message_in(data)));
        }
        let chunk: Chunk = serde_json::from_str(data).map_err(|error| {
            Failure::new(Kind::Protocol, format!("{error} in the event {:?}", beginning(data)))
        })?;
        if chunk.error.is_some() {
            return Err(Failure::new(Kind::ErrorEvent, message_in(data)));
        }
        let choices = chunk.choices.unwrap_or_default();
        // The chunk with the usage has no choices, and comes after the answer.
        if !choices.is_empty() {
            self.answer.last = Some(now);
        }
        if choices.iter().any(Choice::has_tokens) {
            self.answer.token_times.push(now);
        }
        self.answer.usage = chunk.usage.or(self.answer.usage);
        Ok(())
    }
}

/// The message of OpenAI's error object, or of one like it (`{"error": "…"}`, `{"message": "…"}`); else the beginning of the text.
fn message_in(text: &str) -> String {
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    let places = [&json["error"]["message"], &json["error"], &json["message"], &json["detail"]];
    let message = places.into_iter().find_map(Value::as_str).unwrap_or(text);
    beginning(message)
}

/// Enough of a text to know it by.
fn beginning(text: &str) -> String {
    text.trim().chars().take(200).collect()
}
