//! The exercises of chapter 7. Write the bodies that say `stub!`, then run
//!
//!     cargo test --features step7 --test exercise7            all of them
//!     cargo test --features step7 --test exercise7 slice      one of them
//!
//! Each has a contract, which says what is wrong, and then writes the demo story with your piece: on four ranks, each with the parts of the weights that you
//! say, and on two ranks that add up by your ring. Answers: solution.rs, beside this file.
#![allow(unused_variables)] // the parameters of what is not written yet

use crate::contracts::step7::{self, Cut};
use crate::contracts::stub;
use stairwell::{error::Result, model::Rank, parallel::Communicator};
use std::ops::Range;

// 1. Slices -------------------------------------------------------------------------------------------------------------

/// Which rows and columns of a weight, stored [rows, cols], a rank holds. `rank.rank` counts from 0 to `rank.world_size` − 1.
pub fn my_slice(cut: Cut, rows: usize, cols: usize, rank: Rank) -> (Range<usize>, Range<usize>) {
    stub!(
        "say which rows and columns of the stored weight this rank holds; read \"Columns, then rows\" in steps/step7-parallel/README.md"
    )
}

#[test]
fn slice() {
    step7::slice(my_slice);
}

#[test]
fn slices_write_the_story() {
    step7::slices_write_the_story(my_slice);
}

// 2. A ring -------------------------------------------------------------------------------------------------------------

/// x becomes the sum over all ranks, by `send` and `recv` alone. Cut x into as many chunks as there are ranks, the last ones shorter or empty. First each chunk goes once
/// round the ring and is added to; then its sum goes round. In each step a rank sends one chunk to the next rank, and receives another from the one before:
/// 2 · (ranks − 1) messages each. `stairwell::parallel::{bytes, numbers}` make bytes of numbers, and numbers of bytes.
pub fn my_all_reduce(line: &dyn Communicator, x: &mut [f32]) -> Result<()> {
    stub!("add up chunk by chunk, round the ring; read \"A ring\" in steps/step7-parallel/README.md")
}

#[test]
fn ring() {
    step7::ring(my_all_reduce);
}

#[test]
fn ring_writes_the_story() {
    step7::ring_writes_the_story(my_all_reduce);
}
