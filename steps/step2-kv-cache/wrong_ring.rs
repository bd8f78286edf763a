//! Wrong answers to the third exercise of chapter 2.

use crate::contracts::step2::KvCache;

/// Right for one token at a time. A prompt's last tokens overwrite keys that its first ones still see.
pub struct WindowAlone;

impl KvCache for WindowAlone {
    fn ring_tokens(&self, window: usize, _max_chunk: usize, max_tokens: usize) -> usize {
        window.min(max_tokens)
    }
}

/// Room that is never seen again: a sequence ends before the ring is full.
pub struct WithoutTheCap;

impl KvCache for WithoutTheCap {
    fn ring_tokens(&self, window: usize, max_chunk: usize, _max_tokens: usize) -> usize {
        window + max_chunk - 1
    }
}

/// Not a ring: what comes after the end goes to the last place.
pub struct StopsAtTheEnd;

impl KvCache for StopsAtTheEnd {
    fn ring_place(&self, position: usize, tokens: usize) -> usize {
        position.min(tokens - 1)
    }
}
