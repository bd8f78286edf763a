//! The loop from a prompt to tokens: forward, sample, append.

use crate::sampling::{Sampled, Sampler, SamplingParams};
use crate::{backend::Backend, batch::Batch, error::Result, runner::ModelRunner};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// What to generate.
#[derive(Clone, Debug, Default)]
pub struct GenerateParams {
    /// The longest output in tokens.
    pub max_tokens: usize,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Tokens that end the output; empty to go on (`--ignore-eos`).
    pub eos_token_id: Vec<u32>,
}

impl GenerateParams {
    /// The parameters of sample `index` of a request for several: each has a seed of its own, counted up from the given one.
    pub fn sample(&self, index: usize) -> GenerateParams {
        let mut params = self.clone();
        params.sampling.seed = self.sampling.seed.map(|seed| seed.wrapping_add(index as u64));
        params
    }
}

/// Why an output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum FinishReason {
    /// An end-of-sequence token, or the caller broke off (a stop string).
    Stop,
    /// `max_tokens`, or the context or the cache is full.
    Length,
    /// The caller took it back.
    Abort,
    /// It could not go on, and says why.
    Error,
}

impl FinishReason {
    /// As OpenAI's API and vLLM call it.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// What was generated.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Output tokens, the end-of-sequence token included.
    pub ids: Vec<u32>,
    pub finish_reason: FinishReason,
    /// The seed that was used; the same one gives the same tokens. `None` if greedy.
    pub seed: Option<u64>,
    /// From the start to the first token.
    pub time_to_first_token: Duration,
    /// From the start to the last token.
    pub total_time: Duration,
}

// ANCHOR: generate
/// Generates up to `max_tokens` tokens after the prompt. `on_token` sees each one as it comes and may break off.
///
/// With an attention that remembers nothing (step 1), every token costs a pass over the whole sequence. With one that does (step
/// 2), the prompt is one pass, and every token after it a pass over one token.
///
/// # Errors
/// A prompt that the model can't serve, parameters out of range, or an error of the backend.
pub fn generate<B: Backend>(
    runner: &mut ModelRunner<B>,
    prompt: &[u32],
    params: &GenerateParams,
    on_token: &mut dyn FnMut(&Sampled) -> ControlFlow<()>,
) -> Result<Generated> {
    runner.check_prompt(prompt)?;
    let mut sampler = Sampler::new(params.sampling.clone(), prompt, runner.config.vocab_size)?;
    let (start, longest) = (Instant::now(), runner.max_model_len());
    let (mut sequence, mut computed) = (prompt.to_vec(), 0);
    // It has the cache to itself: slot 0 of it, or the blocks 0, 1, 2, …
    let table: Vec<u32> = (0..longest.min(prompt.len() + params.max_tokens) as u32).collect();
    let mut time_to_first_token = None;
    let mut finish_reason = FinishReason::Length;

    while sequence.len() < prompt.len() + params.max_tokens && sequence.len() <= longest {
        // ANCHOR: feed
        let mut batch = Batch::default();
        batch.push(&sequence[computed..], computed, &table[..sequence.len()]);
        let logits = runner.forward(&batch, None)?;
        if runner.attention.remembers() {
            computed = sequence.len();
        }
        // ANCHOR_END: feed
        let sampled = runner.sample(&logits, &mut sampler)?;
        sequence.push(sampled.token);
        time_to_first_token.get_or_insert_with(|| start.elapsed());

        let ended = params.eos_token_id.contains(&sampled.token);
        if on_token(&sampled).is_break() || ended {
            finish_reason = FinishReason::Stop;
            break;
        }
    }
    Ok(Generated {
        ids: sequence.split_off(prompt.len()),
        finish_reason,
        seed: sampler.seed(),
        time_to_first_token: time_to_first_token.unwrap_or_default(),
        total_time: start.elapsed(),
    })
}
// ANCHOR_END: generate
