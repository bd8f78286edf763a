//! Reads the body of a POST: bounded in bytes, in time, and in the memory that all bodies take together.

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::{body::Body, extract::Request, http::header};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{closing::Closing, error::ApiError};
use crate::request::Members;

/// A body up to this size needs nobody's leave.
const SMALL: usize = 64 << 10;
/// Objects, lists and strings of a body, at most. Each of them takes memory and time of its own, up to a kilobyte for its two bytes; numbers,
/// such as token ids, are cheap and bounded by the body's size.
const MAX_PARTS: usize = 1 << 18;
/// Larger bodies take memory in steps of this many bytes.
const STEP: usize = 64 << 10;

/// Bounds of one body, and of all bodies together. Clones share the memory.
#[derive(Clone, Debug)]
pub struct BodyLimits {
    max_bytes: usize,
    deadline: Duration,
    /// Steps that large bodies have left.
    memory: Arc<Semaphore>,
    /// One large body is parsed at a time.
    parsing: Arc<Semaphore>,
}

/// A body that was read. It holds its share of the memory until it is dropped.
#[derive(Debug)]
pub struct Received {
    bytes: Vec<u8>,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl BodyLimits {
    /// `max_bytes` for one body, which must have come whole after `deadline`. Together, the bodies beyond 64 KiB may take eight times
    /// `max_bytes`, at least 256 MiB: clients that send slowly can fill that, and no more.
    pub fn new(max_bytes: usize, deadline: Duration) -> BodyLimits {
        let memory = max_bytes.saturating_mul(8).max(256 << 20) / STEP;
        BodyLimits {
            max_bytes,
            deadline,
            memory: Arc::new(Semaphore::new(memory.min(Semaphore::MAX_PERMITS))),
            parsing: Arc::new(Semaphore::new(1)),
        }
    }

    /// The whole body of a request.
    ///
    /// A request with neither body nor `Content-Type` gives no bytes, for routes that need none.
    ///
    /// # Errors
    ///
    /// 415 if the body isn't called JSON, and 413 if `Content-Length` is beyond the limit: both before a byte of the body is read. 413 also
    /// once a body without length has grown beyond the limit. 400 if the body ends early or the deadline passes. 503 if other bodies have
    /// the memory, or the server ends.
    pub async fn read(&self, request: Request) -> Result<Received, ApiError> {
        let (head, body) = request.into_parts();
        let Some(kind) = head.headers.get(header::CONTENT_TYPE) else {
            return match body.size_hint().exact() {
                Some(0) => Ok(Received { bytes: Vec::new(), _memory: None }),
                _ => Err(ApiError::media_type()),
            };
        };
        if !is_json(kind.as_bytes()) {
            return Err(ApiError::media_type());
        }
        if head.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return Err(ApiError::content_encoding());
        }
        // The hint's lower bound is Content-Length where there is one.
        let promised = body.size_hint().lower();
        if promised > self.max_bytes as u64 {
            return Err(ApiError::too_large(self.max_bytes));
        }
        let closing = head.extensions.get::<Closing>().cloned();
        tokio::select! {
            biased;
            read = self.collect(body, promised as usize) => read,
            () = tokio::time::sleep(self.deadline) => {
                let seconds = self.deadline.as_secs_f32();
                Err(ApiError::invalid(None, format!("the body didn't come whole within {seconds} s")))
            }
            () = closed(closing) => Err(ApiError::unavailable("the server is about to end")),
        }
    }

