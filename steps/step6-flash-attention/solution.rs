//! The contracts of chapter 6, kept by the kernels in solution.cu.
use crate::contracts::step6;

#[test]
fn meet() {
    step6::meet("solution::meet");
}

#[test]
fn tile_loop() {
    step6::tile_loop("solution::tile_loop");
}

#[test]
fn swizzle() {
    step6::swizzle("solution::swizzle");
}

#[test]
fn meet_tells_the_story() {
    step6::tells_the_demo_story("solution::flash_with_my_meet");
}
