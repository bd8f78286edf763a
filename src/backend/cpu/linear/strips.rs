//! A task of rows of W: strip by strip, in place or packed.

use super::{
    panels::Panels,
    stored,
    tasks::{Out, Task},
    tile::{self, Packing, Reads, STRIP, Sums},
};

/// Rows of x up to which a strip is used in place.
const FEW: usize = 16;

/// The outputs of a task, N rows of W at a time. A block of a packed strip has K registers of each row: as many as fill half of a first
/// cache of 32 KiB.
#[inline(always)]
pub fn task<
    T: Sums<W> + Reads<E, B, W>,
    E,
    const B: usize,
    const W: usize,
    const N: usize,
    const K: usize,
>(
    task: &Task,
    panels: &Panels<T::Number>,
) {
    // No closures on the way to the tile: they would be compiled without the instruction set's features.
    let rows = stored::Rows::new(task.slice);
    if panels.rows <= FEW {
        for first in task.outputs.clone().step_by(STRIP) {
            let (w, out) = strip(task, &rows, first);
            tile::in_place::<T, E, B, W, N>(panels, w, &out);
        }
    } else {
        let mut packing = Packing::<T, T::Number, W, N, K>::new();
        for first in task.outputs.clone().step_by(STRIP) {
            let (w, out) = strip(task, &rows, first);
            tile::packed::<T, E, B, W, N, K>(panels, w, &mut packing, &out);
        }
    }
}

/// The rows of W of a strip, and where its sums go. Where fewer rows are left, the last one fills the places.
#[inline(always)]
fn strip<'a>(task: &Task<'a>, rows: &stored::Rows<'a>, first: usize) -> ([&'a [u8]; STRIP], Out<'a>) {
    let last = task.outputs.end - 1;
    let row = |n: usize| rows.row(last.min(first + n));
    let w = [row(0), row(1), row(2), row(3)];
    (w, Out { strip: w[0].as_ptr(), stride: rows.stride, ..task.out.from(first - task.outputs.start) })
}