    /// Parses a body, and makes a request of its members with `read`.
    ///
    /// Thirty megabytes take a second or more. The threads that answer clients are few, so a large body is parsed on another thread, and
    /// one at a time: meanwhile small requests, and `/health`, are answered as ever.
    ///
    /// # Errors
    ///
    /// 400 for a body that isn't JSON or has too many parts, and the errors of `read`. 500 for a panic.
    pub async fn parse<T: Send + 'static>(
        &self,
        body: Received,
        read: impl FnOnce(Members) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let large = body.len() > SMALL;
        let parse = move || {
            check_parts(&body)?;
            read(Members::parse(&body)?)
        };
        if !large {
            return parse();
        }
        let failed = || ApiError::server_error("the request made the server panic; this is a bug");
        let turn = self.parsing.clone().acquire_owned().await.map_err(|_| failed())?;
        // A client that leaves drops this future but not the thread's work, so the turn goes along.
        let work = move || (parse(), turn).0;
        tokio::task::spawn_blocking(work).await.map_err(|_| failed())?
    }

    /// Appends frame after frame. The promise is only a promise: memory for more than a step comes with the bytes.
    async fn collect(&self, mut body: Body, promised: usize) -> Result<Received, ApiError> {
        let mut received = Received { bytes: Vec::with_capacity(promised.min(STEP)), _memory: None };
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| {
                ApiError::invalid(None, "the body ends early, or is not framed as HTTP has it")
            })?;
            let Ok(data) = frame.into_data() else { continue }; // trailers
            let size = received.bytes.len() + data.len();
            if size > self.max_bytes {
                return Err(ApiError::too_large(self.max_bytes));
            }
            self.reserve(&mut received, size)?;
            received.bytes.extend_from_slice(&data);
        }
        Ok(received)
    }

    /// Makes the body's share of the memory large enough for `size` bytes.
    fn reserve(&self, received: &mut Received, size: usize) -> Result<(), ApiError> {
        let held = received._memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = if size <= SMALL { 0 } else { size.div_ceil(STEP) };
        let Some(more) = wanted.checked_sub(held).filter(|&more| more > 0) else { return Ok(()) };
        let more =
            u32::try_from(more).ok().and_then(|more| self.memory.clone().try_acquire_many_owned(more).ok());
        let more = more.ok_or_else(|| {
            ApiError::overloaded("other large requests are being read; try again in a moment")
        })?;
        match &mut received._memory {
            Some(memory) => memory.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

/// Refuses a body with more than [`MAX_PARTS`] parts, which it counts without parsing.
fn check_parts(body: &[u8]) -> Result<(), ApiError> {
    let (mut parts, mut in_string, mut escaped) = (0, false, false);
    for &byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => {
                in_string = !in_string;
                parts += usize::from(in_string);
            }
            b'{' | b'[' if !in_string => parts += 1,
            _ => {}
        }
    }
    if parts > MAX_PARTS {
        let message =
            format!("the body has {parts} objects, lists and strings; at most {MAX_PARTS} are read");
        return Err(ApiError::invalid(None, message));
    }
    Ok(())
}

