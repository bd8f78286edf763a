//! One prompt on its way to one output.

use super::{RequestId, prompt_logprobs::PromptLogprobs};
use crate::{
    generate::{FinishReason, GenerateParams},
    runner::Prompt,
    sampling::{Sampled, Sampler, SamplingError},
    tokenizer::StopMatcher,
    trace::Phase,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A request as it arrives.
#[derive(Clone, Debug)]
pub struct NewRequest {
    pub prompt: Prompt,
    pub params: GenerateParams,
    /// Ends the request in the step that completes a stop string.
    pub stop: Option<StopMatcher>,
    /// With whom it shares K and V. (Step 4.)
    pub sharing: SharesWith,
    /// Log-probabilities of the prompt's tokens, and of so many of the most probable ones in each place.
    pub prompt_logprobs: Option<usize>,
    /// When it ends, finished or not.
    pub deadline: Option<Instant>,
    /// The length is a default that nobody asked for: where K and V have less room, less will do.
    pub may_shorten: bool,
}

impl NewRequest {
    /// A request that stops at no string, shares with everybody, and has all the time that it needs.
    pub fn new(prompt: Prompt, params: GenerateParams) -> NewRequest {
        let sharing = SharesWith::default();
        NewRequest {
            prompt,
            params,
            stop: None,
            sharing,
            prompt_logprobs: None,
            deadline: None,
            may_shorten: false,
        }
    }
}

/// What a step did for one request.
#[derive(Clone, Debug)]
pub struct Update {
    pub id: RequestId,
    /// The next token of its output, if one was sampled.
    pub token: Option<Sampled>,
    /// With the first token: what the model thought of the prompt's tokens from the second on, if that was asked for.
    pub prompt_logprobs: Vec<Sampled>,
    /// The end, if this was it: no update follows.
    pub finished: Option<Finished>,
}

/// A request that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    pub id: RequestId,
    /// Output tokens, the end-of-sequence token included.
    pub output: Vec<u32>,
    pub reason: FinishReason,
    /// What went wrong, if the reason is [`FinishReason::Error`], or if its deadline has passed.
    pub error: Option<String>,
    /// The seed that was used; `None` if greedy.
    pub seed: Option<u64>,
    pub times: Times,
    /// Tokens of the prompt that were there already when it was admitted first. (Step 4.)
    pub cached_tokens: usize,
    /// How often it had to give way to others. (Step 4.)
    pub preemptions: u32,
    /// How often the weights had been updated when it ended. (Step 4.)
    pub weight_version: u64,
}

/// With whom a request shares K and V, from step 4 on.
#[derive(Clone, Debug, Default)]
pub struct SharesWith {
    /// Only with requests that have the same salt: whoever can't guess it can't find out by the clock what others have asked.
    pub salt: Option<Arc<str>>,
    /// A request with the same prompt that was added before: this one is another sample of it.
    pub like: Option<RequestId>,
}

/// When things happened, counted from a request's arrival.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Admitted to run; the time before is queueing.
    pub admitted: Option<Duration>,
    /// The first token: *time to first token*, TTFT.
    pub first_token: Option<Duration>,
    /// The last token so far.
    pub last_token: Option<Duration>,
}

impl Times {
    /// Mean time from one output token to the next (*time per output token*, TPOT) of an output of n tokens.
    pub fn per_token(&self, n: usize) -> Option<Duration> {
        let between = self.last_token? - self.first_token?;
        (n > 1).then(|| between / (n - 1) as u32)
    }
}

/// A request and its state.
pub struct Request {
    pub id: RequestId,
    /// Prompt, then output.
    pub(super) tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub(super) prompt_len: usize,
    /// Tokens whose K and V are kept.
    pub(super) computed: usize,
    params: GenerateParams,
    pub(super) sampler: Sampler,
    pub(super) arrival: Instant,
    times: Times,
    stop: Option<StopMatcher>,
    pub(super) deadline: Option<Instant>,
    pub(super) prompt_logprobs: Option<PromptLogprobs>,
    /// For step 4, and the report at the end.
    pub sharing: SharesWith,
    pub(super) cached_tokens: usize,
    pub(super) preemptions: u32,
}

