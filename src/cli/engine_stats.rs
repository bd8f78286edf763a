//! The figures of an engine's blocks and ranks.

use super::rank_stats::one_rank;
use serde_json::{Map, Value, json};
use stairwell::engine::{BlockCounts, EngineStats, RankReport, WorkerReport};

/// All of them, for `--json`; null for a cache without blocks.
pub fn blocks(counts: &BlockCounts) -> Value {
    let BlockCounts { block_size, total, held, cached, free, copies, evictions, swapped_out, swapped_in } =
        counts;
    if *total == 0 {
        return Value::Null;
    }
    json!({
        "block_size": block_size,
        "total": total,
        "held": held,
        "cached": cached,
        "free": free,
        "copies": copies,
        "evictions": evictions,
        "swapped_out": swapped_out,
        "swapped_in": swapped_in,
    })
}

/// For a person, after a summary; nothing for a cache without blocks.
pub fn shared(stats: &EngineStats, counts: &BlockCounts) -> String {
    if counts.total == 0 {
        return String::new();
    }
    let hit_rate = 100.0 * stats.cache_hit_rate();
    let BlockCounts { total, held, .. } = counts;
    format!(
        "; {hit_rate:.0} % of the prompts' tokens were cached, {} preemptions; {held} of {total} blocks are held",
        stats.preemptions
    )
}

/// What each rank holds and has done, for `--json`.
pub fn ranks(report: &WorkerReport) -> Map<String, Value> {
    let Some(report) = &report.ranks else { return one_rank(&report.runner.weights) };
    let leader = &report.ranks[0];
    let all = json!({
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
    });
    match all {
        Value::Object(map) => map,
        _ => Map::new(),
    }
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
