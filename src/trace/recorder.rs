//! The schedule as Chrome trace events: <https://ui.perfetto.dev> opens it, and the [`page`](super::page()) draws it.
//!
//! One lane (thread) a request, with its time in the queue, its prefill chunks and its decode steps; lane 0 has the engine's steps;
//! counters show the queues and the KV cache. The format is Google's *Trace Event Format*: complete events ("X"), counters
//! ("C"), instants ("i") and metadata ("M"), times in microseconds. `otherData` has the policy and the limits.

use super::PoolTrace;
use crate::kv::{Manager, RequestId};
use serde_json::{Value, json};
use std::{collections::BTreeMap, ops::Range, time::Instant};

/// The kind of work that a request has in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Tokens of the prompt.
    Prefill,
    /// The token that was sampled last.
    Decode,
}

/// One request's part of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub id: RequestId,
    pub phase: Phase,
    /// Positions of its sequence that are computed.
    pub positions: Range<usize>,
}

/// The record of a run, as it is written.
pub struct Trace {
    start: Instant,
    events: Vec<Value>,
    settings: Value,
    /// Lanes of requests that wait, and their arrival.
    waiting: BTreeMap<u64, f64>,
    pool: PoolTrace,
}

impl Trace {
    /// A trace that starts now. The policy gives a step at most so many sequences and tokens.
    pub fn new(policy: &str, max_num_seqs: usize, max_batched_tokens: usize) -> Trace {
        let name = |kind: &str, name: &str| json!({"ph": "M", "pid": 1, "tid": 0, "name": kind, "args": {"name": name}});
        let events = vec![name("process_name", "stairwell"), name("thread_name", "steps")];
        let settings =
            json!({"policy": policy, "max_num_seqs": max_num_seqs, "max_batched_tokens": max_batched_tokens});
        let (waiting, pool) = (BTreeMap::new(), PoolTrace::default());
        Trace { start: Instant::now(), events, settings, waiting, pool }
    }

    /// Microseconds from the start of the trace to a moment.
    fn at(&self, moment: Instant) -> f64 {
        moment.saturating_duration_since(self.start).as_nanos() as f64 / 1e3
    }

    /// A request came at `arrival`.
    pub fn arrived(&mut self, id: RequestId, prompt_tokens: usize, arrival: Instant) {
        let (lane, at) = (id.0 + 1, self.at(arrival));
        let name = format!("request {}", id.0);
        let lane_name = json!({"name": name, "prompt_tokens": prompt_tokens, "arrival_us": at});
        self.events.push(json!({"ph": "M", "pid": 1, "tid": lane, "name": "thread_name", "args": lane_name}));
        self.waiting.insert(lane, at);
    }

    /// A step that started at `started` and ends now; `waiting` requests had no part in it and have none yet.
    pub fn step(&mut self, started: Instant, parts: &[Part], waiting: usize, kv: &dyn Manager) {
        let (ts, end) = (self.at(started), self.at(Instant::now()));
        let event = |lane: u64, name: String, cat: &str, args: Value| json!({"ph": "X", "pid": 1, "tid": lane, "ts": ts, "dur": end - ts, "name": name, "cat": cat, "args": args});
        let tokens: usize = parts.iter().map(|c| c.positions.len()).sum();
        let args = json!({"tokens": tokens, "requests": parts.len()});
        self.events.push(event(0, format!("{tokens} tokens"), "step", args));
        for part in parts {
            let (from, to) = (part.positions.start, part.positions.end);
            let (name, cat) = match part.phase {
                Phase::Prefill => (format!("prefill {from}..{to}"), "prefill"),
                Phase::Decode => (format!("decode {from}"), "decode"),
            };
            let lane = part.id.0 + 1;
            self.leaves_queue(lane, ts);
            let args = json!({"from": from, "to": to});
            self.events.push(event(lane, name, cat, args));
        }
        let counter =
            |name: &str, args: Value| json!({"ph": "C", "pid": 1, "ts": ts, "name": name, "args": args});
        self.events.push(counter("requests", json!({"running": parts.len(), "waiting": waiting})));
        let usage = kv.usage();
        let unused = usage.reserved - usage.used;
        self.events.push(counter("KV tokens", json!({"used": usage.used, "reserved, unused": unused})));
        self.events.extend(self.pool.events(ts, kv));
    }

    /// After the last step: requests that have ended have given their blocks back.
    pub fn end(&mut self, kv: &dyn Manager) {
        let now = self.at(Instant::now());
        self.events.extend(self.pool.events(now, kv));
    }

