//! The exercises of chapter 5, first half. You write them in exercise.cu, beside this file; these tests run your kernels on the simulator.
//!
//!     cargo test --features step5 --test exercise5            all of them
//!     cargo test --features step5 --test exercise5 warp_sum   one of them
//!
//! Each exercise has a contract, which says what is wrong. When the first one is written, the engine tells its story with your sum in every
//! RMSNorm. Answers: solution.cu.

use stairwell::contracts::step5;

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
