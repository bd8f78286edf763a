//! `stairwell batch`: many requests from a file, results to a file.

mod open;
mod request;
mod results;

use super::{
    engine_args::{EngineArgs, LoadWorker, LocalEngine, WeightUpdate},
    engine_stats::{EngineFigures, Ranks},
    terminal::{bar, json_line, print, print_error, print_note},
    update_args::UpdateArgs,
};
use indicatif::ProgressBar;
use open::OpenRequests;
use request::{BatchRequest, key, read_requests};
use results::{Results, aside, is_stdout};
use serde::Serialize;
use stairwell::{
    engine::{Continuous, Update, Worker},
    error::Result,
    files::check_outputs,
    machine::MachineReport,
    model::KvMemory,
};
use std::{path::PathBuf, process::ExitCode, time::Instant};

/// Run many requests together: a JSON object a line in, a JSON object a line out
#[derive(clap::Args)]
#[command(after_help = "\
A request: {\"id\": \"a\", \"prompt\": \"Once upon a time\", \"max_tokens\": 50, \"temperature\": 0}
It has one of prompt (text), messages (a chat, with tools and chat_template_kwargs) and prompt_ids, and if wanted n, seed, stop, echo,
ignore_eos and the sampling fields of OpenAI's API: temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty,
frequency_penalty, logit_bias, logprobs. OpenAI's lines with custom_id, url and body are taken too. Requests share K and V of equal beginnings (from step 4 on) with those that have the same cache_salt, or none.

Results are written as requests finish, a whole line at a time. A bad line is reported with its number, and the others run. The exit
status is 1 if a line was bad or a request failed; --resume tries failed requests again.

Examples:
  stairwell batch --input requests.jsonl --output results.jsonl
  stairwell batch --input requests.jsonl --output results.jsonl --resume
  stairwell batch --model Qwen3-0.6B --input requests.jsonl --output results.jsonl --max-num-seqs 8 --trace trace.json")]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// Requests, a JSON object a line; - is standard input
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Results, a JSON object a line; an existing file is kept under another name. - is standard output
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Go on where an earlier run ended: requests that were served by the output file are left out
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

    /// Opens the weights for later, once it is sure that results and the trace are written over nothing that is read, nor over each other.
    fn open_update(&self) -> Result<Option<WeightUpdate>> {
        let aside = aside(&self.output);
        let mut outputs = vec![("--output", &*self.output), ("the results before", &aside)];
        outputs.retain(|(_, path)| !is_stdout(path));
        outputs.extend(self.engine.trace());
        let mut inputs = self.engine.load.inputs()?;
        inputs.push(("the input file", self.input.clone()));
        check_outputs(&outputs, &inputs)?;
        self.update.open(&self.engine.load, &outputs)
    }
}

