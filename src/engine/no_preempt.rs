//! Before step 4 a request that runs has room to its end, and a request that finds no room waits.

use super::{Chunk, Engine, Request, Scheduler, Worker};
use crate::{batch::Move, kv::BlockCounts};

/// Nothing pauses.
#[derive(Default, PartialEq)]
pub(super) enum Pause {
    #[default]
    Off,
}

impl Scheduler {
    /// Waiting requests that may be admitted now, at most.
    pub(super) fn seats(&self) -> usize {
        self.limits.max_num_seqs.saturating_sub(self.running.len())
    }

    /// Whether nobody runs because of a pause.
    pub(super) fn stands_still(&self) -> bool {
        self.pause != Pause::Off
    }

    // ANCHOR: make_room
    /// Room for the running requests' next tokens; whether all of them go on.
    pub(super) fn make_room(&mut self, shares: &[usize]) -> bool {
        let mut running = self.running.iter().zip(shares);
        running.all(|(request, tokens)| self.kv.reserve(request.id, request.computed + tokens))
    }

    /// Room for the next tokens of the first waiting request, if there is any; how many those are.
    pub(super) fn make_room_for_next(&mut self, share: usize) -> Option<usize> {
        let request = self.waiting.front()?;
        let tokens = share.min(request.left());
        self.kv.reserve(request.id, tokens).then_some(tokens)
    }
    // ANCHOR_END: make_room

    /// What a waiting request has left to compute.
    pub(super) fn left_of_waiting(&self, request: &Request) -> usize {
        request.left()
    }

    /// What a full batch must copy before it computes: nothing.
    pub(super) fn take_moves(&mut self, _moves: &mut Vec<Move>) {}

    /// The batch is computed.
    pub(super) fn computed(&mut self, _chunks: &[Chunk]) {}
}

impl<W: Worker> Engine<W> {
    /// The KV cache has no blocks.
    pub fn blocks(&self) -> BlockCounts {
        BlockCounts::default()
    }
}
