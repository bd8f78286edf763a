//! The figures of an engine, its blocks and its ranks.

use serde::Serialize;
use stairwell::engine::{BlockCounts, EngineStats, RankReport, RanksReport, Traffic, WorkerReport};
use stairwell::runner::Weights;

/// What an engine has done.
#[derive(Serialize)]
pub struct EngineFigures {
    #[serde(flatten)]
    pub counters: EngineStats,
    pub seconds: f64,
    pub output_tokens_per_second: f64,
    pub cache_hit_rate: f64,
    pub kv_utilization: f64,
    kv_unused_tokens_per_request: f64,
    pub mean_running: f64,
    /// `None` for a cache without blocks.
    pub blocks: Option<BlockCounts>,
}

impl EngineFigures {
    /// In so many seconds.
    pub fn new(counters: EngineStats, blocks: BlockCounts, seconds: f64) -> EngineFigures {
        let seconds = seconds.max(1e-9);
        EngineFigures {
            counters,
            seconds,
            output_tokens_per_second: counters.output_tokens as f64 / seconds,
            cache_hit_rate: counters.cache_hit_rate(),
            kv_utilization: counters.kv_utilization(),
            kv_unused_tokens_per_request: counters.kv_unused_tokens(),
            mean_running: counters.mean_running(),
            blocks: (blocks.total > 0).then_some(blocks),
        }
    }
}

/// What each rank holds and has done. Where there is one rank, its part has the keys that several have, so that scripts find them.
#[derive(Serialize)]
pub struct Ranks {
    world_size: usize,
    #[serde(flatten)]
    weights: Weights,
    #[serde(flatten)]
    several: Option<Several>,
}

#[derive(Serialize)]
struct Several {
    #[serde(flatten)]
    all: RanksReport,
    /// Of rank 0.
    all_reduces: u64,
    all_reduce_bytes: u64,
    ranks: Vec<Rank>,
}

#[derive(Serialize)]
struct Rank {
    rank: usize,
    slice: usize,
    layers: [usize; 2],
    weight_bytes: u64,
    weight_bytes_copied: u64,
    kv_reserved_bytes: u64,
    busy_seconds: f64,
    sums: String,
    #[serde(flatten)]
    traffic: Traffic,
}

impl Ranks {
    /// Those of a worker.
    pub fn new(report: &WorkerReport) -> Ranks {
        let several = report.ranks.clone().map(|all| {
            let Traffic { all_reduces, all_reduce_bytes, .. } = all.ranks[0].traffic;
            let ranks = all.ranks.iter().cloned().map(Rank::from).collect();
            Several { all, all_reduces, all_reduce_bytes, ranks }
        });
        let world_size = several.as_ref().map_or(1, |several| several.ranks.len());
        Ranks { world_size, weights: report.runner.weights, several }
    }
}

impl From<RankReport> for Rank {
    fn from(report: RankReport) -> Rank {
        Rank {
            rank: report.rank,
            slice: report.slice,
            layers: [report.layers.start, report.layers.end],
            weight_bytes: report.weight_bytes,
            weight_bytes_copied: report.weight_bytes_copied,
            kv_reserved_bytes: report.kv_reserved_bytes,
            busy_seconds: report.busy_seconds,
            sums: report.sums,
            traffic: report.traffic,
        }
    }
}
