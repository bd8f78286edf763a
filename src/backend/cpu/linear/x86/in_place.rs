//! A few rows of x: weights are used once or twice, in place, and the time is that of reading them.

use super::super::tasks::Out;
use super::micro_kernel::{IN_PLACE, load};
use super::pack::{HEIGHT, Panels};
use super::weights::{Element, Reads};
use crate::backend::simd::{LINE, add_row, filled_up, of_rows, prefetch};

/// How many panels of W ahead weights are asked for.
pub const AHEAD: usize = 4;

/// All panels of x against four rows of W in place. `next`: weights to ask memory for on the way.
#[inline(always)]
pub fn in_place<T: Reads<E, W>, E: Element, const W: usize, const N: usize>(
    simd: T,
    panels: &Panels<T::Number>,
    w: [&[u8]; IN_PLACE],
    next: *const u8,
    out: &Out,
) {
    let one = panels.rows == 1;
    let mut ahead = Ahead { next, bytes: 0, per_line: panels.count() * LINE };
    if one {
        return match W {
            16.. => one_row::<T, E, W, 1>(simd, panels.panel(0), w, &mut ahead, out),
            _ => one_row::<T, E, W, 2>(simd, panels.panel(0), w, &mut ahead, out),
        };
    }
    for panel in 0..panels.count() {
        for first in (0..IN_PLACE).step_by(N) {
            let (w, out) = (w[first..].first_chunk().expect("N rows"), out.from(first));
            let ahead = &mut ahead;
            of_rows!(panels.height(panel), in_place_pass::<T, E, W, N>(simd, panels, panel, *w, ahead, &out));
        }
    }
}

/// Weights to come: each panel of x that passes rows of W asks for its share of them, line by line.
struct Ahead {
    next: *const u8,
    /// Bytes that were passed since the last line was asked for, and after how many it is time for the next.
    bytes: usize,
    per_line: usize,
}

impl Ahead {
    /// After so many bytes.
    #[inline(always)]
    fn pass(&mut self, bytes: usize) {
        self.bytes += bytes;
        while self.bytes >= self.per_line {
            self.bytes -= self.per_line;
            prefetch(self.next, 0..1);
            self.next = self.next.wrapping_add(LINE);
        }
    }
}

/// One row of x against G rows of W after the other. With one, memory is read in the order of its addresses; but a sum waits for itself, and
/// short registers make many additions of a row, so there several sums take turns.
#[inline(always)]
fn one_row<T: Reads<E, W>, E: Element, const W: usize, const G: usize>(
    simd: T,
    x: &[[[T::Number; W]; 1]],
    w: [&[u8]; IN_PLACE],
    ahead: &mut Ahead,
    out: &Out,
) {
    let mut sums = [[simd.zero()]; IN_PLACE];
    for (w, sums) in w.as_chunks::<G>().0.iter().zip(sums.as_chunks_mut::<G>().0) {
        *sums = micro_tile::<T, E, W, G, 1>(simd, x, *w, ahead);
    }
    let [[a], [b], [c], [d]] = sums;
    out.write(0, simd.finish([a, b, c, d]));
}

/// A panel of M rows against N rows of W.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // plain loops keep the instruction set's features
fn in_place_pass<T: Reads<E, W>, E: Element, const W: usize, const N: usize, const M: usize>(
    simd: T,
    panels: &Panels<T::Number>,
    panel: usize,
    w: [&[u8]; N],
    ahead: &mut Ahead,
    out: &Out,
) {
    let sums = micro_tile::<T, E, W, N, M>(simd, panels.panel::<W, M>(panel), w, ahead);
    for m in 0..M {
        let mut of_row = [sums[0][m]; N];
        for n in 1..N {
            of_row[n] = sums[n][m];
        }
        out.write(panel * HEIGHT + m, simd.finish(of_row));
    }
}

/// The sums of M rows of x and N of W. Row n of this micro-tile is that of w_n, so that each weight is widened just before its use.
#[inline(always)]
fn micro_tile<T: Reads<E, W>, E: Element, const W: usize, const N: usize, const M: usize>(
    simd: T,
    x: &[[[T::Number; W]; M]],
    w: [&[u8]; N],
    ahead: &mut Ahead,
) -> [[T::Sums; M]; N] {
    let rows = w.map(|w| E::numbers(w).as_chunks::<W>());
    // Slices of one length spare the loop a check for each of them.
    let full = rows[0].0.len();
    let w = rows.map(|row| &row.0[..full]);
    let mut sums = [[simd.zero(); M]; N];
    for (i, x) in x[..full].iter().enumerate() {
        ahead.pass(N * size_of::<[E::Bytes; W]>());
        let x = load::<T, W, M>(simd, x);
        for n in 0..N {
            add_row(simd, &mut sums[n], simd.read(&w[n][i]), &x);
        }
    }
    if let Some(x) = x.get(full) {
        let x = load::<T, W, M>(simd, x);
        for n in 0..N {
            add_row(simd, &mut sums[n], simd.read(&filled_up(rows[n].1, E::ZERO)), &x);
        }
    }
    sums
}
