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

impl Scheduler {
    /// With nobody in it.
    pub fn new(kv: Box<dyn KvManager>, policy: Box<dyn Policy>, limits: Limits) -> Scheduler {
        Scheduler { waiting: VecDeque::new(), running: Vec::new(), kv, policy, limits }
    }

    /// Puts a request at the end of the queue.
    pub fn add(&mut self, request: Request) {
        self.waiting.push_back(request);
    }

    // ANCHOR: schedule
    /// Fills the batch of the next step; one chunk for each of its spans.
    pub fn schedule(&mut self, batch: &mut Batch) -> Vec<Chunk> {
        batch.clear();
        let mut chunks = Vec::new();
        for (at, tokens) in self.shares().into_iter().enumerate() {
            if at == self.running.len() && !self.admit(tokens) {
                break; // there is no room for its K and V: it waits, and those behind it
            }
            let request = &self.running[at];
            let (start, end) = (request.computed(), request.computed() + tokens);
            if tokens == 0 || !self.kv.reserve(request.id, end) {
                continue;
            }
            let samples = tokens == request.left();
            let table = self.kv.table(request.id);
            match samples {
                true => batch.push(request.next(tokens), start, table),
                false => batch.push_chunk(request.next(tokens), start, table),
            }
            chunks.push(Chunk { id: request.id, phase: request.phase(), positions: start..end, samples });
        }
        chunks
    }
    // ANCHOR_END: schedule

    /// What the policy gives to each request, checked.
    fn shares(&mut self) -> Vec<usize> {
        let limits = self.limits;
        let running: Vec<usize> = self.running.iter().map(Request::left).collect();
        let waiting: Vec<usize> = self.waiting.iter().take(limits.max_num_seqs).map(Request::left).collect();
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

    /// Moves the first waiting request to the running ones, if there is room for `tokens` of its tokens.
    fn admit(&mut self, tokens: usize) -> bool {
        let Some(mut request) = self.waiting.pop_front() else { return false };
        if !self.kv.reserve(request.id, request.computed() + tokens) {
            self.waiting.push_front(request);
            return false;
        }
        request.admit();
        self.running.push(request);
        true
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
