//! How a batch's attention is cut into blocks of rows, each on one core.
//!
//! Rows of one sequence see nearly the same keys. A few of them attend together, so K and V are read once for all of them: from memory or a
//! far cache, where a prompt is long.

use super::faster::rows_together;
use crate::backend::Shaped;
use crate::backend::cpu::{Cpu, CpuTensor, SMALL};
use rayon::prelude::*;
use std::cell::RefCell;

/// Rows of one sequence that attend together: they share what is read of K and V, and their scores stay in the second cache.
const ROWS: usize = 16;

/// Rows of a batch that attend together: neighbours of one sequence.
pub struct Block<'a> {
    /// The first and how many.
    pub first: usize,
    pub rows: usize,
    pub kv_head: usize,
    /// Their query heads for this head of K and V, [rows · group, head_dim].
    pub q: &'a [f32],
}

// ANCHOR: attend_blocks
/// Attention of a whole batch: `attend(block, out)` for every head of K and V and every few rows of a sequence, on all cores if the
/// `work` is large. `rows_left(row)` says how many rows from there on may attend together.
pub fn attend_blocks(
    cpu: &Cpu,
    q: &CpuTensor,
    [heads, kv_heads]: [usize; 2],
    work: usize,
    rows_left: impl Fn(usize) -> usize + Sync,
    attend: impl Fn(Block, &mut [f32]) + Sync,
) -> CpuTensor {
    let (rows, group) = (q.rows(), q.cols() / kv_heads); // numbers of the query heads that share a head of K and V
    let mut by_head = cpu.take(kv_heads * rows, group);
    let blocks = |head: usize, first: usize, out: &mut [f32]| {
        let (mut row, mut rest) = (first, out);
        while !rest.is_empty() {
            let count = rows_left(row).min(rest.len() / group).max(1);
            let (out, later) = std::mem::take(&mut rest).split_at_mut(count * group);
            QUERIES.with_borrow_mut(|queries| {
                queries.clear();
                (row..row + count).for_each(|row| queries.extend(&q.row(row)[head * group..][..group]));
                attend(Block { first: row, rows: count, kv_head: head, q: queries }, out);
            });
            (row, rest) = (row + count, later);
        }
    };
    let together = rows_together(cpu, heads / kv_heads).unwrap_or(ROWS);
    for_each_part(by_head.data_mut(), rows * group, together * group, work, |head, part, out| {
        blocks(head, part * together, out)
    });
    let mut out = cpu.take(rows, q.cols());
    cpu.for_each_chunk(out.data_mut(), q.cols(), |row, out| {
        for (head, out) in out.chunks_exact_mut(group).enumerate() {
            out.copy_from_slice(by_head.row(head * rows + row));
        }
    });
    out
}
// ANCHOR_END: attend_blocks

/// Runs `body(chunk, part, numbers)` on parts of `m` elements, or what is left, of each chunk of `n`, on all cores if there are many
/// operations in all: `work`.
fn for_each_part(
    x: &mut [f32],
    n: usize,
    m: usize,
    work: usize,
    body: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    if work < SMALL {
        for (i, chunk) in x.chunks_exact_mut(n).enumerate() {
            chunk.chunks_mut(m).enumerate().for_each(|(j, part)| body(i, j, part));
        }
    } else {
        x.par_chunks_exact_mut(n).enumerate().for_each(|(i, chunk)| {
            chunk.par_chunks_mut(m).enumerate().for_each(|(j, part)| body(i, j, part));
        });
    }
}

thread_local! {
    static QUERIES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}
