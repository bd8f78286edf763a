//! The KV cache's blocks in a record: for each step what has changed since the step before, written and read back.

use super::record::Record;
use crate::error::{Error, Result};
use crate::kv::{BlockSnapshot, GONE, Manager, RequestId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Records who has which block.
#[derive(Default)]
pub struct PoolTrace {
    /// The pool in the last step.
    last: BlockSnapshot,
}

/// An event of the category "blocks": what makes the pool of this step out of that of the step before.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
struct Changes {
    block_size: usize,
    total: usize,
    /// Request, place in its table, blocks removed there, blocks put there.
    tables: Vec<(u64, usize, usize, Vec<u32>)>,
    cached: BTreeSet<u32>,
    uncached: BTreeSet<u32>,
}

impl PoolTrace {
    /// How many blocks are held at time `ts`, and what has changed. No events, if the KV cache has no blocks.
    pub fn events(&mut self, ts: f64, kv: &dyn Manager) -> Vec<Value> {
        let counts = kv.counts();
        if counts.total == 0 {
            return Vec::new();
        }
        let (now, last) = (kv.snapshot(), &self.last);
        let changes = Changes::between(last, &now, counts.block_size, counts.total);
        self.last = now;
        let args = json!({"held": counts.held, "cached": counts.cached, "free": counts.free});
        vec![
            json!({"ph": "C", "pid": 1, "ts": ts, "name": "KV blocks", "args": args}),
            json!({"ph": "i", "s": "p", "pid": 1, "tid": 0, "ts": ts, "name": "blocks", "cat": "blocks", "args": changes}),
        ]
    }
}

impl Changes {
    /// What makes the new pool out of the old one; both have `total` blocks of `block_size` tokens.
    fn between(old: &BlockSnapshot, new: &BlockSnapshot, block_size: usize, total: usize) -> Changes {
        let (cached, uncached) = (&new.cached - &old.cached, &old.cached - &new.cached);
        Changes { block_size, total, tables: splices(old, new), cached, uncached }
    }
}

/// What makes the new block tables out of the old ones: request, place, blocks removed there, blocks put there.
fn splices(old: &BlockSnapshot, new: &BlockSnapshot) -> Vec<(u64, usize, usize, Vec<u32>)> {
    fn table(of: &BlockSnapshot, id: RequestId) -> &[u32] {
        of.tables.get(&id).map_or(&[], Vec::as_slice)
    }
    let ids: BTreeSet<RequestId> = old.tables.keys().chain(new.tables.keys()).copied().collect();
    let splice = |id: RequestId| {
        let (old, new) = (table(old, id), table(new, id));
        // Equal beginnings and equal ends stay.
        let at = old.iter().zip(new).take_while(|(old, new)| old == new).count();
        let (old, new) = (&old[at..], &new[at..]);
        let same = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
        let (removed, added) = (old.len() - same, &new[..new.len() - same]);
        (removed > 0 || !added.is_empty()).then(|| (id.0, at, removed, added.to_vec()))
    };
    ids.into_iter().filter_map(splice).collect()
}

/// The pool at every step of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolHistory {
    /// Tokens of a block.
    pub block_size: usize,
    /// Blocks of the pool.
    pub total: usize,
    /// In the order of time; the last one is what was left when the run had ended.
    pub steps: Vec<PoolState>,
}

/// The pool in one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolState {
    /// Each request's block table, [`GONE`] for a block behind its sliding window.
    pub tables: BTreeMap<u64, Vec<u32>>,
    /// Blocks that nobody holds, and what is in them can be found.
    pub cached: BTreeSet<u32>,
}

/// A pool that is larger than this was not recorded by this engine.
const MOST_BLOCKS: usize = 1 << 22;

impl PoolHistory {
    /// Reads a record's text.
    ///
    /// # Errors
    /// [`Error::Request`] for a text that is no record, or that has no blocks in it.
    pub fn parse(json: &str) -> Result<PoolHistory> {
        let mut history = PoolHistory::default();
        for (at, event) in Record::parse(json)?.events.iter().enumerate() {
            if event.cat == "blocks" {
                history.push(event.args(at)?).map_err(|why| event.refused(at, &why))?;
            }
        }
        if history.steps.is_empty() {
            return Err(Error::Request("there are no blocks in this trace".into()));
        }
        Ok(history)
    }

    fn push(&mut self, changes: Changes) -> Result<(), String> {
        if !changes.block_size.is_power_of_two() || !(1..=MOST_BLOCKS).contains(&changes.total) {
            return Err(format!("{} blocks of {} tokens", changes.total, changes.block_size));
        }
        if !self.steps.is_empty() && (self.block_size, self.total) != (changes.block_size, changes.total) {
            return Err("the pool's size has changed".into());
        }
        (self.block_size, self.total) = (changes.block_size, changes.total);
        let mut state = self.steps.last().cloned().unwrap_or_default();
        for (request, at, removed, added) in &changes.tables {
            let table = state.tables.entry(*request).or_default();
            let end = at.checked_add(*removed).filter(|end| *end <= table.len());
            let end =
                end.ok_or_else(|| format!("request {request}: its table has {} blocks", table.len()))?;
            table.splice(*at..end, added.iter().copied());
            if table.is_empty() {
                state.tables.remove(request);
            }
        }
        state.cached = &(&state.cached - &changes.uncached) | &changes.cached;
        let named = changes.tables.iter().flat_map(|splice| &splice.3).filter(|block| **block != GONE);
        if let Some(block) = named.chain(&changes.cached).find(|block| **block as usize >= self.total) {
            return Err(format!("block {block} of {}", self.total));
        }
        self.steps.push(state);
        Ok(())
    }

    /// Blocks that a step among these uses.
    pub fn used(&self, steps: Range<usize>) -> Vec<u32> {
        let steps = self.steps[steps].iter();
        let used = steps.flat_map(|state| state.tables.values().flatten().chain(&state.cached));
        let mut used: BTreeSet<u32> = used.copied().collect();
        used.remove(&GONE);
        used.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of a manager whose pool is a list of tables and of cached blocks.
    fn snapshot(tables: &[(u64, &[u32])], cached: &[u32]) -> BlockSnapshot {
        let tables = tables.iter().map(|(id, table)| (RequestId(*id), table.to_vec())).collect();
        BlockSnapshot { tables, cached: cached.iter().copied().collect() }
    }

    #[test]
    fn tables_come_back_from_their_splices() {
        let steps = [
            snapshot(&[(0, &[0, 1]), (1, &[0, 2])], &[]),
            snapshot(&[(0, &[0, 1, 3]), (1, &[0, 4])], &[2]),
            snapshot(&[(0, &[GONE, 1, 3])], &[0, 2, 4]),
            snapshot(&[], &[1]),
        ];
        let (mut history, mut last) = (PoolHistory::default(), BlockSnapshot::default());
        for now in &steps {
            let changes = Changes::between(&last, now, 16, 5);
            history.push(changes).unwrap();
            last = now.clone();
        }
        for (state, now) in history.steps.iter().zip(&steps) {
            let tables: BTreeMap<u64, Vec<u32>> =
                now.tables.iter().map(|(id, t)| (id.0, t.clone())).collect();
            assert_eq!((&state.tables, &state.cached), (&tables, &now.cached));
        }
        assert_eq!(history.used(3..4), [1]);
    }
}
