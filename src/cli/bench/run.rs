//! Serves a workload and writes down when each token came.

use super::super::engine_args::LocalEngine;
use super::workload::{Item, Workload};
use indicatif::ProgressBar;
use serde::Serialize;
use stairwell::engine::{BlockCounts, EngineStats, Finished, RequestId, Update};
use stairwell::error::{Error, Result};
use stairwell::{generate::GenerateParams, sampling::SamplingParams};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use std::{mem, thread};

/// A request that was served.
pub struct Served {
    pub prompt_tokens: usize,
    pub finished: Finished,
    /// When each token of the output came.
    pub token_times: Vec<Instant>,
}

/// What serving a workload gave.
pub struct Run {
    /// In the order of arrival.
    pub served: Vec<Served>,
    pub seconds: f64,
}

/// How tokens are drawn.
#[derive(clap::Args, Serialize)]
#[command(next_help_heading = "Workload")]
pub struct Drawing {
    /// Divides the logits; 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f32,
    /// Seed of the requests and of their tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// The late request arrives when all the others have had this many tokens, or all of theirs.
const UNDER_WAY: usize = 8;

/// What requests tell while they run.
#[derive(Default)]
struct Log {
    /// In the order of arrival: prompt tokens, the longest output, and when each token of the output came.
    running: BTreeMap<RequestId, (usize, usize, Vec<Instant>)>,
    served: Vec<Served>,
    /// Requests that are well under way: see [`UNDER_WAY`].
    under_way: usize,
}

impl Log {
    fn lets_the_late_one_in(&self, others: usize) -> bool {
        self.under_way == others || self.served.len() == others
    }

    fn take(&mut self, update: Update) {
        let Some((prompt_tokens, longest, times)) = self.running.get_mut(&update.id) else { return };
        if update.token.is_some() {
            times.push(Instant::now());
            self.under_way += usize::from(times.len() == UNDER_WAY.min(*longest));
        }
        if let Some(finished) = update.finished {
            let (prompt_tokens, token_times) = (*prompt_tokens, mem::take(times));
            self.served.push(Served { prompt_tokens, finished, token_times });
        }
    }
}

/// Serves a workload until its last token.
///
/// # Errors
/// Those of the engine, and the first of a request.
pub fn serve(
    engine: &mut LocalEngine,
    workload: &Workload,
    drawing: &Drawing,
    bar: &ProgressBar,
) -> Result<Run> {
    let start = Instant::now();
    let (mut coming, mut late) = (workload.items.iter().peekable(), workload.late.as_ref());
    let (mut log, mut index) = (Log::default(), 0);
    loop {
        while let Some(item) = coming.next_if(|item| item.arrival <= start.elapsed()) {
            add(engine, item, drawing, index, &mut log)?;
            index += 1;
        }
        if index == workload.items.len() && log.lets_the_late_one_in(index) {
            late.take().map_or(Ok(()), |item| add(engine, item, drawing, index, &mut log))?;
        }
        let worked = engine.has_work();
        for update in engine.step()? {
            bar.inc(u64::from(update.finished.is_some()));
            log.take(update);
        }
        match coming.peek() {
            None if !worked && late.is_none() => break,
            Some(item) if !worked => thread::sleep(item.arrival.saturating_sub(start.elapsed())),
            _ => {}
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut served = log.served;
    served.sort_by_key(|served| served.finished.id);
    if let Some(error) = served.iter().find_map(|served| served.finished.error.clone()) {
        return Err(Error::Request(error));
    }
    Ok(Run { served, seconds })
}

fn add(engine: &mut LocalEngine, item: &Item, drawing: &Drawing, index: usize, log: &mut Log) -> Result<()> {
    let seed = Some(drawing.seed.wrapping_add(index as u64));
    let sampling = SamplingParams { temperature: drawing.temperature, seed, ..SamplingParams::default() };
    let params = GenerateParams { max_tokens: item.output_len, sampling, eos_token_id: Vec::new() };
    let id = engine.add(item.prompt.clone(), params)?;
    log.running.insert(id, (item.prompt.len(), item.output_len, Vec::new()));
    Ok(())
}

/// Counters of what lies between two moments; peaks are those of the whole.
pub fn since(before: EngineStats, after: EngineStats) -> EngineStats {
    let EngineStats { drawn_by_worker, peak_running, peak_batched_tokens, .. } = after;
    EngineStats { drawn_by_worker, peak_running, peak_batched_tokens, ..after - before }
}

/// The same of blocks: those that there are, and counters of what lies between two moments.
pub fn blocks_since(before: BlockCounts, after: BlockCounts) -> BlockCounts {
    BlockCounts {
        copies: after.copies - before.copies,
        evictions: after.evictions - before.evictions,
        swapped_out: after.swapped_out - before.swapped_out,
        swapped_in: after.swapped_in - before.swapped_in,
        ..after
    }
}

impl Served {
    /// From each token of the output to the next: *inter-token latency*, ITL.
    pub fn gaps(&self) -> impl Iterator<Item = Duration> {
        self.token_times.windows(2).map(|pair| pair[1] - pair[0])
    }
}
