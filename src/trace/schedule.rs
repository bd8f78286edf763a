//! The schedule of a record: the requests, and the steps that computed them.

use super::{
    Phase,
    record::{Event, LATEST, Record},
};
use crate::error::{Error, Result};
use serde::Deserialize;
use std::{collections::BTreeMap, ops::Range};

/// Which request computed what when. Times are in milliseconds from the first event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule {
    /// In the order of arrival.
    pub lanes: Vec<Lane>,
    pub steps: Vec<Step>,
    /// Tokens that a step may hold, if the file says.
    pub budget: Option<u64>,
}

/// One request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lane {
    pub name: String,
    pub arrival: f64,
    /// What it computed, in order.
    pub spans: Vec<Span>,
    pub finished: Option<f64>,
}

/// One request's part of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub start: f64,
    pub end: f64,
    pub phase: Phase,
    pub tokens: u64,
}

/// One forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Step {
    pub start: f64,
    pub end: f64,
    pub prefill_tokens: u64,
    pub decode_tokens: u64,
    /// Tokens of the KV cache that requests have reserved, and how many of these are in use.
    pub kv_reserved: u64,
    pub kv_used: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LaneArgs {
    name: String,
    arrival_us: f64,
}

#[derive(Deserialize)]
struct PartArgs {
    #[serde(default)]
    from: u64,
    to: u64,
}

#[derive(Deserialize)]
struct KvArgs {
    used: u64,
    #[serde(rename = "reserved, unused")]
    unused: u64,
}

impl Schedule {
    /// Reads a record's text.
    ///
    /// # Errors
    /// [`Error::Request`] for a text that is no record, or in which no request computes anything.
    pub fn parse(json: &str) -> Result<Schedule> {
        let record = Record::parse(json)?;
        let (mut lanes, mut steps) = (BTreeMap::new(), BTreeMap::new());
        for (at, event) in record.events.iter().enumerate() {
            read(event, at, &mut lanes, &mut steps)?;
        }
        let (lanes, steps) = (lanes.into_values().collect(), steps.into_values().collect());
        let schedule = Schedule { lanes, steps, budget: record.settings.max_batched_tokens };
        if schedule.lanes.iter().all(|lane| lane.spans.is_empty()) {
            return Err(Error::Request("no request computes anything in it".into()));
        }
        Ok(schedule.starting_at_zero())
    }

    /// The same with the first event at 0.
    fn starting_at_zero(mut self) -> Schedule {
        let arrivals = self.lanes.iter().map(|lane| lane.arrival);
        let first = self.steps.iter().map(|step| step.start).chain(arrivals).fold(f64::INFINITY, f64::min);
        for lane in &mut self.lanes {
            lane.arrival -= first;
            lane.finished = lane.finished.map(|at| at - first);
            lane.spans.iter_mut().for_each(|s| (s.start, s.end) = (s.start - first, s.end - first));
        }
        self.steps.iter_mut().for_each(|s| (s.start, s.end) = (s.start - first, s.end - first));
        self
    }

    /// When the last step ends, or the last request.
    pub fn end(&self) -> f64 {
        let finished = self.lanes.iter().filter_map(|lane| lane.finished);
        self.steps.iter().map(|step| step.end).chain(finished).fold(0.0, f64::max)
    }

    /// The steps that run at some time between two times.
    pub fn between(&self, from: f64, to: f64) -> Range<usize> {
        let first = self.steps.partition_point(|step| step.end < from);
        first..self.steps.partition_point(|step| step.start <= to).max(first)
    }
}

/// Adds an event to the lanes and steps.
fn read(
    event: &Event,
    at: usize,
    lanes: &mut BTreeMap<u64, Lane>,
    steps: &mut BTreeMap<u64, Step>,
) -> Result<()> {
    let (start, end) = (event.ts / 1e3, (event.ts + event.dur) / 1e3);
    match (event.ph.as_str(), event.cat.as_str(), event.name.as_str()) {
        ("M", _, "thread_name") if event.tid > 0 => {
            let args: LaneArgs = event.args(at)?;
            let lane = lanes.entry(event.tid).or_default();
            (lane.name, lane.arrival) = (args.name, args.arrival_us.clamp(0.0, LATEST) / 1e3);
        }
        ("X", "step", _) => step(event, steps).end = end,
        ("X", cat @ ("prefill" | "decode"), _) => {
            let PartArgs { from, to } = event.args(at)?;
            let (tokens, step) = (to.saturating_sub(from), step(event, steps));
            let (phase, sum) = match cat {
                "prefill" => (Phase::Prefill, &mut step.prefill_tokens),
                _ => (Phase::Decode, &mut step.decode_tokens),
            };
            *sum = sum.saturating_add(tokens);
            lanes.entry(event.tid).or_default().spans.push(Span { start, end, phase, tokens });
        }
        ("C", _, "KV tokens") => {
            let KvArgs { used, unused } = event.args(at)?;
            let step = step(event, steps);
            (step.kv_used, step.kv_reserved) = (used, used.saturating_add(unused));
        }
        ("i", _, "finished") => lanes.entry(event.tid).or_default().finished = Some(start),
        _ => {}
    }
    Ok(())
}

/// The step that an event belongs to: the events of a step have one time. Times are not negative, so their bits are in their order.
fn step<'a>(event: &Event, steps: &'a mut BTreeMap<u64, Step>) -> &'a mut Step {
    let start = event.ts / 1e3;
    steps.entry(event.ts.to_bits()).or_insert(Step { start, end: start, ..Step::default() })
}
