//! The two queues, and the batch of the next step.

use super::{Limits, Pause, Policy, Queues, Request, RequestId};
use crate::{
    batch::Batch,
    kv::Manager,
    trace::{Part, Phase},
};
use std::{collections::VecDeque, ops::Range, time::Instant};

/// First come, first served. A request waits, runs (prefill, then decode), and is taken out when it has finished.
///
/// A request that finds no room for its K and V waits at the front of the queue, and no request behind it overtakes it. Every admitted request
/// has room to finish once the requests before it have ended, so each request is served within the tokens of those before it.
pub struct Scheduler {
    pub(super) waiting: VecDeque<Request>,
    /// In the order of admission.
    pub(super) running: Vec<Request>,
    /// Those that have run and are given no tokens for now. (Step 4.)
    pub(super) held: Vec<Request>,
    pub kv: Box<dyn Manager>,
    pub(super) policy: Box<dyn Policy>,
    pub(super) limits: Limits,
    /// How often a request had to give way. (Step 4.)
    pub(super) preemptions: u64,
    /// (Step 4.)
    pub(super) pause: Pause,
}

/// One request's part of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub id: RequestId,
    pub phase: Phase,
    /// Positions that are computed.
    pub positions: Range<usize>,
    /// Whether a token is sampled from the last one's logits: not within a prompt.
    pub samples: bool,
    /// Rows of logits that are wanted, the last ones of the chunk.
    pub logit_rows: usize,
}

impl Chunk {
    /// The chunk, as a trace records it.
    pub fn part(&self) -> Part {
        Part { id: self.id, phase: self.phase, positions: self.positions.clone() }
    }
}

impl Scheduler {
    /// With nobody in it.
    pub fn new(kv: Box<dyn Manager>, policy: Box<dyn Policy>, limits: Limits) -> Scheduler {
        let (waiting, running, held) = (VecDeque::new(), Vec::new(), Vec::new());
        Scheduler { waiting, running, held, kv, policy, limits, preemptions: 0, pause: Pause::default() }
    }

    // ANCHOR: schedule
    /// Fills the batch of the next step; one chunk for each of its spans.
    pub fn schedule(&mut self, batch: &mut Batch) -> Vec<Chunk> {
        batch.clear();
        if self.stands_still() {
            return Vec::new();
        }
        let (shares, mut chunks) = (self.shares(), Vec::new());
        let (shares, shares_of_new) = shares.split_at(self.running.len().min(shares.len()));
        let all_go_on = self.make_room(shares);
        for (at, &tokens) in shares.iter().enumerate().take(self.running.len()) {
            chunks.extend(self.push_chunk(batch, at, tokens));
        }
        for &share in shares_of_new.iter().filter(|_| all_go_on) {
            let Some(tokens) = self.admit(share) else {
                break; // there is no room for its K and V: it waits, and those behind it
            };
            chunks.extend(self.push_chunk(batch, self.running.len() - 1, tokens));
        }
        self.take_moves(&mut batch.moves);
        chunks
    }

    /// Adds the next tokens of a running request to the batch.
    fn push_chunk(&mut self, batch: &mut Batch, at: usize, tokens: usize) -> Option<Chunk> {
        let request = &self.running[at];
        let (start, end) = (request.computed, request.computed + tokens);
        if tokens == 0 {
            return None;
        }
        let samples = tokens == request.left();
        let logit_rows = request.rows_of(start, tokens, samples);
        batch.push_chunk(request.next(tokens), start, self.kv.table(request.id));
        batch.want_logits(logit_rows);
        Some(Chunk { id: request.id, phase: request.phase(), positions: start..end, samples, logit_rows })
    }
    // ANCHOR_END: schedule

    /// A forward pass failed: all are computed again, from their first tokens.
    pub(super) fn recompute_all(&mut self) {
        while let Some(request) = self.running.pop() {
            self.waiting.push_front(request);
        }
        for request in self.waiting.iter_mut().chain(&mut self.held).filter(|r| r.started()) {
            self.kv.release(request.id); // whatever the pass has written, and what it was to copy, is not to be trusted
            request.computed = 0;
        }
    }

    /// What the policy gives to each request, checked.
    fn shares(&mut self) -> Vec<usize> {
        let limits = self.limits;
        let running: Vec<usize> = self.running.iter().map(Request::left).collect();
        let waiting = self.waiting.iter().take(self.seats());
        let waiting: Vec<usize> = waiting.map(|request| self.left_of_waiting(request)).collect();
        let shares = self.policy.share(&Queues { running: &running, waiting: &waiting, limits });

        let total: usize = shares.iter().sum();
        let budget = limits.max_batched_tokens;
        assert!(total <= budget, "the policy gave out {total} tokens of a budget of {budget}");
        let most = limits.max_num_seqs.max(running.len());
        assert!(shares.len() <= most, "the policy runs {} requests of {most}", shares.len());
        let left = running.iter().chain(&waiting);
        assert!(shares.iter().zip(left).all(|(share, left)| share <= left), "more than a request has left");
        shares
    }

    /// Moves the first waiting request to the running ones, if there is room for its next tokens; how many those are.
    fn admit(&mut self, share: usize) -> Option<usize> {
        let tokens = self.make_room_for_next(share)?;
        let mut request = self.waiting.pop_front()?;
        request.admit();
        self.running.push(request);
        Some(tokens)
    }

    /// The running requests of some chunks, in the same order, as a step made them.
    pub(super) fn running_of<'a>(
        &'a mut self,
        chunks: &'a [Chunk],
    ) -> impl Iterator<Item = (&'a mut Request, &'a Chunk)> {
        let mut chunks = chunks.iter().peekable();
        self.running.iter_mut().filter_map(move |request| {
            let chunk = chunks.next_if(|chunk| chunk.id == request.id)?;
            Some((request, chunk))
        })
    }

    /// Takes a request out and its room back.
    pub fn remove(&mut self, id: RequestId) -> Option<Request> {
        self.kv.release(id);
        if let Some(at) = self.running.iter().position(|r| r.id == id) {
            return Some(self.running.remove(at));
        }
        if let Some(at) = self.held.iter().position(|r| r.id == id) {
            return Some(self.held.remove(at));
        }
        let at = self.waiting.iter().position(|r| r.id == id)?;
        self.waiting.remove(at)
    }

    /// Whether somebody runs, or may be admitted.
    pub(super) fn can_run(&self) -> bool {
        let nobody = self.running.is_empty() && self.waiting.is_empty();
        !nobody && !self.stands_still()
    }

    fn requests(&self) -> impl Iterator<Item = &Request> {
        self.running.iter().chain(&self.held).chain(&self.waiting)
    }

    /// Requests whose deadline has passed.
    pub(super) fn late(&self, now: Instant) -> Vec<RequestId> {
        self.requests().filter(|r| r.is_late(now)).map(|r| r.id).collect()
    }

    /// All requests.
    pub(super) fn all(&self) -> Vec<RequestId> {
        self.requests().map(|r| r.id).collect()
    }
}
