//! The blocks of one layer as they lie in memory.

use super::{options::KvDtype, storage::Storage};
use crate::{attention::cpu::vectors::Segment, model::AttentionShape};
use bytemuck::{cast_slice, cast_slice_mut};
use std::{collections::TryReserveError, ops::Range};

// ANCHOR: layer_blocks
/// K and V of one layer, each [blocks, kv_heads, block_size, head_dim].
pub(super) struct LayerBlocks {
    kv_heads: usize,
    block_size: usize,
    k: Storage,
    v: Storage,
}
// ANCHOR_END: layer_blocks

impl LayerBlocks {
    /// Zeros. `scales`: those that all K and all V share, in fp8.
    pub fn new(
        shape: &AttentionShape,
        dtype: KvDtype,
        blocks: usize,
        block_size: usize,
        scales: Option<[f32; 2]>,
    ) -> Result<LayerBlocks, TryReserveError> {
        let storage = |part: usize| {
            let zeros = Storage::new(dtype, blocks * block_size * shape.kv_heads, shape.head_dim);
            zeros.map(|zeros| zeros.with_scale(scales.map(|scales| scales[part])))
        };
        Ok(LayerBlocks { kv_heads: shape.kv_heads, block_size, k: storage(0)?, v: storage(1)? })
    }

    // ANCHOR: vector
    /// The number of a vector of K or V.
    fn vector(&self, block: usize, kv_head: usize, place: usize) -> usize {
        (block * self.kv_heads + kv_head) * self.block_size + place
    }

    /// Keeps one token's K and V, [kv_heads · head_dim] each.
    pub fn write(&mut self, slot: usize, k: &[f32], v: &[f32]) {
        let (block, place, head_dim) =
            (slot / self.block_size, slot % self.block_size, k.len() / self.kv_heads);
        for (head, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
            let vector = self.vector(block, head, place);
            self.k.write(vector, k);
            self.v.write(vector, v);
        }
    }
    // ANCHOR_END: vector

    // ANCHOR: segments
    /// The positions `seen` of one head in place: a segment for each block of the table.
    pub fn segments<'a>(
        &'a self,
        table: &'a [u32],
        seen: Range<usize>,
        kv_head: usize,
    ) -> impl Iterator<Item = Segment<'a>> + Clone {
        let size = self.block_size;
        (seen.start / size..seen.end.div_ceil(size)).map(move |at| {
            let from = seen.start.max(at * size);
            let len = seen.end.min((at + 1) * size) - from;
            let vector = self.vector(table[at] as usize, kv_head, from % size);
            Segment { k: self.k.from(vector), v: self.v.from(vector), stride: 1, len }
        })
    }
    // ANCHOR_END: segments

    /// Vectors of a block.
    fn block_vectors(&self) -> usize {
        self.kv_heads * self.block_size
    }

    /// Copies a block to another one.
    pub fn copy(&mut self, from: u32, to: u32) {
        let n = self.block_vectors();
        for storage in [&mut self.k, &mut self.v] {
            storage.copy_within(from as usize * n, to as usize * n, n);
        }
    }

    /// Copies a block of another pool of the same layer.
    pub fn copy_from(&mut self, other: &LayerBlocks, from: u32, to: u32) {
        let n = self.block_vectors();
        let (from, to) = (from as usize * n, to as usize * n);
        self.k.copy_from(&other.k, from, to, n);
        self.v.copy_from(&other.v, from, to, n);
    }
}

impl Storage {
    /// Copies `n` vectors within.
    fn copy_within(&mut self, from: usize, to: usize, n: usize) {
        let (there, here) = (self.bytes(from..from + n), self.bytes(to..to + n));
        cast_slice_mut::<u32, u8>(&mut self.words).copy_within(there, here.start);
        if !self.scales.is_empty() {
            self.scales.copy_within(from..from + n, to);
        }
    }

    /// Copies `n` vectors of another storage of the same kind.
    fn copy_from(&mut self, other: &Storage, from: usize, to: usize, n: usize) {
        let (there, here) = (self.bytes(from..from + n), self.bytes(to..to + n));
        cast_slice_mut::<u32, u8>(&mut self.words)[here].copy_from_slice(&cast_slice(&other.words)[there]);
        if !self.scales.is_empty() {
            self.scales[to..to + n].copy_from_slice(&other.scales[from..from + n]);
        }
    }
}
