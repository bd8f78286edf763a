//! Attention by AMX's tiles, in bf16: blocks of keys with an online softmax (Milakov & Gimelshein, arXiv:1805.02867; Dao, arXiv:2307.08691).
//!
//! ```text
//! for every 256 keys:  S = K · Qᵀ          K as it is kept, 256 keys × head_dim; 16 queries side by side
//!                      m, l, P = softmax   16 queries in the lanes of a register: no sum crosses them
//!                      O = O · α + Vᵀ · P  Vᵀ: 32 keys turned over at a time
//! ```
//! Scores exist for one block at a time, so memory does not grow with the length of a prompt. Blocks begin at multiples of 256 positions and a
//! query has a column of its own, so its bits depend neither on its neighbours nor on how a prompt was cut into steps.
//!
//! What bf16 takes from a score, softmax makes larger. So q and k are each two numbers of bf16, the second what the first has lost, and a score
//! is three products: k₁ q₁ + k₂ q₁ + k₁ q₂. Weights and values are rounded, as transformers does in bf16.

mod pack;
mod softmax;
#[cfg(test)]
mod tests;

use super::super::vectors::{Queries, Segment};
use crate::backend::simd::amx::{Ahead, Amx, DEPTH, Line, Panels, SIDE, Tiles, Walk, multiply, turned};
use half::bf16;
use pack::{round, turn};
use softmax::{State, rescale, weigh};
use std::{arch::x86_64::*, ops::Range};

/// Keys of a block. O goes to memory and back once for each, so that fewer would cost more than what they multiply.
const KEYS: usize = 256;
/// Steps of a block's keys.
const STEPS: usize = KEYS / DEPTH;

/// Rows of one sequence that attend together: each block of K and V is made ready once for all of them.
pub const ROWS: usize = 64;

/// Working space of [`attend`].
#[derive(Default)]
pub struct Scratch {
    queries: Vec<Line>,
    /// q₁, q₁ and q₂ of each query, [depth] each.
    wide_queries: Vec<f32>,
    /// k₁ and k₂ of each key, [256][2][depth] of bf16.
    keys: Vec<Line>,
    /// V, [256][depth], and Vᵀ, [depth][256].
    rows: Vec<Line>,
    values: Vec<Line>,
    /// S and P of each 16 queries, [256][columns] of f32 and [128 pairs][columns] of two bf16.
    scores: Vec<Line>,
    weights: Vec<Line>,
    /// Oᵀ of each 16 queries, [depth][columns].
    sums: Vec<Line>,
    /// A vector, widened.
    wide: Vec<f32>,
    states: Vec<State>,
}

/// As [`attend_group`](crate::attention::cpu::group::attend_group), whose arguments these are.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn attend<'a>(
    amx: Amx,
    queries: &Queries,
    segments: impl Iterator<Item = Segment<'a>>,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let Queries { q, head_dim, rows, keys, scale } = *queries;
    let heads = q.len() / head_dim;
    let (columns, panels, depth) = (heads.min(SIDE), heads.div_ceil(SIDE), head_dim.next_multiple_of(DEPTH));
    scratch.resize(columns * panels, head_dim);
    let s = scratch;
    s.wide_queries.clear();
    s.wide_queries.resize(heads * 3 * depth, 0.0);
    for (q, wide) in q.chunks_exact(head_dim).zip(s.wide_queries.chunks_exact_mut(3 * depth)) {
        for (i, q) in q.iter().enumerate() {
            (wide[i], wide[depth + i], wide[2 * depth + i]) = (*q, *q, q - bf16::from_f32(*q).to_f32());
        }
    }
    let count = Panels::lines(heads, 3 * depth);
    let q = Panels::pack(amx, &s.wide_queries, heads, &mut s.queries[..count], false);
    let tiles = Tiles::with_columns(amx, columns);
    let seen = |panel: usize, lane: usize| {
        (keys + 1 + (panel * SIDE + lane).min(heads - 1) / (heads / rows) - rows) as i32
    };
    s.states.clear();
    s.states.extend((0..panels).map(|panel| {
        let lanes: [i32; SIDE] = std::array::from_fn(|lane| seen(panel, lane));
        // SAFETY: 16 numbers are read.
        let seen = unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) };
        State { max: _mm512_set1_ps(f32::NEG_INFINITY), total: _mm512_setzero_ps(), seen }
    }));
    let mut vectors =
        segments.flat_map(|segment| (0..segment.len).map(move |i| (segment, i * segment.stride)));
    for first in (0..keys).step_by(KEYS) {
        let count = KEYS.min(keys - first);
        let used = count.next_multiple_of(DEPTH);
        let row = depth / DEPTH; // lines of k₁, k₂ or v, and steps that they are multiplied in
        for (i, (k, v)) in
            s.keys.chunks_exact_mut(2 * row).zip(s.rows.chunks_exact_mut(row)).enumerate().take(used)
        {
            if i >= count {
                k.fill(Line::ZERO);
                v.fill(Line::ZERO);
                continue;
            }
            let (segment, number) = vectors.next().expect("as many positions as keys");
            let (rounded, lost) = k.split_at_mut(row);
            round(segment.k.vector(number, &mut s.wide), rounded, Some(lost));
            round(segment.v.vector(number, &mut s.wide), v, None);
        }
        turn(&s.rows, depth, used, &mut s.values);
        // S = k₁ q₁ + k₂ q₁, then + k₁ q₂.
        let parts = [(0..2 * row, true), (2 * row..3 * row, false)];
        // SAFETY: `resize` gave K, Q and S their sizes; `tiles` is alone.
        unsafe { multiply_rows(&tiles, &s.keys[..used * 2 * row], 2 * row, &q, &parts, &mut s.scores, KEYS) }
        let fresh = first == 0;
        for (panel, state) in s.states.iter_mut().enumerate() {
            let scores = &s.scores[panel * KEYS * columns / SIDE..];
            let weights = &mut s.weights[panel * STEPS * columns..];
            let alpha = weigh(state, scores, columns, first..first + used, scale, weights);
            let grown = _mm512_cmpneq_ps_mask(alpha, _mm512_set1_ps(1.0)) != 0;
            if grown && !fresh {
                rescale(&mut s.sums[panel * depth * columns / SIDE..], depth, columns, alpha);
            }
        }
        let p = Panels::packed(&s.weights, heads, STEPS);
        // SAFETY: as above, for Vᵀ, P and O.
        unsafe {
            let parts = [(0..used / DEPTH, fresh)];
            multiply_rows(&tiles, &s.values[..depth * STEPS], STEPS, &p, &parts, &mut s.sums, depth);
        }
    }
    for (panel, (state, out)) in s.states.iter().zip(out.chunks_mut(SIDE * head_dim)).enumerate() {
        let sums = &mut s.sums[panel * depth * columns / SIDE..];
        rescale(sums, depth, columns, _mm512_div_ps(_mm512_set1_ps(1.0), state.total));
        write(sums, columns, head_dim, out);
    }
}

