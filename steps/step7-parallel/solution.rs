//! Answers to exercise.rs: `cargo test --features step7 --test solution7`.

use crate::contracts::step7::{self, Cut};
use stairwell::{
    error::Result,
    model::Rank,
    parallel::{Communicator, bytes, numbers},
};
use std::ops::Range;

// 1. Slices -------------------------------------------------------------------------------------------------------------

/// Equal parts, but for the last ones.
pub fn part(n: usize, rank: usize, ranks: usize) -> Range<usize> {
    let size = n.div_ceil(ranks);
    (rank * size).min(n)..((rank + 1) * size).min(n)
}

pub fn my_slice(cut: Cut, rows: usize, cols: usize, rank: Rank) -> (Range<usize>, Range<usize>) {
    let Rank { rank, world_size } = rank;
    match cut {
        Cut::Column => (part(rows, rank, world_size), 0..cols),
        Cut::Row => (0..rows, part(cols, rank, world_size)),
        Cut::KvHeads { head_dim } => {
            let heads = rows / head_dim;
            let held = match heads >= world_size {
                true => part(heads, rank, world_size),
                false => rank * heads / world_size..rank * heads / world_size + 1,
            };
            (held.start * head_dim..held.end * head_dim, 0..cols)
        }
    }
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

pub fn my_all_reduce(line: &dyn Communicator, x: &mut [f32]) -> Result<()> {
    let Rank { rank, world_size: n } = line.rank();
    let (next, before, length) = ((rank + 1) % n, (rank + n - 1) % n, x.len());
    let chunk = |number: usize| part(length, number % n, n);
    // In step s a rank sends the chunk that it has just added to, and receives the one before it.
    for s in 0..n - 1 {
        line.send(next, bytes(&x[chunk(rank + n - s)]))?;
        let theirs = numbers(&line.recv(before)?);
        x[chunk(rank + 2 * n - s - 1)].iter_mut().zip(theirs).for_each(|(sum, number)| *sum += number);
    }
    // Rank r has all of chunk r + 1 now, and passes it on.
    for s in 0..n - 1 {
        line.send(next, bytes(&x[chunk(rank + 1 + n - s)]))?;
        let theirs = numbers(&line.recv(before)?);
        x[chunk(rank + n - s)].copy_from_slice(&theirs);
    }
    Ok(())
}

#[test]
fn ring() {
    step7::ring(my_all_reduce);
}

#[test]
fn ring_writes_the_story() {
    step7::ring_writes_the_story(my_all_reduce);
}
