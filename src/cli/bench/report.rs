//! What `bench` measured: a table for people, one JSON object for programs.

use super::super::divergence::Divergence;
use super::super::engine_stats::{EngineFigures, Ranks};
use super::super::terminal::{human_bytes, peak_memory, table};
use super::PolicyName;
use super::run::{Drawing, Run, Served};
use clap::ValueEnum;
use comfy_table::Cell;
use serde::Serialize;
use sha2::{Digest, Sha256};
use stairwell::engine::{BlockCounts, EngineStats};
use stairwell::runner::{LoadFormat, RunnerReport};
use stairwell::{checkpoint::hex, config::ModelConfig, model::KvMemory};
use std::time::Duration;
use sysinfo::{CpuRefreshKind, System};

/// The whole report; `W` is what was asked for in its workload.
#[derive(Serialize)]
pub struct Report<W> {
    pub command: &'static str,
    pub version: &'static str,
    pub machine: Computer,
    pub model: ModelSizes,
    pub settings: Settings<W>,
    pub totals: Totals,
    /// With activations of 8 bits: the distance of the logits from those of exact activations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub int8: Option<Divergence>,
    pub latencies: Latencies,
    pub parallel: Ranks,
    pub outputs_sha256: String,
    pub requests: Vec<RequestTimes>,
}

/// The processor, its cores, and the operating system.
#[derive(Serialize)]
pub struct Computer {
    cpu: Option<String>,
    cores: usize,
    os: &'static str,
}

