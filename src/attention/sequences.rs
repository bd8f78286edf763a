//! The sequences of a batch, and attention over what is kept of them: what `Contiguous` and `Paged` have in common. They differ in
//! where a sequence's K and V are.

use super::cpu::group::{Scratch, attend_group};
use super::cpu::row_blocks::attend_blocks;
use super::cpu::vectors::{Queries, Segment};
use crate::backend::cpu::{Cpu, CpuTensor};
use crate::model::AttentionShape;
use std::{cell::RefCell, ops::Range};

/// One sequence's rows of a batch.
pub(super) struct Sequence<Place> {
    pub rows: Range<usize>,
    /// Position of the first row.
    pub start: usize,
    /// Where its K and V are: the number of a slot, or which part of the batch's tables.
    pub place: Place,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

// ANCHOR: attend_kept
/// Attention of all rows of a batch, q: [tokens, heads · head_dim], once their own K and V are written → the same shape.
/// `segments(place, seen, kv_head)` gives the positions `seen` of a sequence, in one head of K and V.
pub(super) fn attend_kept<'a, Place: Sync, Segments: Iterator<Item = Segment<'a>> + Clone>(
    cpu: &Cpu,
    shape: &AttentionShape,
    layer: usize,
    q: &CpuTensor,
    sequences: &'a [Sequence<Place>],
    segments: impl Fn(&'a Place, Range<usize>, usize) -> Segments + Sync,
) -> CpuTensor {
    let AttentionShape { heads, kv_heads, head_dim, scale, .. } = *shape;
    let window = shape.windows[layer];
    let of_row = |row: usize| &sequences[sequences.partition_point(|s| s.rows.end <= row)];
    let work: usize = sequences.iter().map(|s| s.rows.len() * (s.start + s.rows.len())).sum();
    // Rows of a sequence attend together, but for those that see a window: each begins at another key.
    let rows_left = |row: usize| if window.is_some() { 1 } else { of_row(row).rows.end - row };
    attend_blocks(cpu, q, [heads, kv_heads], work * heads * head_dim, rows_left, |block, out| {
        let last = block.first + block.rows - 1;
        let sequence = of_row(last);
        let end = sequence.start + last - sequence.rows.start + 1;
        let seen = window.map_or(0, |window| end.saturating_sub(window))..end;
        let segments = segments(&sequence.place, seen.clone(), block.kv_head);
        let queries = Queries { q: block.q, head_dim, rows: block.rows, keys: seen.len(), scale };
        SCRATCH.with_borrow_mut(|scratch| attend_group(cpu, &queries, segments, scratch, out));
    })
}
// ANCHOR_END: attend_kept
