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

use super::super::vectors::Segment;
use crate::backend::simd::amx::{DEPTH, Line, Panels, SIDE, Tiles, Walk, multiply, turned};
use half::bf16;
use pack::{Vectors, turn};
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
///
/// # Safety
/// The CPU must have AMX.
#[allow(clippy::too_many_arguments)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn attend<'a>(
    q: &[f32],
    head_dim: usize,
    rows: usize,
    segments: impl Iterator<Item = Segment<'a>>,
    keys: usize,
    scale: f32,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let heads = q.len() / head_dim;
    let (columns, panels, depth) = (heads.min(SIDE), heads.div_ceil(SIDE), head_dim.next_multiple_of(DEPTH));
    scratch.resize(columns * panels, head_dim);
    let Scratch {
        queries,
        wide_queries,
        keys: k,
        rows: v_rows,
        values: v,
        scores,
        weights,
        sums,
        wide,
        states,
    } = scratch;
    wide_queries.clear();
    wide_queries.resize(heads * 3 * depth, 0.0);
    for (q, wide) in q.chunks_exact(head_dim).zip(wide_queries.chunks_exact_mut(3 * depth)) {
        for (i, q) in q.iter().enumerate() {
            (wide[i], wide[depth + i], wide[2 * depth + i]) = (*q, *q, q - bf16::from_f32(*q).to_f32());
        }
    }
    let count = Panels::lines(heads, 3 * depth);
    // SAFETY: by the caller, the CPU has AMX, and with it AVX-512-BF16.
    let (q, tiles) =
        unsafe { (Panels::new(wide_queries, heads, &mut queries[..count]), Tiles::with_columns(columns)) };
    let seen = |panel: usize, lane: usize| {
        (keys + 1 + (panel * SIDE + lane).min(heads - 1) / (heads / rows) - rows) as i32
    };
    states.clear();
    states.extend((0..panels).map(|panel| {
        let lanes: [i32; SIDE] = std::array::from_fn(|lane| seen(panel, lane));
        // SAFETY: 16 numbers are read.
        let seen = unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) };
        State { max: _mm512_set1_ps(f32::NEG_INFINITY), total: _mm512_setzero_ps(), seen }
    }));
    let mut vectors = Vectors::new(segments);
    for first in (0..keys).step_by(KEYS) {
        let count = KEYS.min(keys - first);
        let used = count.next_multiple_of(DEPTH);
        vectors.take(count, used, head_dim, wide, k, v_rows);
        turn(v_rows, depth, used, v);
        for panel in (0..panels).step_by(2) {
            // SAFETY: all of these have the sizes that `resize` gave them.
            unsafe { multiply_keys(&tiles, &k[..used * depth / SIDE], &q, panel, depth, scores) }
        }
        let fresh = first == 0;
        for (panel, state) in states.iter_mut().enumerate() {
            let scores = &scores[panel * KEYS * columns / SIDE..];
            let weights = &mut weights[panel * STEPS * columns..];
            let alpha = weigh(state, scores, columns, first..first + used, scale, weights);
            let grown = _mm512_cmpneq_ps_mask(alpha, _mm512_set1_ps(1.0)) != 0;
            if grown && !fresh {
                rescale(&mut sums[panel * depth * columns / SIDE..], depth, columns, alpha);
            }
        }
        let p = Panels::packed(weights, heads, STEPS);
        for panel in (0..panels).step_by(2) {
            // SAFETY: as above.
            unsafe { multiply_values(&tiles, v, &p, panel, 0..used / DEPTH, depth, sums, fresh) }
        }
    }
    for (panel, (state, out)) in states.iter().zip(out.chunks_mut(SIDE * head_dim)).enumerate() {
        let sums = &mut sums[panel * depth * columns / SIDE..];
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

/// S of one or two panels.
///
/// # Safety
/// K and S must have the sizes of [`Scratch::resize`].
#[inline(always)]
unsafe fn multiply_keys(
    tiles: &Tiles,
    k: &[Line],
    q: &Panels,
    panel: usize,
    depth: usize,
    scores: &mut [Line],
) {
    let steps = depth / DEPTH;
    let start = |strip: usize| [0, SIDE].map(|row| k[(strip * 2 * SIDE + row) * 2 * steps..].as_ptr().cast());
    for strip in 0..k.len() / (2 * SIDE * 2 * steps) {
        let a = Walk { start: start(strip), stride: 4 * depth, step: 64 };
        // SAFETY: by the caller.
        unsafe {
            multiply_into(tiles, a, q, panel, 0..2 * steps, scores, KEYS, 2 * strip, true); // k₁ q₁ + k₂ q₁
            multiply_into(tiles, a, q, panel, 2 * steps..3 * steps, scores, KEYS, 2 * strip, false); // + k₁ q₂
        }
    }
}

/// O of one or two panels.
///
/// # Safety
/// Vᵀ and O must have the sizes of [`Scratch::resize`].
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn multiply_values(
    tiles: &Tiles,
    v: &[Line],
    p: &Panels,
    panel: usize,
    steps: Range<usize>,
    depth: usize,
    sums: &mut [Line],
    fresh: bool,
) {
    let start = |strip: usize| [0, SIDE].map(|row| v[(strip * 2 * SIDE + row) * STEPS..].as_ptr().cast());
    for strip in 0..depth / (2 * SIDE) {
        let a = Walk { start: start(strip), stride: 64 * STEPS, step: 64 };
        // SAFETY: by the caller.
        unsafe { multiply_into(tiles, a, p, panel, steps.clone(), sums, depth, 2 * strip, fresh) }
    }
}

/// Two tiles of a against some steps of one or two panels; sums go to tiles `tile` and `tile` + 1 of each panel, which has `rows` rows.
///
/// # Safety
/// That of [`multiply`].
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn multiply_into(
    tiles: &Tiles,
    a: Walk,
    b: &Panels,
    panel: usize,
    steps: Range<usize>,
    sums: &mut [Line],
    rows: usize,
    tile: usize,
    fresh: bool,
) {
    let columns = b.columns;
    let mut at =
        |tile: usize, panel: usize| sums[(panel * rows / SIDE + tile) * columns..].as_mut_ptr().cast();
    let (walk, steps) = (b.walk(panel, steps.start), steps.len());
    // SAFETY: by the caller.
    unsafe {
        if panel + 1 < b.count() {
            let c = [[at(tile, panel), at(tile, panel + 1)], [at(tile + 1, panel), at(tile + 1, panel + 1)]];
            multiply::<2>(tiles, a, walk, steps, c, 4 * columns, fresh, |_| ());
        } else {
            let c = [[at(tile, panel)], [at(tile + 1, panel)]];
            multiply::<1>(tiles, a, walk, steps, c, 4 * columns, fresh, |_| ());
        }
    }
}

/// Writes what a panel's queries get, [queries][head_dim].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn write(sums: &[Line], columns: usize, head_dim: usize, out: &mut [f32]) {
    for first in (0..head_dim).step_by(SIDE) {
        // SAFETY: a line is 16 numbers, and 16 rows of O are as many lines as it has columns.
        let rows = unsafe {
            std::slice::from_raw_parts(sums[first * columns / SIDE..].as_ptr().cast::<f32>(), SIDE * columns)
        };
        let mask = ((1u32 << SIDE.min(head_dim - first)) - 1) as u16;
        for (out, numbers) in out.chunks_exact_mut(head_dim).zip(turned(rows, columns)) {
            // SAFETY: the mask lets what is left of a head be written.
            unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr().add(first).cast(), mask, numbers) }
        }
    }
}
