//! Weights of rows that see different numbers of keys.

use super::softmax::softmax;
use crate::backend::simd::Isa;

/// Weights of scores, [rows · group, keys], with a cache.
pub fn weigh(isa: Isa, scores: &mut [f32], rows: usize, keys: usize, scale: f32) {
    let group = scores.len() / keys / rows;
    for (i, scores) in scores.chunks_exact_mut(keys).enumerate() {
        let (seen, later) = scores.split_at_mut(keys + 1 + i / group - rows);
        softmax(isa, scale, seen);
        later.fill(0.0); // weights of what this row does not see
    }
}
