//! A record's file: Chrome trace events, as [`Trace`](super::Trace) writes them.

use crate::error::{Error, Result};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// The part of the file that is read.
#[derive(Deserialize)]
pub struct Record {
    #[serde(rename = "traceEvents")]
    pub events: Vec<Event>,
}

/// One event. Times are in microseconds.
#[derive(Deserialize)]
pub struct Event {
    pub name: String,
    #[serde(default)]
    pub ph: String,
    /// The lane: 0 for the engine's steps, otherwise the request's number plus 1.
    #[serde(default)]
    pub tid: u64,
    #[serde(default)]
    pub ts: f64,
    #[serde(default)]
    pub dur: f64,
    #[serde(default)]
    pub cat: String,
    #[serde(default)]
    args: Value,
}

/// Later than any record: 30 years in microseconds.
pub const LATEST: f64 = 1e15;

impl Record {
    /// Reads a record's text.
    ///
    /// # Errors
    /// [`Error::Request`] for a text that is no trace, and for a time that no run reaches.
    pub fn parse(json: &str) -> Result<Record> {
        let record: Record =
            serde_json::from_str(json).map_err(|e| Error::Request(format!("not a trace ({e})")))?;
        let timely = |e: &Event| [e.ts, e.dur].iter().all(|t| (0.0..LATEST).contains(t));
        match record.events.iter().enumerate().find(|(_, event)| !timely(event)) {
            Some((at, event)) => {
                let times = format!("it is at {} µs and takes {} µs", event.ts, event.dur);
                Err(event.refused(at, &times))
            }
            None => Ok(record),
        }
    }
}

impl Event {
    /// The event's arguments; `at` is its place in the file, for the message.
    ///
    /// # Errors
    /// Arguments of another form.
    pub fn args<T: DeserializeOwned>(&self, at: usize) -> Result<T> {
        T::deserialize(&self.args).map_err(|e| self.refused(at, &e.to_string()))
    }

    /// The error of a record with such an event in it.
    pub fn refused(&self, at: usize, why: &str) -> Error {
        Error::Request(format!("event {at} of 'traceEvents' ('{}'): {why}", self.name))
    }
}
