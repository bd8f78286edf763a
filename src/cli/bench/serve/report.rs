//! What the client measured: a table for people, one JSON object for programs. Times are the client's: from the moment before it
//! connects to the moment at which it has read the bytes.

use super::{
    super::report::{Computer, Spread, spreads},
    client::{Answer, Kind, Outcome},
    load::{Load, Run},
    prompts::{Endpoint, Work},
};
use serde::Serialize;
use std::{collections::BTreeMap, time::Instant};

/// The whole report.
#[derive(Serialize)]
pub struct Report {
    pub command: &'static str,
    pub version: &'static str,
    pub machine: Computer,
    pub settings: Settings,
    pub totals: Totals,
    pub latencies: Latencies,
    pub failures: Vec<Failed>,
    pub requests: Vec<RequestTimes>,
}

/// What was asked of whom.
#[derive(Serialize)]
pub struct Settings {
    pub url: String,
    pub model: String,
    /// `null`: as each line of the dataset says.
    pub endpoint: Option<Endpoint>,
    pub prompts: &'static str,
    pub timeout_seconds: f64,
    pub retry: bool,
    #[serde(flatten)]
    pub work: Work,
    #[serde(flatten)]
    pub load: Load,
}

/// Who counted the tokens of outputs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum CountedBy {
    /// The server, in `usage`.
    Usage,
    /// We did: one for each chunk. A server may put several tokens into a chunk.
    Chunks,
    /// Some requests by the server, the others by us.
    Both,
}

/// Sums over the requests that succeeded, unless they say otherwise.
#[derive(Serialize)]
pub struct Totals {
    /// All of them.
    requests: usize,
    pub succeeded: usize,
    failed: usize,
    /// Of those that failed, those that a full server refused.
    refused: usize,
    /// Times that a request was sent again to a full server.
    retries: usize,
    seconds: f64,
    requests_per_second: f64,
    prompt_tokens: usize,
    output_tokens: usize,
    output_tokens_counted_by: CountedBy,
    output_tokens_per_second: f64,
    total_tokens_per_second: f64,
    peak_concurrency: usize,
    /// Of this process, which is not the server's.
    client_cpu_seconds: Option<f64>,
    /// `null` for less than 0.1 s.
    client_cpu_microseconds_per_output_token: Option<f64>,
}

/// How the waiting was spread, in seconds.
#[derive(Serialize)]
pub struct Latencies {
    /// To the first chunk with tokens.
    ttft_seconds: Option<Spread>,
    /// From the first token to the end, for each further token.
    tpot_seconds: Option<Spread>,
    /// From each chunk with tokens to the next one.
    itl_seconds: Option<Spread>,
    /// To the end of the answer.
    e2e_seconds: Option<Spread>,
}

/// Requests that failed in one way.
#[derive(Debug, PartialEq, Serialize)]
pub struct Failed {
    pub kind: Kind,
    pub requests: usize,
    /// What the first of them was told.
    pub first: String,
}

/// A request's lengths and its times in seconds, in the order of departure.
#[derive(Serialize)]
pub struct RequestTimes {
    prompt_tokens: Option<usize>,
    output_tokens: usize,
    counted: bool,
    ttft_seconds: Option<f64>,
    tpot_seconds: Option<f64>,
    e2e_seconds: Option<f64>,
    error: Option<Kind>,
}

impl RequestTimes {
    fn of(outcome: &Outcome, sent_prompt: Option<usize>) -> RequestTimes {
        let since = |at: Instant| (at - outcome.sent).as_secs_f64();
        let Ok(Answer { token_times, last, usage }) = &outcome.result else {
            let error = outcome.result.as_ref().err().map(|failure| failure.kind);
            return RequestTimes {
                prompt_tokens: sent_prompt,
                output_tokens: 0,
                counted: false,
                ttft_seconds: None,
                tpot_seconds: None,
                e2e_seconds: None,
                error,
            };
        };
        let output_tokens = usage.map_or(token_times.len(), |usage| usage.completion_tokens);
        let (first, last) = (token_times.first().copied().map(since), last.map(since));
        let per_token = first.zip(last).filter(|_| output_tokens > 1);
        RequestTimes {
            prompt_tokens: usage.map(|usage| usage.prompt_tokens).or(sent_prompt),
            output_tokens,
            counted: usage.is_some(),
            ttft_seconds: first,
            tpot_seconds: per_token.map(|(first, last)| (last - first) / (output_tokens - 1) as f64),
            e2e_seconds: last,
            error: None,
        }
    }
}

impl Report {
    /// Sums up a run; `prompts` are the lengths that were sent as ids.
    pub fn new(settings: Settings, run: &Run, prompts: &[Option<usize>]) -> Report {
        let requests: Vec<RequestTimes> = run
            .outcomes
            .iter()
            .zip(prompts)
            .map(|(outcome, sent)| RequestTimes::of(outcome, *sent))
            .collect();
        let each =
            |of: fn(&RequestTimes) -> Option<f64>| Spread::of(requests.iter().filter_map(of).collect());
        let answers = || run.outcomes.iter().filter_map(|outcome| outcome.result.as_ref().ok());
        let gaps = answers().flat_map(|answer| answer.token_times.windows(2));
        let latencies = Latencies {
            ttft_seconds: each(|request| request.ttft_seconds),
            tpot_seconds: each(|request| request.tpot_seconds),
            itl_seconds: Spread::of(gaps.map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect()),
            e2e_seconds: each(|request| request.e2e_seconds),
        };
        Report {
            command: "bench serve",
            version: env!("CARGO_PKG_VERSION"),
            machine: Computer::here(),
            settings,
            totals: Totals::new(run, &requests),
            latencies,
            failures: failures(&run.outcomes),
            requests,
        }
    }

