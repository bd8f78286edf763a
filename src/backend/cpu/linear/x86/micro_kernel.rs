//! The micro-kernel: sums of a panel of x against a panel of W, in registers.

use super::super::tasks::Out;
use super::pack::{HEIGHT, Panels};
use super::weights::{Element, Reads};
use crate::backend::simd::{Avx2, Avx512, Avx512Bf16, Simd, add_row, filled_up, of_rows};
use std::ops::Range;

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
pub struct PackedBlock<X, const W: usize, const R: usize, const K: usize>(pub [[[X; W]; R]; K]);

/// Sums of a panel's micro-tiles, [4 rows of x][N of W] each, between two blocks.
pub type Waiting<X, const N: usize> = [[[X; N]; HEIGHT]; WAITING];

/// Some panels of x, and a block of k of theirs.
pub struct Block {
    pub panels: Range<usize>,
    /// Registers of a row.
    pub registers: Range<usize>,
    /// Whether sums are complete after it.
    pub last: bool,
}

impl Block {
    /// Where the sums of a micro-tile wait, of which a panel of x has `parts`.
    #[inline(always)]
    fn place(&self, panel: usize, part: usize, parts: usize) -> usize {
        ((panel - self.panels.start) * parts + part) % WAITING
    }
}

/// A block against that of a panel of W, of R rows. It is packed first, unless the weights fill registers as they are. `waiting`: the
/// micro-tiles' sums between two blocks.
#[inline(always)]
pub fn block<T, E, const W: usize, const N: usize, const R: usize, const K: usize>(
    simd: T,
    panels: &Panels<T::Number>,
    block: &Block,
    w: [&[u8]; R],
    packed: &mut PackedBlock<T::Number, W, R, K>,
    waiting: &mut Waiting<T::Sums, N>,
    out: &Out,
) where
    T: Reads<E, W> + PackedBlocks<W>,
    E: Element,
{
    let as_stored = T::AS_STORED && w[0].len().is_multiple_of(size_of::<[E::Bytes; W]>());
    if !as_stored {
        pack::<T, E, W, R, K>(simd, w, block.registers.clone(), &mut packed.0);
        return simd.packed_block(panels, block, packed, waiting, out);
    }
    for panel in block.panels.clone() {
        for part in 0..R / N {
            let row = |n: usize| &E::numbers(w[part * N + n]).as_chunks::<W>().0[block.registers.clone()];
            let weights = Stored::<E, W, N>(std::array::from_fn(row));
            let sums = &mut waiting[block.place(panel, part, R / N)];
            let (height, out) = (panels.height(panel), out.from(part * N));
            of_rows!(height, pass::<T, _, W, N>(simd, panels, panel, &weights, block, sums, &out));
        }
    }
}

/// The same, where the block of W is packed: [k / W][R][W].
#[inline(always)]
fn packed_block<T: Simd<W>, const W: usize, const N: usize, const R: usize, const K: usize>(
    simd: T,
    panels: &Panels<T::Number>,
    block: &Block,
    packed: &PackedBlock<T::Number, W, R, K>,
    waiting: &mut Waiting<T::Sums, N>,
    out: &Out,
) {
    for panel in block.panels.clone() {
        for part in 0..R / N {
            let weights = Packed(&packed.0, part * N);
            let sums = &mut waiting[block.place(panel, part, R / N)];
            let (height, out) = (panels.height(panel), out.from(part * N));
            of_rows!(height, pass::<T, _, W, N>(simd, panels, panel, &weights, block, sums, &out));
        }
    }
}

/// [`packed_block`], compiled for an instruction set. All formats of weights call the one function: a copy within each of theirs would take the
/// compiler minutes.
pub trait PackedBlocks<const W: usize>: Simd<W> {
    fn packed_block<const N: usize, const R: usize, const K: usize>(
        self,
        panels: &Panels<Self::Number>,
        block: &Block,
        packed: &PackedBlock<Self::Number, W, R, K>,
        waiting: &mut Waiting<Self::Sums, N>,
        out: &Out,
    );
}

