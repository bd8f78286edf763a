//! `stairwell bench`: how fast this machine serves this model.

use super::{
    Outcome,
    bench_report::{
        Computer, Latencies, ModelSizes, Report, RequestTimes, Settings, Spread, Totals, outputs_sha256,
    },
    bench_run::{Bar, Drawing, Run, serve},
    bench_workload::{
        LATE_OUTPUT, LatencyWorkload, Lengths, Recipe, ThroughputWorkload, Workload, check_length,
    },
    engine_args::{EngineArgs, LoadWorker, LocalEngine},
    engine_stats::ranks,
    terminal::{json_line, print},
};
use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use stairwell::{
    config::ModelConfig,
    engine::{Continuous, Policy, Static, Worker},
    error::{Error, Result},
    runner::read_config,
    sampling::SamplingParams,
};
use std::{fs, path::PathBuf};

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
    engine: EngineArgs,
    /// Lengths and number of requests of another engine's bench; flags that are given too win
    #[arg(long, value_enum, help_heading = "Workload")]
    preset: Option<Preset>,
    /// Requests [default: 32]
    #[arg(long, value_name = "N", help_heading = "Workload", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    num_requests: Option<u32>,
    /// Tokens that all prompts begin with, before their own --input-len [default: 0]
    #[arg(long, value_name = "N", help_heading = "Workload", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    shared_prefix: Option<u32>,
    /// Lengths of prompts in tokens [default: 32..128]
    #[arg(long, value_name = "LENGTHS", help_heading = "Workload", allow_hyphen_values = true)]
    input_len: Option<Lengths>,
    /// Lengths of outputs in tokens [default: 16..64]
    #[arg(long, value_name = "LENGTHS", help_heading = "Workload", allow_hyphen_values = true)]
    output_len: Option<Lengths>,
    /// Requests a second, at random times (Poisson) [default: all at the start]
    #[arg(long, value_name = "R", help_heading = "Workload", allow_negative_numbers = true, value_parser = parse_rate)]
    request_rate: Option<f64>,
    /// One more request: a prompt of N tokens that arrives when all the others have had 8 tokens
    #[arg(long, value_name = "N", help_heading = "Workload", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    late_prompt: Option<u32>,
    /// Who runs when
    #[arg(long, value_enum, help_heading = "Scheduling", default_value_t = PolicyName::Continuous)]
    policy: PolicyName,
    #[command(flatten)]
    common: Common,
}

/// One batch of requests of one length, several times, and how long it takes
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  stairwell bench latency
  stairwell bench latency --batch-size 1 --input-len 512 --output-len 1   # time to first token")]
struct Latency {
    #[command(flatten)]
    engine: EngineArgs,
    /// Requests of a batch; all run at a time, whatever --max-num-seqs says
    #[arg(long, value_name = "N", help_heading = "Workload", default_value_t = 8, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Length of each prompt in tokens
    #[arg(long, value_name = "N", help_heading = "Workload", default_value_t = 32, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    input_len: u32,
    /// Length of each output in tokens
    #[arg(long, value_name = "N", help_heading = "Workload", default_value_t = 128, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    output_len: u32,
    /// Batches that are timed
    #[arg(long, value_name = "N", help_heading = "Workload", default_value_t = 5, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// Batches before them that are not
    #[arg(
        long,
        value_name = "N",
        help_heading = "Workload",
        default_value_t = 1,
        allow_negative_numbers = true
    )]
    warmup: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Common {
    /// Divides the logits; 0 is greedy
    #[arg(
        long,
        value_name = "T",
        help_heading = "Workload",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    temperature: f32,
    /// Seed of the requests and of their tokens
    #[arg(
        long,
        value_name = "N",
        help_heading = "Workload",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    seed: u64,
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

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum PolicyName {
    /// Requests come and go at every step
    Continuous,
    /// A batch is admitted when the one before has finished
    Static,
    /// No batching
    OneAtATime,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| format!("'{text}' is not a number of requests a second; give one above 0"))
}

impl Args {
    /// Threads of this process's rank.
    pub fn threads(&self) -> usize {
        match &self.what {
            What::Throughput(args) => args.engine.parallel.threads(),
            What::Latency(args) => args.engine.parallel.threads(),
        }
    }
}

