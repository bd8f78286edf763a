//! The requests of `stairwell batch` that are under way: the text of each sample, and the result once all samples have finished.

use super::{
    super::{
        engine_args::LocalEngine,
        text::{Text, TokenLogprobs},
    },
    request::BatchRequest,
};
use serde::Serialize;
use serde_json::Value;
use stairwell::{
    engine::{Finished, NewRequest, RequestId, SharesWith, Update},
    error::Result,
    request::Checkpoint,
};
use std::{collections::HashMap, mem, time::Duration};

/// Requests that were added and have not all finished.
#[derive(Default)]
pub struct OpenRequests {
    requests: Vec<Open>,
    /// For each of the engine's requests, where its request is in `requests`, and which sample it is.
    samples: HashMap<RequestId, (usize, usize)>,
}

/// A request whose samples are under way.
struct Open {
    id: Value,
    prompt_tokens: usize,
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
        BatchRequest { id, request, .. }: &BatchRequest,
    ) -> Result<()> {
        let mut added = Vec::new();
        for index in 0..request.n {
            // The samples after the first share its prompt.
            let sharing =
                SharesWith { salt: request.salt.as_deref().map(Into::into), like: added.first().copied() };
            let new = NewRequest {
                stop: checkpoint.stop_matcher(request),
                sharing,
                ..NewRequest::new(request.prompt.clone(), request.params.sample(index))
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
        let text = || Text::new(tokenizer.cloned(), request.text_after(), &request.stop);
        self.samples.extend(added.iter().enumerate().map(|(n, id)| (*id, (self.requests.len(), n))));
        self.requests.push(Open {
            id: id.clone(),
            prompt_tokens: request.prompt.len(),
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
        if let Some(token) = &update.token {
            open.texts[sample].push(token);
        }
        let finished = update.finished?;
        self.samples.remove(&update.id);
        let text = &mut open.texts[sample];
        text.finish();
        open.finished[sample] = Some(Sample::new(finished, text, open.has_text));
        if open.finished.iter().any(Option::is_none) {
            return None;
        }
        let samples = open.finished.drain(..).flatten().collect();
        Some(BatchResult::new(open.id.take(), open.prompt_tokens, samples))
    }
}

/// The line of a request: the first sample's fields, and all samples where there are several.
#[derive(Serialize)]
pub struct BatchResult {
    id: Value,
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
    fn new(id: Value, prompt_tokens: usize, mut samples: Vec<Sample>) -> BatchResult {
        let completion_tokens = samples.iter().map(|sample| sample.output_ids.len()).sum();
        let usage =
            Usage { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens };
        let first = samples[0].clone();
        samples.iter_mut().enumerate().for_each(|(index, sample)| sample.index = Some(index));
        let choices = if samples.len() > 1 { samples } else { Vec::new() };
        BatchResult { id, first, usage, choices }
    }
}
