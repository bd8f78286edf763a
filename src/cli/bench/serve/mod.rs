//! `stairwell bench serve`: how fast a server answers, seen from its clients' side. It works against any server that speaks OpenAI's
//! API, and is a separate process on purpose: its own CPU time is measured and told, and is no part of the server's.

mod client;
mod load;
mod prompts;
mod report;
mod server;
mod sse;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use super::super::{
    numbers::{count, count_to},
    terminal::{bar, json_line, print},
};
use client::{Client, Failure};
use load::{Load, Run};
use prompts::{Endpoint, Vocabulary, Work};
use report::{Failed, Report, Settings};
use server::{Server, key_from_environment};
use stairwell::{
    error::{Error, Result},
    files::check_outputs,
};
use std::{fs, path::PathBuf, sync::Arc, time::Duration};

/// Requests to a running server of OpenAI's API, and how fast it answers
#[derive(clap::Args)]
#[command(after_help = "\
The flags have the names of `vllm bench serve`. Lengths are N, A..B (both ends included), or a mix of these with weights:
8..16:7,128..160:1. Output tokens are counted by the server, if it sends `usage`, else as chunks with tokens; the report says which.
A full server (503 or 429 with Retry-After) refuses a request, and the request counts as failed, unless --retry is given.
The exit status is 1 if no request succeeded.

Examples:
  stairwell bench serve --url http://127.0.0.1:8000 --num-prompts 256 --max-concurrency 64
  stairwell bench serve --request-rate 8 --endpoint chat --random-output-len 128 --ignore-eos
  stairwell bench serve --dataset requests.jsonl --json --out report.json")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    work: Work,
    #[command(flatten)]
    load: Load,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Write the JSON object to a file too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The server and how it is asked.
#[derive(clap::Args)]
#[command(next_help_heading = "Server")]
struct Target {
    /// The server; /v1 at the end may be there or not
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    url: String,
    /// The interface [default: completions; with --dataset, chat for lines with messages]
    #[arg(long, value_enum)]
    endpoint: Option<Endpoint>,
    /// The server's name for the model [default: the first in /v1/models]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The key [default: from the environment variable STAIRWELL_API_KEY, or else OPENAI_API_KEY]
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// The longest that a request may take, in seconds
    #[arg(long, value_name = "S", default_value_t = 600.0, value_parser = parse_seconds)]
    timeout: f64,
    /// Ask a full server again after its Retry-After; the clock of the request runs on
    #[arg(long)]
    retry: bool,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| (1e-3..=1e6).contains(seconds));
    seconds.ok_or_else(|| format!("'{text}' is no number of seconds from 0.001 to 1000000"))
}

pub fn run(args: Args) -> Result<()> {
    let dataset = args.work.dataset.iter().map(|path| ("the dataset", path.clone()));
    check_outputs(
        &args.out.iter().map(|path| ("--out", &**path)).collect::<Vec<_>>(),
        &dataset.collect::<Vec<_>>(),
    )?;
    let key = args.target.api_key.clone().or_else(key_from_environment);
    let server = Server::find(&args.target.url, key.as_deref())?;
    let client = Client::new(server, Duration::from_secs_f64(args.target.timeout), args.target.retry);
    // One thread: the client takes little time, and the server needs the other cores.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Io { path: "the network".into(), error })?;
    let (json, out) = (args.json, args.out.clone());
    let report = runtime.block_on(measure(args, Arc::new(client)))?;
    let line = json_line(&report);
    if let Some(path) = out {
        fs::write(&path, &line).map_err(|error| Error::Io { path, error })?;
    }
    print(&if json { line } else { report.text() })?;
    match report.failures.first() {
        Some(Failed { kind, first, .. }) if report.totals.succeeded == 0 => {
            Err(Error::Request(format!("no request succeeded; the first of kind '{kind}': {first}")))
        }
        _ => Ok(()),
    }
}

/// Makes the requests, sends them, and sums up.
async fn measure(args: Args, client: Arc<Client>) -> Result<Report> {
    let Args { target, work, load, .. } = args;
    let model = match target.model {
        Some(model) => model,
        None => first_model(&client, &target.url).await?,
    };
    let (endpoint, requests, prompts) = match work.of_dataset(target.endpoint, &model)? {
        Some(requests) => (target.endpoint, requests, "a dataset"),
        None => {
            let endpoint = target.endpoint.unwrap_or(Endpoint::Completions);
            let vocabulary = Vocabulary::find(&client, endpoint, &work).await;
            (Some(endpoint), work.random(endpoint, &model, &vocabulary), vocabulary.name())
        }
    };
    let lengths: Vec<Option<usize>> = requests.iter().map(|request| request.prompt_tokens).collect();
    let departures = load.departures(requests.len(), work.drawing.seed);
    let bar = bar(requests.len(), "{bar:30} {pos}/{len} requests, {elapsed}");
    let run: Run = load::run(client, requests, departures, load.max_concurrency, &bar).await;
    bar.finish_and_clear();
    let settings = Settings {
        url: target.url,
        model,
        endpoint,
        prompts,
        timeout_seconds: target.timeout,
        retry: target.retry,
        work,
        load,
    };
    Ok(Report::new(settings, &run, &lengths))
}

/// The first model that the server names.
async fn first_model(client: &Client, url: &str) -> Result<String> {
    let failed = |Failure { message, .. }: Failure| {
        Error::Request(format!(
            "--url {url}: /v1/models can't be read ({message}); give --model if the server has no such list"
        ))
    };
    let models = client.json("/v1/models", None).await.map_err(failed)?;
    let id = models["data"][0]["id"].as_str();
    let missing = || Error::Request(format!("--url {url}: /v1/models names no model; give --model"));
    id.map(str::to_owned).ok_or_else(missing)
}
