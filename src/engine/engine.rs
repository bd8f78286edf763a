//! The loop: schedule, forward, sample, update.

use super::{
    Chunk, Finished, KvManager, KvUsage, Limits, OnEvent, Policy, Request, RequestId, Scheduler, Slots,
    Trace, Worker,
};
use crate::{
    batch::Batch,
    error::{Error, Result},
    generate::{FinishReason, GenerateParams},
    sampling::{Sampled, SamplingError, Scratch},
};
use rayon::prelude::*;
use std::{cell::RefCell, time::Instant};

/// Serves many requests with one model. Each gets the tokens that it would get alone.
pub struct Engine<W: Worker> {
    pub worker: W,
    scheduler: Scheduler,
    batch: Batch,
    last_chunks: Vec<Chunk>,
    next_id: u64,
    stats: EngineStats,
    trace: Option<Trace>,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineStats {
    pub steps: u64,
    /// Tokens that went through the model, of prompts and outputs.
    pub tokens_computed: u64,
    /// Tokens that were sampled.
    pub output_tokens: u64,
    /// The most requests in one step.
    pub peak_running: usize,
    /// The most tokens in one step.
    pub peak_batched_tokens: usize,
    /// Sums over the steps: of the KV cache's tokens, those reserved by requests and those in use.
    pub kv_reserved: u64,
    pub kv_used: u64,
}

impl EngineStats {
    /// The part of the reserved KV memory that held a token, as a mean over the steps.
    pub fn kv_utilization(&self) -> f64 {
        self.kv_used as f64 / self.kv_reserved.max(1) as f64
    }
}

impl<W: Worker> Engine<W> {
    /// An engine with nothing to do. No more requests run at a time than the worker has slots.
    pub fn new(worker: W, policy: Box<dyn Policy>, limits: Limits) -> Engine<W> {
        let slots = worker.memory().slots;
        let kv = Box::new(Slots::new(slots, worker.max_model_len()));
        let limits = Limits { max_num_seqs: limits.max_num_seqs.min(slots), ..limits };
        Engine::with_kv(worker, kv, policy, limits)
    }

    /// An engine with a KV manager of the caller's own, which must fit the worker's attention.
    pub fn with_kv(worker: W, kv: Box<dyn KvManager>, policy: Box<dyn Policy>, limits: Limits) -> Engine<W> {
        let scheduler = Scheduler::new(kv, policy, limits);
        let (batch, stats) = (Batch::default(), EngineStats::default());
        Engine { worker, scheduler, batch, last_chunks: Vec::new(), next_id: 0, stats, trace: None }
    }

    /// Adds a request; `on_event` is told of each token as it comes.
    ///
    /// # Errors
    /// A prompt that can never be served, with the numbers, or sampling parameters out of range.
    pub fn add(&mut self, prompt: Vec<u32>, params: GenerateParams, on_event: OnEvent) -> Result<RequestId> {
        self.worker.check_prompt(&prompt)?;
        let (id, vocab_size) = (RequestId(self.next_id), self.worker.config().vocab_size);
        let request = Request::new(id, prompt, params, vocab_size, on_event)?;
        if let Some(trace) = &mut self.trace {
            trace.arrived(&request);
        }
        self.next_id += 1;
        self.scheduler.add(request);
        Ok(id)
    }

    // ANCHOR: step
    /// One forward pass over a part of every running request; false if there is nothing to do.
    ///
    /// # Errors
    /// Those of the worker.
    pub fn step(&mut self) -> Result<bool> {
        let started = Instant::now();
        let chunks = self.scheduler.schedule(&mut self.batch);
        if chunks.is_empty() {
            return self.idle();
        }
        self.count(&chunks);
        let logits = self.worker.forward(&self.batch)?;
        let sampled = self.sample(&chunks, logits);
        if let Some(trace) = &mut self.trace {
            trace.step(started, &chunks, self.scheduler.waiting(), self.scheduler.kv.usage());
        }
        self.update(&chunks, sampled);
        self.last_chunks = chunks;
        Ok(true)
    }

