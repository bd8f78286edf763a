//! The two queues, and the batch of the next step.

use super::{KvManager, Limits, Phase, Policy, Queues, Request, RequestId};
use crate::{batch::Batch, trace::Part};
use std::{collections::VecDeque, ops::Range};

/// First come, first served. A request waits, runs (prefill, then decode), and is taken out when it has finished.
pub struct Scheduler {
    waiting: VecDeque<Request>,
    /// In the order of admission.
    running: Vec<Request>,
    pub kv: Box<dyn KvManager>,
    policy: Box<dyn Policy>,
    limits: Limits,
    preemptions: u64,
    /// Whether only requests that have run before are admitted.
    pub(super) paused: bool,
}

/// One request's part of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub id: RequestId,
    pub phase: Phase,
    /// Positions that are computed.
    pub positions: Range<usize>,
    /// Whether the last one's logits are wanted: not within a prompt.
    pub samples: bool,
}

impl Chunk {
    /// The chunk, as a trace records it.
    pub fn part(&self) -> Part {
        Part { id: self.id, phase: self.phase.into(), positions: self.positions.clone() }
    }
}

impl Scheduler {
    /// With nobody in it.
    pub fn new(kv: Box<dyn KvManager>, policy: Box<dyn Policy>, limits: Limits) -> Scheduler {
        let (waiting, running) = (VecDeque::new(), Vec::new());
        Scheduler { waiting, running, kv, policy, limits, preemptions: 0, paused: false }
    }

    /// Puts a request at the end of the queue.
    pub fn add(&mut self, request: Request) {
        self.waiting.push_back(request);
    }

    // ANCHOR: schedule
    /// Fills the batch of the next step; one chunk for each of its spans.
    pub fn schedule(&mut self, batch: &mut Batch) -> Vec<Chunk> {
        batch.clear();
        let (shares, running, mut chunks) = (self.shares(), self.running.len(), Vec::new());
        let (shares, shares_of_new) = shares.split_at(running.min(shares.len()));
        for (at, &tokens) in shares.iter().enumerate() {
            if !self.make_room(at, tokens) {
                break; // it was preempted, and so were those that were admitted after it (step 4)
            }
            chunks.extend(self.push_chunk(batch, at, tokens));
        }
        let nobody_gave_way = self.running.len() == running;
        for &share in shares_of_new.iter().filter(|_| nobody_gave_way) {
            let Some(tokens) = self.admit(share) else {
                break; // there is no room for its K and V: it waits, and those behind it
            };
            chunks.extend(self.push_chunk(batch, self.running.len() - 1, tokens));
        }
        self.kv.take_moves(&mut batch.moves);
        chunks
    }

    /// Adds the next tokens of a running request to the batch.
    fn push_chunk(&mut self, batch: &mut Batch, at: usize, tokens: usize) -> Option<Chunk> {
        let request = &self.running[at];
        let (start, end) = (request.computed(), request.computed() + tokens);
        if tokens == 0 {
            return None;
        }
        self.kv.publish(request.id, request.first(end));
        let (samples, table) = (tokens == request.left(), self.kv.table(request.id));
        match samples {
            true => batch.push(request.next(tokens), start, table),
            false => batch.push_chunk(request.next(tokens), start, table),
        }
        Some(Chunk { id: request.id, phase: request.phase(), positions: start..end, samples })
    }
    // ANCHOR_END: schedule

    // ANCHOR: preempt
    /// Room for a running request's next tokens; others give way for it, the last one first, and false if it was its own turn.
    fn make_room(&mut self, at: usize, tokens: usize) -> bool {
        while let Some(request) = self.running.get(at) {
            if tokens == 0 || self.kv.reserve(request.id, request.computed() + tokens) {
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
        self.preemptions += 1;
        self.waiting.push_front(request);
    }
    // ANCHOR_END: preempt

    /// A forward pass failed: all are computed again, from their first tokens.
    pub(super) fn recompute_all(&mut self) {
        while let Some(request) = self.running.pop() {
            self.waiting.push_front(request);
        }
        for request in self.waiting.iter_mut().filter(|r| r.started()) {
            self.kv.release(request.id); // what was swapped out, too: the copies may not have been made
            request.preempt(0);
        }
    }

    /// What the policy gives to each request, checked.
    fn shares(&mut self) -> Vec<usize> {
        let limits = self.limits;
        let running: Vec<usize> = self.running.iter().map(Request::left).collect();
        let waiting = self.left_of_waiting();
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

    /// What the waiting requests that could be admitted have left, less what is cached.
    fn left_of_waiting(&self) -> Vec<usize> {
        let seats = self.limits.max_num_seqs.saturating_sub(self.running.len());
        let candidates = self.waiting.iter().take(seats).take_while(|r| !self.paused || r.started());
        let left = |request: &Request| match request.computed() {
            0 => request.left() - self.kv.cached(&request.prefix()),
            _ => request.left(), // it was swapped out
        };
        candidates.map(left).collect()
    }

    /// Moves the first waiting request to the running ones, if there is room for its next tokens; how many those are.
    fn admit(&mut self, share: usize) -> Option<usize> {
        let request = self.waiting.front_mut()?;
        let held = request.computed();
        if held == 0 && self.kv.expects(&request.prefix()) {
            return None;
        }
        if held == 0 {
            request.adopt(self.kv.adopt(request.id, &request.prefix()));
        }
        let tokens = share.min(request.left());
        if !self.kv.reserve(request.id, request.computed() + tokens) {
            if held == 0 {
                self.kv.release(request.id);
                request.adopt(0); // it waits on, and gives way to nobody: that is no preemption
            }
            return None;
        }
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
        let at = self.waiting.iter().position(|r| r.id == id)?;
        self.waiting.remove(at)
    }

    /// Running requests whose prompt is computed.
    pub fn decoding(&self) -> Vec<RequestId> {
        self.running.iter().filter(|r| r.phase() == Phase::Decode).map(|r| r.id).collect()
    }

    /// Requests that have been admitted and have not finished.
    pub fn started(&self) -> Vec<RequestId> {
        let waiting = self.waiting.iter().filter(|r| r.started());
        self.running.iter().chain(waiting).map(|r| r.id).collect()
    }

    /// How often a request had to give way.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests that run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// The limits in use.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The policy in use.
    pub fn policy(&self) -> &dyn Policy {
        &*self.policy
    }
}
