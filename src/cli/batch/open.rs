//! The requests of `stairwell batch` that are under way: the text of each sample, and the result once all samples have finished.

use super::{
    super::{
        engine_args::LocalEngine,
        text::{Text, TokenLogprobs},
    },
    request::BatchRequest,
};
use serde::Serialize;
use serde_json::value::RawValue;
use stairwell::{
    engine::{Finished, NewRequest, RequestId, SharesWith, Update},
    error::Result,
    generate::FinishReason,
    request::Checkpoint,
    runner::Prompt,
    sampling::Sampled,
};
use std::{collections::HashMap, iter, mem, time::Duration};

/// Requests that were added and have not all finished.
#[derive(Default)]
pub struct OpenRequests {
    requests: Vec<Open>,
    /// For each of the engine's requests, where its request is in `requests`, and which sample it is.
    samples: HashMap<RequestId, (usize, usize)>,
}

/// A request whose samples are under way.
struct Open {
    id: Box<RawValue>,
    custom_id: Option<Box<RawValue>>,
    prompt: Prompt,
    /// The prompt alone is wanted: no token after it.
    only_prompt: bool,
    /// Log-probabilities begin with those of the prompt.
    prompt_logprobs: bool,
    has_text: bool,
    texts: Vec<Text>,
    /// The samples that have finished.
    finished: Vec<Option<Sample>>,
}

impl OpenRequests {
    /// Adds the n samples of a request.
    ///
    /// # Errors
    /// A request that the engine refuses: then none of its samples runs.
    pub fn add(
        &mut self,
        engine: &mut LocalEngine,
        checkpoint: &Checkpoint,
        BatchRequest { id, custom_id, request, .. }: &BatchRequest,
    ) -> Result<()> {
        let mut added = Vec::new();
        let prompt_logprobs = request.params.sampling.logprobs.filter(|_| request.echo.is_some());
        for index in 0..request.n {
            // The samples after the first share its prompt.
            let sharing =
                SharesWith { salt: request.salt.as_deref().map(Into::into), like: added.first().copied() };
            let mut params = request.params.sample(index);
            // A pass over a prompt gives a token, wanted or not.
            params.max_tokens = params.max_tokens.max(1);
            let new = NewRequest {
                stop: checkpoint.stop_matcher(request),
                sharing,
                prompt_logprobs,
                may_shorten: request.may_shorten,
                ..NewRequest::new(request.prompt.clone(), params)
            };
            match engine.add_request(new) {
                Ok(id) => added.push(id),
                Err(error) => {
                    added.iter().for_each(|id| _ = engine.abort(*id));
                    return Err(error);
                }
            }
        }
        let tokenizer = checkpoint.tokenizer().ok();
        let text = || {
            let mut text = Text::new(tokenizer.cloned(), request.text_after(), &request.stop);
            text.text.extend(request.echo.as_deref());
            text
        };
        self.samples.extend(added.iter().enumerate().map(|(n, id)| (*id, (self.requests.len(), n))));
        self.requests.push(Open {
            id: id.clone(),
            custom_id: custom_id.clone(),
            prompt: request.prompt.clone(),
            only_prompt: request.params.max_tokens == 0,
            prompt_logprobs: prompt_logprobs.is_some(),
            has_text: tokenizer.is_some(),
            texts: (0..request.n).map(|_| text()).collect(),
            finished: (0..request.n).map(|_| None).collect(),
        });
        Ok(())
    }

    /// Takes what a step did for a sample; the result of its request, if that was the last of its samples to finish.
    pub fn take(&mut self, update: Update) -> Option<BatchResult> {
        let (at, sample) = *self.samples.get(&update.id)?;
        let open = &mut self.requests[at];
        let text = &mut open.texts[sample];
        if open.prompt_logprobs && update.token.is_some() && text.logprobs.is_empty() {
            // Nothing stands before the first token, so it has no probability.
            let first = Sampled { token: open.prompt[0], logprob: None, top_logprobs: Vec::new() };
            let prompt = iter::once(&first).chain(&update.prompt_logprobs);
            let entries: Vec<_> = prompt.map(|sampled| text.logprob_entry(sampled)).collect();
            text.logprobs.extend(entries);
        }
        if let Some(token) = update.token.filter(|_| !open.only_prompt) {
            text.push(&token);
        }
        let mut finished = update.finished?;
        self.samples.remove(&update.id);
        if open.only_prompt && finished.error.is_none() {
            (finished.output, finished.reason) = (Vec::new(), FinishReason::Length);
        }
        text.finish();
        open.finished[sample] = Some(Sample::new(finished, text, open.has_text));
        if open.finished.iter().any(Option::is_none) {
            return None;
        }
        let samples = open.finished.drain(..).flatten().collect();
        Some(BatchResult::new(open, samples))
    }
}

/// The line of a request: the first sample's fields, and all samples where there are several.
#[derive(Serialize)]
pub struct BatchResult {
    id: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_id: Option<Box<RawValue>>,
    #[serde(flatten)]
    first: Sample,
    usage: Usage,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    choices: Vec<Sample>,
}

/// One sample's part of a result. Times are in seconds.
#[derive(Clone, Serialize)]
struct Sample {
    text: Option<String>,
    output_ids: Vec<u32>,
    finish_reason: &'static str,
    seed: Option<u64>,
    queued: Option<f64>,
    ttft: Option<f64>,
    tpot: Option<f64>,
    cached_tokens: usize,
    preemptions: u32,
    weight_version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<TokenLogprobs>,
    /// Among several.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl Sample {
    fn new(finished: Finished, text: &mut Text, has_text: bool) -> Sample {
        let seconds = |d: Option<Duration>| d.map(|d| d.as_secs_f64());
        Sample {
            text: has_text.then(|| mem::take(&mut text.text)),
            finish_reason: finished.reason.name(),
            seed: finished.seed,
            queued: seconds(finished.times.admitted),
            ttft: seconds(finished.times.first_token),
            tpot: seconds(finished.times.per_token(finished.output.len())),
            cached_tokens: finished.cached_tokens,
            preemptions: finished.preemptions,
            weight_version: finished.weight_version,
            error: finished.error,
            logprobs: mem::take(&mut text.logprobs),
            output_ids: finished.output,
            index: None,
        }
    }
}

impl BatchResult {
    fn new(open: &mut Open, mut samples: Vec<Sample>) -> BatchResult {
        let (id, custom_id, prompt_tokens) = (open.id.clone(), open.custom_id.take(), open.prompt.len());
        let completion_tokens = samples.iter().map(|sample| sample.output_ids.len()).sum();
        let usage =
            Usage { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens };
        let first = samples[0].clone();
        samples.iter_mut().enumerate().for_each(|(index, sample)| sample.index = Some(index));
        let choices = if samples.len() > 1 { samples } else { Vec::new() };
        BatchResult { id, custom_id, first, usage, choices }
    }

    /// Whether a sample ended with an error.
    pub fn failed(&self) -> bool {
        let is_error = |sample: &Sample| sample.finish_reason == FinishReason::Error.name();
        is_error(&self.first) || self.choices.iter().any(is_error)
    }
}
