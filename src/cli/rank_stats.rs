//! What each rank holds and has done, for stats.

use serde_json::{Map, Value, json};
use stairwell::{
    backend::Backend,
    error::Result,
    runner::{ModelRunner, RankReport},
};

/// All of it, for `--json`: of one rank too, so that scripts find the same keys.
pub fn ranks<B: Backend>(runner: &mut ModelRunner<B>) -> Result<Map<String, Value>> {
    let Some(report) = runner.ranks()? else {
        return Ok(object(json!({
            "world_size": 1,
            "weight_bytes": runner.weights.held,
            "weight_bytes_copied": runner.weights.copied,
        })));
    };
    let leader = &report.ranks[0];
    Ok(object(json!({
        "comm": report.comm,
        "world_size": report.ranks.len(),
        "tensor_parallel": report.tensor_parallel,
        "pipeline_parallel": report.pipeline_parallel,
        "all_reduces": leader.traffic.all_reduces,
        "all_reduce_bytes": leader.traffic.all_reduce_bytes,
        "weight_bytes": leader.weight_bytes,
        "weight_bytes_copied": leader.weight_bytes_copied,
        "passes": report.passes,
        "micro_batches": report.micro_batches,
        "pipeline_bubble": report.bubble,
        "pipeline_bubble_formula": report.bubble_formula,
        "ranks": report.ranks.iter().map(rank).collect::<Vec<_>>(),
    })))
}

fn rank(rank: &RankReport) -> Value {
    json!({
        "rank": rank.rank,
        "slice": rank.slice,
        "layers": [rank.layers.start, rank.layers.end],
        "weight_bytes": rank.weight_bytes,
        "weight_bytes_copied": rank.weight_bytes_copied,
        "kv_reserved_bytes": rank.kv_reserved_bytes,
        "busy_seconds": rank.busy_seconds,
        "all_reduces": rank.traffic.all_reduces,
        "all_reduce_bytes": rank.traffic.all_reduce_bytes,
        "all_gathers": rank.traffic.all_gathers,
        "sums": rank.sums,
        "sends": rank.traffic.sends,
        "send_bytes": rank.traffic.send_bytes,
    })
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
