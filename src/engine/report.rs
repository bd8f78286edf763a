//! What a worker is and has done, for stats.

use crate::runner::RunnerReport;
use derive_more::{Add, Sub};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What a rank has said so far: calls, and bytes of its own that it gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Add, Sub, Serialize, Deserialize)]
pub struct Traffic {
    pub all_reduces: u64,
    pub all_reduce_bytes: u64,
    pub all_gathers: u64,
    pub all_gather_bytes: u64,
    pub broadcasts: u64,
    pub sends: u64,
    pub send_bytes: u64,
}

impl Traffic {
    /// A sum of so many bytes.
    pub fn all_reduce(bytes: usize) -> Traffic {
        Traffic { all_reduces: 1, all_reduce_bytes: bytes as u64, ..Traffic::default() }
    }

    /// A gather to which the rank gave so many bytes.
    pub fn all_gather(bytes: usize) -> Traffic {
        Traffic { all_gathers: 1, all_gather_bytes: bytes as u64, ..Traffic::default() }
    }

    /// A message of so many bytes.
    pub fn send(bytes: usize) -> Traffic {
        Traffic { sends: 1, send_bytes: bytes as u64, ..Traffic::default() }
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
    pub layers: Range<usize>,
    /// Bytes of weights that it holds, and those of them that are in memory of its own.
    pub weight_bytes: u64,
    pub weight_bytes_copied: u64,
    /// Bytes that it has reserved for K and V.
    pub kv_reserved_bytes: u64,
    /// Time in its parts of passes, without waiting for other stages.
    pub busy_seconds: f64,
    pub traffic: Traffic,
    /// By what means its stage takes sums.
    pub sums: String,
}

/// What all ranks hold and have done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RanksReport {
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
    #[serde(rename = "pipeline_bubble")]
    pub bubble: f64,
    #[serde(rename = "pipeline_bubble_formula")]
    pub bubble_formula: f64,
    #[serde(skip)]
    pub ranks: Vec<RankReport>,
}

/// What a worker is and has done.
#[derive(Clone, Debug)]
pub struct WorkerReport {
    /// Of its own runner.
    pub runner: RunnerReport,
    /// Of all ranks, where there are several. (Step 7.)
    pub ranks: Option<RanksReport>,
}
