//! A few rows of x: weights are used once or twice, in place, and the time is that of reading them.

use super::{
    panels::{HEIGHT, Panels},
    stored,
    tasks::Out,
    tile::{Reads, STRIP, Tile, add_row, load, of_height},
};

/// How many strips ahead weights are asked for.
const AHEAD: usize = 4;

/// All panels against a strip that is used in place.
#[inline(always)]
pub fn in_place<T: Reads<E, B, W>, E, const B: usize, const W: usize, const N: usize>(
    panels: &Panels<T::Number>,
    w: [&[u8]; STRIP],
    out: &Out,
) {
    let one = panels.rows == 1 && W >= 8; // registers of 4 sums are arrays, which the tile below handles better
    let next = out.strip.wrapping_add(AHEAD * STRIP * out.stride);
    let mut ahead = Ahead { next, bytes: 0, per_line: panels.count() * stored::LINE };
    if one {
        return match W {
            16.. => one_row::<T, E, B, W, 1>(panels.panel(0), w, &mut ahead, out),
            _ => one_row::<T, E, B, W, 2>(panels.panel(0), w, &mut ahead, out),
        };
    }
    for panel in 0..panels.count() {
        for first in (0..STRIP).step_by(N) {
            let (w, out) = (w[first..].first_chunk().expect("N rows"), out.from(first));
            let ahead = &mut ahead;
            of_height!(panels.height(panel), in_place_pass::<T, E, B, W, N>(panels, panel, *w, ahead, &out));
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
    /// After so many bytes, in registers of W numbers. Loops over short ones are left to the compiler, which a branch would keep from its
    /// work: there each step asks, mostly for the line that the last one asked for.
    #[inline(always)]
    fn pass<const W: usize>(&mut self, bytes: usize) {
        if W < 8 {
            stored::prefetch(self.next, 0..1);
            self.next = self.next.wrapping_add(bytes * stored::LINE / self.per_line);
            return;
        }
        self.bytes += bytes;
        while self.bytes >= self.per_line {
            self.bytes -= self.per_line;
            stored::prefetch(self.next, 0..1);
            self.next = self.next.wrapping_add(stored::LINE);
        }
    }
}

/// One row of x against G rows of W after the other. With one, memory is read in the order of its addresses; but a sum waits for itself, and
/// short registers make many additions of a row, so there several sums take turns.
#[inline(always)]
fn one_row<T: Reads<E, B, W>, E, const B: usize, const W: usize, const G: usize>(
    x: &[[[T::Number; W]; 1]],
    w: [&[u8]; STRIP],
    ahead: &mut Ahead,
    out: &Out,
) {
    let mut sums = [T::zero(); STRIP];
    for (w, sums) in w.as_chunks::<G>().0.iter().zip(sums.as_chunks_mut::<G>().0) {
        let mut group = [T::zero(); G];
        let mut full = [w[0].as_chunks::<B>().0.as_chunks::<W>().0; G];
        for g in 1..G {
            full[g] = &w[g].as_chunks::<B>().0.as_chunks::<W>().0[..full[0].len()];
        }
        for (i, x) in x[..full[0].len()].iter().enumerate() {
            ahead.pass::<W>(G * B * W);
            let x = T::load(&x[0]);
            for g in 0..G {
                group[g] = group[g].multiply_add(x, T::read(&full[g][i]));
            }
        }
        if let Some(x) = x.get(full[0].len()) {
            for g in 0..G {
                let rest = w[g].as_chunks::<B>().0.as_chunks::<W>().1;
                group[g] = group[g].multiply_add(T::load(&x[0]), T::read(&stored::filled_up(rest)));
            }
        }
        *sums = group;
    }
    out.write(0, T::finish(sums));
}

/// A panel of M rows against N rows of W. Row n of this tile is that of w_n, so that each weight is widened just before its use.
#[inline(always)]
fn in_place_pass<T: Reads<E, B, W>, E, const B: usize, const W: usize, const N: usize, const M: usize>(
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
    let mut tile = Tile::<T, M>::zero();
    for (i, x) in x[..full].iter().enumerate() {
        ahead.pass::<W>(N * B * W);
        let x = load::<T, W, M>(x);
        add_row(&mut tile.a, T::read(&w[0][i]), &x);
        add_row(&mut tile.b, T::read(&w[1][i]), &x);
        if N > 2 {
            add_row(&mut tile.c, T::read(&w[2][i]), &x);
            add_row(&mut tile.d, T::read(&w[3][i]), &x);
        }
    }
    if let Some(x) = x.get(full) {
        let x = load::<T, W, M>(x);
        add_row(&mut tile.a, T::read(&stored::filled_up(rows[0].1)), &x);
        add_row(&mut tile.b, T::read(&stored::filled_up(rows[1].1)), &x);
        if N > 2 {
            add_row(&mut tile.c, T::read(&stored::filled_up(rows[2].1)), &x);
            add_row(&mut tile.d, T::read(&stored::filled_up(rows[3].1)), &x);
        }
    }
    for m in 0..M {
        let of_row = [tile.a[m], tile.b[m], tile.c[m], tile.d[m]];
        out.write::<N>(panel * HEIGHT + m, T::finish(*of_row.first_chunk().expect("N ≤ 4")));
    }
}
