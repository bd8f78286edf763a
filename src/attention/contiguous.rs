//! K and V in one contiguous slot a sequence.
//!
//! ```text
//! a layer's K:  slot 0 │ t0 t1 t2 t3 t4 ·  ·  · │  slot 1 │ t0 t1 ·  ·  ·  ·  ·  · │      t: [kv_heads, head_dim]
//!                        written once, read in place ▲ reserved: max_tokens a slot, used or not
//! ```
//! A forward pass is given new tokens only. Their K and V are written behind those of the tokens before, then each row attends
//! over its own sequence. Layers with a sliding window are rings: position t is at `t % tokens`.

use super::options::{KvDtype, KvOptions};
use super::sequences::{Sequence, attend_kept};
use super::slot_memory::{Room, plan};
use super::storage::{Storage, no_memory};
use crate::backend::cpu::{Cpu, CpuTensor};
use crate::error::{Error, Result};
use crate::memory::free_memory;
use crate::model::{Attention, AttentionShape, KvMemory, KvScalesFrom};
use crate::{attention::cpu::vectors::Segment, batch::Batch, words::field};
use std::{collections::TryReserveError, ops::Range};

/// See the module's documentation. A sequence's table is the number of its slot.
pub struct Contiguous {
    shape: AttentionShape,
    dtype: KvDtype,
    scales: Option<KvScalesFrom>,
    room: Room,
    max_chunk: usize,
    layers: Vec<LayerKv>,
    /// Tokens kept, by slot.
    filled: Vec<usize>,
    /// The batch's, with their slots.
    sequences: Vec<Sequence<usize>>,
}

// ANCHOR: layer_kv
/// K and V of one layer, each [slots, tokens, kv_heads, head_dim].
struct LayerKv {
    tokens: usize,
    kv_heads: usize,
    k: Storage,
    v: Storage,
}
// ANCHOR_END: layer_kv

impl Contiguous {
    /// Reserves the slots.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn new(shape: AttentionShape, options: &KvOptions) -> Result<Contiguous> {
        let room = plan(&shape, options, free_memory())?;
        let max_chunk = options.max_chunk.unwrap_or(room.max_tokens).clamp(1, room.max_tokens);
        let layer = |layer| {
            let tokens = shape.tokens_kept(layer, room.max_tokens, max_chunk);
            let kv_heads = shape.kv_heads;
            let scales = options.scales_of(layer);
            let storage = |part: usize| {
                let zeros = Storage::new(options.dtype, room.slots * tokens * kv_heads, shape.head_dim);
                zeros.map(|zeros| zeros.with_scale(scales.map(|scales| scales[part])))
            };
            Ok(LayerKv { tokens, kv_heads, k: storage(0)?, v: storage(1)? })
        };
        let layers = shape.layers.clone().map(layer).collect::<Result<_, TryReserveError>>();
        let filled = vec![0; room.slots];
        let layers = layers.map_err(no_memory("max_model_len"))?;
        let (dtype, scales, sequences) = (options.dtype, options.scales_from(), Vec::new());
        Ok(Contiguous { dtype, scales, room, max_chunk, layers, filled, sequences, shape })
    }

    /// The first position that can be computed again when `filled` tokens were kept: its window must still be in the rings.
    fn earliest(&self, filled: usize) -> usize {
        let windows = self.shape.layers.clone().map(|layer| self.shape.windows[layer]);
        let of_layer = |(kv, window): (&LayerKv, Option<usize>)| match window {
            Some(window) if filled > kv.tokens => filled - kv.tokens + window - 1,
            _ => 0,
        };
        self.layers.iter().zip(windows).map(of_layer).max().unwrap_or(0)
    }

    /// Checks that a batch's rows follow what is kept, and that there is room for them.
    fn check(&self, rows: &Sequence<usize>) -> Result<()> {
        let (count, max_tokens) = (rows.rows.len(), self.room.max_tokens);
        let end = rows.start + count;
        let slots = self.room.slots;
        let complaint = if rows.place >= slots {
            let asked = if rows.place == usize::MAX { "none".into() } else { rows.place.to_string() };
            format!(
                "the KV cache has {slots} slots, and a sequence names {asked}: Batch::push takes its number"
            )
        } else if end > max_tokens {
            let held = format!("the KV cache holds {max_tokens} tokens a sequence, and this one has {end}");
            return Err(Error::Limit((held + "; give a larger " + &field("max_model_len")).into()));
        } else if count > self.max_chunk {
            let chunk = self.max_chunk;
            format!("the KV cache takes {chunk} tokens of a sequence at a time, and {count} were given")
        } else if rows.start > self.filled[rows.place] {
            let kept = self.filled[rows.place];
            format!(
                "the KV cache has {kept} tokens of this sequence, and position {} does not follow",
                rows.start
            )
        } else if rows.start != 0 && rows.start < self.earliest(self.filled[rows.place]) {
            format!("keys that position {} sees are overwritten in a sliding window's ring", rows.start)
        } else {
            return Ok(());
        };
        Err(Error::Request(complaint))
    }
}

