//! The exercises of chapter 6. You write kernels in exercise.cu, beside this file; these tests run them on the simulator.
//!
//!     cargo test --features step6 --test exercise6           all of them
//!     cargo test --features step6 --test exercise6 meet      one of them
//!
//! Each exercise has a contract, which says what is wrong. When the first one is written, the engine computes its prompt with it. Answers: solution.cu.

use crate::contracts::step6;

#[test]
fn meet() {
    step6::meet("exercise::meet");
}

#[test]
fn tile_loop() {
    step6::tile_loop("exercise::tile_loop");
}

#[test]
fn swizzle() {
    step6::swizzle("exercise::swizzle");
}

#[test]
fn meet_tells_the_story() {
    step6::tells_the_demo_story("exercise::flash_with_my_meet");
}
