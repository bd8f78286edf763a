//! The contracts of chapter 5, kept by the kernels in solution.cu.

use stairwell::contracts::step5;

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
