//! Where memory is shared and may run short: what the scheduler does for it. (Step 4.)
//!
//! A request takes over what is cached of its beginning, and publishes what it computes. When a running request needs a block and
//! there is none, the request that was admitted last gives way: it goes back to the front of the queue.

use super::{Chunk, Engine, Request, Scheduler, SharesWith, Worker};
use crate::{
    batch::Move,
    kv::{BlockCounts, Prefix},
};

/// What the scheduler remembers of it.
#[derive(Default)]
pub struct Pressure {
    /// How often a request had to give way.
    preemptions: u64,
    /// Whether one did in the step that is being scheduled.
    now: bool,
    /// Whether only requests that have run before are admitted.
    pub(super) paused: bool,
}

impl Scheduler {
    // ANCHOR: preempt
    /// Room for a running request's next tokens; others give way for it, the last one first, and false if it was its own turn.
    pub(super) fn make_room(&mut self, at: usize, tokens: usize) -> bool {
        while let Some(request) = self.running.get(at) {
            let end = request.computed() + tokens;
            if tokens == 0 || self.kv.reserve(request.id, end) {
                self.kv.publish(request.id, request.first(end));
                return true;
            }
            self.preempt_newest();
        }
        false
    }

    /// Sends the running request that was admitted last back to the front of the queue. It has no chunk in this step yet: those before
    /// it were served first.
    fn preempt_newest(&mut self) {
        let Some(mut request) = self.running.pop() else { return };
        let kept = self.kv.preempt(request.id);
        request.preempt(kept);
        self.pressure.preemptions += 1;
        self.pressure.now = true;
        self.waiting.push_front(request);
    }
    // ANCHOR_END: preempt

    /// What a waiting request has left, less what is cached; `None` if it may not be admitted.
    pub(super) fn left_of_waiting(&self, request: &Request) -> Option<usize> {
        let left = match request.computed() {
            0 => request.left() - self.kv.cached(&request.prefix()),
            _ => request.left(), // it was swapped out
        };
        (!self.pressure.paused || request.started()).then_some(left)
    }

    // ANCHOR: make_room_for_next
    /// Gives the first waiting request what is cached of it, and room for its next tokens; how many those are. None if somebody gave
    /// way in this step: the same blocks would go back and forth.
    pub(super) fn make_room_for_next(&mut self, share: usize) -> Option<usize> {
        let request = self.waiting.front_mut().filter(|_| !self.pressure.now)?;
        let held = request.computed();
        if held == 0 && self.kv.expects(&request.prefix()) {
            return None;
        }
        if held == 0 {
            request.adopt(self.kv.adopt(request.id, &request.prefix()));
        }
        let tokens = share.min(request.left());
        let end = request.computed() + tokens;
        if !self.kv.reserve(request.id, end) {
            if held == 0 {
                self.kv.release(request.id);
                request.adopt(0); // it waits on, and gives way to nobody: that is no preemption
            }
            return None;
        }
        self.kv.publish(request.id, request.first(end));
        Some(tokens)
    }
    // ANCHOR_END: make_room_for_next

    /// The batch is full: what must be copied before it computes.
    pub(super) fn take_moves(&mut self, moves: &mut Vec<Move>) {
        self.pressure.now = false;
        self.kv.take_moves(moves);
    }

    /// The batch is computed.
    pub(super) fn computed(&mut self, chunks: &[Chunk]) {
        chunks.iter().for_each(|chunk| self.kv.computed(chunk.id, chunk.positions.end));
    }

    /// How often a request had to give way.
    pub fn preemptions(&self) -> u64 {
        self.pressure.preemptions
    }
}

impl<W: Worker> Engine<W> {
    /// The KV cache's blocks, if it has any.
    pub fn blocks(&self) -> BlockCounts {
        self.scheduler.kv.counts()
    }
}

/// What a request remembers of it.
pub struct Shared {
    with: SharesWith,
    pub(super) cached_tokens: usize,
    pub(super) preemptions: u32,
}

impl Shared {
    /// Nothing has happened.
    pub fn new(with: SharesWith) -> Shared {
        Shared { with, cached_tokens: 0, preemptions: 0 }
    }
}

impl Request {
    /// What K and V of its first tokens are found by.
    fn prefix(&self) -> Prefix<'_> {
        let SharesWith { salt, like } = &self.shared.with;
        Prefix { tokens: &self.tokens, salt: salt.clone(), like: like.map(|id| (id, self.prompt_len)) }
    }

    /// K and V of its first `cached` tokens are there.
    fn adopt(&mut self, cached: usize) {
        self.computed = cached;
        if !self.started() {
            self.shared.cached_tokens = cached.min(self.prompt_len);
        }
    }

    /// It stops running; the first `kept` tokens need not be computed again.
    fn preempt(&mut self, kept: usize) {
        self.computed = kept;
        self.shared.preemptions += 1;
    }
}
