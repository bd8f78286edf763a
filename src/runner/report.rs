//! What a runner is and has done, for stats.

use super::{ModelRunner, Weights};
use crate::machine::{Machine, MachineReport};
use crate::model::KvMemory;

/// A runner's own part: on several ranks, that of rank 0.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RunnerReport {
    #[serde(flatten)]
    pub machine: MachineReport,
    pub attention: &'static str,
    /// The kernels that attend, on a device that has several: to prompts too, if they have one of their own.
    pub attention_kernel: Option<&'static str>,
    pub prefill_kernel: Option<&'static str>,
    /// What is reserved for K and V.
    #[serde(flatten)]
    pub memory: KvMemory,
    /// Told of each rank, and so not here.
    #[serde(skip)]
    pub weights: Weights,
    /// The longest sequence in tokens.
    pub max_model_len: usize,
    /// Tokens that went through the model.
    pub tokens_computed: u64,
}

impl<B: Machine> ModelRunner<B> {
    /// What it is and has done so far.
    pub fn report(&self) -> RunnerReport {
        RunnerReport {
            machine: self.backend.report(),
            attention: self.attention.name(),
            attention_kernel: self.attention.kernel(),
            prefill_kernel: self.attention.prefill_kernel(),
            memory: self.attention.memory(),
            weights: self.weights,
            max_model_len: self.max_model_len(),
            tokens_computed: self.tokens_computed(),
        }
    }
}
