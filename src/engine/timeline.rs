//! A recorded schedule, read back from the trace file that [`Trace`](super::Trace) writes.

use super::Phase;
use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// Who computed what when. Times are in milliseconds from the first event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
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
    /// Tokens of the KV cache that requests hold, and those of them where a token is.
    pub kv_reserved: u64,
    pub kv_used: u64,
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "traceEvents")]
    events: Vec<Event>,
    #[serde(rename = "otherData", default)]
    settings: Value,
}

#[derive(Deserialize)]
struct Event {
    ph: String,
    name: String,
    #[serde(default)]
    tid: u64,
    #[serde(default)]
    ts: f64,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    cat: String,
    #[serde(default)]
    args: Value,
}

/// Longer than anybody's trace: 30 years in microseconds.
const LATEST: f64 = 1e15;

impl Timeline {
    /// Reads a trace file's text; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Request`], naming the file, for what is no trace or holds no requests.
    pub fn parse(json: &[u8], path: &Path) -> Result<Timeline> {
        let bad = |reason: String| {
            let path = path.display();
            Error::Request(format!("{path}: {reason}; `--trace FILE` of batch and bench writes a trace"))
        };
        let file: File = serde_json::from_slice(json).map_err(|e| bad(format!("not a trace ({e})")))?;
        let timely = |e: &Event| [e.ts, e.dur].iter().all(|t| (0.0..LATEST).contains(t));
        if let Some(event) = file.events.iter().find(|e| !timely(e)) {
            let message = format!("event '{}' is at {} µs and takes {} µs", event.name, event.ts, event.dur);
            return Err(bad(message));
        }
        let timeline = Timeline::of(&file).starting_at_zero();
        if timeline.lanes.iter().all(|lane| lane.spans.is_empty()) {
            return Err(bad("no request computes anything in it".into()));
        }
        Ok(timeline)
    }

    fn of(file: &File) -> Timeline {
        let (mut lanes, mut steps) = (BTreeMap::<u64, Lane>::new(), BTreeMap::<u64, Step>::new());
        for event in &file.events {
            let (start, end) = (event.ts / 1e3, (event.ts + event.dur) / 1e3);
            // Times are not negative, so their bits are in their order; a step's events have one time.
            let step = event.ts.to_bits();
            let arg = |name: &str| event.args[name].as_u64().unwrap_or(0);
            match (event.ph.as_str(), event.cat.as_str(), event.name.as_str()) {
                ("M", _, "thread_name") if event.tid > 0 => {
                    let lane = lanes.entry(event.tid).or_default();
                    lane.name = event.args["name"].as_str().unwrap_or_default().to_owned();
                    lane.arrival = event.args["arrival_us"].as_f64().unwrap_or(0.0).clamp(0.0, LATEST) / 1e3;
                }
                ("X", "step", _) => {
                    let step = steps.entry(step).or_default();
                    (step.start, step.end) = (start, end);
                }
                ("X", cat @ ("prefill" | "decode"), _) => {
                    let phase = if cat == "prefill" { Phase::Prefill } else { Phase::Decode };
                    let tokens = arg("to").saturating_sub(arg("from"));
                    lanes.entry(event.tid).or_default().spans.push(Span { start, end, phase, tokens });
                    let step = steps.entry(step).or_default();
                    match phase {
                        Phase::Prefill => step.prefill_tokens += tokens,
                        Phase::Decode => step.decode_tokens += tokens,
                    }
                }
                ("C", _, "KV tokens") => {
                    let step = steps.entry(step).or_default();
                    step.kv_used = arg("used");
                    step.kv_reserved = step.kv_used.saturating_add(arg("reserved, unused"));
                }
                ("i", _, "finished") => lanes.entry(event.tid).or_default().finished = Some(start),
                _ => {}
            }
        }
        let budget = file.settings["max_batched_tokens"].as_u64();
        Timeline { lanes: lanes.into_values().collect(), steps: steps.into_values().collect(), budget }
    }

    /// The same with the first event at 0.
    fn starting_at_zero(mut self) -> Timeline {
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
        let lanes = self.lanes.iter().map(|lane| lane.extent().1);
        self.steps.iter().map(|step| step.end).chain(lanes).fold(0.0, f64::max)
    }
}

impl Lane {
    /// From its arrival to its end, or to the end of its last step.
    pub fn extent(&self) -> (f64, f64) {
        let last = self.spans.last().map_or(self.arrival, |span| span.end);
        (self.arrival, self.finished.unwrap_or(last).max(last))
    }
}
