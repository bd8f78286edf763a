//! The micro-kernel: sums of a panel of x against a panel of W, in registers.

use super::{
    super::tasks::Out,
    pack::{HEIGHT, Panels},
    weights::Reads,
};
use crate::backend::simd::{Simd, add_row, filled_up, of_rows};
use std::{marker::PhantomData, ops::Range};

/// Rows of W that are used in place together.
pub const IN_PLACE: usize = 4;
/// Micro-tiles of a panel of W whose sums wait in memory for the next block of k.
pub const WAITING: usize = 64;

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

/// A packed block of a panel of W: K registers of each of R rows, none of them across two lines of a cache.
#[repr(align(64))]
pub struct PackedBlock<X, const W: usize, const R: usize, const K: usize>([[[X; W]; R]; K]);

/// Sums of a panel's micro-tiles, [4 rows of x][N of W] each, between two blocks.
pub type Waiting<X, const N: usize> = [[[X; N]; HEIGHT]; WAITING];

/// A block of k of some panels of x against that of a panel of W, of R rows. It is packed first, unless the weights fill registers as they are.
/// `waiting`: the micro-tiles' sums between two blocks.
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
                let weights = Stored::<E, B, W, N>::new(&w[part * N..], &block);
                of_rows!(height, pass::<T, _, W, N>(simd, panels, &weights, at, sums, &out));
            } else {
                let weights = Packed { block: &packed.0[..], row: part * N };
                of_rows!(height, pass::<T, _, W, N>(simd, panels, &weights, at, sums, &out));
            }
        }
    }
}

/// Packs a block of a panel of W, [k / W][R][W].
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

/// Where the micro-kernel finds registers of N rows of W.
trait WeightPanel<T: Simd<W>, const W: usize, const N: usize> {
    /// Number i of a block, of each row.
    fn registers(&self, simd: T, i: usize) -> [T::Register; N];
}

/// A packed block, from row `row` on.
struct Packed<'a, X, const W: usize, const R: usize> {
    block: &'a [[[X; W]; R]],
    row: usize,
}

impl<T: Simd<W>, const W: usize, const N: usize, const R: usize> WeightPanel<T, W, N>
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

impl<T: Reads<E, B, W>, E, const B: usize, const W: usize, const N: usize> WeightPanel<T, W, N>
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
/// A panel of M rows of x against N rows of a block of W. `waiting` are their sums between two blocks.
///
/// The sums of a micro-tile are M · N registers. M and N are constants, so the loops over them are unrolled and no sum goes to memory.
#[inline(always)]
fn pass<T: Simd<W>, P: WeightPanel<T, W, N>, const W: usize, const N: usize, const M: usize>(
    simd: T,
    panels: &Panels<T::Number>,
    weights: &P,
    at: At,
    waiting: &mut [[T::Sums; N]; HEIGHT],
    out: &Out,
) {
    let waiting = waiting.first_chunk_mut::<M>().expect("M ≤ 4");
    let mut sums = if at.block.start == 0 { [[simd.zero(); N]; M] } else { *waiting };
    for (i, x) in panels.panel::<W, M>(at.panel)[at.block].iter().enumerate() {
        let w = weights.registers(simd, i);
        for m in 0..M {
            add_row(simd, &mut sums[m], simd.load(&x[m]), &w);
        }
    }
    if !at.last {
        *waiting = sums;
        return;
    }
    for m in 0..M {
        out.write(at.panel * HEIGHT + m, simd.finish(sums[m]));
    }
}
// ANCHOR_END: pass
