//! The figures of one generation.

use super::terminal::{human_bytes, peak_memory};
use serde_json::{Map, Value, json};
use stairwell::{generate::Generated, runner::RunnerReport};

/// All of them, for `--json`.
pub fn stats(
    runner: &RunnerReport,
    model: &str,
    prompt_tokens: usize,
    output: &Generated,
    load_seconds: f64,
) -> Map<String, Value> {
    let (n, total) = (output.ids.len(), output.total_time.as_secs_f64());
    let first = output.time_to_first_token.as_secs_f64();
    let per_token = (n > 1).then(|| (total - first) / (n - 1) as f64);
    let report = &runner.machine;
    let stats = json!({
        "device": report.device,
        "kernel_launches": report.kernel_launches,
        "graph_replays": report.graph_replays,
        "attention": runner.attention,
        "attention_kernel": runner.attention_kernel,
        "prefill_kernel": runner.prefill_kernel,
        "dtype": report.dtype.to_string().to_lowercase(),
        "isa": report.isa,
        "threads": rayon::current_num_threads(),
        "model": model,
        "prompt_tokens": prompt_tokens,
        "output_tokens": n,
        "tokens_computed": runner.tokens_computed,
        "load_seconds": load_seconds,
        "time_to_first_token_seconds": first,
        "time_per_output_token_seconds": per_token,
        "total_seconds": total,
        "output_tokens_per_second": n as f64 / total.max(1e-9),
        "prefill_tokens_per_second": prompt_tokens as f64 / first.max(1e-9),
        "decode_tokens_per_second": per_token.map(|seconds| 1.0 / seconds.max(1e-9)),
        "max_model_len": runner.max_model_len,
        "peak_memory_bytes": peak_memory(),
        "seed": output.seed,
    });
    let Value::Object(mut stats) = stats else { return Map::new() };
    stats.extend(memory_traffic(runner, prompt_tokens, n, per_token));
    stats
}

/// What is kept, and what a decode step reads: every weight once, and K and V of the tokens before.
fn memory_traffic(
    runner: &RunnerReport,
    prompt_tokens: usize,
    output_tokens: usize,
    seconds_per_token: Option<f64>,
) -> Map<String, Value> {
    let memory = runner.memory;
    // The last output token was never put through the model.
    let kept = (prompt_tokens + output_tokens).saturating_sub(1) as u64;
    let mean_length = prompt_tokens as f64 + output_tokens as f64 / 2.0;
    let step = runner.weights.per_step as f64 + mean_length * memory.bytes_per_token as f64;
    let stats = json!({
        "kv_dtype": memory.dtype.map(|dtype| dtype.to_string()),
        "kv_bytes_per_token": memory.bytes_per_token,
        "kv_used_bytes": kept * memory.bytes_per_token,
        "kv_reserved_bytes": memory.reserved_bytes,
        "weight_bytes_per_step": runner.weights.per_step,
        "decode_gigabytes_per_second": seconds_per_token.map(|seconds| step / seconds.max(1e-9) / 1e9),
    });
    match stats {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// One line for a person.
pub fn print_figures(stats: &Map<String, Value>) {
    let number = |key: &str| stats[key].as_f64().unwrap_or_default();
    let memory = stats["peak_memory_bytes"].as_u64().map_or("unknown".into(), human_bytes);
    let seed = stats["seed"].as_u64().map_or(String::new(), |seed| format!(", seed {seed}"));
    let decode = match stats["decode_tokens_per_second"].as_f64() {
        Some(rate) => {
            format!(" at {rate:.1} tok/s, reading {:.1} GB/s", number("decode_gigabytes_per_second"))
        }
        None => String::new(),
    };
    eprintln!(
        "{} prompt tokens, first output after {:.2} s ({:.0} tok/s); {} output tokens{decode}; {} attention, peak memory {memory}{seed}",
        stats["prompt_tokens"],
        number("time_to_first_token_seconds"),
        number("prefill_tokens_per_second"),
        stats["output_tokens"],
        stats["attention"].as_str().unwrap_or_default(),
    );
}