    /// The report as a person reads it.
    pub fn text(&self) -> String {
        let Latencies { ttft_seconds, tpot_seconds, itl_seconds, e2e_seconds } = self.latencies;
        let spreads = spreads([
            ("TTFT", ttft_seconds),
            ("TPOT", tpot_seconds),
            ("ITL", itl_seconds),
            ("E2E", e2e_seconds),
        ]);
        let failed =
            self.failures.iter().map(|f| ("failed", format!("{} × {}: {}", f.requests, f.kind, f.first)));
        let spreads = if self.totals.succeeded > 0 { format!("\n{spreads}") } else { String::new() };
        lines(self.lines().into_iter().chain(failed)) + &spreads
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let Report { settings, totals: t, .. } = self;
        let Settings { url, model, prompts, load, .. } = settings;
        let rate = match load.request_rate {
            rate if rate.is_finite() => format!("{rate} requests/s, burstiness {}", load.burstiness),
            _ => "all at the start".into(),
        };
        let most = load.max_concurrency.map_or("no limit".into(), |most| format!("{most} at most"));
        let refused = if t.refused > 0 { format!(" ({} refused)", t.refused) } else { String::new() };
        let retries = if t.retries > 0 { format!(", {} sent again", t.retries) } else { String::new() };
        let counted = match t.output_tokens_counted_by {
            _ if t.output_tokens == 0 => "nothing to count",
            CountedBy::Usage => "counted by the server",
            CountedBy::Chunks => "counted as chunks: the server sends no usage",
            CountedBy::Both => "some counted by the server, the others as chunks",
        };
        let cpu = t.client_cpu_seconds.map_or("unknown".into(), |seconds| format!("{seconds:.2} s"));
        let each = t.client_cpu_microseconds_per_output_token;
        let each = each.map_or(String::new(), |micros| format!(", {micros:.1} µs an output token"));
        vec![
            ("server", format!("{url}, {model}")),
            ("load", format!("{prompts}; {rate}; {} under way at the peak ({most})", t.peak_concurrency)),
            ("requests", format!("{} succeeded, {} failed{refused}{retries}", t.succeeded, t.failed)),
            (
                "work",
                format!("{} prompt tokens, {} output tokens, {counted}", t.prompt_tokens, t.output_tokens),
            ),
            ("time", format!("{:.3} s", t.seconds)),
            (
                "throughput",
                format!(
                    "{:.1} output tok/s, {:.1} tok/s in all, {:.2} requests/s",
                    t.output_tokens_per_second, t.total_tokens_per_second, t.requests_per_second
                ),
            ),
            ("client's CPU", format!("{cpu}{each}")),
        ]
    }
}

impl Totals {
    fn new(run: &Run, requests: &[RequestTimes]) -> Totals {
        let good = || requests.iter().filter(|request| request.error.is_none());
        let (succeeded, seconds) = (good().count(), run.seconds.max(1e-9));
        let by_server = good().filter(|request| request.counted).count();
        let output_tokens = good().map(|request| request.output_tokens).sum::<usize>();
        let prompt_tokens = good().filter_map(|request| request.prompt_tokens).sum::<usize>();
        let per_second = |n: usize| n as f64 / seconds;
        // The system counts in ticks of 10 ms.
        let each = run.cpu_seconds.filter(|seconds| *seconds >= 0.1 && output_tokens > 0);
        Totals {
            requests: requests.len(),
            succeeded,
            failed: requests.len() - succeeded,
            refused: requests.iter().filter(|request| request.error == Some(Kind::Refused)).count(),
            retries: run.outcomes.iter().map(|outcome| outcome.retries).sum(),
            seconds: run.seconds,
            requests_per_second: per_second(succeeded),
            prompt_tokens,
            output_tokens,
            output_tokens_counted_by: match by_server {
                n if n == succeeded && n > 0 => CountedBy::Usage,
                0 => CountedBy::Chunks,
                _ => CountedBy::Both,
            },
            output_tokens_per_second: per_second(output_tokens),
            total_tokens_per_second: per_second(prompt_tokens + output_tokens),
            peak_concurrency: run.peak_concurrency,
            client_cpu_seconds: run.cpu_seconds,
            client_cpu_microseconds_per_output_token: each.map(|cpu| cpu * 1e6 / output_tokens as f64),
        }
    }
}

/// Failures by kind, each with its first message.
fn failures(outcomes: &[Outcome]) -> Vec<Failed> {
    let mut kinds = BTreeMap::new();
    for failure in outcomes.iter().filter_map(|outcome| outcome.result.as_ref().err()) {
        // A message from the network: it may hold anything, and a terminal obeys control characters.
        let first = || failure.message.replace(char::is_control, " ");
        let failed = Failed { kind: failure.kind, requests: 0, first: String::new() };
        let failed = kinds.entry(failure.kind).or_insert_with(|| Failed { first: first(), ..failed });
        failed.requests += 1;
    }
    kinds.into_values().collect()
}
/// Lines of a name and what belongs to it.
fn lines(lines: impl IntoIterator<Item = (&'static str, String)>) -> String {
    lines.into_iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect()
}
