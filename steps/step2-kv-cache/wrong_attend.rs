//! Wrong answers to the second exercise of chapter 2: head by head, by the textbook, with one mistake each.

use crate::contracts::step2::{KvCache, Vectors};
use stairwell::model::AttentionShape;

/// Softmax of products that are √head_dim too large.
pub struct ForgetsToScale;

impl KvCache for ForgetsToScale {
    fn attend(
        &self,
        shape: &AttentionShape,
        position: usize,
        q: &[f32],
        k: &Vectors,
        v: &Vectors,
        out: &mut [f32],
    ) {
        let shape = AttentionShape { scale: 1.0, ..shape.clone() };
        head_by_head(&shape, position + 1, |head| head * shape.kv_heads / shape.heads, q, k, v, out);
    }
}

/// `0..position`: the token does not see itself. Position 0 sees nothing at all.
pub struct WithoutItself;

impl KvCache for WithoutItself {
    fn attend(
        &self,
        shape: &AttentionShape,
        position: usize,
        q: &[f32],
        k: &Vectors,
        v: &Vectors,
        out: &mut [f32],
    ) {
        head_by_head(shape, position, |head| head * shape.kv_heads / shape.heads, q, k, v, out);
    }
}

/// One position too many. In a decode step nothing is there yet; in a prefill it is the next token.
pub struct SeesTheFuture;

impl KvCache for SeesTheFuture {
    fn attend(
        &self,
        shape: &AttentionShape,
        position: usize,
        q: &[f32],
        k: &Vectors,
        v: &Vectors,
        out: &mut [f32],
    ) {
        head_by_head(shape, position + 2, |head| head * shape.kv_heads / shape.heads, q, k, v, out);
    }
}

/// Right without head sharing only.
pub struct HeadOfItsOwn;

impl KvCache for HeadOfItsOwn {
    fn attend(
        &self,
        shape: &AttentionShape,
        position: usize,
        q: &[f32],
        k: &Vectors,
        v: &Vectors,
        out: &mut [f32],
    ) {
        head_by_head(shape, position + 1, |head| head, q, k, v, out);
    }
}

/// The right numbers, and every vector read once for each query head: a decode step is made of these reads.
pub struct ReadsForEachHead;

impl KvCache for ReadsForEachHead {
    fn attend(
        &self,
        shape: &AttentionShape,
        position: usize,
        q: &[f32],
        k: &Vectors,
        v: &Vectors,
        out: &mut [f32],
    ) {
        head_by_head(shape, position + 1, |head| head * shape.kv_heads / shape.heads, q, k, v, out);
    }
}

fn head_by_head(
    shape: &AttentionShape,
    seen: usize,
    kv_head: impl Fn(usize) -> usize,
    q: &[f32],
    k: &Vectors,
    v: &Vectors,
    out: &mut [f32],
) {
    let d = shape.head_dim;
    for (head, (q, out)) in q.chunks_exact(d).zip(out.chunks_exact_mut(d)).enumerate() {
        let dot = |k: &[f32]| q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>();
        let scores: Vec<f32> = (0..seen).map(|t| dot(k.vector(t, kv_head(head))) * shape.scale).collect();
        let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = scores.iter().map(|s| (s - greatest).exp()).collect();
        let sum: f32 = weights.iter().sum();
        out.fill(0.0);
        for (t, weight) in weights.iter().enumerate() {
            let v = v.vector(t, kv_head(head));
            out.iter_mut().zip(v).for_each(|(out, v)| *out += weight / sum * v);
        }
    }
}
