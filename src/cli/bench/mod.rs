//! `stairwell bench`: how fast this machine serves this model.

mod report;
mod run;
#[cfg(feature = "serve")]
mod serve;
mod workload;

use super::divergence::Divergence;
use super::engine_args::{EngineArgs, LoadWorker, LocalEngine};
use super::engine_stats::{EngineFigures, Ranks};
use super::model_args::Activations;
use super::numbers::{count, count_to};
use super::terminal::{bar, json_line, print};
use clap::{Subcommand, ValueEnum};
use report::{Computer, Latencies, ModelSizes, Report, RequestTimes, Settings, Totals, outputs_sha256};
use run::{Drawing, Run, blocks_since, since};
use serde::Serialize;
use stairwell::attention::KvOptions;
use stairwell::engine::{Continuous, Policy, Static, Worker};
use stairwell::error::{Error, Result};
use stairwell::{config::ModelConfig, files::check_outputs, sampling::SamplingParams};
use std::{fs, path::PathBuf};
use workload::{LATE_OUTPUT, Lengths, Recipe, Workload, check_length};

/// Measure how fast requests are served
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Throughput(Box<Throughput>),
    Latency(Box<Latency>),
    #[cfg(feature = "serve")]
    Serve(Box<serve::Args>),
}

/// Many requests of random lengths, and how fast all of them are served
#[derive(clap::Args)]
#[command(after_help = "\
Lengths are N, A..B (both ends included), or a mix of these with weights: 8..16:7,128..160:1 gives 7 of 8 requests 8 to 16 tokens.
Prompts are random tokens, the end-of-sequence token is ignored, and the same seed makes the same requests.

Examples:
  stairwell bench throughput
  stairwell bench throughput --output-len 8..16:7,128..160:1 --policy static
  stairwell bench throughput --model Qwen3-0.6B --load-format dummy --max-num-seqs 8 --json
  stairwell bench throughput --late-prompt 1500 --max-batched-tokens 64 --trace trace.json
  stairwell bench throughput --shared-prefix 1000 --input-len 8..32")]
struct Throughput {
    #[command(flatten)]
    common: Common,
    /// Lengths and number of requests of another engine's bench; flags that are given too win
    // Only clap reads it: the recipe's defaults depend on it.
    #[arg(long, value_enum, help_heading = "Workload")]
    preset: Option<Preset>,
    #[command(flatten)]
    recipe: Recipe,
    /// Who runs when
    #[arg(long, value_enum, help_heading = "Scheduling", default_value_t = PolicyName::Continuous)]
    policy: PolicyName,
}

/// One batch of requests of one length, several times, and how long it takes
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  stairwell bench latency
  stairwell bench latency --batch-size 1 --input-len 512 --output-len 1   # time to first token")]
struct Latency {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    workload: EqualRequests,
}

/// Batches of equal requests.
#[derive(clap::Args, Serialize)]
#[command(next_help_heading = "Workload")]
struct EqualRequests {
    /// Requests of a batch; all run at a time, whatever --max-num-seqs says
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = count_to(65536))]
    batch_size: usize,
    /// Length of each prompt in tokens
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = count())]
    input_len: usize,
    /// Length of each output in tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = count())]
    output_len: usize,
    /// Batches that are timed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = count())]
    iterations: usize,
    /// Batches before them that are not
    #[arg(long, value_name = "N", default_value_t = 1)]
    warmup: usize,
}

#[derive(clap::Args)]
struct Common {
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    drawing: Drawing,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Write the JSON object to a file too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Workloads of other engines.
#[derive(Clone, Copy, ValueEnum)]
enum Preset {
    /// GeeeekExplorer/nano-vllm's bench.py: 256 requests, prompts and outputs of 100 to 1024 tokens
    NanoVllm,
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum PolicyName {
    /// Requests come and go at every step
    Continuous,
    /// A batch is admitted when the one before has finished
    Static,
    /// No batching
    OneAtATime,
}

impl Args {
    /// Threads of this process's rank.
    pub fn threads(&self) -> usize {
        match &self.what {
            What::Throughput(args) => args.common.engine.parallel.threads(),
            What::Latency(args) => args.common.engine.parallel.threads(),
            // It computes nothing.
            #[cfg(feature = "serve")]
            What::Serve(_) => 1,
        }
    }
}

pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Throughput(args) => {
            let Some((lead, config)) = args.common.check()? else { return Ok(()) };
            args.bench(&config)?.run(lead, &config)
        }
        What::Latency(args) => {
            let Some((lead, config)) = args.common.check()? else { return Ok(()) };
            args.bench(&config)?.run(lead, &config)
        }
        #[cfg(feature = "serve")]
        What::Serve(args) => serve::run(*args),
    }
}

