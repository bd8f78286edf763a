//! GGUF's blocks where the file is mapped: the functions of `quant/gguf/`, compiled for the instruction set.

use super::super::super::tasks::Task;
use super::super::pack::Panels;
use super::{Widens, rows::Rows, run};
use crate::quant::gguf::{BlockBytes, Blocks, SUB_BLOCK, small, super_blocks};
use crate::{backend::simd::LINE, tensor::DType};
use std::{marker::PhantomData, ops::Range};

/// A type of blocks of BYTES bytes.
trait Type<const BYTES: usize> {
    /// 32 of a block's numbers.
    fn sub_block(block: &[u8; BYTES], j: usize) -> [f32; SUB_BLOCK];
}

/// Names a type, and runs the task with it.
macro_rules! types {
    ($dtype:expr, $run:ident, $($name:ident, $bytes:literal, $function:path;)*) => {
        match $dtype {
            $(DType::$name => {
                struct This;
                impl Type<$bytes> for This {
                    #[inline(always)]
                    fn sub_block(block: &[u8; $bytes], j: usize) -> [f32; SUB_BLOCK] {
                        $function(block, j)
                    }
                }
                $run!(This, $bytes)
            })*
            other => unreachable!("{other} has no blocks"),
        }
    };
}

/// The outputs of a task. `first`: the matrix's output that is the part's first; `inputs`: those of the part, whole sub-blocks.
#[inline(always)]
pub fn task<
    T: Widens<L, C>,
    const L: usize,
    const C: usize,
    const N: usize,
    const R: usize,
    const K: usize,
>(
    simd: T,
    task: &Task,
    blocks: &Blocks,
    first: usize,
    inputs: &Range<usize>,
    panels: &Panels<f32>,
) {
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
            run::<T, _, L, C, N, R, K>(simd, task, w, panels)
        }};
    }
    types! {
        blocks.dtype(), run_type,
        Q4_0, 18, small::q4_0;
        Q4_1, 20, small::q4_1;
        Q5_0, 22, small::q5_0;
        Q5_1, 24, small::q5_1;
        Q8_0, 34, small::q8_0;
        IQ4_NL, 18, small::iq4_nl;
        Q2_K, 84, super_blocks::q2_k;
        Q3_K, 110, super_blocks::q3_k;
        Q4_K, 144, super_blocks::q4_k;
        Q5_K, 176, super_blocks::q5_k;
        Q6_K, 210, super_blocks::q6_k;
        IQ4_XS, 136, super_blocks::iq4_xs;
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
    type Output = &'a [[u8; BYTES]];
    const PER_LINE: usize = if LINE * per_block(BYTES) / BYTES < 2 { 1 } else { 2 };

    #[inline(always)]
    fn columns(&self) -> usize {
        self.columns
    }

    #[inline(always)]
    fn output(&self, output: usize) -> &'a [[u8; BYTES]] {
        let start = self.rows.start_of(self.first + output.min(self.last));
        self.rows.bytes[start..start + self.rows.len].as_chunks().0
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
    fn block(&self, simd: T, output: &Self::Output, block: usize) -> [T::Register; C] {
        let block = self.start + block;
        let numbers = Q::sub_block(&output[block / per_block(BYTES)], block % per_block(BYTES));
        let (registers, _) = numbers.as_chunks::<L>();
        let mut widened = [simd.load(&registers[0]); C];
        for i in 1..C {
            widened[i] = simd.load(&registers[i]);
        }
        widened
    }

    #[inline(always)]
    fn last_block(&self, _: T, _: &Self::Output, _: usize) -> [T::Register; C] {
        unreachable!("rows are whole sub-blocks")
    }
}
