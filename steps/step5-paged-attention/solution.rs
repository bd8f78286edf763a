//! The contracts of chapter 5, kept by the kernels in solution.cu, and the answer to the last exercise.

use crate::contracts::step5::{self, DecodeWork};

/// The sixth. As many parts as fill the GPU once, twice and so on, and not a block more, which would be a wave of its own. Of these, and of no
/// division at all, the fastest.
pub fn my_parts(work: &DecodeWork) -> usize {
    let each = work.sequences * work.kv_heads;
    let fills = (1..=6).map(|waves| (waves * work.blocks_at_a_time / each).max(1));
    fills.chain([1]).min_by_key(|parts| work.time(*parts)).expect("some candidates")
}

#[test]
fn heuristic() {
    step5::heuristic(my_parts);
}

#[test]
fn paged_walk() {
    step5::paged_walk("solution::paged_walk");
}

#[test]
fn combine() {
    step5::combine("solution::combine");
}

#[test]
fn warp_sum() {
    step5::warp_sum("solution::warp_sum");
}

#[test]
fn transpose() {
    step5::transpose("solution::transpose");
}

#[test]
fn three_bugs() {
    step5::mended(["solution::turn_round", "solution::difference", "solution::sum_of_twenty"]);
}

#[test]
fn warp_sum_tells_the_story() {
    step5::tells_the_demo_story("solution::rms_norm");
}
