//! The exercises of chapter 5. You write kernels in exercise.cu, beside this file, and the last exercise here; these tests run your kernels on the
//! simulator.
//!
//!     cargo test --features step5 --test exercise5            all of them
//!     cargo test --features step5 --test exercise5 warp_sum   one of them
//!
//! Each exercise has a contract, which says what is wrong. When the first one is written, the engine tells its story with your sum in every
//! RMSNorm. Answers: solution.cu.

use crate::contracts::step5::{self, DecodeWork};
use crate::contracts::stub;

/// 6. Into how many parts to divide the contexts of a decode step, so that a GPU is busy and little is merged.
#[allow(unused_variables)]
pub fn my_parts(work: &DecodeWork) -> usize {
    stub!(
        "beat a fixed part length, by `work.time`; read \"v3: a part for each block\" in steps/step5-paged-attention/README.md"
    )
}

#[test]
fn heuristic() {
    step5::heuristic(my_parts);
}

#[test]
fn paged_walk() {
    step5::paged_walk("exercise::paged_walk");
}

#[test]
fn combine() {
    step5::combine("exercise::combine");
}

#[test]
fn warp_sum() {
    step5::warp_sum("exercise::warp_sum");
}

#[test]
fn transpose() {
    step5::transpose("exercise::transpose");
}

#[test]
fn three_bugs() {
    step5::mended(["exercise::turn_round", "exercise::difference", "exercise::sum_of_twenty"]);
}

#[test]
fn warp_sum_tells_the_story() {
    step5::tells_the_demo_story("exercise::rms_norm");
}