impl Computer {
    /// The one that this runs on.
    pub fn here() -> Computer {
        let cpu = System::new().ok().and_then(|mut system| {
            system.refresh_cpu_list(CpuRefreshKind::nothing());
            system.cpus().first().map(|cpu| cpu.brand().trim().to_owned())
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Computer { cpu: cpu.filter(|brand| !brand.is_empty()), cores, os: std::env::consts::OS }
    }
}

/// The model's class and sizes.
#[derive(Serialize)]
pub struct ModelSizes {
    name: String,
    class: String,
    load_format: String,
    weight_bytes_per_step: u64,
    layers: usize,
    hidden: usize,
    vocab: usize,
    dtype: Option<String>,
}

impl ModelSizes {
    pub fn new(config: &ModelConfig, runner: &RunnerReport, name: &str, format: LoadFormat) -> ModelSizes {
        ModelSizes {
            name: name.into(),
            class: config.architecture.class_name().into(),
            load_format: format.to_string(),
            weight_bytes_per_step: runner.weights.per_step,
            layers: config.num_hidden_layers,
            hidden: config.hidden_size,
            vocab: config.vocab_size,
            dtype: config.dtype.map(|dtype| dtype.to_string()),
        }
    }
}

/// How the engine ran.
#[derive(Serialize)]
pub struct Settings<W> {
    pub policy: PolicyName,
    pub max_num_seqs_asked: usize,
    #[serde(flatten)]
    pub workload: W,
    pub max_num_seqs: usize,
    pub max_batched_tokens: usize,
    #[serde(flatten)]
    pub runner: RunnerReport,
    pub threads: usize,
    #[serde(flatten)]
    pub drawing: Drawing,
}

/// Sums over one run or several.
#[derive(Serialize)]
pub struct Totals {
    requests: usize,
    #[serde(flatten)]
    engine: EngineFigures,
    requests_per_second: f64,
    total_tokens_per_second: f64,
    #[serde(flatten)]
    memory: KvMemory,
    peak_memory_bytes: Option<u64>,
    weight_gigabytes_per_second: f64,
}

impl Totals {
    pub fn new(engine: EngineFigures, runner: &RunnerReport, runs: &[Run]) -> Totals {
        let requests = runs.iter().map(|run| run.served.len()).sum();
        let (counters, seconds) = (&engine.counters, engine.seconds);
        let tokens = counters.prompt_tokens + counters.output_tokens;
        Totals {
            requests,
            requests_per_second: requests as f64 / seconds,
            total_tokens_per_second: tokens as f64 / seconds,
            memory: runner.memory,
            peak_memory_bytes: peak_memory(),
            weight_gigabytes_per_second: (runner.weights.per_step * counters.steps) as f64 / seconds / 1e9,
            engine,
        }
    }

    /// What ran at a time, and what K and V took.
    fn memory_text(&self) -> String {
        let EngineFigures { counters, mean_running, blocks, .. } = &self.engine;
        let (peak, reserved) = (counters.peak_running, human_bytes(self.memory.reserved_bytes));
        let (used, rate) = (100.0 * self.engine.kv_utilization, 100.0 * self.engine.cache_hit_rate);
        let EngineStats { cached_tokens: cached, prompt_tokens: prompt, preemptions: times, .. } = counters;
        let of_blocks = blocks.map_or(String::new(), |blocks| {
            let BlockCounts { block_size, total, copies, evictions, swapped_out, swapped_in, .. } = blocks;
            format!(
                "prefix cache   {cached} of {prompt} prompt tokens were there, {rate:.1} %\n\
                 blocks         {total} of {block_size} tokens; {copies} copied, {evictions} evicted\n\
                 preemption     {times} times; {swapped_out} blocks swapped out, {swapped_in} back\n"
            )
        });
        format!(
            "running        {mean_running:.1} requests at a time, {peak} at most\n\
             KV cache       {reserved}; of what requests held, {used:.1} % had a token\n{of_blocks}"
        )
    }
}

/// How the waiting was spread, in seconds.
#[derive(Serialize)]
pub struct Latencies {
    queue_seconds: Option<Spread>,
    ttft_seconds: Option<Spread>,
    tpot_seconds: Option<Spread>,
    itl_seconds: Option<Spread>,
    /// Of `bench latency` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_seconds: Option<Spread>,
}

impl Latencies {
    /// `batches`: how long each run took, too.
    pub fn new(runs: &[Run], requests: &[RequestTimes], batches: bool) -> Latencies {
        let each =
            |of: fn(&RequestTimes) -> Option<f64>| Spread::of(requests.iter().filter_map(of).collect());
        let gaps = runs.iter().flat_map(|run| &run.served).flat_map(Served::gaps);
        Latencies {
            queue_seconds: each(|request| request.queue_seconds),
            ttft_seconds: each(|request| request.ttft_seconds),
            tpot_seconds: each(|request| request.tpot_seconds),
            itl_seconds: Spread::of(gaps.map(|gap| gap.as_secs_f64()).collect()),
            batch_seconds: Spread::of(runs.iter().filter(|_| batches).map(|run| run.seconds).collect()),
        }
    }
}

/// Mean, percentiles (linear between neighbours, as numpy's) and maximum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(mut values: Vec<f64>) -> Option<Spread> {
        let last = values.len().checked_sub(1)?;
        values.sort_by(f64::total_cmp);
        let percentile = |p: f64| {
            let at = p / 100.0 * last as f64;
            let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
            below + (above - below) * at.fract()
        };
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let [p50, p90, p99] = [50.0, 90.0, 99.0].map(percentile);
        Some(Spread { mean, p50, p90, p99, max: values[last] })
    }
}

/// A table of spreads in milliseconds; those of nothing are left out.
pub fn spreads<const N: usize>(spreads: [(&str, Option<Spread>); N]) -> String {
    let row = |(name, spread): (&str, Option<Spread>)| {
        let Spread { mean, p50, p90, p99, max } = spread?;
        let ms = |seconds: f64| Cell::new(format!("{:.2}", seconds * 1e3));
        Some([name.into(), ms(mean), ms(p50), ms(p90), ms(p99), ms(max)])
    };
    let heads = ["ms", ">mean", ">p50", ">p90", ">p99", ">max"];
    table(heads, spreads.into_iter().filter_map(row))
}

/// A request's lengths and its times in seconds.
#[derive(Serialize)]
pub struct RequestTimes {
    prompt_tokens: usize,
    cached_tokens: usize,
    output_tokens: usize,
    preemptions: u32,
    queue_seconds: Option<f64>,
    ttft_seconds: Option<f64>,
    tpot_seconds: Option<f64>,
    longest_gap_seconds: Option<f64>,
    total_seconds: Option<f64>,
}