    /// A token for each chunk that wants one, in their order. Each request has a sampler of its own.
    fn sample(&mut self, chunks: &[Chunk], mut logits: Vec<f32>) -> Vec<Result<Sampled, SamplingError>> {
        let vocab_size = self.worker.config().vocab_size;
        let requests = self.scheduler.running_of(chunks).filter(|(_, chunk)| chunk.samples);
        let rows = requests.map(|(request, _)| request).zip(logits.chunks_exact_mut(vocab_size));
        let rows: Vec<_> = rows.collect();
        let sample = |(request, row): (&mut Request, &mut [f32])| {
            SCRATCH.with_borrow_mut(|scratch| request.sampler.sample_with(row, scratch))
        };
        rows.into_par_iter().map(sample).collect()
    }

    /// Gives the tokens to their requests, and takes out those that have ended.
    fn update(&mut self, chunks: &[Chunk], sampled: Vec<Result<Sampled, SamplingError>>) {
        let (mut sampled, mut ended) = (sampled.into_iter(), Vec::new());
        let longest = self.worker.max_model_len();
        for (request, chunk) in self.scheduler.running_of(chunks) {
            request.advance(chunk.positions.len());
            match chunk.samples.then(|| sampled.next()).flatten() {
                None => {}
                Some(Ok(token)) => {
                    self.stats.output_tokens += 1;
                    ended.extend(request.push(&token, longest).map(|reason| (chunk.id, reason, None)));
                }
                Some(Err(error)) => ended.push((chunk.id, FinishReason::Error, Some(error.to_string()))),
            }
        }
        for (id, reason, error) in ended {
            self.end(id, reason, error);
        }
    }
    // ANCHOR_END: step

    /// Ends a request at once, whatever it does; false if there is no such request (any more).
    pub fn abort(&mut self, id: RequestId) -> bool {
        self.end(id, FinishReason::Abort, None).is_some()
    }

    /// Steps until nothing is left to do.
    ///
    /// # Errors
    /// Those of [`step`](Engine::step).
    pub fn run(&mut self) -> Result<()> {
        while self.step()? {}
        Ok(())
    }

    /// No chunk: there is nobody, or nobody can go on.
    fn idle(&self) -> Result<bool> {
        match self.queues() {
            (0, 0) => Ok(false),
            (waiting, running) => {
                let policy = self.scheduler.policy().name();
                let message = format!(
                    "{waiting} requests wait, {running} run, and policy '{policy}' lets nobody go on"
                );
                Err(Error::Request(message))
            }
        }
    }

    fn end(&mut self, id: RequestId, reason: FinishReason, error: Option<String>) -> Option<Finished> {
        let finished = self.scheduler.remove(id)?.finish(reason, error);
        if let Some(trace) = &mut self.trace {
            trace.finished(&finished);
        }
        Some(finished)
    }

    fn count(&mut self, chunks: &[Chunk]) {
        let (stats, usage) = (&mut self.stats, self.scheduler.kv.usage());
        let tokens = self.batch.tokens.len();
        stats.steps += 1;
        stats.tokens_computed += tokens as u64;
        stats.peak_running = stats.peak_running.max(chunks.len());
        stats.peak_batched_tokens = stats.peak_batched_tokens.max(tokens);
        stats.kv_reserved += usage.reserved as u64;
        stats.kv_used += usage.used as u64;
    }

    /// Records from now on what runs when.
    pub fn start_trace(&mut self) {
        self.trace = Some(Trace::new(self.scheduler.policy().name(), self.limits()));
    }

    /// What was recorded.
    pub fn take_trace(&mut self) -> Option<Trace> {
        self.trace.take()
    }

    /// Counters since the start.
    pub fn stats(&self) -> EngineStats {
        self.stats
    }

    /// What a step may hold.
    pub fn limits(&self) -> Limits {
        self.scheduler.limits()
    }

    /// Requests that wait and that run.
    pub fn queues(&self) -> (usize, usize) {
        (self.scheduler.waiting(), self.scheduler.running())
    }

    /// How full the KV cache is.
    pub fn kv_usage(&self) -> KvUsage {
        self.scheduler.kv.usage()
    }

    /// Requests that have sampled a token and not finished: each of them gets one more at the next step.
    pub fn decoding(&self) -> Vec<RequestId> {
        self.scheduler.decoding()
    }

    /// What each request did in the last step, in the order of the batch's spans.
    pub fn last_chunks(&self) -> &[Chunk] {
        &self.last_chunks
    }

    /// The batch of the last step.
    pub fn last_batch(&self) -> &Batch {
        &self.batch
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}
