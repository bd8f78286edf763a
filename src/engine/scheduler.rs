//! The two queues, and the batch of the next step.

use super::{KvManager, Limits, Phase, Policy, Queues, Request, RequestId};
use crate::batch::Batch;
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

/// Adds a request's next tokens to the batch.
fn push_chunk(batch: &mut Batch, kv: &mut dyn KvManager, request: &Request, tokens: usize) -> Chunk {
    let (start, end) = (request.computed(), request.computed() + tokens);
    kv.publish(request.id, request.first(end));
    let (samples, table) = (tokens == request.left(), kv.table(request.id));
    match samples {
        true => batch.push(request.next(tokens), start, table),
        false => batch.push_chunk(request.next(tokens), start, table),
    }
    Chunk { id: request.id, phase: request.phase(), positions: start..end, samples }
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
        let (mut chunks, mut preempted) = (Vec::new(), false);
        for (at, tokens) in self.shares().into_iter().enumerate() {
            let tokens = match at < self.running.len() {
                true => tokens,
                false if preempted => break,
                false => match self.admit(tokens) {
                    Some(tokens) => tokens,
                    None => break, // there is no room for its K and V: it waits, and those behind it
                },
            };
            while tokens > 0 && !self.make_room(at, tokens) {
                self.preempt_newest();
                preempted = true;
            }
            let Some(request) = self.running.get(at) else { break };
            if tokens > 0 {
                chunks.push(push_chunk(batch, &mut *self.kv, request, tokens));
            }
        }
        self.kv.take_moves(&mut batch.moves);
        chunks
    }
    // ANCHOR_END: schedule

    // ANCHOR: preempt
    /// Whether a running request has room for its next tokens now, or is not running any more.
    fn make_room(&mut self, at: usize, tokens: usize) -> bool {
        let Some(request) = self.running.get(at) else { return true };
        self.kv.reserve(request.id, request.computed() + tokens)
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
        for request in self.waiting.iter_mut().filter(|r| r.computed() > 0) {
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
        if self.running.iter().any(|r| request.waits_for(r)) {
            return None;
        }
        let held = request.computed();
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