impl Attention<Cpu> for Contiguous {
    fn name(&self) -> &'static str {
        "contiguous"
    }

    // ANCHOR: begin
    fn begin(&mut self, _: &Cpu, batch: &Batch) -> Result<Option<u64>> {
        self.sequences.clear();
        for span in &batch.spans {
            let table = &batch.tables[span.table.clone()];
            let place = table.first().map_or(usize::MAX, |slot| *slot as usize);
            let start = batch.positions[span.rows.start] as usize;
            let rows = Sequence { rows: span.rows.clone(), start, place };
            self.check(&rows)?;
            self.sequences.push(rows);
        }
        for rows in &self.sequences {
            self.filled[rows.place] = rows.start + rows.rows.len();
        }
        Ok(None)
    }
    // ANCHOR_END: begin

    // ANCHOR: attend
    fn attend(&mut self, cpu: &Cpu, layer: usize, [q, k, v]: [&CpuTensor; 3]) -> Result<CpuTensor> {
        let layer_kv = &mut self.layers[layer - self.shape.layers.start];
        for sequence in &self.sequences {
            for (i, row) in sequence.rows.clone().enumerate() {
                layer_kv.write(sequence.place, sequence.start + i, k.row(row), v.row(row));
            }
        }

        let layer_kv = &*layer_kv;
        Ok(attend_kept(cpu, &self.shape, layer, q, &self.sequences, |slot, seen, kv_head| {
            layer_kv.segments(*slot, seen, kv_head)
        }))
    }
    // ANCHOR_END: attend

    fn max_tokens(&self) -> Option<usize> {
        Some(self.room.max_tokens)
    }

    fn memory(&self) -> KvMemory {
        let tokens: usize = self.layers.iter().map(|layer| self.room.slots * layer.tokens).sum();
        let bytes = 2 * self.shape.kv_heads * self.dtype.vector_bytes(self.shape.head_dim);
        KvMemory {
            dtype: Some(self.dtype.stored()),
            scales: self.scales,
            bytes_per_token: self.shape.bytes_per_token(self.dtype),
            slots: self.room.slots,
            reserved_bytes: (tokens * bytes) as u64,
            ..KvMemory::default()
        }
    }
}

impl LayerKv {
    // ANCHOR: write
    /// Keeps one token's K and V, [kv_heads · head_dim] each.
    fn write(&mut self, slot: usize, position: usize, k: &[f32], v: &[f32]) {
        let (first, head_dim) = (self.vector(slot, position % self.tokens, 0), k.len() / self.kv_heads);
        for (head, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
            self.k.write(first + head, k);
            self.v.write(first + head, v);
        }
    }

    /// The number of a vector of K or V.
    fn vector(&self, slot: usize, token: usize, kv_head: usize) -> usize {
        (slot * self.tokens + token) * self.kv_heads + kv_head
    }
    // ANCHOR_END: write

    // ANCHOR: segments
    /// The positions `seen` of one head in place: one segment, or two where the ring starts again.
    fn segments(
        &self,
        slot: usize,
        seen: Range<usize>,
        kv_head: usize,
    ) -> impl Iterator<Item = Segment<'_>> + Clone {
        let first = seen.start % self.tokens;
        let before_the_seam = seen.len().min(self.tokens - first);
        let parts = [(first, before_the_seam), (0, seen.len() - before_the_seam)];
        parts.into_iter().filter(|(_, len)| *len > 0).map(move |(token, len)| {
            let vector = self.vector(slot, token, kv_head);
            Segment { k: self.k.from(vector), v: self.v.from(vector), stride: self.kv_heads, len }
        })
    }
    // ANCHOR_END: segments
}
