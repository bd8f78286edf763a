//! The tile: sums of a panel of x against a strip of W, in registers.

use super::{
    panels::{HEIGHT, Panels},
    stored,
    tasks::Out,
};
use std::{marker::PhantomData, ops::Range};

/// Rows of W of a strip that is used in place.
pub const STRIP: usize = 4;
/// Tiles whose sums wait in memory for the next block of k. Where there are more, a strip is packed again.
const WAITING: usize = 64;
/// How many strips ahead weights are asked for where they are used in place.
const AHEAD: usize = 4;

// ANCHOR: sums
/// Sums of products, in the lanes of one register. What a variant must have; the rest is the same for all.
pub trait Sums<const W: usize>: Copy {
    /// What panels and packed strips hold.
    type Number: Copy + Default;
    /// W of them.
    type Register: Copy;
    /// No sum yet.
    fn zero() -> Self;
    fn load(numbers: &[Self::Number; W]) -> Self::Register;
    fn store(register: Self::Register, numbers: &mut [Self::Number; W]);
    /// Adds the products x · w, each to its lane.
    fn multiply_add(self, x: Self::Register, w: Self::Register) -> Self;
    /// The sum over the lanes, by halves.
    fn finish<const N: usize>(sums: [Self; N]) -> [f32; N];
}

/// How a variant reads W weights of the dtype E, of B bytes each.
pub trait Reads<E, const B: usize, const W: usize>: Sums<W> {
    /// Whether a register holds them as they are stored.
    const AS_STORED: bool = false;
    fn read(weights: &[[u8; B]; W]) -> Self::Register;
}
// ANCHOR_END: sums

/// Sums of up to 4 rows and of N: each row is a variable of its own, which the compiler keeps in registers. An array of rows it keeps in
/// memory, at half the speed.
#[derive(Clone, Copy)]
struct Tile<T, const N: usize> {
    a: [T; N],
    b: [T; N],
    c: [T; N],
    d: [T; N],
}

impl<T: Copy, const N: usize> Tile<T, N> {
    #[inline(always)]
    fn zero<const W: usize>() -> Self
    where
        T: Sums<W>,
    {
        let row = [T::zero(); N];
        Tile { a: row, b: row, c: row, d: row }
    }
}

/// Adds the products of one register of numbers with N others.
#[inline(always)]
pub fn add_row<T: Sums<W>, const W: usize, const N: usize>(
    sums: &mut [T; N],
    one: T::Register,
    others: &[T::Register; N],
) {
    for n in 0..N {
        sums[n] = sums[n].multiply_add(one, others[n]);
    }
}

/// N registers.
#[inline(always)]
fn load<T: Sums<W>, const W: usize, const N: usize>(numbers: &[[T::Number; W]; N]) -> [T::Register; N] {
    let mut registers = [T::load(&numbers[0]); N];
    for n in 1..N {
        registers[n] = T::load(&numbers[n]);
    }
    registers
}

/// Calls `$f::<…, M>(…)` for the M rows of a panel.
macro_rules! of_height {
    ($height:expr, $f:ident::<$($t:tt),*>($($arg:expr),*)) => {
        match $height {
            1 => $f::<$($t,)* 1>($($arg),*),
            2 => $f::<$($t,)* 2>($($arg),*),
            3 => $f::<$($t,)* 3>($($arg),*),
            _ => $f::<$($t,)* 4>($($arg),*),
        }
    };
}

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
            32.. => one_row::<T, E, B, W, 1>(panels.panel(0), w, &mut ahead, out),
            16.. => one_row::<T, E, B, W, 2>(panels.panel(0), w, &mut ahead, out),
            _ => one_row::<T, E, B, W, 4>(panels.panel(0), w, &mut ahead, out),
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

/// Room for a block of a packed strip of R rows, K registers of each, and for sums that wait for the next block.
pub struct Packing<T, X, const W: usize, const N: usize, const R: usize, const K: usize> {
    strip: [[[X; W]; R]; K],
    waiting: [Tile<T, N>; WAITING],
}

impl<T: Sums<W>, const W: usize, const N: usize, const R: usize, const K: usize>
    Packing<T, T::Number, W, N, R, K>
{
    #[inline(always)]
    pub fn new() -> Self {
        Packing { strip: [[[T::Number::default(); W]; R]; K], waiting: [Tile::zero(); WAITING] }
    }
}

/// Some panels against a strip of R rows, block by block of k. A block is packed first, unless the weights fill registers as they are.
#[inline(always)]
pub fn by_blocks<
    T: Reads<E, B, W>,
    E,
    const B: usize,
    const W: usize,
    const N: usize,
    const R: usize,
    const K: usize,