impl RequestTimes {
    /// One for each request.
    pub fn of(runs: &[Run]) -> Vec<RequestTimes> {
        let seconds = |d: Option<Duration>| d.map(|d| d.as_secs_f64());
        let request = |s: &Served| {
            let (times, n) = (s.finished.times, s.finished.output.len());
            RequestTimes {
                prompt_tokens: s.prompt_tokens,
                cached_tokens: s.finished.cached_tokens,
                output_tokens: n,
                preemptions: s.finished.preemptions,
                queue_seconds: seconds(times.admitted),
                ttft_seconds: seconds(times.first_token),
                tpot_seconds: seconds(times.per_token(n)),
                longest_gap_seconds: seconds(s.gaps().max()),
                total_seconds: seconds(times.last_token),
            }
        };
        runs.iter().flat_map(|run| &run.served).map(request).collect()
    }
}

/// A digest of every output's ids: two runs that agree on it gave the same tokens.
pub fn outputs_sha256(runs: &[Run]) -> String {
    let mut hash = Sha256::new();
    for served in runs.iter().flat_map(|run| &run.served) {
        hash.update((served.finished.output.len() as u64).to_le_bytes());
        served.finished.output.iter().for_each(|id| hash.update(id.to_le_bytes()));
    }
    hex(hash)
}

impl<W> Report<W> {
    /// The report as a person reads it.
    pub fn text(&self) -> String {
        let peak = self.totals.peak_memory_bytes.map_or("unknown".into(), human_bytes);
        let Latencies { queue_seconds, ttft_seconds, tpot_seconds, itl_seconds, batch_seconds } =
            self.latencies;
        let spreads = spreads([
            ("batch", batch_seconds),
            ("queue", queue_seconds),
            ("TTFT", ttft_seconds),
            ("TPOT", tpot_seconds),
            ("ITL", itl_seconds),
        ]);
        let (work, memory) = (self.work_text(), self.totals.memory_text());
        let int8 = |int8: Divergence| format!("int8           against exact activations: {}\n", int8.text());
        let int8 = self.int8.map_or(String::new(), int8);
        format!("{work}{int8}{memory}peak memory    {peak}\n\n{spreads}")
    }

    /// What ran, and how fast.
    fn work_text(&self) -> String {
        let Report { machine, model, settings, totals, .. } = self;
        let ModelSizes { name, class, weight_bytes_per_step, .. } = model;
        let Settings { max_num_seqs, max_batched_tokens, threads, .. } = settings;
        let policy =
            settings.policy.to_possible_value().map_or(String::new(), |value| value.get_name().into());
        let EngineFigures { counters, seconds, output_tokens_per_second, .. } = &totals.engine;
        let EngineStats { prompt_tokens, output_tokens, steps, .. } = counters;
        let weights = human_bytes(*weight_bytes_per_step);
        let (cpu, isa) =
            (machine.cpu.as_deref().unwrap_or("null"), settings.runner.machine.isa.unwrap_or("null"));
        let (requests, step) = (totals.requests, seconds / *steps as f64 * 1e3);
        let Totals { total_tokens_per_second: all, requests_per_second, weight_gigabytes_per_second, .. } =
            totals;
        format!(
            "model          {name} ({class}), {weights} of weights a step\n\
             machine        {cpu}, {} cores; {isa}, {threads} threads\n\
             schedule       {policy}, {max_num_seqs} requests at a time, {max_batched_tokens} tokens a step\n\
             work           {requests} requests, {prompt_tokens} prompt tokens, {output_tokens} output tokens\n\
             time           {seconds:.3} s, {steps} steps of {step:.2} ms\n\
             throughput     {output_tokens_per_second:.1} output tok/s, {all:.1} tok/s in all, {requests_per_second:.2} requests/s\n\
             weights read   {weight_gigabytes_per_second:.1} GB/s\n",
            machine.cores
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_linear_between_neighbours() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.p50, spread.max, spread.mean), (2.5, 4.0, 2.5));
        assert!((spread.p90 - 3.7).abs() < 1e-12);
        assert_eq!(Spread::of(Vec::new()), None);
        assert_eq!(Spread::of(vec![7.0]).unwrap().p99, 7.0);
    }
}
