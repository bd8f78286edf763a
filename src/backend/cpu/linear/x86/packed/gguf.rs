//! GGUF's blocks where the file is mapped: the functions of `quant/gguf/`, compiled for the instruction set.

use super::super::super::tasks::Task;
use super::super::{macro_kernel::MacroKernel, pack::Panels};
use super::{Widens, rows::Rows, run};
use crate::quant::gguf::{BlockBytes, Blocks, SUB_BLOCK, small, super_blocks};
use crate::{backend::simd::LINE, tensor::DType};
use std::{marker::PhantomData, ops::Range};

/// A type of blocks of BYTES bytes.
pub trait Type<const BYTES: usize> {
    /// Scales of a block that its sub-blocks share the work for.
    type Scales: Copy + Default;

    /// The scales of a block.
    #[inline(always)]
    fn scales<T: Widens<L, C>, const L: usize, const C: usize>(_: T, _: &[u8; BYTES]) -> Self::Scales {
        Self::Scales::default()
    }

    /// Numbers 32 j to 32 j + 31 of a block.
    fn sub_block<T: Widens<L, C>, const L: usize, const C: usize>(
        simd: T,
        block: &[u8; BYTES],
        scales: &Self::Scales,
        j: usize,
    ) -> [T::Register; C];
}

/// Types whose numbers the function of `quant/gguf/` computes.
macro_rules! by_function {
    ($($name:ident, $bytes:literal, $function:path;)*) => {$(
        struct $name;

        impl Type<$bytes> for $name {
            type Scales = ();

            #[inline(always)]
            fn sub_block<T: Widens<L, C>, const L: usize, const C: usize>(
                simd: T,
                block: &[u8; $bytes],
                _: &(),
                j: usize,
            ) -> [T::Register; C] {
                let numbers = $function(block, j);
                let (registers, _) = numbers.as_chunks::<L>();
                let mut widened = [simd.load(&registers[0]); C];
                for i in 1..C {
                    widened[i] = simd.load(&registers[i]);
                }
                widened
            }
        }
    )*};
}
by_function! {
    Q5_0, 22, small::q5_0;
    Q5_1, 24, small::q5_1;
    Q8_0, 34, small::q8_0;
    Iq4Nl, 18, small::iq4_nl;
    Q2K, 84, super_blocks::q2_k;
    Q3K, 110, super_blocks::q3_k;
    Q5K, 176, super_blocks::q5_k;
    Iq4Xs, 136, super_blocks::iq4_xs;
}

/// The types that most files have, by instructions of their own. Each number equals, bit by bit, the result of the
/// function in `quant/gguf/`, because the products below are exact in f32.
struct Q4_0;
struct Q4_1;
struct Q4K;
struct Q6K;

/// code · scale + offset.
#[inline(always)]
fn scaled<T: Widens<L, C>, const L: usize, const C: usize>(
    simd: T,
    mut codes: [T::Register; C],
    scale: f32,
    offset: f32,
) -> [T::Register; C] {
    let (scale, offset) = (simd.all(scale), simd.all(offset));
    for i in 0..C {
        codes[i] = simd.multiply_add(offset, codes[i], scale);
    }
    codes
}

impl Type<18> for Q4_0 {
    type Scales = ();

    #[inline(always)]
    fn sub_block<T: Widens<L, C>, const L: usize, const C: usize>(
        simd: T,
        block: &[u8; 18],
        _: &(),
        _: usize,
    ) -> [T::Register; C] {
        let d = simd.half([block[0], block[1]]);
        scaled(simd, simd.low_then_high(block[2..].first_chunk().expect("16 bytes")), d, -8.0 * d)
    }
}

impl Type<20> for Q4_1 {
    type Scales = ();

    #[inline(always)]
    fn sub_block<T: Widens<L, C>, const L: usize, const C: usize>(
        simd: T,
        block: &[u8; 20],
        _: &(),
        _: usize,
    ) -> [T::Register; C] {
        let (d, m) = (simd.half([block[0], block[1]]), simd.half([block[2], block[3]]));
        scaled(simd, simd.low_then_high(block[4..].first_chunk().expect("16 bytes")), d, m)
    }
}

impl Type<144> for Q4K {
    /// d · scale and −dmin · min of each sub-block.
    type Scales = [[f32; 8]; 2];

    #[inline(always)]
    fn scales<T: Widens<L, C>, const L: usize, const C: usize>(simd: T, block: &[u8; 144]) -> [[f32; 8]; 2] {
        super_blocks::q4_k_scales(block, simd.half([block[0], block[1]]), simd.half([block[2], block[3]]))
    }

    #[inline(always)]
    fn sub_block<T: Widens<L, C>, const L: usize, const C: usize>(
        simd: T,
        block: &[u8; 144],
        [scales, mins]: &[[f32; 8]; 2],
        j: usize,
    ) -> [T::Register; C] {
        let codes = block[16 + 32 * (j / 2)..].first_chunk().expect("32 bytes");
        scaled(simd, simd.halves(codes, j % 2 == 1), scales[j], mins[j])
    }
}

impl Type<210> for Q6K {
    /// d · scale of 16 numbers each.
    type Scales = [f32; 16];

