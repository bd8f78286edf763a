//! Before step 4 a request that runs has room to its end, and a request that finds no room waits.

use super::{Chunk, Engine, Request, Scheduler, SharesWith, Worker};
use crate::{batch::Move, kv::BlockCounts};

/// Nothing that the scheduler would have to remember.
#[derive(Default)]
pub struct Pressure;

impl Scheduler {
    /// Room for a running request's next tokens.
    pub(super) fn make_room(&mut self, at: usize, tokens: usize) -> bool {
        let request = &self.running[at];
        self.kv.reserve(request.id, request.computed() + tokens)
    }

    /// What a waiting request has left; `None` if it may not be admitted.
    pub(super) fn left_of_waiting(&self, request: &Request) -> Option<usize> {
        Some(request.left())
    }

    /// Room for the next tokens of the first waiting request, if there is any; how many those are.
    pub(super) fn make_room_for_next(&mut self, share: usize) -> Option<usize> {
        let request = self.waiting.front()?;
        let tokens = share.min(request.left());
        self.kv.reserve(request.id, tokens).then_some(tokens)
    }

    /// What a full batch must copy before it computes: nothing.
    pub(super) fn take_moves(&mut self, _moves: &mut Vec<Move>) {}

    /// The batch is computed.
    pub(super) fn computed(&mut self, _chunks: &[Chunk]) {}

    /// How often a request had to give way: never.
    pub fn preemptions(&self) -> u64 {
        0
    }
}

impl<W: Worker> Engine<W> {
    /// The KV cache has no blocks.
    pub fn blocks(&self) -> BlockCounts {
        BlockCounts::default()
    }
}

/// Nothing that a request would have to remember.
pub struct Shared {
    pub(super) cached_tokens: usize,
    pub(super) preemptions: u32,
}

impl Shared {
    /// It shares with nobody.
    pub fn new(_with: SharesWith) -> Shared {
        Shared { cached_tokens: 0, preemptions: 0 }
    }
}