>(
    panels: &Panels<T::Number>,
    some: Range<usize>,
    w: [&[u8]; R],
    packing: &mut Packing<T, T::Number, W, N, R, K>,
    out: &Out,
) {
    let (registers, parts) = (w[0].len().div_ceil(B * W), R / N);
    let as_stored = T::AS_STORED && w[0].len() % (B * W) == 0;
    let at_a_time = if registers <= K { some.len() } else { WAITING / parts };
    for first in some.clone().step_by(at_a_time) {
        for start in (0..registers).step_by(K) {
            let block = start..registers.min(start + K);
            if !as_stored {
                pack::<T, E, B, W, R, K>(w, block.clone(), &mut packing.strip);
            }
            for panel in first..some.end.min(first + at_a_time) {
                let height = panels.height(panel);
                for part in 0..parts {
                    let sums = &mut packing.waiting[((panel - first) * parts + part) % WAITING];
                    let at = At { panel, block: block.clone(), last: block.end == registers };
                    let out = out.from(part * N);
                    if as_stored {
                        let strip = Stored::<E, B, W, N>::new(&w[part * N..], &block);
                        of_height!(height, pass::<T, _, W, N>(panels, &strip, at, sums, &out));
                    } else {
                        let strip = Packed { block: &packing.strip[..], row: part * N };
                        of_height!(height, pass::<T, _, W, N>(panels, &strip, at, sums, &out));
                    }
                }
            }
        }
    }
}

/// Packs a block of a strip, [k / W][R][W].
#[inline(always)]
fn pack<T: Reads<E, B, W>, E, const B: usize, const W: usize, const R: usize, const K: usize>(
    w: [&[u8]; R],
    block: Range<usize>,
    packed: &mut [[[T::Number; W]; R]; K],
) {
    for (n, row) in w.iter().enumerate() {
        let (full, rest) = row.as_chunks::<B>().0.as_chunks::<W>();
        for (register, i) in packed.iter_mut().zip(block.clone()) {
            let weights = match full.get(i) {
                Some(weights) => T::read(weights),
                None => T::read(&stored::filled_up(rest)),
            };
            T::store(weights, &mut register[n]);
        }
    }
}

/// Where a tile finds registers of N rows of W.
trait Strip<T: Sums<W>, const W: usize, const N: usize> {
    /// Number i of a block, of each row.
    fn registers(&self, i: usize) -> [T::Register; N];
}

/// A packed block, from row `row` on.
struct Packed<'a, X, const W: usize, const R: usize> {
    block: &'a [[[X; W]; R]],
    row: usize,
}

impl<T: Sums<W>, const W: usize, const N: usize, const R: usize> Strip<T, W, N>
    for Packed<'_, T::Number, W, R>
{
    #[inline(always)]
    fn registers(&self, i: usize) -> [T::Register; N] {
        load::<T, W, N>(self.block[i][self.row..].first_chunk().expect("N rows"))
    }
}

/// A block of N rows where they are stored.
struct Stored<'a, E, const B: usize, const W: usize, const N: usize> {
    rows: [&'a [[[u8; B]; W]]; N],
    dtype: PhantomData<E>,
}

impl<'a, E, const B: usize, const W: usize, const N: usize> Stored<'a, E, B, W, N> {
    #[inline(always)]
    fn new(w: &[&'a [u8]], block: &Range<usize>) -> Self {
        let mut rows = [&w[0].as_chunks::<B>().0.as_chunks::<W>().0[block.clone()]; N];
        for n in 1..N {
            rows[n] = &w[n].as_chunks::<B>().0.as_chunks::<W>().0[block.clone()];
        }
        Stored { rows, dtype: PhantomData }
    }
}

impl<T: Reads<E, B, W>, E, const B: usize, const W: usize, const N: usize> Strip<T, W, N>
    for Stored<'_, E, B, W, N>
{
    #[inline(always)]
    fn registers(&self, i: usize) -> [T::Register; N] {
        let mut registers = [T::read(&self.rows[0][i]); N];
        for n in 1..N {
            registers[n] = T::read(&self.rows[n][i]);
        }
        registers
    }
}

/// A panel, a block of k, and whether sums are complete after it.
struct At {
    panel: usize,
    block: Range<usize>,
    last: bool,
}

// ANCHOR: pass
/// A panel of M rows against N rows of a block of a strip.
#[inline(always)]
fn pass<T: Sums<W>, S: Strip<T, W, N>, const W: usize, const N: usize, const M: usize>(
    panels: &Panels<T::Number>,
    strip: &S,
    at: At,
    sums: &mut Tile<T, N>,
    out: &Out,
) {
    let mut tile = if at.block.start == 0 { Tile::zero() } else { *sums };
    for (i, x) in panels.panel::<W, M>(at.panel)[at.block].iter().enumerate() {
        let w = strip.registers(i);
        add_row(&mut tile.a, T::load(&x[0]), &w);
        if M > 1 {
            add_row(&mut tile.b, T::load(&x[1]), &w);
        }
        if M > 2 {
            add_row(&mut tile.c, T::load(&x[2]), &w);
        }
        if M > 3 {
            add_row(&mut tile.d, T::load(&x[3]), &w);
        }
    }
    if !at.last {
        *sums = tile;
        return;
    }
    let row = at.panel * HEIGHT;
    out.write(row, T::finish(tile.a));
    if M > 1 {
        out.write(row + 1, T::finish(tile.b));
    }
    if M > 2 {
        out.write(row + 2, T::finish(tile.c));
    }
    if M > 3 {
        out.write(row + 3, T::finish(tile.d));
    }
}
// ANCHOR_END: pass
