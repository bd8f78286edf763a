//! The schedule as Chrome trace events: <https://ui.perfetto.dev> opens it, and `stairwell timeline` draws it.
//!
//! One lane (thread) a request, with its time in the queue, its prefill chunks and its decode steps; lane 0 has the engine's steps;
//! counters show the queues and the KV cache. The format is Google's *Trace Event Format*: complete events ("X"), counters
//! ("C"), instants ("i") and metadata ("M"), times in microseconds. `otherData` has the policy and the limits.

use super::{BlockSnapshot, Chunk, Finished, KvManager, Limits, Phase, Request};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// What ran when.
pub struct Trace {
    start: Instant,
    events: Vec<Value>,
    settings: Value,
    /// Lanes of requests that wait, and their arrival.
    waiting: BTreeMap<u64, f64>,
    /// Who had which block in the last step.
    blocks: BlockSnapshot,
}

impl Trace {
    /// A trace that starts now.
    pub fn new(policy: &str, limits: Limits) -> Trace {
        let name = |kind: &str, name: &str| json!({"ph": "M", "pid": 1, "tid": 0, "name": kind, "args": {"name": name}});
        let events = vec![name("process_name", "stairwell"), name("thread_name", "steps")];
        let (sequences, tokens) = (limits.max_num_seqs, limits.max_batched_tokens);
        let settings = json!({"policy": policy, "max_num_seqs": sequences, "max_batched_tokens": tokens});
        Trace {
            start: Instant::now(),
            events,
            settings,
            waiting: BTreeMap::new(),
            blocks: BlockSnapshot::default(),
        }
    }

    /// Microseconds from the start of the trace to a moment.
    fn at(&self, moment: Instant) -> f64 {
        moment.saturating_duration_since(self.start).as_nanos() as f64 / 1e3
    }

    pub(super) fn arrived(&mut self, request: &Request) {
        let (lane, at) = (request.id.0 + 1, self.at(request.arrival()));
        let name = format!("request {}", request.id.0);
        let lane_name = json!({"name": name, "prompt_tokens": request.prompt_len(), "arrival_us": at});
        self.events.push(json!({"ph": "M", "pid": 1, "tid": lane, "name": "thread_name", "args": lane_name}));
        self.waiting.insert(lane, at);
    }

    /// A step that started at `started` and ends now.
    pub(super) fn step(&mut self, started: Instant, chunks: &[Chunk], waiting: usize, kv: &dyn KvManager) {
        let (ts, end) = (self.at(started), self.at(Instant::now()));
        let event = |lane: u64, name: String, cat: &str, args: Value| json!({"ph": "X", "pid": 1, "tid": lane, "ts": ts, "dur": end - ts, "name": name, "cat": cat, "args": args});
        let tokens: usize = chunks.iter().map(|c| c.positions.len()).sum();
        let args = json!({"tokens": tokens, "requests": chunks.len()});
        self.events.push(event(0, format!("{tokens} tokens"), "step", args));
        for chunk in chunks {
            let (from, to) = (chunk.positions.start, chunk.positions.end);
            let (name, cat) = match chunk.phase {
                Phase::Prefill => (format!("prefill {from}..{to}"), "prefill"),
                Phase::Decode => (format!("decode {from}"), "decode"),
            };
            let lane = chunk.id.0 + 1;
            if let Some(arrival) = self.waiting.remove(&lane) {
                self.events.push(queued(lane, arrival, ts));
            }
            let args = json!({"from": from, "to": to});
            self.events.push(event(lane, name, cat, args));
        }
        let counter =
            |name: &str, args: Value| json!({"ph": "C", "pid": 1, "ts": ts, "name": name, "args": args});
        self.events.push(counter("requests", json!({"running": chunks.len(), "waiting": waiting})));
        let usage = kv.usage();
        let unused = usage.reserved - usage.used;
        self.events.push(counter("KV tokens", json!({"used": usage.used, "reserved, unused": unused})));
        self.blocks(ts, kv);
    }

    /// After the last step: all that has ended has given its blocks back.
    pub(super) fn end(&mut self, kv: &dyn KvManager) {
        self.blocks(self.at(Instant::now()), kv);
    }

    /// How many blocks are held, and whose tables have changed.
    fn blocks(&mut self, ts: f64, kv: &dyn KvManager) {
        let counts = kv.counts();
        if counts.total == 0 {
            return;
        }
        let args = json!({"held": counts.held, "cached": counts.cached, "free": counts.free});
        self.events.push(json!({"ph": "C", "pid": 1, "ts": ts, "name": "KV blocks", "args": args}));
        let now = kv.snapshot();
        let args = json!({
            "block_size": counts.block_size,
            "total": counts.total,
            "tables": splices(&self.blocks, &now),
            "cached": now.cached.difference(&self.blocks.cached).collect::<Vec<_>>(),
            "uncached": self.blocks.cached.difference(&now.cached).collect::<Vec<_>>(),
        });
        self.blocks = now;
        self.events.push(json!({"ph": "i", "s": "p", "pid": 1, "tid": 0, "ts": ts, "name": "blocks", "cat": "blocks", "args": args}));
    }

    pub(super) fn finished(&mut self, finished: &Finished) {
        let (lane, at) = (finished.id.0 + 1, self.at(Instant::now()));
        if let Some(arrival) = self.waiting.remove(&lane) {
            self.events.push(queued(lane, arrival, at));
        }
        let args = json!({"reason": finished.reason.name(), "output_tokens": finished.output.len()});
        self.events.push(
            json!({"ph": "i", "s": "t", "pid": 1, "tid": lane, "ts": at, "name": "finished", "args": args}),
        );
    }

    /// The trace as a JSON document.
    pub fn to_json(&self) -> Value {
        json!({"displayTimeUnit": "ms", "otherData": self.settings, "traceEvents": self.events})
    }
}

/// A request's time in the queue.
fn queued(lane: u64, from: f64, to: f64) -> Value {
    let dur = (to - from).max(0.0);
    json!({"ph": "X", "pid": 1, "tid": lane, "ts": from, "dur": dur, "name": "queued", "cat": "queued"})
}

/// What makes the new block tables out of the old ones: `[request, at, removed, [added, …]]`.
fn splices(old: &BlockSnapshot, new: &BlockSnapshot) -> Vec<Value> {
    let ids: BTreeSet<_> = old.tables.keys().chain(new.tables.keys()).collect();
    let table = |of: &BlockSnapshot, id| of.tables.get(id).cloned().unwrap_or_default();
    let splice = |id| {
        let (old, new) = (table(old, id), table(new, id));
        let at = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
        let (old, new) = (&old[at..], &new[at..]);
        let same = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
        let (removed, added) = (old.len() - same, &new[..new.len() - same]);
        (removed > 0 || !added.is_empty()).then(|| json!([id.0, at, removed, added]))
    };
    ids.into_iter().filter_map(splice).collect()
}
