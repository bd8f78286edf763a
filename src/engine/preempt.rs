//! Where memory is shared and may run short: what the scheduler does for it. (Step 4.)
//!
//! A request takes over what is cached of its beginning, and publishes what it computes. When a running request needs a block and
//! there is none, the request that was admitted last gives way: it goes back to the front of the queue.

use super::{Chunk, Engine, Request, RequestId, Scheduler, SharesWith, Worker, hold::give_way};
use crate::{
    batch::Move,
    kv::{BlockCounts, Prefix},
};

impl Scheduler {
    // ANCHOR: preempt
    /// Room for the running requests' next tokens. Others give way for it, those that were admitted last first; false if somebody did.
    pub(super) fn make_room(&mut self, shares: &[usize]) -> bool {
        let running = self.running.len();
        for (at, &tokens) in shares.iter().enumerate() {
            while let Some(request) = self.running.get(at) {
                let end = request.computed + tokens;
                if tokens == 0 || self.kv.reserve(request.id, end) {
                    self.kv.publish(request.id, request.first(end));
                    break;
                }
                self.preempt_newest();
            }
        }
        self.running.len() == running
    }

    /// Takes room from a request that does not run, if one has some. Otherwise it sends the running request that was admitted last back to
    /// the front of the queue, which has no chunk in this step yet: those before it were served first.
    fn preempt_newest(&mut self) {
        self.preemptions += 1;
        if give_way(self.waiting.iter_mut().chain(&mut self.held), &mut *self.kv) {
            return;
        }
        let Some(mut request) = self.running.pop() else { return };
        let kept = self.kv.preempt(request.id);
        request.preempt(kept);
        self.waiting.push_front(request);
    }
    // ANCHOR_END: preempt

    /// What a waiting request has left to compute, less what is cached.
    pub(super) fn left_of_waiting(&self, request: &Request) -> usize {
        match request.computed {
            0 => request.left() - self.kv.cached(&request.prefix()),
            _ => request.left(), // it was swapped out, or held
        }
    }

    // ANCHOR: make_room_for_next
    /// Gives the first waiting request what is cached of it, and room for its next tokens, if there is any; how many those are.
    pub(super) fn make_room_for_next(&mut self, share: usize) -> Option<usize> {
        let (request, others) = self.waiting.make_contiguous().split_first_mut()?;
        let kept = request.computed;
        if kept == 0 && self.kv.expects(&request.prefix()) {
            return None;
        }
        if kept == 0 {
            request.adopt(self.kv.adopt(request.id, &request.prefix()));
        }
        let tokens = share.min(request.left());
        let end = request.computed + tokens;
        while !self.kv.reserve(request.id, end) {
            if give_way(others.iter_mut().chain(&mut self.held), &mut *self.kv) {
                self.preemptions += 1;
                continue;
            }
            if kept == 0 {
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
        self.kv.take_moves(moves);
    }

    /// The batch is computed.
    pub(super) fn computed(&mut self, chunks: &[Chunk]) {
        chunks.iter().for_each(|chunk| self.kv.computed(chunk.id, chunk.positions.end));
    }

    /// Requests that have been admitted and have not finished.
    pub(super) fn started(&self) -> Vec<RequestId> {
        let waiting = self.waiting.iter().filter(|r| r.started());
        self.running.iter().chain(&self.held).chain(waiting).map(|r| r.id).collect()
    }
}

impl<W: Worker> Engine<W> {
    /// The KV cache's blocks, if it has any.
    pub fn blocks(&self) -> BlockCounts {
        self.scheduler.kv.counts()
    }
}

impl Request {
    /// What K and V of its first tokens are found by.
    fn prefix(&self) -> Prefix<'_> {
        if self.prompt_logprobs.is_some() {
            // All rows' logits are wanted, and what is cached has none: a salt of its own finds nothing.
            let salt = Some(format!("prompt logprobs of {}", self.id.0).into());
            return Prefix { tokens: &self.tokens, salt, like: None };
        }
        let SharesWith { salt, like } = &self.sharing;
        Prefix { tokens: &self.tokens, salt: salt.clone(), like: like.map(|id| (id, self.prompt_len)) }
    }

    /// K and V of its first `cached` tokens are there.
    fn adopt(&mut self, cached: usize) {
        self.computed = cached;
        if !self.started() {
            self.cached_tokens = cached.min(self.prompt_len);
        }
    }

    /// It stops running; the first `kept` tokens need not be computed again.
    pub(super) fn preempt(&mut self, kept: usize) {
        self.computed = kept;
        self.preemptions += 1;
    }
}
