//! The loop: schedule, forward, sample, update.

use super::{
    Chunk, EngineStats, Finished, KvUsage, Limits, NewRequest, Output, Policy, QueueLimits, Request,
    RequestId, Scheduler, Update, Worker, limits::Health,
};
use crate::{
    batch::Batch,
    error::{Error, Result},
    generate::{FinishReason, GenerateParams},
    kv::{self, Manager, ManagerOptions},
    model::KvMemory,
    runner::{Prompt, check_room},
    sampling::{Draw, Sampled, SamplingError, Scratch},
    trace::{Part, Phase, Trace},
};
use rayon::prelude::*;
use std::{
    cell::RefCell,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

/// Serves many requests with one model. Each gets the tokens that it would get alone.
pub struct Engine<W: Worker> {
    pub worker: W,
    pub(super) scheduler: Scheduler,
    batch: Batch,
    last_chunks: Vec<Chunk>,
    next_id: u64,
    stats: EngineStats,
    trace: Option<Trace>,
    /// How often the weights were updated. (Step 4.)
    pub(super) weight_version: u64,
    /// What the next step tells.
    pub(super) updates: Vec<Update>,
    /// What may wait at most; no bound at first.
    pub queue_limits: QueueLimits,
    pub(super) health: Health,
}

impl<W: Worker> Engine<W> {
    /// An engine with nothing to do. No more requests run at a time than the worker has slots.
    pub fn new(worker: W, policy: Box<dyn Policy>, limits: Limits) -> Engine<W> {
        let KvMemory { slots, pool, .. } = worker.memory();
        let kv = kv::manager(slots, pool, worker.max_model_len(), &ManagerOptions::default());
        Engine::with_kv(worker, kv, policy, limits)
    }

    /// An engine with a KV manager of the caller's own, which must fit the worker's attention.
    pub fn with_kv(worker: W, kv: Box<dyn Manager>, policy: Box<dyn Policy>, limits: Limits) -> Engine<W> {
        let limits = Limits { max_num_seqs: limits.max_num_seqs.min(worker.memory().slots), ..limits };
        let scheduler = Scheduler::new(kv, policy, limits);
        Engine {
            worker,
            scheduler,
            batch: Batch::default(),
            last_chunks: Vec::new(),
            next_id: 0,
            stats: EngineStats::default(),
            trace: None,
            weight_version: 0,
            updates: Vec::new(),
            queue_limits: QueueLimits::default(),
            health: Health::Good,
        }
    }

    /// Adds a prompt; see [`add_request`](Engine::add_request).
    ///
    /// # Errors
    /// As [`add_request`](Engine::add_request), and a prompt that the model can't serve.
    pub fn add(&mut self, prompt: Vec<u32>, params: GenerateParams) -> Result<RequestId> {
        let prompt = Prompt::new(self.worker.config(), prompt)?;
        self.add_request(NewRequest::new(prompt, params))
    }

    /// Adds a request to the end of the queue. Steps tell what becomes of it, until an update says that it has finished.
    ///
    /// # Errors
    /// A request that can never be served, with the numbers, or sampling parameters out of range. [`Error::Refused`] if the queue is
    /// full, [`Error::Dead`] if the engine serves nobody any more.
    pub fn add_request(&mut self, new: NewRequest) -> Result<RequestId> {
        self.alive()?;
        self.check_queue(&new)?;
        let (id, longest) = (RequestId(self.next_id), self.worker.max_model_len());
        check_room(new.prompt.len(), longest)?;
        let (room, may_shorten) = (self.scheduler.kv.max_tokens(), new.may_shorten);
        let mut request = Request::new(id, new, self.worker.config().vocab_size)?;
        if may_shorten && request.prompt_len <= room {
            request.shorten(room);
        }
        let needed = request.most_tokens(longest);
        if needed > room {
            let prompt = request.prompt_len;
            return Err(Error::Request(format!(
                "the prompt has {prompt} tokens and the output up to {} more, and the KV cache holds {room}; give a smaller \
                 max_tokens, or more room (--kv-memory, --max-kv-tokens)",
                needed - prompt.min(needed) + 1,
            )));
        }
        if let Some(trace) = &mut self.trace {
            trace.arrived(id, request.prompt_len, request.arrival);
        }
        self.next_id += 1;
        self.scheduler.waiting.push_back(request);
        Ok(id)
    }

    // ANCHOR: step
    /// One forward pass over a part of every running request: the tokens that it gave, and who has finished. Nothing, if there is
    /// [nothing to do](Engine::has_work) or all of the pass was within prompts.
    ///
    /// A pass that fails is made once more, and if that fails, every request ends with the error.
    ///
    /// # Errors
    /// [`Error::Dead`] from then on, and a policy that lets nobody go on.
    pub fn step(&mut self) -> Result<Vec<Update>> {
        self.alive()?;
        let started = Instant::now();
        self.end_late(started);
        let chunks = self.scheduler.schedule(&mut self.batch);
        if chunks.is_empty() {
            return self.idle();
        }
        self.count(&chunks);
        let draws = self.draws(&chunks);
        let output = match self.worker.forward(&self.batch, &draws) {
            Ok(output) => output,
            Err(error) => return self.failed(error),
        };
        self.health = Health::Good;
        let sampled = self.sample(&chunks, output);
        if let Some(trace) = &mut self.trace {
            let parts: Vec<Part> = chunks.iter().map(Chunk::part).collect();
            trace.step(started, &parts, self.scheduler.waiting.len(), &*self.scheduler.kv);
        }
        self.update(&chunks, sampled);
        self.last_chunks = chunks;
        Ok(mem::take(&mut self.updates))
    }

    /// How the worker may draw a token for each chunk that wants one; none if some request wants its logits here.
    fn draws(&mut self, chunks: &[Chunk]) -> Vec<Draw> {
        let wanting = self.scheduler.running_of(chunks).filter(|(_, chunk)| chunk.logit_rows > 0);
        let draw = |(request, chunk): (&mut Request, &Chunk)| {
            let only_samples = chunk.samples && chunk.logit_rows == 1;
            only_samples.then(|| request.sampler.draw()).flatten()
        };
        wanting.map(draw).collect::<Option<_>>().unwrap_or_default()
    }

    /// A token for each chunk that wants one. Each request has a sampler of its own.
    fn sample(&mut self, chunks: &[Chunk], output: Output) -> Vec<Result<Option<Sampled>, SamplingError>> {
        let vocab = self.worker.config().vocab_size;
        let requests = self.scheduler.running_of(chunks);
        match output {
            Output::Tokens(tokens) => {
                self.stats.drawn_by_worker += tokens.len() as u64;
                let mut tokens = tokens.into_iter();
                let drawn = |(request, chunk): (&mut Request, &Chunk)| match chunk
                    .samples
                    .then(|| tokens.next())
                    .flatten()
                {
                    Some(token) => token.map(|token| Some(request.sampler.drawn(token))),
                    None => Ok(None),
                };
                requests.map(drawn).collect()
            }
            Output::Logits(mut logits) => {
                let mut rest = &mut logits[..];
                let mut rows = Vec::new();
                for (request, chunk) in requests {
                    let (its_own, after) = mem::take(&mut rest).split_at_mut(chunk.logit_rows * vocab);
                    rows.push((request, chunk, its_own));
                    rest = after;
                }
                let sample = |(request, chunk, rows): (&mut Request, &Chunk, &mut [f32])| {
                    request.read_prompt(chunk, rows, vocab)?;
                    let last = rows.chunks_exact_mut(vocab).last().filter(|_| chunk.samples);
                    let sample =
                        |row| SCRATCH.with_borrow_mut(|scratch| request.sampler.sample_with(row, scratch));
                    last.map(sample).transpose()
                };
                // A panic ends one request, and not those that share the step.
                let alone = |row| {
                    catch_unwind(AssertUnwindSafe(|| sample(row))).unwrap_or(Err(SamplingError::Panicked))
                };
                rows.into_par_iter().map(alone).collect()
            }
        }
    }

    /// Gives the tokens to their requests, and takes out those that have ended.
    fn update(&mut self, chunks: &[Chunk], sampled: Vec<Result<Option<Sampled>, SamplingError>>) {
        let mut ended = Vec::new();
        let (longest, remembers) = (self.worker.max_model_len(), self.worker.remembers());
        self.scheduler.computed(chunks);
        for ((request, chunk), sampled) in self.scheduler.running_of(chunks).zip(sampled) {
            // Where nothing is kept (step 1's attention), the next pass computes all of it again.
            request.computed += if remembers { chunk.positions.len() } else { 0 };
            match sampled {
                Ok(None) => {}
                Ok(Some(token)) => {
                    self.stats.output_tokens += 1;
                    let prompt_logprobs = request.take_prompt_logprobs();
                    ended.extend(request.push(&token, longest).map(|reason| (chunk.id, reason, None)));
                    self.updates.push(Update {
                        id: chunk.id,
                        token: Some(token),
                        prompt_logprobs,
                        finished: None,
                    });
                }
                Err(error) => ended.push((chunk.id, FinishReason::Error, Some(error.to_string()))),
            }
        }
        for (id, reason, error) in ended {
            self.end(id, reason, error);
        }
    }
    // ANCHOR_END: step

    /// Whether another step has something to do or to tell.
    pub fn has_work(&self) -> bool {
        let late = || self.scheduler.held.iter().any(|request| request.is_late(Instant::now()));
        !self.updates.is_empty() || self.scheduler.can_run() || late()
    }

    /// What the next step would tell, for a caller that makes no more steps.
    pub fn take_updates(&mut self) -> Vec<Update> {
        mem::take(&mut self.updates)
    }

    /// Ends a request at once, whatever it does; the next step tells. False if there is no such request (any more).
    pub fn abort(&mut self, id: RequestId) -> bool {
        self.end(id, FinishReason::Abort, None)
    }

    /// Steps until nothing is left to do: what has finished, in this order.
    ///
    /// # Errors
    /// Those of [`step`](Engine::step).
    pub fn run(&mut self) -> Result<Vec<Finished>> {
        let mut all = Vec::new();
        while self.has_work() {
            all.extend(self.step()?.into_iter().filter_map(|update| update.finished));
        }
        self.alive()?;
        Ok(all)
    }

    /// No chunk: there is no request, or none can go on.
    fn idle(&mut self) -> Result<Vec<Update>> {
        let (waiting, running) = self.queues();
        if self.updates.is_empty() && self.scheduler.can_run() {
            let policy = self.scheduler.policy.name();
            let message =
                format!("{waiting} requests wait, {running} run, and policy '{policy}' lets nobody go on");
            return Err(Error::Request(message));
        }
        Ok(mem::take(&mut self.updates))
    }

    pub(super) fn end(&mut self, id: RequestId, reason: FinishReason, error: Option<String>) -> bool {
        let Some(request) = self.scheduler.remove(id) else { return false };
        self.stats.prompt_tokens += request.prompt_len as u64;
        let finished = request.finish(reason, error, self.weight_version);
        self.stats.cached_tokens += finished.cached_tokens as u64;
        if let Some(trace) = &mut self.trace {
            trace.finished(id, finished.reason.name(), finished.output.len());
        }
        match self.updates.iter_mut().rfind(|update| update.id == id) {
            Some(update) => update.finished = Some(finished),
            None => self.updates.push(Update {
                id,
                token: None,
                prompt_logprobs: Vec::new(),
                finished: Some(finished),
            }),
        }
        true
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
        stats.running += chunks.len() as u64;
        stats.preemptions = self.scheduler.preemptions;
    }

    /// Records from now on what runs when.
    pub fn start_trace(&mut self) {
        let limits = self.limits();
        self.trace =
            Some(Trace::new(self.scheduler.policy.name(), limits.max_num_seqs, limits.max_batched_tokens));
    }

    /// What was recorded.
    pub fn take_trace(&mut self) -> Option<Trace> {
        let mut trace = self.trace.take()?;
        trace.end(&*self.scheduler.kv);
        Some(trace)
    }

    /// Counters since the start.
    pub fn stats(&self) -> EngineStats {
        self.stats
    }

    /// What a step may hold.
    pub fn limits(&self) -> Limits {
        self.scheduler.limits
    }

    /// Requests that wait and that run, the held ones included.
    pub fn queues(&self) -> (usize, usize) {
        (self.scheduler.waiting.len(), self.scheduler.running.len() + self.scheduler.held.len())
    }

    /// How full the KV cache is.
    pub fn kv_usage(&self) -> KvUsage {
        self.scheduler.kv.usage()
    }

    /// How often the weights were updated.
    pub fn weight_version(&self) -> u64 {
        self.weight_version
    }

    /// Requests that have sampled a token and not finished: each of them gets one more at the next step.
    pub fn decoding(&self) -> Vec<RequestId> {
        let running = self.scheduler.running.iter();
        running.filter(|request| request.phase() == Phase::Decode).map(|request| request.id).collect()
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
