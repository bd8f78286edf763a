//! The exercises of chapter 2. Write the bodies that say `stub!`, then run
//!
//!     cargo test --features step2 --test exercise2            all of them
//!     cargo test --features step2 --test exercise2 attend     one of them
//!
//! Each exercise has a contract, which says what is wrong, and a story: the engine runs the demo model with your piece in its
//! cache. Answers: solution.rs, beside this file.
#![allow(unused_variables)] // the parameters of what is not written yet

use crate::contracts::step2::{self, KvCache, Vectors};
use crate::contracts::stub;
use stairwell::model::AttentionShape;

// 1. Write --------------------------------------------------------------------------------------------------------------

pub struct MyWrite;

impl KvCache for MyWrite {
    /// `k` and `v` are one token's, [kv_heads · head_dim] each. The caches hold `k.len()` numbers for every token, one token
    /// behind the other; `place` is the number of this one.
    fn write(&self, k_cache: &mut [f32], v_cache: &mut [f32], place: usize, k: &[f32], v: &[f32]) {
        stub!(
            "copy k and v to the token's place in their caches; read \"Where a token lies\" in steps/step2-kv-cache/README.md"
        )
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
    /// One token's query heads, [heads · head_dim] in `q`, look at positions 0 to `position`, their own. `k.vector(t, kv_head)` is
    /// K of position t, [head_dim], and `v.vector` is V: ask for each once. `out`, as long as `q`, holds old values: overwrite
    /// them. From `shape` you need heads, kv_heads, head_dim and scale, a factor.
    fn attend(
        &self,
        shape: &AttentionShape,
        position: usize,
        q: &[f32],
        k: &Vectors,
        v: &Vectors,
        out: &mut [f32],
    ) {
        stub!(
            "write softmax(q · k · scale) v over the positions up to the token's own, all query heads of a group at once; read \"Read\" in steps/step2-kv-cache/README.md"
        )
    }
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
    /// Where a position's K and V are in a ring of `tokens` places.
    fn ring_place(&self, position: usize, tokens: usize) -> usize {
        stub!(
            "return the place of a position in the ring; read \"The ring of a sliding window\" in steps/step2-kv-cache/README.md"
        )
    }

    /// How many places the ring needs. A query sees the last `window` keys, its own included; a forward pass writes K and V of
    /// up to `max_chunk` tokens before it attends with any of them; no sequence has more than `max_tokens`.
    fn ring_tokens(&self, window: usize, max_chunk: usize, max_tokens: usize) -> usize {
        stub!(
            "return the fewest places that keep every key until its last query has seen it; read \"The ring of a sliding window\" in steps/step2-kv-cache/README.md"
        )
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