impl Scratch {
    /// Room for so many queries. What is beyond a head's numbers stays zero.
    fn resize(&mut self, queries: usize, head_dim: usize) {
        let depth = head_dim.next_multiple_of(DEPTH);
        if self.wide.len() != head_dim {
            *self = Scratch { wide: vec![0.0; head_dim], ..Scratch::default() };
        }
        let grow =
            |lines: &mut Vec<Line>, bytes: usize| lines.resize(lines.len().max(bytes / 64), Line::ZERO);
        grow(&mut self.queries, 6 * queries * depth);
        grow(&mut self.keys, 4 * KEYS * depth);
        grow(&mut self.rows, 2 * KEYS * depth);
        grow(&mut self.values, 2 * KEYS * depth);
        grow(&mut self.scores, 4 * queries * KEYS);
        grow(&mut self.weights, 2 * queries * KEYS);
        grow(&mut self.sums, 4 * queries * depth);
    }
}

/// Rows of a, of `row` lines each, times every panel of b; sums: [panel][rows][columns]. A part is some steps of b against the first steps
/// of a, and whether its sums begin at zero.
///
/// # Safety
/// `tiles` must be the only one of this thread, and have b's columns.
unsafe fn multiply_rows(
    tiles: &Tiles,
    a: &[Line],
    row: usize,
    b: &Panels,
    parts: &[(Range<usize>, bool)],
    sums: &mut [Line],
    rows: usize,
) {
    let lines = |rows: usize| rows / SIDE * b.columns; // of sums
    for panel in (0..b.count()).step_by(2) {
        for (i, a) in a.chunks_exact(2 * SIDE * row).enumerate() {
            let a = Walk { start: a.as_ptr().cast(), stride: 64 * row, step: 64 };
            let c = [panel, (panel + 1).min(b.count() - 1)].map(|panel| {
                let sums = &mut sums[lines(panel * rows + i * 2 * SIDE)..][..lines(2 * SIDE)];
                sums.as_mut_ptr().cast()
            });
            for (steps, fresh) in parts {
                assert!(steps.len() <= row);
                let b = b.pair(panel, steps.start);
                // SAFETY: 32 rows of a have this many steps, and so have panels of b; the sums are inside the slice.
                unsafe { multiply(tiles, a, b, steps.len(), c, *fresh, Ahead::NOTHING) }
            }
        }
    }
}

/// Writes what a panel's queries get, [queries][head_dim].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn write(sums: &[Line], columns: usize, head_dim: usize, out: &mut [f32]) {
    for first in (0..head_dim).step_by(SIDE) {
        let rows = Line::sums(&sums[first * columns / SIDE..][..columns]);
        let mask = ((1u32 << SIDE.min(head_dim - first)) - 1) as u16;
        for (out, numbers) in out.chunks_exact_mut(head_dim).zip(turned(rows, columns)) {
            // SAFETY: the mask lets what is left of a head be written.
            unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr().add(first).cast(), mask, numbers) }
        }
    }
}