/// `application/json`, whatever its case and parameters.
fn is_json(kind: &[u8]) -> bool {
    let name = kind.split(|&byte| byte == b';').next().unwrap_or_default();
    name.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

async fn closed(closing: Option<Closing>) {
    match closing {
        Some(mut closing) => closing.closed().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Bytes;
    use hyper::body::Frame;
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll},
    };

    fn limits(max_bytes: usize) -> BodyLimits {
        BodyLimits::new(max_bytes, Duration::from_secs(5))
    }

    fn request(kind: &str, body: impl Into<Body>) -> Request {
        Request::post("/").header(header::CONTENT_TYPE, kind).body(body.into()).unwrap()
    }

    /// A body without a length that comes in pieces, and then never ends if `stuck`.
    struct Pieces(Vec<&'static [u8]>, bool);

    impl hyper::body::Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match (self.0.pop(), self.1) {
                (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece))))),
                (None, true) => Poll::Pending,
                (None, false) => Poll::Ready(None),
            }
        }
    }

    fn pieces(pieces: Vec<&'static [u8]>, stuck: bool) -> Body {
        Body::new(Pieces(pieces, stuck))
    }

    #[tokio::test]
    async fn json_is_read_and_other_types_are_not() {
        for kind in ["application/json", "Application/JSON ; charset=utf-8"] {
            assert_eq!(&*limits(10).read(request(kind, "{}")).await.unwrap(), b"{}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
            assert_eq!(limits(10).read(request(kind, "{}")).await.unwrap_err().status, 415, "{kind}");
        }
        let bare = |body: &'static str| Request::post("/").body(Body::from(body)).unwrap();
        assert_eq!(limits(10).read(bare("{}")).await.unwrap_err().status, 415);
        assert!(limits(10).read(bare("")).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_limit_holds_with_and_without_a_length() {
        let json = "application/json";
        assert_eq!(limits(4).read(request(json, "1234")).await.unwrap().len(), 4);
        let error = limits(4).read(request(json, "12345")).await.unwrap_err();
        assert_eq!((error.status.as_u16(), error.message.contains("4 bytes")), (413, true));
        assert_eq!(limits(4).read(request(json, pieces(vec![b"12", b"34"], false))).await.unwrap().len(), 4);
        // The body is stuck after its fifth byte: the limit must be seen before the end.
        let error = limits(4).read(request(json, pieces(vec![b"5", b"12", b"34"], true))).await.unwrap_err();
        assert_eq!(error.status, 413);
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up_at_the_deadline_and_at_the_servers_end() {
        let soon = BodyLimits::new(10, Duration::from_millis(20));
        let error = soon.read(request("application/json", pieces(vec![b"1"], true))).await.unwrap_err();
        assert_eq!(error.status, 400);

        let (closer, closing) = crate::server::http::closing::channel();
        let mut half = request("application/json", pieces(vec![b"1"], true));
        half.extensions_mut().insert(closing);
        let reading = tokio::spawn(async move { limits(10).read(half).await });
        closer.close();
        assert_eq!(reading.await.unwrap().unwrap_err().status, 503);
    }

    #[tokio::test]
    async fn a_body_of_too_many_parts_is_refused_before_it_is_parsed() {
        let limits = limits(1 << 20);
        let parse = async |text: String| {
            let body = Received { bytes: text.into_bytes(), _memory: None };
            limits.parse(body, |mut members| Ok(members.take::<Vec<serde_json::Value>>("a")?)).await
        };
        let list = |part: &str, n: usize| format!("{{\"a\":[{}0]}}", format!("{part},").repeat(n));
        for part in ["[]", "\"\""] {
            let error = parse(list(part, MAX_PARTS)).await.unwrap_err();
            assert!(error.status == 400 && error.message.contains("262144"), "{part}: {}", error.message);
            assert_eq!(parse(list(part, 100_000)).await.unwrap().unwrap().len(), 100_001);
        }
        let quoted = format!("{{\"a\":[\"{}\"]}}", "[{\\\"".repeat(MAX_PARTS / 4));
        assert_eq!(parse(quoted).await.unwrap().unwrap().len(), 1, "what stands in a string is no part");
        let panics = Received { bytes: list("1", SMALL).into_bytes(), _memory: None };
        let error =
            limits.parse(panics, |_| -> Result<(), ApiError> { panic!("as the test wants it") }).await;
        assert_eq!(error.unwrap_err().status, 500);
        assert_eq!(limits.parsing.available_permits(), 1);
    }

    #[tokio::test]
    async fn large_bodies_share_one_memory_and_give_it_back() {
        let limits = BodyLimits { memory: Arc::new(Semaphore::new(3)), ..limits(1 << 20) };
        let body = |bytes: usize| request("application/json", vec![b'1'; bytes]);
        let first = limits.read(body(2 * STEP)).await.unwrap();
        let error = limits.read(body(2 * STEP)).await.unwrap_err();
        assert_eq!((error.status.as_u16(), error.retry_after), (503, Some(1)));
        assert_eq!(limits.read(body(SMALL)).await.unwrap().len(), SMALL, "small bodies need no leave");
        drop(first);
        assert_eq!(limits.read(body(3 * STEP)).await.unwrap().len(), 3 * STEP);
        assert_eq!(limits.memory.available_permits(), 3);
    }
}
