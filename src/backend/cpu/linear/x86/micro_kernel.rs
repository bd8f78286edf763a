//! The micro-kernel: sums of a panel of x against a strip of W, in registers.

use super::{
    super::tasks::Out,
    pack::{HEIGHT, Panels},
    weights::Reads,
};
use crate::backend::simd::{Simd, filled_up};
use std::{marker::PhantomData, ops::Range};

/// Rows of W of a strip that is used in place.
pub const STRIP: usize = 4;
/// Tiles of a strip whose sums wait in memory for the next block of k.
pub const WAITING: usize = 64;

/// Sums of up to 4 rows and of N: each row is a variable of its own, which the compiler keeps in registers. An array of rows it keeps in
/// memory, at half the speed.
#[derive(Clone, Copy)]
pub(super) struct Tile<X, const N: usize> {
    pub a: [X; N],
    pub b: [X; N],
    pub c: [X; N],
    pub d: [X; N],
}

impl<X: Copy, const N: usize> Tile<X, N> {
    #[inline(always)]
    pub fn of(zero: X) -> Self {
        let row = [zero; N];
        Tile { a: row, b: row, c: row, d: row }
    }
}

/// Adds the products of one register of numbers with N others.
#[inline(always)]
pub fn add_row<T: Simd<W>, const W: usize, const N: usize>(
    simd: T,
    sums: &mut [T::Sums; N],
    one: T::Register,
    others: &[T::Register; N],
) {
    for n in 0..N {
        sums[n] = simd.multiply_add(sums[n], one, others[n]);
    }
}

/// N registers.
#[inline(always)]
pub(super) fn load<T: Simd<W>, const W: usize, const N: usize>(
    simd: T,
    numbers: &[[T::Number; W]; N],
) -> [T::Register; N] {
    let mut registers = [simd.load(&numbers[0]); N];
    for n in 1..N {
        registers[n] = simd.load(&numbers[n]);
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
pub(super) use of_height;

/// A packed block of a strip: K registers of each of R rows, none of them across two lines of a cache.
#[repr(align(64))]
pub struct PackedBlock<X, const W: usize, const R: usize, const K: usize>([[[X; W]; R]; K]);

/// Sums of a strip's tiles between two blocks.
pub type Waiting<X, const N: usize> = [Tile<X, N>; WAITING];

/// A block of k of some panels against that of a strip of R rows. It is packed first, unless the weights fill registers as they are.
/// `waiting`: the tiles' sums between two blocks.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub fn block<
    T: Reads<E, B, W>,
    E,
    const B: usize,
    const W: usize,
    const N: usize,
    const R: usize,
    const K: usize,
>(
    simd: T,
    panels: &Panels<T::Number>,
    some: Range<usize>,
    w: [&[u8]; R],
    block: Range<usize>,
    packed: &mut PackedBlock<T::Number, W, R, K>,
    waiting: &mut Waiting<T::Sums, N>,
    out: &Out,
) {
    let as_stored = T::AS_STORED && w[0].len().is_multiple_of(B * W);
    let last = block.end == w[0].len().div_ceil(B * W);
    if !as_stored {
        pack::<T, E, B, W, R, K>(simd, w, block.clone(), &mut packed.0);
    }
    for panel in some.clone() {
        let height = panels.height(panel);
        for part in 0..R / N {
            let sums = &mut waiting[((panel - some.start) * (R / N) + part) % WAITING];
            let at = At { panel, block: block.clone(), last };
            let out = out.from(part * N);
            if as_stored {
                let strip = Stored::<E, B, W, N>::new(&w[part * N..], &block);
                of_height!(height, pass::<T, _, W, N>(simd, panels, &strip, at, sums, &out));
            } else {
                let strip = Packed { block: &packed.0[..], row: part * N };
                of_height!(height, pass::<T, _, W, N>(simd, panels, &strip, at, sums, &out));
            }
        }
    }
}

/// Packs a block of a strip, [k / W][R][W].
#[inline(always)]
fn pack<T: Reads<E, B, W>, E, const B: usize, const W: usize, const R: usize, const K: usize>(
    simd: T,
    w: [&[u8]; R],
    block: Range<usize>,
    packed: &mut [[[T::Number; W]; R]; K],
) {
    for (n, row) in w.iter().enumerate() {
        let (full, rest) = row.as_chunks::<B>().0.as_chunks::<W>();
        for (register, i) in packed.iter_mut().zip(block.clone()) {
            let weights = match full.get(i) {
                Some(weights) => simd.read(weights),
                None => simd.read(&filled_up(rest, [0; B])),
            };
            simd.store(weights, &mut register[n]);
        }
    }
}

/// Where a tile finds registers of N rows of W.
trait Strip<T: Simd<W>, const W: usize, const N: usize> {
    /// Number i of a block, of each row.
    fn registers(&self, simd: T, i: usize) -> [T::Register; N];
}

/// A packed block, from row `row` on.
struct Packed<'a, X, const W: usize, const R: usize> {
    block: &'a [[[X; W]; R]],
    row: usize,
}

impl<T: Simd<W>, const W: usize, const N: usize, const R: usize> Strip<T, W, N>
    for Packed<'_, T::Number, W, R>
{
    #[inline(always)]
    fn registers(&self, simd: T, i: usize) -> [T::Register; N] {
        load::<T, W, N>(simd, self.block[i][self.row..].first_chunk().expect("N rows"))
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
    #[allow(clippy::needless_range_loop)] // plain loops keep the instruction set's features
    fn registers(&self, simd: T, i: usize) -> [T::Register; N] {
        let mut registers = [simd.read(&self.rows[0][i]); N];
        for n in 1..N {
            registers[n] = simd.read(&self.rows[n][i]);
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
fn pass<T: Simd<W>, S: Strip<T, W, N>, const W: usize, const N: usize, const M: usize>(
    simd: T,
    panels: &Panels<T::Number>,
    strip: &S,
    at: At,
    sums: &mut Tile<T::Sums, N>,
    out: &Out,
) {
    let mut tile = if at.block.start == 0 { Tile::of(simd.zero()) } else { *sums };
    for (i, x) in panels.panel::<W, M>(at.panel)[at.block].iter().enumerate() {
        let w = strip.registers(simd, i);
        add_row(simd, &mut tile.a, simd.load(&x[0]), &w);
        if M > 1 {
            add_row(simd, &mut tile.b, simd.load(&x[1]), &w);
        }
        if M > 2 {
            add_row(simd, &mut tile.c, simd.load(&x[2]), &w);
        }
        if M > 3 {
            add_row(simd, &mut tile.d, simd.load(&x[3]), &w);
        }
    }
    if !at.last {
        *sums = tile;
        return;
    }
    let row = at.panel * HEIGHT;
    out.write(row, simd.finish(tile.a));
    if M > 1 {
        out.write(row + 1, simd.finish(tile.b));
    }
    if M > 2 {
        out.write(row + 2, simd.finish(tile.c));
    }
    if M > 3 {
        out.write(row + 3, simd.finish(tile.d));
    }
}
// ANCHOR_END: pass
