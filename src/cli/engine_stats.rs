//! The figures of an engine's blocks.

use serde_json::{Value, json};
use stairwell::engine::{BlockCounts, EngineStats};

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
