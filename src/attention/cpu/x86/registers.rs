//! A few queries over keys, by registers of 8 or 16 numbers: two queries, or four where there are registers for their sums, meet four keys
//! at a time.

use super::super::vectors::{PIECE, Piece, Queries, Segment};
use crate::backend::simd::{F32, add_row, dots, of_rows};

/// Keys whose scores are summed side by side.
const KEYS: usize = 4;
/// Registers of an output that stay where they are while values pass.
const WIDTH: usize = 4;

/// How many queries go together: those whose sums with four keys the registers hold.
const fn together(lanes: usize) -> usize {
    if lanes == 16 { 4 } else { 2 }
}

/// scores[i, t] = q_i · k_t for the keys of a segment; `scores` has `keys` columns.
#[inline(always)]
pub fn score<S: F32<L>, const L: usize>(
    simd: S,
    queries: &Queries,
    segment: Segment,
    next: Option<Segment>,
    wide: &mut [f32],
    scores: &mut [f32],
) {
    let Queries { q, head_dim: d, keys, .. } = *queries;
    for start in (0..segment.len).step_by(PIECE) {
        let piece = segment.k.piece(start, &segment, d, wide);
        for first in (0..piece.len).step_by(KEYS) {
            let last = piece.len.min(first + KEYS) - 1;
            if let Some(next) = &next {
                (start + first..=start + last).for_each(|t| next.k.ask_for(t, next, d, 0..d));
            }
            let k = [0, 1, 2, 3].map(|n| piece.vector(last.min(first + n), d));
            for (i, q) in q.chunks(together(L) * d).enumerate() {
                let scores = &mut scores[i * together(L) * keys + start + first..];
                of_rows!(q.len() / d, score_rows::<S, L>(simd, q, k, last + 1 - first, keys, scores));
            }
        }
    }
}

/// The same for M queries and the first `count` of four keys.
#[inline(always)]
fn score_rows<S: F32<L>, const L: usize, const M: usize>(
    simd: S,
    q: &[f32],
    k: [&[f32]; KEYS],
    count: usize,
    keys: usize,
    scores: &mut [f32],
) {
    let d = k[0].len();
    let sums = dots(simd, std::array::from_fn::<_, M, _>(|m| &q[m * d..][..d]), k);
    for (scores, sums) in scores.chunks_mut(keys).zip(sums) {
        scores[..count].copy_from_slice(&sums[..count]);
    }
}

/// out_i += Σ weights[i, t] · v_t over a segment, one t after the other; `weights` has `keys` columns.
#[inline(always)]
pub fn add_weighted<S: F32<L>, const L: usize>(
    simd: S,
    queries: &Queries,
    weights: &[f32],
    segment: Segment,
    next: Option<Segment>,
    wide: &mut [f32],
    out: &mut [f32],
) {
    let Queries { head_dim: d, keys, .. } = *queries;
    for start in (0..segment.len).step_by(PIECE) {
        let piece = segment.v.piece(start, &segment, d, wide);
        for (i, out) in out.chunks_mut(together(L) * d).enumerate() {
            let ahead = next.filter(|_| i == 0).map(|next| (next, start));
            let weights = &weights[i * together(L) * keys + start..];
            of_rows!(out.len() / d, add_piece::<S, L>(simd, weights, keys, &piece, ahead, d, out));
        }
    }
}

/// The same for a piece and M queries.
#[inline(always)]
fn add_piece<S: F32<L>, const L: usize, const M: usize>(
    simd: S,
    weights: &[f32],
    keys: usize,
    piece: &Piece,
    ahead: Option<(Segment, usize)>,
    d: usize,
    out: &mut [f32],
) {
    let weights: [&[f32]; M] = std::array::from_fn(|m| &weights[m * keys..][..piece.len]);
    let mut col = 0;
    while col + WIDTH * L <= d {
        add_registers::<S, L, WIDTH, M>(simd, weights, piece, ahead, d, col, out);
        col += WIDTH * L;
    }
    while col + L <= d {
        add_registers::<S, L, 1, M>(simd, weights, piece, ahead, d, col, out);
        col += L;
    }
    if col == d {
        return;
    }
    for (out, weights) in out.chunks_exact_mut(d).zip(weights) {
        for (t, weight) in weights.iter().enumerate() {
            let v = piece.vector(t, d);
            for col in col..d {
                out[col] = simd.multiply_add_one(*weight, v[col], out[col]);
            }
        }
    }
}

/// The same for N registers of each output, from column `col`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // plain loops keep the instruction set's features
fn add_registers<S: F32<L>, const L: usize, const N: usize, const M: usize>(
    simd: S,
    weights: [&[f32]; M],
    piece: &Piece,
    ahead: Option<(Segment, usize)>,
    d: usize,
    col: usize,
    out: &mut [f32],
) {
    let mut sums = [[simd.zero(); N]; M];
    for m in 0..M {
        sums[m] = load(simd, &out[m * d + col..]);
    }
    for t in 0..piece.len {
        if M <= 2
            && let Some((next, start)) = &ahead
        {
            next.v.ask_for(start + t, next, d, col..col + N * L);
        }
        let v = load::<S, L, N>(simd, &piece.vector(t, d)[col..]);
        for m in 0..M {
            add_row(simd, &mut sums[m], simd.load(&[weights[m][t]; L]), &v);
        }
    }
    for m in 0..M {
        let out = &mut out[m * d + col..][..N * L].as_chunks_mut::<L>().0[..N];
        for n in 0..N {
            simd.store(sums[m][n], &mut out[n]);
        }
    }
}

/// The first N registers of some numbers.
#[inline(always)]
fn load<S: F32<L>, const L: usize, const N: usize>(simd: S, numbers: &[f32]) -> [S::Register; N] {
    let numbers = &numbers[..N * L].as_chunks::<L>().0[..N];
    let mut registers = [simd.zero(); N];
    for n in 0..N {
        registers[n] = simd.load(&numbers[n]);
    }
    registers
}
