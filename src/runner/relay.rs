//! What a runner that holds a part of a model needs from the others: nothing until step 7.

use super::ModelRunner;
use crate::{
    backend::Backend,
    batch::Batch,
    error::Result,
    model::{Rank, Stage},
    tensor::HostTensor,
};
use serde::{Deserialize, Serialize};

/// Carries what is asked of one rank's runner through all ranks that hold parts of the model.
#[allow(clippy::missing_errors_doc)]
pub trait Relay<B: Backend>: Send {
    /// A pass of all ranks, this one's part included: the logits, as [`ModelRunner::forward`] gives them.
    fn forward(&mut self, runner: &mut ModelRunner<B>, batch: &Batch) -> Result<B::Tensor>;

    /// Replaces parameters in all ranks.
    fn update_weights(
        &mut self,
        runner: &mut ModelRunner<B>,
        tensors: Vec<(String, HostTensor)>,
    ) -> Result<()>;

    /// What each rank holds and has done.
    fn report(&mut self, runner: &ModelRunner<B>) -> Result<RelayReport>;
}

/// What a rank has said so far: calls, and bytes of its own that it gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub all_reduces: u64,
    pub all_reduce_bytes: u64,
    pub all_gathers: u64,
    pub all_gather_bytes: u64,
    pub broadcasts: u64,
    pub sends: u64,
    pub send_bytes: u64,
}

impl std::ops::Add for Traffic {
    type Output = Traffic;
    fn add(self, other: Traffic) -> Traffic {
        Traffic {
            all_reduces: self.all_reduces + other.all_reduces,
            all_reduce_bytes: self.all_reduce_bytes + other.all_reduce_bytes,
            all_gathers: self.all_gathers + other.all_gathers,
            all_gather_bytes: self.all_gather_bytes + other.all_gather_bytes,
            broadcasts: self.broadcasts + other.broadcasts,
            sends: self.sends + other.sends,
            send_bytes: self.send_bytes + other.send_bytes,
        }
    }
}

/// What a rank holds and has done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankReport {
    /// Its number among all.
    pub rank: usize,
    /// Its place in its stage.
    pub slice: usize,
    /// The layers of its stage.
    pub layers: std::ops::Range<usize>,
    /// Bytes of weights that it holds, and those of them that are in memory of its own.
    pub weight_bytes: u64,
    pub weight_bytes_copied: u64,
    /// Bytes that it has reserved for K and V.
    pub kv_reserved_bytes: u64,
    /// Time in its parts of passes, without waiting for other stages.
    pub busy_seconds: f64,
    pub traffic: Traffic,
}

/// What all ranks hold and have done.
#[derive(Clone, Debug, PartialEq)]
pub struct RelayReport {
    /// By what means they speak.
    pub comm: &'static str,
    /// Ranks of each stage, and stages.
    pub tensor_parallel: usize,
    pub pipeline_parallel: usize,
    /// Micro-batches that passes were cut into, over all passes.
    pub micro_batches: u64,
    pub passes: u64,
    /// The part of the passes' time in which a stage waited for another one, as a mean over the stages; and what it would be with equal stages:
    /// (stages − 1) / (micro-batches + stages − 1).
    pub bubble: f64,
    pub bubble_formula: f64,
    pub ranks: Vec<RankReport>,
}

impl RankReport {
    /// Of a runner.
    pub fn of<B: Backend>(
        rank: usize,
        place: Rank,
        stage: &Stage,
        runner: &ModelRunner<B>,
        busy_seconds: f64,
        traffic: Traffic,
    ) -> RankReport {
        RankReport {
            rank,
            slice: place.rank,
            layers: stage.layers.clone(),
            weight_bytes: runner.weights.held,
            weight_bytes_copied: runner.weights.copied,
            kv_reserved_bytes: runner.attention.memory().reserved_bytes,
            busy_seconds,
            traffic,
        }
    }
}
