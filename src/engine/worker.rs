//! What carries a batch out.

use crate::{
    backend::Backend,
    batch::Batch,
    config::ModelConfig,
    error::{Error, Result},
    model::KvMemory,
    runner::ModelRunner,
    sampling::{Draw, SamplingError},
    tensor::HostTensor,
};

// ANCHOR: worker
/// Runs batches. `LocalWorker` (step 3) has a runner in this process, which may lead those of other ranks (7).
pub trait Worker: Send {
    /// One forward pass: the logits of the batch's logit rows, or their tokens, if there is a draw for each row and the worker draws
    /// where the logits are.
    ///
    /// # Errors
    /// Those of the backend and of attention.
    fn forward(&mut self, batch: &Batch, draws: &[Draw]) -> Result<Output>;
    /// The model's configuration.
    fn config(&self) -> &ModelConfig;
    /// The longest sequence in tokens.
    fn max_model_len(&self) -> usize;
    /// What is reserved for K and V.
    fn memory(&self) -> KvMemory;
    /// Whether the model can serve a prompt.
    ///
    /// # Errors
    /// [`Error::Request`] if it can't, with the numbers.
    fn check_prompt(&self, prompt: &[u32]) -> Result<()>;
    /// Replaces weights by their names in the checkpoint.
    ///
    /// # Errors
    /// If a name, shape or dtype does not fit; the weights are as they were then.
    fn update_weights(&mut self, tensors: &mut dyn Iterator<Item = (String, HostTensor)>) -> Result<()>;
}
// ANCHOR_END: worker

/// What a forward pass gives.
pub enum Output {
    /// [rows, vocabulary], row-major.
    Logits(Vec<f32>),
    /// `[rows]`, or why a row has none.
    Tokens(Vec<Result<u32, SamplingError>>),
}

/// One model in this process.
pub struct LocalWorker<B: Backend> {
    pub runner: ModelRunner<B>,
}

impl<B: Backend> LocalWorker<B> {
    /// A worker with a loaded model.
    ///
    /// # Errors
    /// If the runner's attention keeps no K and V: sequences of several steps need it.
    pub fn new(runner: ModelRunner<B>) -> Result<LocalWorker<B>> {
        if !runner.attention.remembers() {
            let name = runner.attention.name();
            let message =
                format!("attention '{name}' keeps no K and V, and batching needs them; choose another one");
            return Err(Error::Usage(message));
        }
        Ok(LocalWorker { runner })
    }
}

impl<B: Backend> Worker for LocalWorker<B> {
    fn forward(&mut self, batch: &Batch, draws: &[Draw]) -> Result<Output> {
        let (logits, rows) = (self.runner.forward(batch, None)?, batch.logit_rows.len());
        if draws.len() == rows
            && let Some(tokens) = self.runner.backend.draw(&logits, draws)?
        {
            return Ok(Output::Tokens(tokens));
        }
        let mut logits = self.runner.backend.download(&logits)?;
        logits.truncate(rows * self.runner.config.vocab_size);
        Ok(Output::Logits(logits))
    }

    fn config(&self) -> &ModelConfig {
        &self.runner.config
    }

    fn max_model_len(&self) -> usize {
        self.runner.max_model_len()
    }

    fn memory(&self) -> KvMemory {
        self.runner.attention.memory()
    }

    fn check_prompt(&self, prompt: &[u32]) -> Result<()> {
        self.runner.check_prompt(prompt)
    }

    fn update_weights(&mut self, tensors: &mut dyn Iterator<Item = (String, HostTensor)>) -> Result<()> {
        self.runner.update_weights(tensors)
    }
}
