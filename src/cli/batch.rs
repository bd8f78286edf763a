//! `stairwell batch`: many requests from a file, results to a file.

use super::{
    Outcome, UpdateArgs,
    batch_request::{BatchRequest, Defaults, read_requests},
    batch_results::Results,
    engine_args::{EngineArgs, LocalEngine},
    engine_stats::{blocks, shared},
    rank_stats::ranks,
    terminal::{print, print_error, print_note},
    text::Text,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use stairwell::{
    engine::{Continuous, Event, Finished, OnEvent, Sharing},
    error::{Error, Result},
    machine::Machine,
    tokenizer::Tokenizer,
};
use std::{
    fs,
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    time::Instant,
};

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
    on_device!(args.engine.on, args.engine.load, |machine| run_on(args, machine))
}

fn run_on<B: Machine>(args: Args, machine: B) -> Result<Outcome> {
    let Some(lead) = args.engine.parallel.lead(machine, &args.engine.load)? else {
        return Ok(Outcome::Good);
    };
    let defaults = Defaults::read(&args.engine.load.model)?;
    let (requests, mut bad) = read_requests(&args.input, &defaults)?;
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
    let longest =
        requests.iter().map(|r| r.prompt.len().saturating_add(r.params.max_tokens)).max().unwrap_or(1);
    let mut update = args.update.open()?;
    let mut engine = args.engine.engine(lead, longest, Box::new(Continuous))?;
    args.engine.note(&engine, longest);

    let (total, start) = (requests.len(), Instant::now());
    let (sender, finished) = channel();
    for request in requests {
        let line = request.line;
        if let Err(error) = add(&mut engine, request, &defaults.tokenizer, &sender) {
            bad.push((line, error.to_string()));
        }
    }
    bad.sort();
    for (line, message) in &bad {
        print_error(&format!("{}, line {line}: {message}", args.input.display()));
    }
    let (bar, mut written) = (Bar::new(total), 0);
    while engine.step()? {
        for result in finished.try_iter() {
            results.write(&result)?;
            written += 1;
            bar.finished();
        }
        bar.show(&engine, start);
        if let Some((_, run)) = update.take_if(|(after, _)| written >= *after) {
            run(&mut engine)?;
        }
    }
    for result in finished.try_iter() {
        results.write(&result)?; // of requests that were aborted
        written += 1;
    }
    args.engine.write_trace(&mut engine)?;
    drop(bar);
    summary(&args, &mut engine, start, written, done.len(), bad.len())?;
    Ok(if bad.is_empty() { Outcome::Good } else { Outcome::Bad })
}

/// Adds the n samples of a request; the last one to finish sends the result.
fn add<B: Machine>(
    engine: &mut LocalEngine<B>,
    request: BatchRequest,
    tokenizer: &Option<Arc<Tokenizer>>,
    sender: &Sender<Value>,
) -> Result<()> {
    let n = request.n;
    let has_text = tokenizer.is_some();
    let gather = Arc::new(Gather::new(&request, sender.clone()));
    let mut added = Vec::new();
    for index in 0..n {
        let text = Text::new(tokenizer.clone(), request.text_after(), &request.stop);
        let on_event = stream(text, has_text, gather.clone(), index);
        // The samples after the first share its prompt.
        let sharing = Sharing { salt: request.salt.clone(), like: added.first().copied() };
        match engine.add_sharing(request.prompt.clone(), request.params.sample(index), sharing, on_event) {
            Ok(id) => added.push(id),
            Err(error) => {
                for id in added {
                    engine.abort(id);
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Follows one sample: its text as it comes, and its result at the end.
fn stream(mut text: Text, has_text: bool, gather: Arc<Gather>, index: usize) -> OnEvent {
    Box::new(move |event| match event {
        Event::Token(sampled) => text.push(sampled).1,
        Event::Finished(finished) => {
            text.finish();
            gather.put(index, sample(finished, &mut text, has_text));
            ControlFlow::Continue(())
        }
    })
}

/// One sample's part of a result.
fn sample(finished: &Finished, text: &mut Text, has_text: bool) -> Value {
    let seconds = |d: Option<std::time::Duration>| d.map(|d| d.as_secs_f64());
    let mut object = json!({
        "text": has_text.then(|| std::mem::take(&mut text.text)),
        "output_ids": finished.output,
        "finish_reason": finished.reason.name(),
        "seed": finished.seed,
        "queued": seconds(finished.times.admitted),
        "ttft": seconds(finished.times.first_token),
        "tpot": seconds(finished.times.per_token(finished.output.len())),
        "cached_tokens": finished.cached_tokens,
        "preemptions": finished.preemptions,
        "weight_version": finished.weight_version,
    });
    if let Some(error) = &finished.error {
        object["error"] = error.clone().into();
    }
    if !text.logprobs.is_empty() {
        object["logprobs"] = std::mem::take(&mut text.logprobs).into();
    }
    object
}

/// Gathers the samples of one request.
struct Gather {
    id: Value,
    prompt_tokens: usize,
    samples: std::sync::Mutex<Vec<Option<Value>>>,
    sender: Sender<Value>,
}

impl Gather {
    fn new(request: &BatchRequest, sender: Sender<Value>) -> Gather {
        let (id, prompt_tokens) = (request.id.clone(), request.prompt.len());
        Gather { id, prompt_tokens, samples: vec![None; request.n].into(), sender }
    }

    fn put(&self, index: usize, sample: Value) {
        let mut samples = self.samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        samples[index] = Some(sample);
        let Some(mut samples) = samples.iter().cloned().collect::<Option<Vec<Value>>>() else { return };
        let tokens: usize = samples.iter().map(|s| s["output_ids"].as_array().map_or(0, Vec::len)).sum();
        let usage = json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
        });
        let mut result = json!({"id": self.id});
        if let (Value::Object(result), Value::Object(first)) = (&mut result, samples[0].clone()) {
            result.extend(first);
            result.insert("usage".into(), usage);
        }
        if samples.len() > 1 {
            samples.iter_mut().enumerate().for_each(|(index, sample)| sample["index"] = index.into());
            result["choices"] = samples.into();
        }
        let _ = self.sender.send(result); // nobody listens any more: the run has ended
    }
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

    fn show<B: Machine>(&self, engine: &LocalEngine<B>, start: Instant) {
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

fn summary<B: Machine>(
    args: &Args,
    engine: &mut LocalEngine<B>,
    start: Instant,
    written: usize,
    done: usize,
    bad: usize,
) -> Result<()> {
    let (stats, seconds) = (engine.stats(), start.elapsed().as_secs_f64());
    let rate = stats.output_tokens as f64 / seconds.max(1e-9);
    let report = engine.worker.runner.backend.report();
    let ranks = ranks(&mut engine.worker.runner)?;
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
        "kv_reserved_bytes": engine.worker.runner.attention.memory().reserved_bytes,
        "attention": engine.worker.runner.attention.name(),
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
        summary.extend(ranks);
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
