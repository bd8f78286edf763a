//! `stairwell batch`: many requests from a file, results to a file.

use super::{
    Outcome, UpdateArgs,
    batch_open::OpenRequests,
    batch_request::{BatchRequest, read_requests},
    batch_results::Results,
    engine_args::{EngineArgs, LoadWorker, LocalEngine},
    engine_stats::{blocks, ranks, shared},
    terminal::{print, print_error, print_note},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use stairwell::{
    engine::{Continuous, Worker},
    error::{Error, Result},
};
use std::{fs, path::PathBuf, time::Instant};

/// Run many requests together: a JSON object a line in, a JSON object a line out
#[derive(clap::Args)]
#[command(after_help = "\
A request: {\"id\": \"a\", \"prompt\": \"Once upon a time\", \"max_tokens\": 50, \"temperature\": 0}
It has one of prompt (text), messages (a chat) and prompt_ids, and if wanted n, seed, stop, ignore_eos and the sampling fields of
OpenAI's API: temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, logprobs.
Requests share K and V of equal beginnings (from step 4 on) with those that have the same cache_salt, or none.

Results are written as requests finish, a whole line at a time. A bad line is reported with its number, and the others run.

Examples:
  stairwell batch --input requests.jsonl --output results.jsonl
  stairwell batch --input requests.jsonl --output results.jsonl --resume
  stairwell batch --model Qwen3-0.6B --input requests.jsonl --output results.jsonl --max-num-seqs 8 --trace trace.json")]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// Requests, a JSON object a line
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Results, a JSON object a line; an existing file is kept under another name
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Go on where an earlier run ended: requests that have a result in the output file are left out
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    update: UpdateArgs,
    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Threads of this process's rank.
    pub fn threads(&self) -> usize {
        self.engine.parallel.threads()
    }
}

pub fn run(args: Args) -> Result<Outcome> {
    on_device!(args.engine.on, args.engine.load, |machine| {
        match args.engine.parallel.lead(machine, &args.engine.load)? {
            Some(lead) => run_with(args, lead),
            None => Ok(Outcome::Good),
        }
    })
}

fn run_with(args: Args, lead: LoadWorker) -> Result<Outcome> {
    let checkpoint = args.engine.load.model.checkpoint()?;
    let (requests, mut bad) = read_requests(&args.input, &checkpoint)?;
    let same = fs::canonicalize(&args.input)
        .ok()
        .is_some_and(|path| fs::canonicalize(&args.output).ok() == Some(path));
    if same {
        let message = format!("--output {}: it is the input file; give another one", args.output.display());
        return Err(Error::Usage(message));
    }
    let (mut results, done) = Results::open(&args.output, args.resume)?;
    let requests: Vec<BatchRequest> =
        requests.into_iter().filter(|r| !done.contains(&r.id.to_string())).collect();
    let length = |r: &BatchRequest| r.request.prompt.len().saturating_add(r.request.params.max_tokens);
    let longest = requests.iter().map(length).max().unwrap_or(1);
    let mut update = args.update.open()?;
    let mut engine = args.engine.engine(lead, &checkpoint.config, longest, Box::new(Continuous))?;
    args.engine.note(&mut engine, longest)?;

    let (total, start) = (requests.len(), Instant::now());
    let mut open = OpenRequests::default();
    for request in requests {
        if let Err(error) = open.add(&mut engine, &checkpoint, &request) {
            bad.push((request.line, error.to_string()));
        }
    }
    bad.sort();
    for (line, message) in &bad {
        print_error(&format!("{}, line {line}: {message}", args.input.display()));
    }
    let (bar, mut written) = (Bar::new(total), 0);
    while engine.has_work() {
        for result in engine.step()?.into_iter().filter_map(|update| open.take(update)) {
            results.write(&result)?;
            written += 1;
            bar.finished();
        }
        bar.show(&engine, start);
        if let Some((_, run)) = update.take_if(|(after, _)| written >= *after) {
            run(&mut engine)?;
        }
    }
    args.engine.write_trace(&mut engine)?;
    drop(bar);
    summary(&args, &mut engine, start, written, done.len(), bad.len())?;
    Ok(if bad.is_empty() { Outcome::Good } else { Outcome::Bad })
}

/// Requests done, tokens/s, and the queues; for people only.
struct Bar(ProgressBar);

impl Bar {
    fn new(total: usize) -> Bar {
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} requests, {msg}");
        Bar(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    fn finished(&self) {
        self.0.inc(1);
    }

    fn show(&self, engine: &LocalEngine, start: Instant) {
        let rate = engine.stats().output_tokens as f64 / start.elapsed().as_secs_f64().max(1e-9);
        let (waiting, running) = engine.queues();
        self.0.set_message(format!("{rate:.1} tok/s, {running} running, {waiting} waiting"));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn summary(
    args: &Args,
    engine: &mut LocalEngine,
    start: Instant,
    written: usize,
    done: usize,
    bad: usize,
) -> Result<()> {
    let (stats, seconds) = (engine.stats(), start.elapsed().as_secs_f64());
    let rate = stats.output_tokens as f64 / seconds.max(1e-9);
    let worker = engine.worker.report()?;
    let (runner, report) = (&worker.runner, &worker.runner.machine);
    let mut summary = json!({
        "results": written,
        "resumed": done,
        "bad_lines": bad,
        "seconds": seconds,
        "output_tokens": stats.output_tokens,
        "output_tokens_per_second": rate,
        "tokens_computed": stats.tokens_computed,
        "steps": stats.steps,
        "peak_running": stats.peak_running,
        "peak_batched_tokens": stats.peak_batched_tokens,
        "kv_utilization": stats.kv_utilization(),
        "kv_unused_tokens_per_request": stats.kv_unused_tokens(),
        "kv_reserved_bytes": runner.memory.reserved_bytes,
        "attention": runner.attention,
        "device": report.device,
        "kernel_launches": report.kernel_launches,
        "prompt_tokens": stats.prompt_tokens,
        "cached_tokens": stats.cached_tokens,
        "cache_hit_rate": stats.cache_hit_rate(),
        "preemptions": stats.preemptions,
        "mean_running": stats.mean_running(),
        "weight_version": engine.weight_version(),
        "blocks": blocks(&engine.blocks()),
    });
    if let Value::Object(summary) = &mut summary {
        summary.extend(ranks(&worker));
    }
    if args.json {
        return print(&format!("{summary}\n"));
    }
    print_note(&format!(
        "{written} results in {}: {} output tokens in {seconds:.1} s, {rate:.1} tok/s, {} steps; of the KV memory that running requests \
         reserved, {:.0} % held a token{}",
        args.output.display(),
        stats.output_tokens,
        stats.steps,
        100.0 * stats.kv_utilization(),
        shared(&stats, &engine.blocks()),
    ));
    Ok(())
}
