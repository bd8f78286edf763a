//! Wrong answers to the exercises of chapter 7: each has one mistake.

use super::solution::{my_slice, part};
use crate::contracts::step7::Cut;
use stairwell::{
    error::Result,
    model::Rank,
    parallel::{Communicator, bytes, numbers},
};
use std::ops::Range;

type Slice = (Range<usize>, Range<usize>);

/// The part of the rank behind.
pub fn neighbours_slice(cut: Cut, rows: usize, cols: usize, rank: Rank) -> Slice {
    my_slice(cut, rows, cols, Rank { rank: (rank.rank + 1) % rank.world_size, ..rank })
}

/// What does not divide is nobody's.
pub fn rounds_down(cut: Cut, rows: usize, cols: usize, rank: Rank) -> Slice {
    match cut {
        Cut::Column => {
            let size = rows / rank.world_size;
            (rank.rank * size..(rank.rank + 1) * size, 0..cols)
        }
        other => my_slice(other, rows, cols, rank),
    }
}

/// Columns of the formula, and not of the file.
pub fn cuts_inputs(cut: Cut, rows: usize, cols: usize, rank: Rank) -> Slice {
    let cut = match cut {
        Cut::Column => Cut::Row,
        Cut::Row => Cut::Column,
        heads => heads,
    };
    my_slice(cut, rows, cols, rank)
}

/// K and V like any other weight.
pub fn cuts_heads(cut: Cut, rows: usize, cols: usize, rank: Rank) -> Slice {
    match cut {
        Cut::KvHeads { .. } => (part(rows, rank.rank, rank.world_size), 0..cols),
        other => my_slice(other, rows, cols, rank),
    }
}

/// Half a ring: every rank has one chunk of the sum.
pub fn no_second_round(line: &dyn Communicator, x: &mut [f32]) -> Result<()> {
    let Rank { rank, world_size: n } = line.rank();
    let length = x.len();
    for s in 0..n - 1 {
        line.send((rank + 1) % n, bytes(&x[part(length, (rank + n - s) % n, n)]))?;
        let theirs = numbers(&line.recv((rank + n - 1) % n)?);
        let chunk = part(length, (rank + 2 * n - s - 1) % n, n);
        x[chunk].iter_mut().zip(theirs).for_each(|(sum, number)| *sum += number);
    }
    Ok(())
}

/// Everything round the ring, each time.
pub fn sends_everything(line: &dyn Communicator, x: &mut [f32]) -> Result<()> {
    let Rank { rank, world_size: n } = line.rank();
    let mut passed = x.to_vec();
    for _ in 0..n - 1 {
        line.send((rank + 1) % n, bytes(&passed))?;
        passed = numbers(&line.recv((rank + n - 1) % n)?);
        x.iter_mut().zip(&passed).for_each(|(sum, number)| *sum += number);
    }
    Ok(())
}

/// Its own numbers are in the sum already.
pub fn adds_own_twice(line: &dyn Communicator, x: &mut [f32]) -> Result<()> {
    let own = x.to_vec();
    super::solution::my_all_reduce(line, x)?;
    x.iter_mut().zip(own).for_each(|(sum, number)| *sum += number);
    Ok(())
}

/// The line can do that, and then there is no ring.
pub fn asks_the_line(line: &dyn Communicator, x: &mut [f32]) -> Result<()> {
    line.all_reduce(x)
}