pub fn run(args: Args) -> Result<Outcome> {
    match args.what {
        What::Throughput(args) => {
            on_device!(args.engine.on, args.engine.load, |machine| match args
                .engine
                .parallel
                .lead(machine, &args.engine.load)?
            {
                Some(lead) => throughput(*args, lead),
                None => Ok(Outcome::Good),
            })
        }
        What::Latency(args) => {
            on_device!(args.engine.on, args.engine.load, |machine| match args
                .engine
                .parallel
                .lead(machine, &args.engine.load)?
            {
                Some(lead) => latency(*args, lead),
                None => Ok(Outcome::Good),
            })
        }
    }
}

fn throughput(mut args: Throughput, lead: LoadWorker) -> Result<Outcome> {
    let config = read_config(&args.engine.load.model.directory()?)?;
    let default = match args.preset {
        Some(Preset::NanoVllm) => (256, Lengths::uniform(100, 1024), Lengths::uniform(100, 1024)),
        None => (32, Lengths::uniform(32, 128), Lengths::uniform(16, 64)),
    };
    let requests = args.num_requests.unwrap_or(default.0);
    let (input, output) = (args.input_len.unwrap_or(default.1), args.output_len.unwrap_or(default.2));
    args.common.check(config.vocab_size)?;
    let shared_prefix = args.shared_prefix.unwrap_or(0) as usize;
    let check = |flag: &str, own: usize, output_flag: &str, output: usize| match shared_prefix {
        0 => check_length(flag, own, output_flag, output, config.context()),
        n => check_length(
            &format!("--shared-prefix and {flag}"),
            n + own,
            output_flag,
            output,
            config.context(),
        ),
    };
    check("--input-len", input.longest(), "--output-len", output.longest())?;
    let late_prompt = args.late_prompt.map(|n| n as usize);
    late_prompt.map_or(Ok(()), |late| check("--late-prompt", late, "its output", LATE_OUTPUT))?;
    let recipe = Recipe {
        requests: requests as usize,
        input: &input,
        output: &output,
        rate: args.request_rate,
        late_prompt,
        shared_prefix,
        vocab_size: config.vocab_size,
        seed: args.common.seed,
    };
    let workload = Workload::new(&recipe);

    let asked = args.engine.max_num_seqs;
    let policy: Box<dyn Policy> = match args.policy {
        PolicyName::Static => Box::new(Static::default()),
        _ => Box::new(Continuous),
    };
    if args.policy == PolicyName::OneAtATime {
        args.engine.max_num_seqs = 1;
    }
    let mut engine = start(lead, &config, &args.engine, workload.longest(), policy, &args.common)?;
    let bar = Bar::new(workload.all().count());
    let run = serve(&mut engine, &workload, args.common.drawing(), &bar)?;
    drop(bar);
    args.engine.write_trace(&mut engine)?;
    let workload = ThroughputWorkload {
        num_requests: requests,
        shared_prefix,
        input_len: input.to_string(),
        output_len: output.to_string(),
        request_rate: args.request_rate,
        late_prompt,
    };
    let policy = args.policy.to_possible_value().map_or(String::new(), |value| value.get_name().into());
    let asked = Asked { command: "bench throughput", policy, max_num_seqs: asked, workload };
    report(asked, &args.engine, &args.common, &mut engine, &[run])
}

