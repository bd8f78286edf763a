//! What `bench` measured: a table for people, one JSON object for programs.

use super::{
    bench_run::{Run, Served},
    terminal::{human_bytes, peak_memory},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stairwell::{
    config::ModelConfig,
    engine::{BlockCounts, EngineStats},
    runner::RunnerReport,
};
use std::{fmt::Write, time::Duration};
use sysinfo::{CpuRefreshKind, System};

/// The processor, its cores, and the operating system.
pub fn machine() -> Value {
    let cpu = System::new().ok().and_then(|mut system| {
        system.refresh_cpu_list(CpuRefreshKind::nothing());
        system.cpus().first().map(|cpu| cpu.brand().trim().to_owned())
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    json!({"cpu": cpu.filter(|brand| !brand.is_empty()), "cores": cores, "os": std::env::consts::OS})
}

/// The model's class and sizes.
pub fn model(config: &ModelConfig, runner: &RunnerReport, name: &str, format: &str) -> Value {
    json!({
        "name": name,
        "class": config.architecture.class_name(),
        "load_format": format,
        "weight_bytes_per_step": runner.weights.per_step,
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "vocab": config.vocab_size,
        "dtype": config.dtype.map(|dtype| dtype.to_string()),
    })
}

/// Sums over one run or several.
pub fn totals(stats: &EngineStats, runner: &RunnerReport, runs: &[Run]) -> Value {
    let sum = |of: fn(&Run) -> u64| runs.iter().map(of).sum::<u64>();
    let requests = sum(|run| run.served.len() as u64);
    let prompt = sum(|run| run.served.iter().map(|s| s.prompt_tokens as u64).sum());
    let output = sum(|run| run.served.iter().map(|s| s.finished.output.len() as u64).sum());
    let steps = sum(|run| run.stats.steps);
    let seconds = runs.iter().map(|run| run.seconds).sum::<f64>().max(1e-9);
    let memory = runner.memory;
    let (reserved, used) = (sum(|run| run.stats.kv_reserved), sum(|run| run.stats.kv_used));
    let (running, cached) = (sum(|run| run.stats.running), sum(|run| run.stats.cached_tokens));
    json!({
        "requests": requests,
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "cache_hit_rate": cached as f64 / prompt.max(1) as f64,
        "output_tokens": output,
        "seconds": seconds,
        "requests_per_second": requests as f64 / seconds,
        "output_tokens_per_second": output as f64 / seconds,
        "total_tokens_per_second": (prompt + output) as f64 / seconds,
        "steps": steps,
        "tokens_computed": sum(|run| run.stats.tokens_computed),
        "mean_running": running as f64 / steps.max(1) as f64,
        "peak_running": stats.peak_running,
        "peak_batched_tokens": stats.peak_batched_tokens,
        "preemptions": sum(|run| run.stats.preemptions),
        "kv_utilization": used as f64 / reserved.max(1) as f64,
        "kv_unused_tokens_per_request": (reserved - used) as f64 / running.max(1) as f64,
        "kv_bytes_per_token": memory.bytes_per_token,
        "kv_reserved_bytes": memory.reserved_bytes,
        "blocks": blocks(runs),
        "peak_memory_bytes": peak_memory(),
        "weight_gigabytes_per_second": (runner.weights.per_step * steps) as f64 / seconds / 1e9,
    })
}

/// The pool's blocks at the end, and what happened to them; `null` without a pool.
fn blocks(runs: &[Run]) -> Value {
    let Some(last) = runs.last().map(|run| run.blocks).filter(|blocks| blocks.total > 0) else {
        return Value::Null;
    };
    let sum = |of: fn(&BlockCounts) -> u64| runs.iter().map(|run| of(&run.blocks)).sum::<u64>();
    json!({
        "block_size": last.block_size,
        "total": last.total,
        "held": last.held,
        "cached": last.cached,
        "free": last.free,
        "copies": sum(|blocks| blocks.copies),
        "evictions": sum(|blocks| blocks.evictions),
        "swapped_out": sum(|blocks| blocks.swapped_out),
        "swapped_in": sum(|blocks| blocks.swapped_in),
    })
}

/// How the waiting was spread, in seconds.
pub fn latencies(runs: &[Run]) -> Value {
    let served = || runs.iter().flat_map(|run| &run.served);
    let each = |of: fn(&Served) -> Option<Duration>| {
        spread(served().filter_map(of).map(|d| d.as_secs_f64()).collect())
    };
    json!({
        "queue_seconds": each(|s| s.finished.times.admitted),
        "ttft_seconds": each(|s| s.finished.times.first_token),
        "tpot_seconds": each(|s| s.finished.times.per_token(s.finished.output.len())),
        "itl_seconds": spread(served().flat_map(|s| s.gaps().map(|gap| gap.as_secs_f64())).collect()),
    })
}

/// Mean, percentiles (linear between neighbours, as numpy's) and maximum; `null` of nothing.
pub fn spread(mut values: Vec<f64>) -> Value {
    let Some(last) = values.len().checked_sub(1) else { return Value::Null };
    values.sort_by(f64::total_cmp);
    let percentile = |p: f64| {
        let at = p / 100.0 * last as f64;
        let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
        below + (above - below) * at.fract()
    };
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    json!({"mean": mean, "p50": percentile(50.0), "p90": percentile(90.0), "p99": percentile(99.0), "max": values[last]})
}

/// One for each request: its lengths and its times in seconds.
pub fn requests(runs: &[Run]) -> Value {
    let seconds = |d: Option<Duration>| d.map(|d| d.as_secs_f64());
    let request = |s: &Served| {
        let (times, n) = (s.finished.times, s.finished.output.len());
        json!({
            "prompt_tokens": s.prompt_tokens,
            "cached_tokens": s.finished.cached_tokens,
            "output_tokens": n,
            "preemptions": s.finished.preemptions,
            "queue_seconds": seconds(times.admitted),
            "ttft_seconds": seconds(times.first_token),
            "tpot_seconds": seconds(times.per_token(n)),
            "longest_gap_seconds": seconds(s.gaps().max()),
            "total_seconds": seconds(times.last_token),
        })
    };
    runs.iter().flat_map(|run| &run.served).map(request).collect()
}

/// A digest of every output's ids: two runs that agree on it gave the same tokens.
pub fn outputs_sha256(runs: &[Run]) -> String {
    let mut hash = Sha256::new();
    for served in runs.iter().flat_map(|run| &run.served) {
        hash.update((served.finished.output.len() as u64).to_le_bytes());
        served.finished.output.iter().for_each(|id| hash.update(id.to_le_bytes()));
    }
    hash.finalize().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// A number of bytes for a person.
fn bytes(value: &Value) -> String {
    value.as_u64().map_or("unknown".into(), human_bytes)
}

/// The table's part about K and V, and who shares them.
fn memory_lines(totals: &Value) -> Vec<(&'static str, String)> {
    let number = |key: &str| totals[key].as_f64().unwrap_or_default();
    let (reserved, used) = (bytes(&totals["kv_reserved_bytes"]), 100.0 * number("kv_utilization"));
    let (mean, peak) = (number("mean_running"), &totals["peak_running"]);
    let mut lines = vec![
        ("running", format!("{mean:.1} requests at a time, {peak} at most")),
        ("KV cache", format!("{reserved}; of what requests held, {used:.1} % had a token")),
    ];
    let blocks = &totals["blocks"];
    if blocks.is_object() {
        let (prompt, cached, rate) =
            (&totals["prompt_tokens"], &totals["cached_tokens"], 100.0 * number("cache_hit_rate"));
        let [total, size, copies, evictions, out, back] =
            ["total", "block_size", "copies", "evictions", "swapped_out", "swapped_in"]
                .map(|key| &blocks[key]);
        let preemptions = &totals["preemptions"];
        lines.extend([
            ("prefix cache", format!("{cached} of {prompt} prompt tokens were there, {rate:.1} %")),
            ("blocks", format!("{total} of {size} tokens; {copies} copied, {evictions} evicted")),
            ("preemption", format!("{preemptions} times; {out} blocks swapped out, {back} back")),
        ]);
    }
    lines
}

/// The report as a person reads it.
pub fn table(report: &Value) -> String {
    let (model, settings, totals) = (&report["model"], &report["settings"], &report["totals"]);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let number = |key: &str| totals[key].as_f64().unwrap_or_default();
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<14} {value}");
    };
    let weights = bytes(&model["weight_bytes_per_step"]);
    let (cpu, cores) = (&report["machine"]["cpu"], &report["machine"]["cores"]);
    line(
        "model",
        format!("{} ({}), {weights} of weights a step", text(&model["name"]), text(&model["class"])),
    );
    line(
        "machine",
        format!("{}, {cores} cores; {}, {} threads", text(cpu), text(&settings["isa"]), settings["threads"]),
    );
    line(
        "schedule",
        format!(
            "{}, {} requests at a time, {} tokens a step",
            text(&settings["policy"]),
            settings["max_num_seqs"],
            settings["max_batched_tokens"]
        ),
    );
    let (prompt, output) = (&totals["prompt_tokens"], &totals["output_tokens"]);
    let (requests, steps) = (&totals["requests"], &totals["steps"]);
    line("work", format!("{requests} requests, {prompt} prompt tokens, {output} output tokens"));
    line(
        "time",
        format!(
            "{:.3} s, {steps} steps of {:.2} ms",
            number("seconds"),
            number("seconds") / number("steps") * 1e3
        ),
    );
    line(
        "throughput",
        format!(
            "{:.1} output tok/s, {:.1} tok/s in all, {:.2} requests/s",
            number("output_tokens_per_second"),
            number("total_tokens_per_second"),
            number("requests_per_second")
        ),
    );
    line("weights read", format!("{:.1} GB/s", number("weight_gigabytes_per_second")));
    memory_lines(totals).into_iter().for_each(|(name, value)| line(name, value));
    line("peak memory", bytes(&totals["peak_memory_bytes"]));
    let _ = writeln!(out, "\n{:<14} {:>9} {:>9} {:>9} {:>9} {:>9}", "ms", "mean", "p50", "p90", "p99", "max");
    for (name, key) in [
        ("batch", "batch_seconds"),
        ("queue", "queue_seconds"),
        ("TTFT", "ttft_seconds"),
        ("TPOT", "tpot_seconds"),
        ("ITL", "itl_seconds"),
    ] {
        let spread = &report["latencies"][key];
        if spread.is_object() {
            let cell = |of: &str| format!("{:>9.2}", spread[of].as_f64().unwrap_or_default() * 1e3);
            let cells = ["mean", "p50", "p90", "p99", "max"].map(cell);
            let _ = writeln!(out, "{name:<14} {}", cells.join(" "));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_linear_between_neighbours() {
        let spread = spread(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!(
            (&spread["p50"], &spread["max"], &spread["mean"]),
            (&json!(2.5), &json!(4.0), &json!(2.5))
        );
        assert!((spread["p90"].as_f64().unwrap() - 3.7).abs() < 1e-12);
        assert_eq!(super::spread(Vec::new()), Value::Null);
        assert_eq!(super::spread(vec![7.0])["p99"], 7.0);
    }
}