pub fn run(args: Args) -> Result<ExitCode> {
    match args.engine.lead()? {
        Some(lead) => run_with(args, lead),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn run_with(args: Args, lead: LoadWorker) -> Result<ExitCode> {
    let checkpoint = args.engine.load.checkpoint()?;
    let (requests, bad) = read_requests(&args.input, &checkpoint)?;
    let mut update = args.open_update()?;
    let (results, done) = Results::open(&args.output, args.resume)?;
    let complain = |line: usize, message: &str| {
        print_error(&format!("{}, line {line}: {message}", args.input.display()))
    };
    bad.iter().for_each(|(line, message)| complain(*line, message));
    let mut bad = bad.len();
    let requests: Vec<BatchRequest> =
        requests.into_iter().filter(|request| !done.contains(&key(&request.id))).collect();
    let length = |r: &BatchRequest| r.request.prompt.len().saturating_add(r.request.params.max_tokens);
    let longest = requests.iter().map(length).max().unwrap_or(1);
    let mut engine = args.engine.engine(lead, &checkpoint.config, longest, Box::new(Continuous))?;
    args.engine.note(&mut engine, longest)?;

    let (start, mut open) = (Instant::now(), OpenRequests::default());
    let bar = bar(requests.len(), "{bar:30} {pos}/{len} requests, {msg}");
    for request in requests {
        if let Err(error) = open.add(&mut engine, &checkpoint, &request) {
            complain(request.line, &error.to_string());
            bad += 1;
        }
    }
    let mut served = Served { open, results, written: 0, failed: 0, bar };
    while engine.has_work() {
        served.take(engine.step()?)?;
        served.show(&engine, start);
        let Some((_, run)) = update.as_mut().filter(|(after, _)| served.written >= *after) else { continue };
        match run(&mut engine) {
            Ok(done) => _ = update.take_if(|_| done),
            Err(error) => {
                // Requests that finished while the engine drained have their results, though the new weights were refused.
                served.take(engine.take_updates())?;
                return Err(error);
            }
        }
    }
    engine.alive()?;
    args.engine.write_trace(&mut engine)?;
    let Served { written: results, failed, .. } = served;
    let counts = Counts { results, resumed: done.len(), bad_lines: bad, failed };
    let summary = Summary::new(&mut engine, start, counts)?;
    match (args.json, is_stdout(&args.output)) {
        (true, false) => print(&json_line(&summary))?,
        (true, true) => eprint!("{}", json_line(&summary)),
        (false, _) => {
            print_note(&format!("{results} results in {}: {}", args.output.display(), summary.text()))
        }
    }
    if failed > 0 {
        print_error(&format!("{failed} of {results} requests failed; --resume tries them again"));
    }
    Ok(if bad + failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Results on their way into the file.
struct Served {
    open: OpenRequests,
    results: Results,
    written: usize,
    failed: usize,
    bar: ProgressBar,
}

impl Served {
    /// Writes what has finished.
    fn take(&mut self, updates: Vec<Update>) -> Result<()> {
        for result in updates.into_iter().filter_map(|update| self.open.take(update)) {
            self.results.write(&result)?;
            self.written += 1;
            self.failed += usize::from(result.failed());
            self.bar.inc(1);
        }
        Ok(())
    }

    /// Shows the speed and the queues, for people only.
    fn show(&self, engine: &LocalEngine, start: Instant) {
        let rate = engine.stats().output_tokens as f64 / start.elapsed().as_secs_f64().max(1e-9);
        let (waiting, running) = engine.queues();
        self.bar.set_message(format!("{rate:.1} tok/s, {running} running, {waiting} waiting"));
    }
}

/// What became of the lines.
#[derive(Serialize)]
struct Counts {
    results: usize,
    resumed: usize,
    bad_lines: usize,
    /// Of the results, those of requests that ended with an error.
    failed: usize,
}

/// What `--json` prints at the end.
#[derive(Serialize)]
struct Summary {
    #[serde(flatten)]
    counts: Counts,
    #[serde(flatten)]
    engine: EngineFigures,
    #[serde(flatten)]
    memory: KvMemory,
    attention: &'static str,
    #[serde(flatten)]
    machine: MachineReport,
    weight_version: u64,
    #[serde(flatten)]
    ranks: Ranks,
}

impl Summary {
    fn new(engine: &mut LocalEngine, start: Instant, counts: Counts) -> Result<Summary> {
        let figures = EngineFigures::new(engine.stats(), engine.blocks(), start.elapsed().as_secs_f64());
        let worker = engine.worker.report()?;
        let ranks = Ranks::new(&worker);
        Ok(Summary {
            counts,
            engine: figures,
            memory: worker.runner.memory,
            attention: worker.runner.attention,
            machine: worker.runner.machine,
            weight_version: engine.weight_version(),
            ranks,
        })
    }

    /// What a person wants to know.
    fn text(&self) -> String {
        let EngineFigures { counters, seconds, output_tokens_per_second, .. } = &self.engine;
        let used = 100.0 * self.engine.kv_utilization;
        let shared = self.engine.blocks.map_or(String::new(), |blocks| {
            format!(
                "; {:.0} % of the prompts' tokens were cached, {} preemptions; {} of {} blocks are held",
                100.0 * self.engine.cache_hit_rate,
                counters.preemptions,
                blocks.held,
                blocks.total
            )
        });
        format!(
            "{} output tokens in {seconds:.1} s, {output_tokens_per_second:.1} tok/s, {} steps; of the KV memory that running requests \
             reserved, {used:.0} % held a token{shared}",
            counters.output_tokens, counters.steps,
        )
    }
}