macro_rules! packed_blocks {
    ($simd:ident, $w:literal, $number:ty, $features:literal) => {
        impl PackedBlocks<$w> for $simd {
            #[inline(always)]
            fn packed_block<const N: usize, const R: usize, const K: usize>(
                self,
                panels: &Panels<$number>,
                block: &Block,
                packed: &PackedBlock<$number, $w, R, K>,
                waiting: &mut Waiting<Self::Sums, N>,
                out: &Out,
            ) {
                #[target_feature(enable = $features)]
                #[inline(never)]
                fn copy<const N: usize, const R: usize, const K: usize>(
                    simd: $simd,
                    panels: &Panels<$number>,
                    block: &Block,
                    packed: &PackedBlock<$number, $w, R, K>,
                    waiting: &mut Waiting<<$simd as Simd<$w>>::Sums, N>,
                    out: &Out,
                ) {
                    packed_block(simd, panels, block, packed, waiting, out);
                }
                // SAFETY: the token proves that the CPU has these features.
                unsafe { copy(self, panels, block, packed, waiting, out) }
            }
        }
    };
}
packed_blocks!(Avx2, 8, f32, "avx2,fma,f16c");
packed_blocks!(Avx512, 16, f32, "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c");
packed_blocks!(Avx512Bf16, 32, u16, "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma");

/// Packs a block of a panel of W, [k / W][R][W].
#[inline(always)]
fn pack<T: Reads<E, W>, E: Element, const W: usize, const R: usize, const K: usize>(
    simd: T,
    w: [&[u8]; R],
    block: Range<usize>,
    packed: &mut [[[T::Number; W]; R]; K],
) {
    for (n, row) in w.iter().enumerate() {
        let (full, rest) = E::numbers(row).as_chunks::<W>();
        for (register, i) in packed.iter_mut().zip(block.clone()) {
            let weights = match full.get(i) {
                Some(weights) => simd.read(weights),
                None => simd.read(&filled_up(rest, E::ZERO)),
            };
            simd.store(weights, &mut register[n]);
        }
    }
}

/// N rows of a block of W.
trait Weights<T: Simd<W>, const W: usize, const N: usize> {
    /// Register number i of each of these rows.
    fn registers(&self, simd: T, i: usize) -> [T::Register; N];
}

/// Those of a packed panel from one row on.
struct Packed<'a, X, const W: usize, const R: usize>(&'a [[[X; W]; R]], usize);

/// Rows where they are stored.
struct Stored<'a, E: Element, const W: usize, const N: usize>([&'a [[E::Bytes; W]]; N]);

impl<T: Simd<W>, const W: usize, const N: usize, const R: usize> Weights<T, W, N>
    for Packed<'_, T::Number, W, R>
{
    #[inline(always)]
    fn registers(&self, simd: T, i: usize) -> [T::Register; N] {
        load(simd, self.0[i][self.1..].first_chunk().expect("N rows"))
    }
}

impl<T: Reads<E, W>, E: Element, const W: usize, const N: usize> Weights<T, W, N> for Stored<'_, E, W, N> {
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // a plain loop keeps the instruction set's features
    fn registers(&self, simd: T, i: usize) -> [T::Register; N] {
        let mut registers = [simd.read(&self.0[0][i]); N];
        for n in 1..N {
            registers[n] = simd.read(&self.0[n][i]);
        }
        registers
    }
}

// ANCHOR: pass
/// A panel of M rows of x against N rows of a block of W. `waiting` are their sums between two blocks.
///
/// The sums of a micro-tile are M · N registers. M and N are constants, so the loops over them are unrolled and no sum goes to memory.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // plain loops keep the instruction set's features
fn pass<T: Simd<W>, X: Weights<T, W, N>, const W: usize, const N: usize, const M: usize>(
    simd: T,
    panels: &Panels<T::Number>,
    panel: usize,
    weights: &X,
    block: &Block,
    waiting: &mut [[T::Sums; N]; HEIGHT],
    out: &Out,
) {
    let waiting = waiting.first_chunk_mut::<M>().expect("M ≤ 4");
    let mut sums = if block.registers.start == 0 { [[simd.zero(); N]; M] } else { *waiting };
    for (i, x) in panels.panel::<W, M>(panel)[block.registers.clone()].iter().enumerate() {
        let w = weights.registers(simd, i);
        for m in 0..M {
            add_row(simd, &mut sums[m], simd.load(&x[m]), &w);
        }
    }
    if !block.last {
        *waiting = sums;
        return;
    }
    for m in 0..M {
        out.write(panel * HEIGHT + m, simd.finish(sums[m]));
    }
}
// ANCHOR_END: pass