fn latency(mut args: Latency, lead: LoadWorker) -> Result<Outcome> {
    let config = read_config(&args.engine.load.model.directory()?)?;
    let (input, output) = (args.input_len as usize, args.output_len as usize);
    args.common.check(config.vocab_size)?;
    check_length("--input-len", input, "--output-len", output, config.context())?;
    // Each batch has prompts of its own: a prefix cache would know those of the batch before.
    let workload = |batch: usize| {
        Workload::new(&Recipe {
            requests: args.batch_size as usize,
            input: &Lengths::uniform(input, input),
            output: &Lengths::uniform(output, output),
            rate: None,
            late_prompt: None,
            shared_prefix: 0,
            vocab_size: config.vocab_size,
            seed: args.common.seed.wrapping_add(batch as u64),
        })
    };
    args.engine.max_num_seqs = args.batch_size;
    let mut engine = start(lead, &config, &args.engine, input + output, Box::new(Continuous), &args.common)?;
    let batches = args.warmup as usize + args.iterations as usize;
    let bar = Bar::new(batches * args.batch_size as usize);
    let mut serve = |batch| serve(&mut engine, &workload(batch), args.common.drawing(), &bar);
    let mut runs = (0..batches).map(&mut serve).collect::<Result<Vec<Run>>>()?;
    drop(bar);
    args.engine.write_trace(&mut engine)?;
    let runs = runs.split_off(args.warmup as usize);
    let Latency { batch_size, iterations, warmup, .. } = args;
    let workload = LatencyWorkload { batch_size, input_len: input, output_len: output, iterations, warmup };
    let policy = "continuous".into();
    let asked = Asked { command: "bench latency", policy, max_num_seqs: batch_size, workload };
    report(asked, &args.engine, &args.common, &mut engine, &runs)
}

impl Common {
    fn check(&self, vocab_size: usize) -> Result<()> {
        Ok(SamplingParams { temperature: self.temperature, ..SamplingParams::default() }
            .validate(vocab_size)?)
    }

    fn drawing(&self) -> Drawing {
        Drawing { temperature: self.temperature, seed: self.seed }
    }
}

/// The engine, with room for the longest request.
fn start(
    lead: LoadWorker,
    config: &ModelConfig,
    args: &EngineArgs,
    longest: usize,
    policy: Box<dyn Policy>,
    common: &Common,
) -> Result<LocalEngine> {
    let mut engine = args.engine(lead, config, longest, policy)?;
    let room = engine.worker.max_model_len();
    if room < longest {
        let message =
            format!("--max-model-len {room}: the longest request has {longest} tokens; leave the flag out");
        return Err(Error::Usage(message));
    }
    if !common.json {
        args.note(&mut engine, longest)?;
    }
    Ok(engine)
}

/// What a command says of itself in its report.
struct Asked<W> {
    command: &'static str,
    policy: String,
    max_num_seqs: u32,
    workload: W,
}

/// Puts the report together, and prints and writes it.
fn report<W: Serialize>(
    asked: Asked<W>,
    args: &EngineArgs,
    common: &Common,
    engine: &mut LocalEngine,
    runs: &[Run],
) -> Result<Outcome> {
    let worker = engine.worker.report()?;
    let (runner, limits) = (&worker.runner, engine.limits());
    let ran = runner.machine.clone();
    let settings = Settings {
        policy: asked.policy,
        max_num_seqs_asked: asked.max_num_seqs,
        workload: asked.workload,
        max_num_seqs: limits.max_running(),
        max_batched_tokens: limits.max_batched_tokens,
        max_model_len: runner.max_model_len,
        attention: runner.attention,
        kv_dtype: runner.memory.dtype.map(|dtype| dtype.to_string()),
        device: ran.device,
        isa: ran.isa,
        kernel_launches: ran.kernel_launches,
        threads: rayon::current_num_threads(),
        temperature: common.temperature.into(),
        seed: common.seed,
    };
    let name = args.load.model.model.as_deref().unwrap_or("the demo model");
    let mut latencies = Latencies::new(runs);
    if asked.command == "bench latency" {
        latencies.batch_seconds = Spread::of(runs.iter().map(|run| run.seconds).collect());
    }
    let report = Report {
        command: asked.command,
        version: env!("CARGO_PKG_VERSION"),
        machine: Computer::here(),
        model: ModelSizes::new(engine.worker.config(), runner, name, args.load.load_format),
        settings,
        totals: Totals::new(&engine.stats(), runner, runs),
        latencies,
        parallel: ranks(&worker),
        outputs_sha256: outputs_sha256(runs),
        requests: RequestTimes::of(runs),
    };
    let json = json_line(&report);
    if let Some(path) = &common.out {
        fs::write(path, &json).map_err(|error| Error::Io { path: path.clone(), error })?;
    }
    print(&if common.json { json } else { report.table() })?;
    Ok(Outcome::Good)
}
