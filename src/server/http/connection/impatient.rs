//! A socket that waits only so long for its reader.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Sleep, sleep},
};

use crate::server::http::closing::Closing;

/// How long a closed connection goes on reading what its client still sends.
const LINGER: Duration = Duration::from_secs(1);

/// A TCP stream whose writes fail with [`io::ErrorKind::TimedOut`] once a write has made no progress for a while.
///
/// hyper then drops the request's handler and body, which ends the request. The kernel takes more data only when a good part of its send
/// buffer is free again, so "progress" is some tens of kilobytes; readers that are slower than that in the whole time are cut, too.
pub(super) struct Impatient {
    read: Arc<OwnedReadHalf>,
    write: OwnedWriteHalf,
    timeout: Duration,
    /// Runs while a write waits.
    stuck: Option<Pin<Box<Sleep>>>,
    /// Runs once we have closed our side.
    linger: Option<Pin<Box<Sleep>>>,
    closing: Closing,
}

impl Impatient {
    pub fn new(stream: TcpStream, timeout: Duration, closing: Closing) -> Impatient {
        let (read, write) = stream.into_split();
        Impatient { read: Arc::new(read), write, timeout, stuck: None, linger: None, closing }
    }

    /// Returns when the client has closed its side, or is gone, and what it sent before had time to be read.
    ///
    /// hyper sees this by itself, but for one case: bytes after a request (an old client's line break, a second request) keep it from
    /// reading on until the first answer is done.
    pub fn left(&self) -> impl Future<Output = ()> + use<> {
        const PAUSE: Duration = Duration::from_millis(100);
        let read = self.read.clone();
        async move {
            // Until then, bytes that nobody reads keep the socket ready.
            while read.ready(Interest::READABLE).await.is_ok_and(|ready| !ready.is_read_closed()) {
                sleep(PAUSE).await;
            }
            sleep(PAUSE).await;
        }
    }

    /// A write's result, or an error if it has waited too long.
    fn patiently(&mut self, cx: &mut Context, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let timeout = self.timeout;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(stuck.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client doesn't read")))
    }

    fn poll_drained(&mut self, cx: &mut Context) -> Poll<()> {
        let mut waste = [0; 8 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut waste);
            let read = ready!(Pin::new(&mut *self).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl AsyncRead for Impatient {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<()>> {
        let stream: &TcpStream = (*self.read).as_ref();
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.write).poll_write(cx, data);
        self.patiently(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        data: &[IoSlice],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.write).poll_write_vectored(cx, data);
        self.patiently(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.write.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    /// Closes our side, then reads until the client closes its own, for a second at most.
    ///
    /// If we closed a socket that holds unread bytes, TCP would reset the connection, and the client might lose our answer: the 413 to a
    /// large body, say, that it is still sending.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.write).poll_shutdown(cx))?;
            self.linger = Some(Box::pin(sleep(LINGER)));
        }
        let over = self.closing.is_closed()
            || self.linger.as_mut().is_some_and(|linger| linger.as_mut().poll(cx).is_ready());
        if !over {
            ready!(self.poll_drained(cx));
        }
        Poll::Ready(Ok(()))
    }
}
