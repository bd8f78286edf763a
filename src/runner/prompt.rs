//! Token ids that a model can serve, checked once.

use crate::error::{Error, Result};
use crate::{config::ModelConfig, words::field};
use std::ops::Deref;

/// Token ids of a prompt that was checked against a model's configuration: not empty, every id known, no longer than the context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt(Vec<u32>);

impl Prompt {
    /// Checks the ids; see [`check_prompt`].
    ///
    /// # Errors
    /// As [`check_prompt`].
    pub fn new(config: &ModelConfig, ids: Vec<u32>) -> Result<Prompt> {
        check_prompt(config, &ids)?;
        Ok(Prompt(ids))
    }

    /// The ids.
    pub fn into_ids(self) -> Vec<u32> {
        self.0
    }
}

impl Deref for Prompt {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        &self.0
    }
}

/// Whether a model can serve this prompt.
///
/// # Errors
/// [`Error::Request`] for a prompt that is empty, longer than the context, or has an unknown token.
pub fn check_prompt(config: &ModelConfig, prompt: &[u32]) -> Result<()> {
    let (n, context, vocab) = (prompt.len(), config.context(), config.vocab_size);
    if n == 0 {
        return Err(Error::Request("the prompt is empty; give at least one token".into()));
    }
    if let Some(at) = prompt.iter().position(|&id| id as usize >= vocab) {
        let (id, number) = (prompt[at], at + 1);
        let message = format!(
            "token id {id} (number {number} of the prompt) is outside the model's vocabulary of {vocab}"
        );
        return Err(Error::Request(message));
    }
    if n > context {
        let message =
            format!("the prompt has {n} tokens, more than the model's context of {context}; shorten it");
        return Err(Error::Request(message));
    }
    Ok(())
}

/// Whether a run that has room for `longest` tokens can serve a prompt of `n` tokens.
///
/// # Errors
/// [`Error::Limit`] with both numbers.
pub fn check_room(n: usize, longest: usize) -> Result<()> {
    if n <= longest {
        return Ok(());
    }
    let room = format!("the prompt has {n} tokens, and this run has room for {longest}; give a larger ");
    Err(Error::Limit((room + &field("max_model_len")).into()))
}
