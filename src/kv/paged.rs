//! K and V in blocks of a pool: attention goes by a block table, as in vLLM's PagedAttention (Kwon et al., arXiv:2309.06180).
//!
//! ```text
//! a layer's K:   block 0 │ block 1 │ block 2 │ …        a block: [kv_heads, block_size, head_dim]
//! a table:       [7, 2, 9]: positions 0 … 15 are in block 7, 16 … 31 in block 2, and so on
//! ```
//! Within a block, the tokens of one head lie side by side: a row reads one head of a block as one piece. Who has which block is not
//! decided here, but by `BlockManager`; here a table is followed.

use super::{
    KvDtype, KvOptions,
    block_storage::LayerBlocks,
    block_table::GONE,
    memory::free_memory,
    sizing::{Pool, plan_pool},
};
use crate::{
    backend::{
        Shaped,
        cpu::{
            Cpu, CpuTensor,
            grouped::{Scratch, attend_group},
        },
    },
    batch::{Batch, Move, Span},
    error::{Error, Result},
    model::{Attention, AttentionShape, KvMemory},
};
use std::{cell::RefCell, collections::TryReserveError, ops::Range};

/// See the module's documentation. A sequence's table is the list of its blocks.
pub struct Paged {
    shape: AttentionShape,
    dtype: KvDtype,
    pool: Pool,
    layers: Vec<LayerBlocks>,
    /// Blocks of host memory, by layer.
    host: Vec<LayerBlocks>,
    sequences: Vec<Sequence>,
    /// The batch's tables, one after the other.
    tables: Vec<u32>,
    /// Where each row's K and V go: block · block_size + place in the block, `[rows]`.
    slot_mapping: Vec<u32>,
}

/// One sequence's part of a batch.
struct Sequence {
    rows: Range<usize>,
    table: Range<usize>,
    /// Position of the first row.
    start: usize,
}

impl Paged {
    /// Reserves the pool.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(shape: AttentionShape, options: &KvOptions) -> Result<Paged> {
        let pool = plan_pool(&shape, options, free_memory())?;
        let layers = |blocks: usize| {
            let layer = |_| LayerBlocks::new(&shape, options.dtype, blocks, pool.block_size);
            let refused = |e: TryReserveError| {
                Error::Request(format!("no memory for K and V: {e}; give a smaller --kv-memory"))
            };
            shape.layers.clone().map(layer).collect::<Result<_, _>>().map_err(refused)
        };
        let (layers, host) = (layers(pool.blocks)?, layers(pool.swap_blocks)?);
        let (sequences, tables, slot_mapping) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Paged { dtype: options.dtype, pool, layers, host, sequences, tables, slot_mapping, shape })
    }

    /// Checks a sequence's table, and finds the places of its rows.
    fn place(&mut self, batch: &Batch, span: &Span) -> Result<()> {
        let Pool { block_size, blocks, .. } = self.pool;
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
        let window = self.pool.window.unwrap_or(usize::MAX);
        let first = (start + 1).saturating_sub(window) / block_size;
        if let Some(block) = table[first..end.div_ceil(block_size)].iter().find(|b| **b as usize >= blocks) {
            let message = match *block {
                GONE => format!("keys that position {start} sees were given back behind the sliding window"),
                block => format!(
                    "the KV cache has {blocks} blocks, and a sequence names block {block}; give a larger --kv-memory"
                ),
            };
            return Err(Error::Request(message));
        }
        // ANCHOR: slot_mapping
        let slot = |position: usize| {
            table[position / block_size] * block_size as u32 + (position % block_size) as u32
        };
        self.slot_mapping.extend((start..end).map(slot));
        // ANCHOR_END: slot_mapping
        self.sequences.push(Sequence { rows: span.rows.clone(), table: span.table.clone(), start });
        Ok(())
    }

    /// Carries out the copies that a batch begins with.
    fn move_blocks(&mut self, moves: &[Move]) {
        for (layer, host) in self.layers.iter_mut().zip(&mut self.host) {
            for step in moves {
                match *step {
                    Move::Copy { from, to } => layer.copy(from, to),
                    Move::SwapOut { block, host: to } => host.copy_from(layer, block, to),
                    Move::SwapIn { host: from, block } => layer.copy_from(host, from, block),
                }
            }
        }
    }

    /// The sequence that a row of the batch belongs to.
    fn sequence_of(&self, row: usize) -> &Sequence {
        &self.sequences[self.sequences.partition_point(|s| s.rows.end <= row)]
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Attention<Cpu> for Paged {
    fn name(&self) -> &'static str {
        "paged"
    }

    fn begin(&mut self, _: &Cpu, batch: &Batch) -> Result<Option<u64>> {
        self.move_blocks(&batch.moves);
        self.sequences.clear();
        self.slot_mapping.clear();
        self.tables.clone_from(&batch.tables);
        batch.spans.iter().try_for_each(|span| self.place(batch, span))?;
        Ok(None)
    }

    // ANCHOR: attend
    fn attend(
        &mut self,
        cpu: &Cpu,
        layer: usize,
        q: &CpuTensor,
        k: &CpuTensor,
        v: &CpuTensor,
    ) -> Result<CpuTensor> {
        let AttentionShape { heads, kv_heads, head_dim, scale, .. } = self.shape;
        let blocks = &mut self.layers[layer - self.shape.layers.start];
        for (row, slot) in self.slot_mapping.iter().enumerate() {
            blocks.write(*slot as usize, k.row(row), v.row(row));
        }

        let this = &*self;
        let (blocks, window) = (&this.layers[layer - this.shape.layers.start], this.shape.windows[layer]);
        let group = heads / kv_heads * head_dim; // the query heads that share a head of K and V
        let mut out = cpu.take(q.rows(), heads * head_dim);
        let work: usize = self.sequences.iter().map(|s| s.rows.len() * (s.start + s.rows.len())).sum();
        cpu.for_each_chunk_of(out.data_mut(), group, work * heads * head_dim, |i, out| {
            let (row, kv_head) = (i / kv_heads, i % kv_heads);
            let sequence = this.sequence_of(row);
            let (table, position) =
                (&this.tables[sequence.table.clone()], sequence.start + row - sequence.rows.start);
            let seen = window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1;
            let segments = blocks.segments(table, seen.clone(), kv_head);
            let q = &q.row(row)[kv_head * group..][..group];
            SCRATCH.with_borrow_mut(|scratch| {
                attend_group(cpu.isa(), q, head_dim, segments, seen.len(), scale, scratch, out)
            });
        });
        Ok(out)
    }
    // ANCHOR_END: attend

    fn max_tokens(&self) -> Option<usize> {
        Some(self.pool.max_model_len)
    }

    fn memory(&self) -> KvMemory {
        let bytes_per_token = self.shape.bytes_per_token(self.dtype);
        KvMemory {
            dtype: Some(self.dtype.stored()),
            bytes_per_token,
            slots: usize::MAX,
            reserved_bytes: (self.pool.blocks * self.pool.block_size) as u64 * bytes_per_token,
            pool: Some(self.pool.for_manager()),
        }
    }
}
