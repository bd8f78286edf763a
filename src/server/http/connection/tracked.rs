//! How many requests of one connection are under way.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};

/// Counts the requests whose answers are not done.
#[derive(Clone, Default)]
pub(super) struct UnderWay(Arc<AtomicUsize>);

/// One of them, until it is dropped.
pub(super) struct Turn(UnderWay);

/// An answer's body, with the request's turn.
pub(super) struct Tracked {
    pub body: Body,
    pub _turn: Turn,
}

impl UnderWay {
    pub fn begin(&self) -> Turn {
        self.0.fetch_add(1, Relaxed);
        Turn(self.clone())
    }

    pub fn any(&self) -> bool {
        self.0.load(Relaxed) > 0
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

impl hyper::body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
