//! Where the rows of a batch have their K and V in a pool of blocks: what attention must know, on the CPU and on a device.

use super::{pool_size::Pool, sequences::Sequence};
use crate::batch::{Batch, Span};
use crate::error::{Error, Result};
use crate::kv::GONE;
use crate::words::{Words, field};
use std::ops::Range;

/// The batch's tables, checked, and a place for each row.
#[derive(Default)]
pub(super) struct Placement {
    /// The batch's, with their parts of `tables`.
    pub sequences: Vec<Sequence<Range<usize>>>,
    /// The batch's tables, one after the other.
    pub tables: Vec<u32>,
    /// Where each row's K and V go: block · block_size + place in the block, `[rows]`.
    pub slot_mapping: Vec<u32>,
}

impl Placement {
    /// Takes a batch.
    ///
    /// # Errors
    /// If a table is too short, or names a block that is not in the pool.
    pub fn place(&mut self, pool: &Pool, batch: &Batch) -> Result<()> {
        self.sequences.clear();
        self.slot_mapping.clear();
        self.tables.clone_from(&batch.tables);
        batch.spans.iter().try_for_each(|span| self.place_span(pool, batch, span))
    }

    /// Checks a sequence's table, and finds the places of its rows.
    fn place_span(&mut self, pool: &Pool, batch: &Batch, span: &Span) -> Result<()> {
        let Pool { block_size, blocks, .. } = *pool;
        let table = &batch.tables[span.table.clone()];
        let start = batch.positions[span.rows.start] as usize;
        let end = start + span.rows.len();
        if end > table.len() * block_size {
            let room = table.len() * block_size;
            let message = format!(
                "a sequence's block table has room for {room} tokens, and it has {end}: its blocks are reserved before it runs"
            );
            return Err(Error::Request(message));
        }
        // Every layer sees at most this much of the past.
        let window = pool.window.unwrap_or(usize::MAX);
        let first = (start + 1).saturating_sub(window) / block_size;
        if let Some(block) = table[first..end.div_ceil(block_size)].iter().find(|b| **b as usize >= blocks) {
            if *block == GONE {
                let gone = "were given back behind the sliding window";
                return Err(Error::Request(format!("keys that position {start} sees {gone}")));
            }
            let named = format!("the KV cache has {blocks} blocks, and a sequence names block {block}");
            return Err(Error::Limit(Words::from(named + "; give a larger " + &field("kv_memory"))));
        }
        // ANCHOR: slot_mapping
        let slot = |position: usize| {
            table[position / block_size] * block_size as u32 + (position % block_size) as u32
        };
        self.slot_mapping.extend((start..end).map(slot));
        // ANCHOR_END: slot_mapping
        self.sequences.push(Sequence { rows: span.rows.clone(), start, place: span.table.clone() });
        Ok(())
    }
}
