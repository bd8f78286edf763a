//! One query head over its keys: the arithmetic that every CPU attention shares, wherever K and V are kept.
//!
//! Keys are visited in the order of their positions, whatever the batch, so a token's bits do not depend on how the
//! sequence was cut into forward passes.

use super::softmax::softmax;
use crate::backend::simd::{Isa, add_scaled, dispatch, dot};
use std::ops::Range;

/// K and V of one head: where the vectors of position `t` start in `k` and `v`.
pub struct Keys<'a, F: Fn(usize) -> usize> {
    /// All keys, as the cache holds them.
    pub k: &'a [f32],
    /// All values, laid out as `k`.
    pub v: &'a [f32],
    /// Position → index of its first element for this head.
    pub at: F,
}

// ANCHOR: attend_head
/// out = softmax(q · k_t · scale for t in range) · v; q and out are `[head_dim]`. `scores` is working space.
pub fn attend_head<F: Fn(usize) -> usize>(
    isa: Isa,
    q: &[f32],
    keys: &Keys<F>,
    range: Range<usize>,
    scale: f32,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let d = q.len();
    scores.clear();
    scores.resize(range.len(), 0.0);
    for (score, t) in scores.iter_mut().zip(range.clone()) {
        let k = &keys.k[(keys.at)(t)..][..d];
        dispatch!(isa, dot(q: &[f32], k: &[f32], score: &mut f32));
    }
    softmax(isa, scale, scores);
    out.fill(0.0);
    for (weight, t) in scores.iter().zip(range) {
        let (v, weight, out) = (&keys.v[(keys.at)(t)..][..d], *weight, &mut *out);
        dispatch!(isa, add_scaled(weight: f32, v: &[f32], out: &mut [f32]));
    }
}
// ANCHOR_END: attend_head

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_isa_agrees_with_f64() {
        let (d, n) = (19, 7);
        let value = |i: usize| ((i * 37 % 64) as f32 - 31.0) / 16.0;
        let q: Vec<f32> = (0..d).map(value).collect();
        let k: Vec<f32> = (0..n * d).map(|i| value(i + 5)).collect();
        let v: Vec<f32> = (0..n * d).map(|i| value(3 * i + 1)).collect();
        let (range, scale) = (2..n, 0.25);

        let score = |t: usize| (0..d).map(|i| q[i] as f64 * k[t * d + i] as f64).sum::<f64>() * scale as f64;
        let sum: f64 = range.clone().map(|t| score(t).exp()).sum();
        for isa in Isa::supported() {
            let mut out = vec![0.0; d];
            let keys = Keys { k: &k, v: &v, at: |t| t * d };
            attend_head(isa, &q, &keys, range.clone(), scale, &mut Vec::new(), &mut out);
            for (i, got) in out.iter().enumerate() {
                let want: f64 = range.clone().map(|t| score(t).exp() / sum * v[t * d + i] as f64).sum();
                assert!((*got as f64 - want).abs() < 1e-5, "{isa:?}: {got} for {want}");
            }
        }
    }
}
