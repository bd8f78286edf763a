//! A few rows of x: weights are used once or twice, in place, and the time is that of reading them.

use super::{
    super::tasks::Out,
    micro_kernel::{STRIP, Tile, add_row, load, of_height},
    pack::{HEIGHT, Panels},
    weights::Reads,
};
use crate::backend::simd::{LINE, filled_up, prefetch};

/// How many strips ahead weights are asked for.
pub const AHEAD: usize = 4;

/// All panels against a strip that is used in place. `next`: weights to ask memory for on the way.
#[inline(always)]
pub fn in_place<T: Reads<E, B, W>, E, const B: usize, const W: usize, const N: usize>(
    simd: T,
    panels: &Panels<T::Number>,
    w: [&[u8]; STRIP],
    next: *const u8,
    out: &Out,
) {
    let one = panels.rows == 1;
    let mut ahead = Ahead { next, bytes: 0, per_line: panels.count() * LINE };
    if one {
        return match W {
            16.. => one_row::<T, E, B, W, 1>(simd, panels.panel(0), w, &mut ahead, out),
            _ => one_row::<T, E, B, W, 2>(simd, panels.panel(0), w, &mut ahead, out),
        };
    }
    for panel in 0..panels.count() {
        for first in (0..STRIP).step_by(N) {
            let (w, out) = (w[first..].first_chunk().expect("N rows"), out.from(first));
            let ahead = &mut ahead;
            of_height!(
                panels.height(panel),
                in_place_pass::<T, E, B, W, N>(simd, panels, panel, *w, ahead, &out)
            );
        }
    }
}

/// Weights to come: each panel that passes a strip asks for its share of them, line by line.
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
fn one_row<T: Reads<E, B, W>, E, const B: usize, const W: usize, const G: usize>(
    simd: T,
    x: &[[[T::Number; W]; 1]],
    w: [&[u8]; STRIP],
    ahead: &mut Ahead,
    out: &Out,
) {
    let mut sums = [simd.zero(); STRIP];
    for (w, sums) in w.as_chunks::<G>().0.iter().zip(sums.as_chunks_mut::<G>().0) {
        let mut group = [simd.zero(); G];
        let mut full = [w[0].as_chunks::<B>().0.as_chunks::<W>().0; G];
        for g in 1..G {
            full[g] = &w[g].as_chunks::<B>().0.as_chunks::<W>().0[..full[0].len()];
        }
        for (i, x) in x[..full[0].len()].iter().enumerate() {
            ahead.pass(G * B * W);
            let x = simd.load(&x[0]);
            for g in 0..G {
                group[g] = simd.multiply_add(group[g], x, simd.read(&full[g][i]));
            }
        }
        if let Some(x) = x.get(full[0].len()) {
            for g in 0..G {
                let rest = w[g].as_chunks::<B>().0.as_chunks::<W>().1;
                group[g] = simd.multiply_add(group[g], simd.load(&x[0]), simd.read(&filled_up(rest, [0; B])));
            }
        }
        *sums = group;
    }
    out.write(0, simd.finish(sums));
}

/// A panel of M rows against N rows of W. Row n of this tile is that of w_n, so that each weight is widened just before its use.
#[inline(always)]
fn in_place_pass<T: Reads<E, B, W>, E, const B: usize, const W: usize, const N: usize, const M: usize>(
    simd: T,
    panels: &Panels<T::Number>,
    panel: usize,
    w: [&[u8]; N],
    ahead: &mut Ahead,
    out: &Out,
) {
    let (x, last) = (panels.panel::<W, M>(panel), N - 1);
    let row = |n: usize| w[last.min(n)].as_chunks::<B>().0.as_chunks::<W>();
    let rows = [row(0), row(1), row(2), row(3)];
    // Of one length, which spares the loop a check for each.
    let full = rows[0].0.len();
    let w = [&rows[0].0[..full], &rows[1].0[..full], &rows[2].0[..full], &rows[3].0[..full]];
    let mut tile = Tile::<T::Sums, M>::of(simd.zero());
    for (i, x) in x[..full].iter().enumerate() {
        ahead.pass(N * B * W);
        let x = load::<T, W, M>(simd, x);
        add_row(simd, &mut tile.a, simd.read(&w[0][i]), &x);
        add_row(simd, &mut tile.b, simd.read(&w[1][i]), &x);
        if N > 2 {
            add_row(simd, &mut tile.c, simd.read(&w[2][i]), &x);
            add_row(simd, &mut tile.d, simd.read(&w[3][i]), &x);
        }
    }
    if let Some(x) = x.get(full) {
        let x = load::<T, W, M>(simd, x);
        add_row(simd, &mut tile.a, simd.read(&filled_up(rows[0].1, [0; B])), &x);
        add_row(simd, &mut tile.b, simd.read(&filled_up(rows[1].1, [0; B])), &x);
        if N > 2 {
            add_row(simd, &mut tile.c, simd.read(&filled_up(rows[2].1, [0; B])), &x);
            add_row(simd, &mut tile.d, simd.read(&filled_up(rows[3].1, [0; B])), &x);
        }
    }
    for m in 0..M {
        let of_row = [tile.a[m], tile.b[m], tile.c[m], tile.d[m]];
        out.write::<N>(panel * HEIGHT + m, simd.finish(*of_row.first_chunk().expect("N ≤ 4")));
    }
}
