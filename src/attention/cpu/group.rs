//! The query heads that share a head of K and V, over K and V that are kept: the arithmetic of every CPU attention with a cache.
//!
//! They are computed together, so each vector of K and V is read once for all of them, and for some rows. Each number is computed exactly as
//! [`attend_head`](super::head::attend_head) does: keys in the order of their positions, one by one. So a token's bits depend neither on
//! the batch, nor on how its sequence was cut into forward passes, nor on how K and V are cut into segments.

use super::vectors::{PIECE, Queries, Segment};
use super::{faster, weigh::weigh};
use crate::backend::cpu::Cpu;
use crate::backend::simd::{F32, add_scaled, dispatch, dot};

/// Working space of [`attend_group`].
#[derive(Default)]
pub struct Scratch {
    /// [rows · group, keys]
    scores: Vec<f32>,
    /// A piece of K or V, widened.
    wide: Vec<f32>,
    faster: faster::Scratch,
}

// ANCHOR: attend_group
/// out = softmax(q kᵀ · scale) v, [rows · group, head_dim]. `segments` gives the positions in order; it is walked twice, once for K and once
/// for V.
pub fn attend_group<'a>(
    cpu: &Cpu,
    queries: &Queries,
    segments: impl Iterator<Item = Segment<'a>> + Clone,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let Scratch { scores, wide, faster } = scratch;
    if faster::attend(cpu, queries, segments.clone(), faster, out) {
        return;
    }
    let (isa, Queries { q, head_dim: d, rows, keys, scale }) = (cpu.isa(), *queries);
    scores.resize(q.len() / d * keys, 0.0);
    wide.resize(PIECE * d, 0.0);
    let mut at = 0;
    for segment in segments.clone() {
        let (scores, wide) = (&mut scores[at..], &mut wide[..]);
        dispatch!(isa, score(queries: &Queries<'_>, segment: Segment<'_>, wide: &mut [f32], scores: &mut [f32]));
        at += segment.len;
    }
    assert_eq!(at, keys, "positions of the segments");
    weigh(isa, scores, rows, keys, scale);
    out.fill(0.0);
    at = 0;
    for segment in segments {
        let (weights, wide, out) = (&scores[at..], &mut wide[..], &mut *out);
        dispatch!(isa, add_weighted(queries: &Queries<'_>, weights: &[f32], segment: Segment<'_>, wide: &mut [f32], out: &mut [f32]));
        at += segment.len;
    }
}
// ANCHOR_END: attend_group

// ANCHOR: score
/// scores[i, t] = q_i · k_t for the keys of a segment; `scores` has `keys` columns. Each key is read once and meets all queries.
#[inline(always)]
fn score<S: F32<L>, const L: usize>(
    simd: S,
    queries: &Queries,
    segment: Segment,
    wide: &mut [f32],
    scores: &mut [f32],
) {
    let d = queries.head_dim;
    for start in (0..segment.len).step_by(PIECE) {
        let piece = segment.k.piece(start, &segment, d, wide);
        for t in 0..piece.len {
            for (i, q) in queries.q.chunks_exact(d).enumerate() {
                dot(simd, q, piece.vector(t, d), &mut scores[i * queries.keys + start + t]);
            }
        }
    }
}
// ANCHOR_END: score

/// out_i += Σ weights[i, t] · v_t over a segment, one t after the other; `weights` has `keys` columns.
#[inline(always)]
fn add_weighted<S: F32<L>, const L: usize>(
    simd: S,
    queries: &Queries,
    weights: &[f32],
    segment: Segment,
    wide: &mut [f32],
    out: &mut [f32],
) {
    let d = queries.head_dim;
    for start in (0..segment.len).step_by(PIECE) {
        let piece = segment.v.piece(start, &segment, d, wide);
        for (i, out) in out.chunks_exact_mut(d).enumerate() {
            for t in 0..piece.len {
                add_scaled(simd, weights[i * queries.keys + start + t], piece.vector(t, d), out);
            }
        }
    }
}

#[cfg(test)]
mod tests;
