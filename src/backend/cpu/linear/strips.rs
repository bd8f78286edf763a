//! A task of rows of W: strip by strip, in place or by blocks.

use super::{
    in_place,
    panels::Panels,
    stored,
    tasks::{Out, Task},
    tile::{self, Packing, Reads, STRIP, Sums},
};

/// Rows of x up to which a strip is used in place.
const FEW: usize = 16;
/// Panels that pass by all strips of a task before the next ones do: they stay in the second cache, and so do the task's weights.
const PANELS: usize = 32;

/// The outputs of a task, N rows of W at a time. A packed strip has R rows, and a block of it K registers of each: as many as fill a half or a
/// third of a first cache, so that a panel's part fits beside them and is loaded once for all R / N tiles.
#[inline(always)]
pub fn task<
    T: Sums<W> + Reads<E, B, W>,
    E,
    const B: usize,
    const W: usize,
    const N: usize,
    const R: usize,
    const K: usize,
>(
    task: &Task,
    panels: &Panels<T::Number>,
) {
    // No closures on the way to the tile: they would be compiled without the instruction set's features.
    let rows = stored::Rows::new(task.slice);
    if panels.rows <= FEW {
        for first in task.outputs.clone().step_by(STRIP) {
            let (w, out) = strip::<STRIP>(task, &rows, first);
            in_place::in_place::<T, E, B, W, N>(panels, w, &out);
        }
    } else {
        let mut packing = Packing::<T, T::Number, W, N, R, K>::new();
        for panel in (0..panels.count()).step_by(PANELS) {
            let some = panel..panels.count().min(panel + PANELS);
            for first in task.outputs.clone().step_by(R) {
                let (w, out) = strip::<R>(task, &rows, first);
                tile::by_blocks::<T, E, B, W, N, R, K>(panels, some.clone(), w, &mut packing, &out);
            }
        }
    }
}

/// R rows of W from number `first`, and where their sums go. Where fewer are left, the last one fills the places.
#[inline(always)]
fn strip<'a, const R: usize>(
    task: &Task<'a>,
    rows: &stored::Rows<'a>,
    first: usize,
) -> ([&'a [u8]; R], Out<'a>) {
    let mut w = [rows.row(first); R];
    for (n, w) in w.iter_mut().enumerate().skip(1) {
        *w = rows.row((first + n).min(task.outputs.end - 1));
    }
    (w, Out { strip: w[0].as_ptr(), stride: rows.stride, ..task.out.from(first - task.outputs.start) })
}
