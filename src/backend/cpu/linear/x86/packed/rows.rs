//! Rows of W that are widened block by block: in registers for a few rows of x, into the first cache for many.

use super::super::super::tasks::Out;
use super::super::macro_kernel::Operand;
use super::super::micro_kernel::{Block, IN_PLACE, PackedBlock, PackedBlocks, Waiting, load};
use super::super::pack::Panels;
use super::Widens;
use crate::backend::simd::{add_row, of_rows, prefetch};
use crate::quant::BLOCK;

/// Outputs whose numbers come in blocks of 32 columns, C registers of L.
pub trait Rows<T: Widens<L, C>, const L: usize, const C: usize> {
    /// What is known of an output before its first block.
    type Output;
    /// Blocks whose codes are a line of a cache, about: memory is asked for one line at a time.
    const PER_LINE: usize;
    /// Columns of an output.
    fn columns(&self) -> usize;
    /// An output of the part. Those past the last one of the task are the last one.
    fn output(&self, output: usize) -> Self::Output;
    /// The address of an output's first block.
    fn address(&self, output: usize) -> *const u8;
    /// Bytes before a block.
    fn bytes_before(&self, block: usize) -> usize;
    /// The numbers of a block.
    fn block(&self, simd: T, output: &mut Self::Output, block: usize) -> [T::Register; C];
    /// The same for the last one, if it is not whole. Columns past the last one have any numbers.
    fn last_block(&self, simd: T, output: &mut Self::Output, block: usize) -> [T::Register; C];
}

/// Such rows as the macro-kernel takes them.
pub struct RowsOfBlocks<W, const C: usize>(pub W);

impl<T, W, const L: usize, const C: usize> Operand<T, L> for RowsOfBlocks<W, C>
where
    T: Widens<L, C> + PackedBlocks<L>,
    W: Rows<T, L, C>,
{
    // With more rows, blocks would be widened again for each panel of x.
    const FEW: usize = 4;

    #[inline(always)]
    fn registers(&self) -> usize {
        self.0.columns().div_ceil(L)
    }

    #[inline(always)]
    fn in_place<const N: usize>(&self, simd: T, panels: &Panels<f32>, first: usize, out: &Out) {
        let w = &self.0;
        of_rows!(panels.rows, few_rows::<T, W, L, C>(simd, w, panels, first, out));
    }

    #[inline(always)]
    fn block<const N: usize, const R: usize, const K: usize>(
        &self,
        simd: T,
        panels: &Panels<f32>,
        block: &Block,
        first: usize,
        packed: &mut PackedBlock<f32, L, R, K>,
        waiting: &mut Waiting<T::Sums, N>,
        out: &Out,
    ) {
        for n in 0..R {
            let mut output = self.0.output(first + n);
            for start in (0..block.registers.len()).step_by(C) {
                let of_32 = (block.registers.start + start) / C;
                let numbers = match (of_32 + 1) * BLOCK <= self.0.columns() {
                    true => self.0.block(simd, &mut output, of_32),
                    false => self.0.last_block(simd, &mut output, of_32),
                };
                for i in 0..C.min(block.registers.len() - start) {
                    simd.store(numbers[i], &mut packed.0[start + i][n]);
                }
            }
        }
        simd.packed_block(panels, block, packed, waiting, out);
    }
}

/// How many fours of outputs ahead codes are asked for.
const AHEAD: usize = 4;

/// M rows of x against four outputs. The chains of additions of the four are independent, so one waits while the others go on.
#[inline(always)]
fn few_rows<T: Widens<L, C>, W: Rows<T, L, C>, const L: usize, const C: usize, const M: usize>(
    simd: T,
    w: &W,
    panels: &Panels<f32>,
    first: usize,
    out: &Out,
) {
    let (x, rest) = panels.panel::<L, M>(0).split_at(w.columns() / BLOCK * C);
    let x = x.as_chunks::<C>().0;
    let mut outputs = [w.output(first), w.output(first + 1), w.output(first + 2), w.output(first + 3)];
    let ahead = first + AHEAD * IN_PLACE;
    let ahead = [w.address(ahead), w.address(ahead + 1), w.address(ahead + 2), w.address(ahead + 3)];
    let [mut a, mut b, mut c, mut d] = [[simd.zero(); M]; IN_PLACE];
    // Not a loop over the four: their sums stay in registers only if each has a name.
    for (block, x) in x.iter().enumerate() {
        if block.is_multiple_of(W::PER_LINE) {
            for n in 0..IN_PLACE {
                prefetch(ahead[n].wrapping_add(w.bytes_before(block)), 0..1);
            }
        }
        a = add_block(simd, w.block(simd, &mut outputs[0], block), x, a);
        b = add_block(simd, w.block(simd, &mut outputs[1], block), x, b);
        c = add_block(simd, w.block(simd, &mut outputs[2], block), x, c);
        d = add_block(simd, w.block(simd, &mut outputs[3], block), x, d);
    }
    let mut sums = [a, b, c, d];
    if !rest.is_empty() {
        for n in 0..IN_PLACE {
            let numbers = w.last_block(simd, &mut outputs[n], x.len());
            for i in 0..rest.len() {
                add_row(simd, &mut sums[n], numbers[i], &load(simd, &rest[i]));
            }
        }
    }
    for m in 0..M {
        let mut of_row = [sums[0][m]; IN_PLACE];
        for n in 1..IN_PLACE {
            of_row[n] = sums[n][m];
        }
        out.write(m, simd.finish(of_row));
    }
}

// ANCHOR: add_block
/// Adds the products of a block to an output's sums.
#[inline(always)]
fn add_block<T: Widens<L, C>, const L: usize, const C: usize, const M: usize>(
    simd: T,
    numbers: [T::Register; C],
    x: &[[[f32; L]; M]; C],
    mut sums: [T::Sums; M],
) -> [T::Sums; M] {
    for i in 0..C {
        add_row(simd, &mut sums, numbers[i], &load(simd, &x[i]));
    }
    sums
}
// ANCHOR_END: add_block