    #[inline(always)]
    fn scales<T: Widens<L, C>, const L: usize, const C: usize>(simd: T, block: &[u8; 210]) -> [f32; 16] {
        let (d, mut scales) = (simd.half([block[208], block[209]]), [0.0; 16]);
        for k in 0..16 {
            scales[k] = d * f32::from(block[192 + k] as i8);
        }
        scales
    }

    #[inline(always)]
    fn sub_block<T: Widens<L, C>, const L: usize, const C: usize>(
        simd: T,
        block: &[u8; 210],
        scales: &[f32; 16],
        j: usize,
    ) -> [T::Register; C] {
        let (half, k) = (j / 4, j % 4);
        let low = block[64 * half + 32 * (k % 2)..].first_chunk().expect("32 bytes");
        let high = block[128 + 32 * half..].first_chunk().expect("32 bytes");
        let mut numbers = simd.six_bits(low, k >= 2, high, k);
        for i in 0..C {
            numbers[i] = simd.multiply(numbers[i], simd.all(scales[2 * j + 2 * i / C]));
        }
        numbers
    }
}

/// The outputs of a task. `first`: the matrix's output that is the part's first; `inputs`: those of the part, whole sub-blocks.
pub fn task<T, const L: usize, const C: usize>(
    simd: T,
    task: &Task,
    blocks: &Blocks,
    first: usize,
    inputs: &Range<usize>,
    panels: &Panels<f32>,
) where
    T: Widens<L, C> + MacroKernel<L>,
{
    macro_rules! run_type {
        ($type:ident, $bytes:literal) => {{
            let w = BlockRows::<$type, $bytes> {
                rows: blocks.bytes(),
                first,
                last: task.outputs.end - 1,
                start: inputs.start / SUB_BLOCK,
                columns: inputs.len(),
                kind: PhantomData,
            };
            run(simd, task, w, panels)
        }};
    }
    match blocks.dtype() {
        DType::Q4_0 => run_type!(Q4_0, 18),
        DType::Q4_1 => run_type!(Q4_1, 20),
        DType::Q5_0 => run_type!(Q5_0, 22),
        DType::Q5_1 => run_type!(Q5_1, 24),
        DType::Q8_0 => run_type!(Q8_0, 34),
        DType::IQ4_NL => run_type!(Iq4Nl, 18),
        DType::Q2_K => run_type!(Q2K, 84),
        DType::Q3_K => run_type!(Q3K, 110),
        DType::Q4_K => run_type!(Q4K, 144),
        DType::Q5_K => run_type!(Q5K, 176),
        DType::Q6_K => run_type!(Q6K, 210),
        DType::IQ4_XS => run_type!(Iq4Xs, 136),
        other => unreachable!("{other} has no blocks"),
    }
}

/// Rows of blocks of a task.
struct BlockRows<'a, Q, const BYTES: usize> {
    rows: BlockBytes<'a>,
    /// The matrix's output that is the part's first.
    first: usize,
    /// The last output of the task.
    last: usize,
    /// The sub-block that the part begins with.
    start: usize,
    columns: usize,
    kind: PhantomData<Q>,
}

/// Sub-blocks of a block: blocks of 32 numbers have at most 34 bytes, those of 256 at least 84.
const fn per_block(bytes: usize) -> usize {
    if bytes < 64 { 1 } else { 8 }
}

impl<'a, T: Widens<L, C>, Q: Type<BYTES>, const L: usize, const C: usize, const BYTES: usize> Rows<T, L, C>
    for BlockRows<'a, Q, BYTES>
{
    /// Its blocks, and the scales of one of them.
    type Output = (&'a [[u8; BYTES]], Q::Scales, usize);
    const PER_LINE: usize = if LINE * per_block(BYTES) / BYTES < 2 { 1 } else { 2 };

    #[inline(always)]
    fn columns(&self) -> usize {
        self.columns
    }

    #[inline(always)]
    fn output(&self, output: usize) -> Self::Output {
        let start = self.rows.start_of(self.first + output.min(self.last));
        (self.rows.bytes[start..start + self.rows.len].as_chunks().0, Q::Scales::default(), usize::MAX)
    }

    #[inline(always)]
    fn address(&self, output: usize) -> *const u8 {
        // Past the task's last output: the next task has the rows after it, mostly.
        self.rows.bytes.as_ptr().wrapping_add(self.rows.start_of(self.first + output))
    }

    #[inline(always)]
    fn bytes_before(&self, block: usize) -> usize {
        (self.start + block) * BYTES / per_block(BYTES)
    }

    #[inline(always)]
    fn block(&self, simd: T, (blocks, scales, held): &mut Self::Output, block: usize) -> [T::Register; C] {
        let (at, j) = ((self.start + block) / per_block(BYTES), (self.start + block) % per_block(BYTES));
        if *held != at {
            (*scales, *held) = (Q::scales(simd, &blocks[at]), at);
        }
        Q::sub_block(simd, &blocks[at], scales, j)
    }

    #[inline(always)]
    fn last_block(&self, _: T, _: &mut Self::Output, _: usize) -> [T::Register; C] {
        unreachable!("rows are whole sub-blocks")
    }
}