impl Common {
    /// Checks the flags and the checkpoint before anything is loaded; `None` in a rank that is not the lead.
    fn check(&self) -> Result<Option<(LoadWorker, ModelConfig)>> {
        let Some(lead) = self.engine.lead()? else { return Ok(None) };
        let out = self.out.as_deref().map(|path| ("--out", path));
        let outputs: Vec<_> = out.into_iter().chain(self.engine.trace()).collect();
        check_outputs(&outputs, &self.engine.load.inputs()?)?;
        let config = self.engine.load.checkpoint()?.config;
        let Drawing { temperature, .. } = self.drawing;
        SamplingParams { temperature, ..SamplingParams::default() }.validate(config.vocab_size)?;
        Ok(Some((lead, config)))
    }
}

/// Tokens of the first prompt that activations of 8 bits are judged by.
const JUDGED: usize = 64;

/// What is to be run, and told.
struct Bench<W> {
    command: &'static str,
    common: Common,
    policy: PolicyName,
    /// What was asked for in the workload.
    workload: W,
    /// Served one after the other; the first of them are not timed.
    batches: Vec<Workload>,
    warmup: usize,
}

impl Throughput {
    fn bench(self, config: &ModelConfig) -> Result<Bench<Recipe>> {
        let Throughput { common, recipe, policy, .. } = self;
        let check = |flag: &str, own: usize, output_flag: &str, output: usize| {
            let prefix = recipe.shared_prefix.unwrap_or(0);
            let flag = if prefix == 0 { flag.to_owned() } else { format!("--shared-prefix and {flag}") };
            check_length(&flag, prefix + own, output_flag, output, config.context())
        };
        check("--input-len", recipe.input_len.longest(), "--output-len", recipe.output_len.longest())?;
        recipe.late_prompt.map_or(Ok(()), |late| check("--late-prompt", late, "its output", LATE_OUTPUT))?;
        let batches = vec![Workload::new(&recipe, config.vocab_size, common.drawing.seed)];
        Ok(Bench { command: "bench throughput", common, policy, workload: recipe, batches, warmup: 0 })
    }
}

impl Latency {
    fn bench(self, config: &ModelConfig) -> Result<Bench<EqualRequests>> {
        let Latency { mut common, workload } = self;
        let EqualRequests { batch_size, input_len, output_len, iterations, warmup } = workload;
        check_length("--input-len", input_len, "--output-len", output_len, config.context())?;
        common.engine.max_num_seqs = batch_size;
        let recipe = Recipe {
            num_requests: batch_size,
            shared_prefix: None,
            input_len: Lengths::uniform(input_len, input_len),
            output_len: Lengths::uniform(output_len, output_len),
            request_rate: None,
            late_prompt: None,
        };
        // Each batch has prompts of its own: a prefix cache would know those of the batch before.
        let seed = |batch: usize| common.drawing.seed.wrapping_add(batch as u64);
        let batch = |number| Workload::new(&recipe, config.vocab_size, seed(number));
        let batches = (0..warmup + iterations).map(batch).collect();
        let policy = PolicyName::Continuous;
        Ok(Bench { command: "bench latency", common, policy, workload, batches, warmup })
    }
}

