//! The schedule of a record: how many requests there are, and when the steps ran that computed them.

use super::record::{Event, LATEST, Record};
use crate::error::{Error, Result};
use serde::Deserialize;
use std::{collections::BTreeMap, ops::Range};

/// What ran when. Times are in milliseconds from the first event; whatever else there is to see, the page reads in the record itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule {
    /// When each request came, by its lane.
    arrivals: BTreeMap<u64, f64>,
    /// When each step ran, by the bits of its start: times are not negative, so their bits are in their order.
    steps: BTreeMap<u64, Range<f64>>,
    /// Tokens that requests have computed.
    tokens: u64,
    /// When the last request ended.
    finished: f64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LaneArgs {
    arrival_us: f64,
}

#[derive(Deserialize)]
struct PartArgs {
    #[serde(default)]
    from: u64,
    to: u64,
}

impl Schedule {
    /// Reads a record's text.
    ///
    /// # Errors
    /// [`Error::Request`] for a text that is no record, or in which no request computes anything.
    pub fn parse(json: &str) -> Result<Schedule> {
        let mut schedule = Schedule::default();
        for (at, event) in Record::parse(json)?.events.iter().enumerate() {
            schedule.read(event, at)?;
        }
        if schedule.tokens == 0 {
            return Err(Error::Request("no request computes anything in it".into()));
        }
        Ok(schedule.starting_at_zero())
    }

    /// The same with the first event at 0.
    fn starting_at_zero(mut self) -> Schedule {
        let starts = self.steps.values().map(|step| step.start).chain(self.arrivals.values().copied());
        let first = starts.fold(f64::INFINITY, f64::min);
        self.steps.values_mut().for_each(|step| *step = step.start - first..step.end - first);
        self.finished -= first;
        self
    }

    /// Requests in it.
    pub fn requests(&self) -> usize {
        self.arrivals.len()
    }

    /// Steps in it.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// When the last step ends, or the last request.
    pub fn end(&self) -> f64 {
        self.steps.values().map(|step| step.end).fold(self.finished, f64::max)
    }

    /// The steps that run at some time between two times.
    pub fn between(&self, from: f64, to: f64) -> Range<usize> {
        let before = self.steps.values().filter(|step| step.end < from).count();
        before..self.steps.values().filter(|step| step.start <= to).count().max(before)
    }

    /// The step that an event belongs to: the events of a step have one time.
    fn step(&mut self, event: &Event) -> &mut Range<f64> {
        let start = event.ts / 1e3;
        self.steps.entry(event.ts.to_bits()).or_insert(start..start)
    }

    /// Adds an event.
    fn read(&mut self, event: &Event, at: usize) -> Result<()> {
        let (start, end) = (event.ts / 1e3, (event.ts + event.dur) / 1e3);
        match (event.ph.as_str(), event.cat.as_str(), event.name.as_str()) {
            ("M", _, "thread_name") if event.tid > 0 => {
                let LaneArgs { arrival_us } = event.args(at)?;
                self.arrivals.insert(event.tid, arrival_us.clamp(0.0, LATEST) / 1e3);
            }
            ("X", "step", _) => self.step(event).end = end,
            ("X", "prefill" | "decode", _) => {
                self.step(event);
                let PartArgs { from, to } = event.args(at)?;
                self.tokens = self.tokens.saturating_add(to.saturating_sub(from));
                self.arrivals.entry(event.tid).or_default();
            }
            ("C", _, "KV tokens") => {
                self.step(event);
                event.args::<BTreeMap<String, u64>>(at)?;
            }
            ("i", _, "finished") => {
                self.arrivals.entry(event.tid).or_default();
                self.finished = self.finished.max(start);
            }
            _ => {}
        }
        Ok(())
    }
}
