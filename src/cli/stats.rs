//! The figures of one generation.

use super::one_request::Ranks;
use super::terminal::{human_bytes, peak_memory};
use serde::Serialize;
use stairwell::{generate::Generated, runner::RunnerReport};
use std::collections::BTreeMap;

/// All of them, for `--json`.
#[derive(Serialize)]
pub struct Stats {
    #[serde(flatten)]
    runner: RunnerReport,
    threads: usize,
    model: &'static str,
    prompt_tokens: usize,
    output_tokens: usize,
    load_seconds: f64,
    time_to_first_token_seconds: f64,
    time_per_output_token_seconds: Option<f64>,
    total_seconds: f64,
    output_tokens_per_second: f64,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: Option<f64>,
    /// What a decode step reads, every weight once and K and V of the tokens before, over its time.
    decode_gigabytes_per_second: Option<f64>,
    kv_used_bytes: u64,
    peak_memory_bytes: Option<u64>,
    seed: Option<u64>,
    #[serde(flatten)]
    ranks: Ranks,
    /// The sampling parameters, and where each is from.
    #[serde(flatten)]
    sampling: BTreeMap<&'static str, String>,
}

impl Stats {
    /// Of an output to a prompt of so many tokens.
    pub fn new(
        (runner, ranks): (RunnerReport, Ranks),
        model: &'static str,
        prompt_tokens: usize,
        output: &Generated,
        load_seconds: f64,
        sampling: BTreeMap<&'static str, String>,
    ) -> Stats {
        let (n, total) = (output.ids.len(), output.total_time.as_secs_f64());
        let first = output.time_to_first_token.as_secs_f64();
        let per_token = (n > 1).then(|| (total - first) / (n - 1) as f64);
        let kv_bytes = runner.memory.bytes_per_token;
        let mean_length = prompt_tokens as f64 + n as f64 / 2.0;
        let read = runner.weights.per_step as f64 + mean_length * kv_bytes as f64;
        let rate = |amount: f64| per_token.map(|seconds| amount / seconds.max(1e-9));
        Stats {
            threads: rayon::current_num_threads(),
            model,
            prompt_tokens,
            output_tokens: n,
            load_seconds,
            time_to_first_token_seconds: first,
            time_per_output_token_seconds: per_token,
            total_seconds: total,
            output_tokens_per_second: n as f64 / total.max(1e-9),
            prefill_tokens_per_second: prompt_tokens as f64 / first.max(1e-9),
            decode_tokens_per_second: rate(1.0),
            decode_gigabytes_per_second: rate(read / 1e9),
            // The last output token was never put through the model.
            kv_used_bytes: (prompt_tokens + n).saturating_sub(1) as u64 * kv_bytes,
            peak_memory_bytes: peak_memory(),
            seed: output.seed,
            runner,
            ranks,
            sampling,
        }
    }

    /// One line for a person.
    pub fn print(&self) {
        let Stats { prompt_tokens, time_to_first_token_seconds, prefill_tokens_per_second, .. } = self;
        let memory = self.peak_memory_bytes.map_or("unknown".into(), human_bytes);
        let seed = self.seed.map_or(String::new(), |seed| format!(", seed {seed}"));
        let speed = self.decode_tokens_per_second.zip(self.decode_gigabytes_per_second);
        let decode = speed.map_or(String::new(), |(tokens, gigabytes)| {
            format!(" at {tokens:.1} tok/s, reading {gigabytes:.1} GB/s")
        });
        eprintln!(
            "{prompt_tokens} prompt tokens, first output after {time_to_first_token_seconds:.2} s ({prefill_tokens_per_second:.0} tok/s); \
             {} output tokens{decode}; {} attention, peak memory {memory}{seed}",
            self.output_tokens, self.runner.attention,
        );
    }
}