impl Request {
    /// A request that arrives now.
    ///
    /// # Errors
    /// Sampling parameters out of range.
    pub fn new(id: RequestId, new: NewRequest, vocab_size: usize) -> Result<Request, SamplingError> {
        let NewRequest { prompt, params, stop, sharing, prompt_logprobs, deadline, may_shorten: _ } = new;
        let sampler = Sampler::new(params.sampling.clone(), &prompt, vocab_size)?;
        Ok(Request {
            id,
            prompt_len: prompt.len(),
            tokens: prompt.into_ids(),
            computed: 0,
            params,
            sampler,
            arrival: Instant::now(),
            times: Times::default(),
            stop,
            deadline,
            prompt_logprobs: prompt_logprobs.map(|top| PromptLogprobs { top, ..PromptLogprobs::default() }),
            sharing,
            cached_tokens: 0,
            preemptions: 0,
        })
    }

    /// Tokens that are not computed yet: 1 while it decodes.
    pub fn left(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// The next `n` tokens to compute.
    pub fn next(&self, n: usize) -> &[u32] {
        &self.tokens[self.computed..self.computed + n]
    }

    /// The first `n` tokens.
    pub fn first(&self, n: usize) -> &[u32] {
        &self.tokens[..n]
    }

    /// What it computes next. Output that must be computed again is prefilled like a prompt.
    pub fn phase(&self) -> Phase {
        if self.left() == 1 && !self.output().is_empty() { Phase::Decode } else { Phase::Prefill }
    }

    /// Whether its deadline has passed.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Whether it has run.
    pub fn started(&self) -> bool {
        self.times.admitted.is_some()
    }

    /// The tokens that it will have at most, but for the last, which is sampled and not run. `longest` is the longest sequence that
    /// the model can compute.
    pub fn most_tokens(&self, longest: usize) -> usize {
        self.prompt_len.saturating_add(self.params.max_tokens).saturating_sub(1).min(longest)
    }

    /// Output so far.
    pub fn output(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// Shortens its output, so that it has at most `tokens` tokens when the last is sampled.
    pub(super) fn shorten(&mut self, tokens: usize) {
        self.params.max_tokens = self.params.max_tokens.min((tokens + 1).saturating_sub(self.prompt_len));
    }

    /// It starts to run.
    pub(super) fn admit(&mut self) {
        self.times.admitted.get_or_insert(self.arrival.elapsed());
    }

    // ANCHOR: push
    /// Takes a sampled token; the reason if it was the last one. `longest` is the longest sequence that can be computed.
    pub(super) fn push(&mut self, sampled: &Sampled, longest: usize) -> Option<FinishReason> {
        let now = self.arrival.elapsed();
        self.times.first_token.get_or_insert(now);
        self.times.last_token = Some(now);
        self.tokens.push(sampled.token);
        let may_stop = self.output().len() > self.params.sampling.min_tokens;
        let stopped = self.stop.as_mut().is_some_and(|stop| stop.push(sampled.token, may_stop));
        if stopped || self.params.eos_token_id.contains(&sampled.token) {
            return Some(FinishReason::Stop);
        }
        let full = self.output().len() >= self.params.max_tokens || self.tokens.len() > longest;
        full.then_some(FinishReason::Length)
    }
    // ANCHOR_END: push

    /// It has ended.
    pub(super) fn finish(
        mut self,
        reason: FinishReason,
        error: Option<String>,
        weight_version: u64,
    ) -> Finished {
        let Request { id, times, cached_tokens, preemptions, .. } = self;
        let (seed, output) = (self.sampler.seed(), self.tokens.split_off(self.prompt_len));
        Finished { id, output, reason, error, seed, times, cached_tokens, preemptions, weight_version }
    }
}