    /// A request ended now, for this reason.
    pub fn finished(&mut self, id: RequestId, reason: &str, output_tokens: usize) {
        let (lane, at) = (id.0 + 1, self.at(Instant::now()));
        self.leaves_queue(lane, at);
        let args = json!({"reason": reason, "output_tokens": output_tokens});
        self.events.push(
            json!({"ph": "i", "s": "t", "pid": 1, "tid": lane, "ts": at, "name": "finished", "args": args}),
        );
    }

    /// Records a request's time in the queue, if it was still there.
    fn leaves_queue(&mut self, lane: u64, at: f64) {
        if let Some(from) = self.waiting.remove(&lane) {
            let dur = (at - from).max(0.0);
            self.events.push(
                json!({"ph": "X", "pid": 1, "tid": lane, "ts": from, "dur": dur, "name": "queued", "cat": "queued"}),
            );
        }
    }

    /// The trace as a JSON document.
    pub fn to_json(&self) -> Value {
        json!({"displayTimeUnit": "ms", "otherData": self.settings, "traceEvents": self.events})
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Schedule, *};
    use crate::kv::{KvManager, Slots};

    #[test]
    fn what_is_recorded_is_read() {
        let (mut trace, mut kv) = (Trace::new("continuous", 2, 8), Slots::new(2, 16));
        let [a, b] = [0, 1].map(RequestId);
        trace.arrived(a, 6, Instant::now());
        trace.arrived(b, 3, Instant::now());
        let part = |id, phase, positions| Part { id, phase, positions };
        assert!(kv.reserve(a, 6) && kv.reserve(b, 2));
        let parts = [part(a, Phase::Prefill, 0..6), part(b, Phase::Prefill, 0..2)];
        trace.step(Instant::now(), &parts, 0, &kv);
        assert!(kv.reserve(a, 7) && kv.reserve(b, 3));
        let parts = [part(a, Phase::Decode, 6..7), part(b, Phase::Prefill, 2..3)];
        trace.step(Instant::now(), &parts, 0, &kv);
        trace.finished(a, "length", 2);
        trace.end(&kv);

        let record = trace.to_json();
        let schedule = Schedule::parse(&record.to_string()).unwrap();
        assert_eq!((schedule.requests(), schedule.steps()), (2, 2));
        assert_eq!(schedule.between(0.0, schedule.end()), 0..2);
        assert_eq!(record["otherData"]["max_batched_tokens"], 8);
        let events = record["traceEvents"].as_array().unwrap();
        let args = |tid: Option<u64>, names: &[&str]| -> Vec<Value> {
            let wanted = |e: &&Value| {
                let name = e["name"].as_str().unwrap();
                e["tid"].as_u64() == tid && names.iter().any(|start| name.starts_with(start))
            };
            events.iter().filter(wanted).map(|event| event["args"].clone()).collect()
        };
        let parts = ["prefill", "decode"];
        assert_eq!(args(Some(1), &parts), [json!({"from": 0, "to": 6}), json!({"from": 6, "to": 7})]);
        assert_eq!(args(Some(2), &parts), [json!({"from": 0, "to": 2}), json!({"from": 2, "to": 3})]);
        assert_eq!(args(Some(1), &["finished"]), [json!({"reason": "length", "output_tokens": 2})]);
        assert_eq!(args(Some(2), &["finished"]), [Value::Null; 0]);
        let kv = |used: u64, unused: u64| json!({"used": used, "reserved, unused": unused});
        assert_eq!(args(None, &["KV tokens"]), [kv(8, 24), kv(10, 22)]);
    }

    #[test]
    fn a_hostile_record_is_one_error() {
        let event = |text: &str| format!(r#"{{"traceEvents": [{text}]}}"#);
        for (text, part) in [
            (String::new(), "not a trace"),
            ("{}".into(), "traceEvents"),
            (event(""), "no request computes anything"),
            (event(r#"{"name": "a", "ts": -5}"#), "event 0 of 'traceEvents' ('a'): it is at -5 µs"),
            (event(r#"{"name": "a", "dur": 1e300}"#), "('a')"),
            (event(r#"{"name": "a", "ph": "X", "cat": "prefill"}"#), "event 0 of 'traceEvents' ('a')"),
            (event(r#"{"name": "a", "ph": "X", "cat": "decode", "args": {"to": -1}}"#), "'a'"),
            ("[".repeat(1_000_000), "not a trace"),
        ] {
            let error = Schedule::parse(&text).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
    }
}
