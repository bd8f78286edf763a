//! The requests of `stairwell batch` that are under way: the text of each sample, and the result once all samples have finished.

use super::{batch_request::BatchRequest, engine_args::LocalEngine, text::Text};
use serde_json::{Value, json};
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
    finished: Vec<Option<Value>>,
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
                prompt: request.prompt.clone(),
                params: request.params.sample(index),
                stop: checkpoint.stop_matcher(request),
                sharing,
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
            finished: vec![None; request.n],
        });
        Ok(())
    }

    /// Takes what a step did for a sample; the result of its request, if that was the last of its samples to finish.
    pub fn take(&mut self, update: Update) -> Option<Value> {
        let (at, sample) = *self.samples.get(&update.id)?;
        let open = &mut self.requests[at];
        if let Some(token) = &update.token {
            open.texts[sample].push(token);
        }
        let finished = update.finished?;
        self.samples.remove(&update.id);
        open.texts[sample].finish();
        open.finished[sample] = Some(sample_of(&finished, &mut open.texts[sample], open.has_text));
        let samples = open.finished.iter().cloned().collect::<Option<Vec<Value>>>()?;
        open.finished = Vec::new();
        Some(result(open, samples))
    }
}

/// One sample's part of a result.
fn sample_of(finished: &Finished, text: &mut Text, has_text: bool) -> Value {
    let seconds = |d: Option<Duration>| d.map(|d| d.as_secs_f64());
    let mut object = json!({
        "text": has_text.then(|| mem::take(&mut text.text)),
        "output_ids": finished.output,
        "finish_reason": finished.reason.name(),
        "seed": finished.seed,
        "queued": seconds(finished.times.admitted),
        "ttft": seconds(finished.times.first_token),
        "tpot": seconds(finished.times.per_token(finished.output.len())),
        "cached_tokens": finished.cached_tokens,
        "preemptions": finished.preemptions,
        "weight_version": finished.weight_version,
    });
    if let Some(error) = &finished.error {
        object["error"] = error.clone().into();
    }
    if !text.logprobs.is_empty() {
        object["logprobs"] = mem::take(&mut text.logprobs).into();
    }
    object
}

/// The line of a request: the first sample's fields, and all samples where there are several.
fn result(open: &Open, mut samples: Vec<Value>) -> Value {
    let tokens: usize = samples.iter().map(|s| s["output_ids"].as_array().map_or(0, Vec::len)).sum();
    let usage = json!({
        "prompt_tokens": open.prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": open.prompt_tokens + tokens,
    });
    let mut result = json!({"id": open.id});
    if let (Value::Object(result), Value::Object(first)) = (&mut result, samples[0].clone()) {
        result.extend(first);
        result.insert("usage".into(), usage);
    }
    if samples.len() > 1 {
        samples.iter_mut().enumerate().for_each(|(index, sample)| sample["index"] = index.into());
        result["choices"] = samples.into();
    }
    result
}
