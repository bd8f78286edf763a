//! Who had which block when, read back from the trace file that [`Trace`](super::Trace) writes.

use crate::{
    error::{Error, Result},
    kv::GONE,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// The pool at every step of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockHistory {
    /// Tokens of a block.
    pub block_size: usize,
    /// Blocks of the pool.
    pub total: usize,
    /// In the order of time; the last one is what was left when the run had ended.
    pub steps: Vec<PoolState>,
    /// What made each state out of the one before, as the file has it.
    pub(super) changes: Vec<Changes>,
}

/// The pool in one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolState {
    /// Each request's block table, [`GONE`] for a block behind its sliding window.
    pub tables: BTreeMap<u64, Vec<u32>>,
    /// Blocks that nobody holds, and what is in them can be found.
    pub cached: BTreeSet<u32>,
    /// Requests that lost their blocks before they had finished.
    pub preempted: Vec<u64>,
}

/// Who has a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Free,
    Cached,
    One(u64),
    /// So many requests.
    Shared(usize),
}

/// A pool that is larger than this was not recorded by this engine.
const MOST_BLOCKS: usize = 1 << 22;

#[derive(Deserialize)]
struct File {
    #[serde(rename = "traceEvents")]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    name: String,
    #[serde(default)]
    cat: String,
    #[serde(default)]
    tid: u64,
    #[serde(default)]
    args: serde_json::Value,
}

/// An event of the category "blocks".
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(super) struct Changes {
    block_size: usize,
    total: usize,
    /// Request, place in its table, blocks removed there, blocks put there.
    tables: Vec<(u64, usize, usize, Vec<u32>)>,
    cached: Vec<u32>,
    uncached: Vec<u32>,
}

impl BlockHistory {
    /// Reads a trace file's text; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Request`], naming the file, for what is no trace or has no blocks in it.
    pub fn parse(json: &[u8], path: &Path) -> Result<BlockHistory> {
        let bad = |reason: String| Error::Request(format!("{}: {reason}", path.display()));
        let hint = "; `--trace FILE` of batch and bench writes a trace";
        let file: File = serde_json::from_slice(json).map_err(|e| bad(format!("not a trace ({e}){hint}")))?;
        let (mut history, mut finished) = (BlockHistory::default(), BTreeSet::new());
        for (at, event) in file.events.into_iter().enumerate() {
            match (event.cat.as_str(), event.name.as_str()) {
                ("blocks", _) => {
                    let changes = Changes::deserialize(event.args).map_err(|e| e.to_string());
                    let pushed = changes.and_then(|changes| history.push(changes, &finished));
                    pushed.map_err(|e| bad(format!("event {at} of 'traceEvents' (blocks): {e}{hint}")))?;
                }
                (_, "finished") => {
                    finished.insert(event.tid.saturating_sub(1));
                }
                _ => {}
            }
        }
        if history.steps.is_empty() {
            let message =
                "there are no blocks in this trace; record it with `--trace` and `--attention paged`";
            return Err(bad(message.into()));
        }
        Ok(history)
    }

    fn push(&mut self, changes: Changes, finished: &BTreeSet<u64>) -> Result<(), String> {
        if !changes.block_size.is_power_of_two() || !(1..=MOST_BLOCKS).contains(&changes.total) {
            return Err(format!("{} blocks of {} tokens", changes.total, changes.block_size));
        }
        if !self.steps.is_empty() && (self.block_size, self.total) != (changes.block_size, changes.total) {
            return Err("the pool's size has changed".into());
        }
        (self.block_size, self.total) = (changes.block_size, changes.total);
        let mut state = self.steps.last().cloned().unwrap_or_default();
        state.preempted.clear();
        for (request, at, removed, added) in &changes.tables {
            let table = state.tables.entry(*request).or_default();
            let end = at.checked_add(*removed).filter(|end| *end <= table.len());
            let end =
                end.ok_or_else(|| format!("request {request}: its table has {} blocks", table.len()))?;
            table.splice(*at..end, added.iter().copied());
            if table.is_empty() {
                state.tables.remove(request);
                state.preempted.extend(Some(*request).filter(|id| !finished.contains(id)));
            }
        }
        changes.uncached.iter().for_each(|block| {
            state.cached.remove(block);
        });
        state.cached.extend(&changes.cached);
        let named = changes.tables.iter().flat_map(|splice| &splice.3).filter(|block| **block != GONE);
        if let Some(block) = named.chain(&changes.cached).find(|block| **block as usize >= self.total) {
            return Err(format!("block {block} of {}", self.total));
        }
        self.steps.push(state);
        self.changes.push(changes);
        Ok(())
    }

    /// Blocks that a step among these uses.
    pub fn used(&self, steps: std::ops::Range<usize>) -> Vec<u32> {
        let mut used: BTreeSet<u32> = BTreeSet::new();
        for state in &self.steps[steps] {
            used.extend(state.tables.values().flatten().chain(&state.cached));
        }
        used.remove(&GONE);
        used.into_iter().collect()
    }
}

impl PoolState {
    /// Who has each of the pool's blocks.
    pub fn owners(&self, total: usize) -> Vec<Owner> {
        let mut owners = vec![Owner::Free; total];
        self.cached.iter().for_each(|block| owners[*block as usize] = Owner::Cached);
        for (request, table) in &self.tables {
            for block in table.iter().filter(|block| **block != GONE) {
                let owner = &mut owners[*block as usize];
                *owner = match *owner {
                    Owner::Free | Owner::Cached => Owner::One(*request),
                    Owner::One(_) => Owner::Shared(2),
                    Owner::Shared(n) => Owner::Shared(n + 1),
                };
            }
        }
        owners
    }
}