impl<W: Serialize> Bench<W> {
    /// Serves the batches, and prints and writes the report.
    fn run(mut self, lead: LoadWorker, config: &ModelConfig) -> Result<()> {
        let max_num_seqs_asked = self.common.engine.max_num_seqs;
        if self.policy == PolicyName::OneAtATime {
            self.common.engine.max_num_seqs = 1;
        }
        let int8 = self.int8_error(config)?;
        let mut engine = self.start(lead, config)?;
        let bar =
            bar(self.batches.iter().map(Workload::len).sum(), "{bar:30} {pos}/{len} requests, {elapsed}");
        let serve = |batches: &[Workload], engine: &mut LocalEngine| {
            batches
                .iter()
                .map(|batch| run::serve(engine, batch, &self.common.drawing, &bar))
                .collect::<Result<Vec<Run>>>()
        };
        let (untimed, timed) = self.batches.split_at(self.warmup);
        serve(untimed, &mut engine)?;
        let (stats, blocks) = (engine.stats(), engine.blocks());
        let runs = serve(timed, &mut engine)?;
        bar.finish_and_clear();
        let seconds = runs.iter().map(|run| run.seconds).sum();
        let (stats, blocks) = (since(stats, engine.stats()), blocks_since(blocks, engine.blocks()));
        let figures = EngineFigures::new(stats, blocks, seconds);
        self.common.engine.write_trace(&mut engine)?;
        self.report(max_num_seqs_asked, engine, (figures, int8), &runs)
    }

    /// What activations of 8 bits do to the logits of the first prompt, if they were asked for. The model is loaded for that alone.
    fn int8_error(&self, config: &ModelConfig) -> Result<Option<Divergence>> {
        let load = &self.common.engine.load;
        let first = self.batches.iter().flat_map(|batch| &batch.items).next();
        let Some(first) = first.filter(|_| load.act_dtype == Activations::Int8) else { return Ok(None) };
        let ids = &first.prompt[..first.prompt.len().min(JUDGED)];
        let kv = KvOptions::recompute();
        let mut runner = load.load(load.cpu()?, Some(config.clone()), Some(ids.len()), kv, |_| ())?;
        Divergence::of_int8(&mut runner, ids).map(Some)
    }

    /// The engine, with room for the longest request.
    fn start(&self, lead: LoadWorker, config: &ModelConfig) -> Result<LocalEngine> {
        let args = &self.common.engine;
        let longest = self.batches.iter().map(Workload::longest).max().unwrap_or(1);
        let policy: Box<dyn Policy> = match self.policy {
            PolicyName::Static => Box::new(Static::default()),
            _ => Box::new(Continuous),
        };
        let mut engine = args.engine(lead, config, longest, policy)?;
        let room = engine.worker.max_model_len();
        if room < longest {
            let message = format!(
                "--max-model-len {room}: the longest request has {longest} tokens; leave the flag out"
            );
            return Err(Error::Usage(message));
        }
        if !self.common.json {
            args.note(&mut engine, longest)?;
        }
        Ok(engine)
    }

    fn report(
        self,
        max_num_seqs_asked: usize,
        mut engine: LocalEngine,
        (figures, int8): (EngineFigures, Option<Divergence>),
        runs: &[Run],
    ) -> Result<()> {
        let Common { engine: args, drawing, json, out } = self.common;
        let (worker, requests) = (engine.worker.report()?, RequestTimes::of(runs));
        let (limits, name) = (engine.limits(), args.load.model.model.as_deref().unwrap_or("the demo model"));
        let report = Report {
            command: self.command,
            version: env!("CARGO_PKG_VERSION"),
            machine: Computer::here(),
            model: ModelSizes::new(engine.worker.config(), &worker.runner, name, args.load.load_format),
            totals: Totals::new(figures, &worker.runner, runs),
            int8,
            latencies: Latencies::new(runs, &requests, self.command == "bench latency"),
            parallel: Ranks::new(&worker),
            outputs_sha256: outputs_sha256(runs),
            requests,
            settings: Settings {
                policy: self.policy,
                max_num_seqs_asked,
                workload: self.workload,
                max_num_seqs: limits.max_running(),
                max_batched_tokens: limits.max_batched_tokens,
                runner: worker.runner,
                threads: rayon::current_num_threads(),
                drawing,
            },
        };
        let line = json_line(&report);
        if let Some(path) = out {
            fs::write(&path, &line).map_err(|error| Error::Io { path, error })?;
        }
        print(&if json { line } else { report.text() })
    }
}
