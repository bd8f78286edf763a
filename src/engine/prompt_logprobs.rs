//! What the model thought of a prompt's own tokens: a row of logits for each token of the prompt but the last.
//!
//! Such a request reads no cached prefix, since what is cached has K and V and no logits; and its batch takes a row of logits a token, so
//! `max_batched_tokens · vocab_size · 4` bytes at most.

use super::{Chunk, Request};
use crate::sampling::{Sampled, SamplingError, believed};

/// The log-probabilities that a request wants of its prompt, as far as they are computed.
#[derive(Debug, Default)]
pub(super) struct PromptLogprobs {
    /// The most probable tokens to report for each.
    pub top: usize,
    /// Of the prompt's tokens from the second on.
    pub done: Vec<Sampled>,
}

impl Request {
    /// Rows of logits that a chunk needs of this request: the last one if it samples, all if they tell of the prompt.
    pub(super) fn rows_of(&self, start: usize, tokens: usize, samples: bool) -> usize {
        match &self.prompt_logprobs {
            Some(_) if start + 1 < self.prompt_len => tokens,
            _ => usize::from(samples),
        }
    }

    /// Those of the prompt, when its first token is sampled: they are complete then.
    pub(super) fn take_prompt_logprobs(&mut self) -> Vec<Sampled> {
        self.prompt_logprobs.take().map_or_else(Vec::new, |wanted| wanted.done)
    }

    /// Takes the raw logits of a chunk, \[rows, vocab\]. Rows that a preempted request has computed before are skipped.
    ///
    /// # Errors
    /// Logits that no probability can be had from.
    pub(super) fn read_prompt(
        &mut self,
        chunk: &Chunk,
        rows: &[f32],
        vocab: usize,
    ) -> Result<(), SamplingError> {
        let Some(PromptLogprobs { top, done }) = &mut self.prompt_logprobs else { return Ok(()) };
        for (position, row) in chunk.positions.clone().zip(rows.chunks_exact(vocab)) {
            if position == done.len() && position + 1 < self.prompt_len {
                done.push(believed(row, self.tokens[position + 1], *top)?);
            }
        }
        Ok(())
    }
}
