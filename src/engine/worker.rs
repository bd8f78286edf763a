//! What carries a batch out.

use super::WorkerReport;
use crate::{
    backend::Backend,
    batch::Batch,
    config::ModelConfig,
    error::{Error, Result},
    machine::Machine,
    model::KvMemory,
    runner::ModelRunner,
    sampling::{Draw, SamplingError},
    tensor::HostTensor,
};

// So that an engine can hold any worker, a box of one is a worker too.
#[auto_impl::auto_impl(Box)]
// ANCHOR: worker
/// Runs batches. `LocalWorker` (step 3) has a whole model in this process; `Leader` (7) leads the ranks that hold parts of one.
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
    /// Whether K and V of earlier forward passes are kept. If not, every pass computes a sequence from its first token.
    fn remembers(&self) -> bool {
        true
    }
    /// What it is and has done.
    ///
    /// # Errors
    /// If a rank is gone.
    fn report(&mut self) -> Result<WorkerReport>;
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

impl Output {
    /// The tokens of a pass's logits, where they can be drawn where the logits are; else the logits.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn of<B: Backend>(
        runner: &ModelRunner<B>,
        logits: &B::Tensor,
        batch: &Batch,
        draws: &[Draw],
    ) -> Result<Output> {
        let rows = batch.logit_rows.len();
        if draws.len() == rows
            && let Some(tokens) = runner.backend.draw(logits, draws)?
        {
            return Ok(Output::Tokens(tokens));
        }
        let mut logits = runner.backend.download(logits)?;
        logits.truncate(rows * runner.config.vocab_size);
        Ok(Output::Logits(logits))
    }
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

impl<B: Machine> Worker for LocalWorker<B> {
    fn forward(&mut self, batch: &Batch, draws: &[Draw]) -> Result<Output> {
        let logits = self.runner.forward(batch, None)?;
        Output::of(&self.runner, &logits, batch, draws)
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

    fn remembers(&self) -> bool {
        self.runner.attention.remembers()
    }

    fn report(&mut self) -> Result<WorkerReport> {
        Ok(WorkerReport { runner: self.runner.report(), ranks: None })
    }

    fn update_weights(&mut self, tensors: &mut dyn Iterator<Item = (String, HostTensor)>) -> Result<()> {
        self.runner.update_weights(tensors)
    }
}
