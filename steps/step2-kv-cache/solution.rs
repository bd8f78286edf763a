//! Answers to the exercises of chapter 2: `cargo test --features step2 --test solution2`.

use crate::contracts::step2::{self, KvCache, Vectors};
use stairwell::model::AttentionShape;

// 1. Write --------------------------------------------------------------------------------------------------------------

pub struct MyWrite;

impl KvCache for MyWrite {
    fn write(&self, k_cache: &mut [f32], v_cache: &mut [f32], place: usize, k: &[f32], v: &[f32]) {
        let row = place * k.len()..(place + 1) * k.len();
        k_cache[row.clone()].copy_from_slice(k);
        v_cache[row].copy_from_slice(v);
    }
}

#[test]
fn write() {
    step2::write(&MyWrite);
}

#[test]
fn write_tells_the_story() {
    step2::tells_the_demo_story(MyWrite);
}

// 2. Attend -------------------------------------------------------------------------------------------------------------

pub struct MyAttend;

impl KvCache for MyAttend {
    fn attend(
        &self,
        shape: &AttentionShape,
        position: usize,
        q: &[f32],
        k: &Vectors,
        v: &Vectors,
        out: &mut [f32],
    ) {
        let (d, group, seen) = (shape.head_dim, shape.heads / shape.kv_heads, position + 1);
        let mut scores = vec![0.0; group * seen]; // [group, seen]
        for kv_head in 0..shape.kv_heads {
            let heads = kv_head * group * d..(kv_head + 1) * group * d;
            let (q, out) = (&q[heads.clone()], &mut out[heads]); // [group, head_dim]
            for t in 0..seen {
                let k = k.vector(t, kv_head);
                for g in 0..group {
                    scores[g * seen + t] = dot(&q[g * d..][..d], k) * shape.scale;
                }
            }
            scores.chunks_exact_mut(seen).for_each(softmax);
            out.fill(0.0);
            for t in 0..seen {
                let v = v.vector(t, kv_head);
                for g in 0..group {
                    for i in 0..d {
                        out[g * d + i] += scores[g * seen + t] * v[i];
                    }
                }
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn softmax(scores: &mut [f32]) {
    let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|s| *s = (*s - greatest).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|s| *s /= sum);
}

#[test]
fn attend() {
    step2::attend(&MyAttend);
}

#[test]
fn attend_tells_the_story() {
    step2::tells_the_demo_story(MyAttend);
}

// 3. Ring ---------------------------------------------------------------------------------------------------------------

pub struct MyRing;

impl KvCache for MyRing {
    fn ring_place(&self, position: usize, tokens: usize) -> usize {
        position % tokens
    }

    fn ring_tokens(&self, window: usize, max_chunk: usize, max_tokens: usize) -> usize {
        // The chunk's first row sees window − 1 keys before it; the whole chunk is written by then.
        max_tokens.min(window - 1 + max_chunk)
    }
}

#[test]
fn ring() {
    step2::ring(&MyRing);
}

#[test]
fn ring_tells_the_story() {
    step2::tells_the_windowed_story(MyRing);
}
