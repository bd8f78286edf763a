//! K and V in blocks of a pool: attention goes by a block table, as in vLLM's PagedAttention (Kwon et al., arXiv:2309.06180).
//!
//! ```text
//! a layer's K:   block 0 │ block 1 │ block 2 │ …        a block: [kv_heads, block_size, head_dim]
//! a table:       [7, 2, 9]: positions 0 … 15 are in block 7, 16 … 31 in block 2, and so on
//! ```
//! Within a block, the tokens of one head lie side by side: a row reads one head of a block as one piece. Who has which block is not
//! decided here, but by `kv::BlockManager`; here a table is followed.

use super::options::{KvDtype, KvOptions};
use super::pool_size::{Pool, plan_pool};
use super::storage::no_memory;
use super::{batch_placement::Placement, block_storage::LayerBlocks, sequences::attend_kept};
use crate::backend::cpu::{Cpu, CpuTensor};
use crate::batch::{Batch, Move};
use crate::error::Result;
use crate::memory::free_memory;
use crate::model::{Attention, AttentionShape, KvMemory, KvScalesFrom};

/// See the module's documentation. A sequence's table is the list of its blocks.
pub struct Paged {
    shape: AttentionShape,
    dtype: KvDtype,
    scales: Option<KvScalesFrom>,
    pool: Pool,
    layers: Vec<LayerBlocks>,
    /// Blocks of host memory, by layer.
    host: Vec<LayerBlocks>,
    placement: Placement,
}

impl Paged {
    /// Reserves the pool.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(shape: AttentionShape, options: &KvOptions) -> Result<Paged> {
        let pool = plan_pool(&shape, options, options.host_room(free_memory()))?;
        let layers = |blocks: usize| {
            let layer = |layer| {
                let scales = options.scales_of(layer);
                LayerBlocks::new(&shape, options.dtype, blocks, pool.block_size, scales)
            };
            shape.layers.clone().map(layer).collect::<Result<_, _>>().map_err(no_memory("kv_memory"))
        };
        let (layers, host) = (layers(pool.blocks)?, layers(pool.swap_blocks)?);
        let (dtype, scales, placement) = (options.dtype, options.scales_from(), Placement::default());
        Ok(Paged { dtype, scales, pool, layers, host, placement, shape })
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
}

impl Attention<Cpu> for Paged {
    fn name(&self) -> &'static str {
        "paged"
    }

    fn begin(&mut self, _: &Cpu, batch: &Batch) -> Result<Option<u64>> {
        self.move_blocks(&batch.moves);
        self.placement.place(&self.pool, batch)?;
        Ok(None)
    }

    // ANCHOR: attend
    fn attend(&mut self, cpu: &Cpu, layer: usize, [q, k, v]: [&CpuTensor; 3]) -> Result<CpuTensor> {
        let blocks = &mut self.layers[layer - self.shape.layers.start];
        for (row, slot) in self.placement.slot_mapping.iter().enumerate() {
            blocks.write(*slot as usize, k.row(row), v.row(row));
        }

        let (blocks, Placement { sequences, tables, .. }) = (&*blocks, &self.placement);
        Ok(attend_kept(cpu, &self.shape, layer, q, sequences, |table, seen, kv_head| {
            blocks.segments(&tables[table.clone()], seen, kv_head)
        }))
    }
    // ANCHOR_END: attend

    fn max_tokens(&self) -> Option<usize> {
        Some(self.pool.max_model_len)
    }

    fn memory(&self) -> KvMemory {
        KvMemory { scales: self.scales, ..self.pool.memory(&self.shape, self.dtype) }
    }
}
