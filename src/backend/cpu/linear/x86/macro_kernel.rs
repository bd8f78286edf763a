//! The macro-kernel: a task of rows of W, panel by panel, in place or by blocks that stay in the caches.

use super::super::stored;
use super::super::tasks::{Out, TASK, Task};
use super::micro_kernel::{Block, IN_PLACE, PackedBlock, PackedBlocks, Waiting};
use super::pack::{HEIGHT, Panels};
use super::weights::{Element, Reads};
use super::{in_place, micro_kernel};
use crate::backend::simd::{Avx2, Avx512, Avx512Bf16, Simd};
use std::{cell::RefCell, marker::PhantomData};

/// Panels of x that pass by all panels of W of a task before the next ones do: they stay in the second cache, and so do the task's weights.
const PANELS: usize = 32;
/// Bytes of x that a second cache holds beside weights. Where a turn has more, all panels of W of a task take it block by block.
const CACHED: usize = 3 << 18;

/// Outputs of one task. Sums of many rows with many inputs wait in the second cache, so there they are half as many.
pub fn outputs_of_task(rows: usize, inputs: usize) -> usize {
    if rows > 16 && inputs > 1024 { TASK / 2 } else { TASK }
}

/// W of a task.
pub trait Operand<T: Simd<W>, const W: usize> {
    /// Rows of x up to which W is used in place.
    const FEW: usize;
    /// Registers of an output.
    fn registers(&self) -> usize;
    /// All panels of x against four outputs from number `first` on, in place, N at a time.
    fn in_place<const N: usize>(&self, simd: T, panels: &Panels<T::Number>, first: usize, out: &Out);
    /// A block of x against that of R outputs from number `first` on, N at a time. `waiting`: the micro-tiles' sums between two blocks.
    #[allow(clippy::too_many_arguments)]
    fn block<const N: usize, const R: usize, const K: usize>(
        &self,
        simd: T,
        panels: &Panels<T::Number>,
        block: &Block,
        first: usize,
        packed: &mut PackedBlock<T::Number, W, R, K>,
        waiting: &mut Waiting<T::Sums, N>,
        out: &Out,
    );
}

/// Weights as they are stored.
pub struct Stored<'a, E> {
    rows: stored::Rows<'a>,
    /// The last output of the task.
    last: usize,
    dtype: PhantomData<E>,
}

impl<'a, E> Stored<'a, E> {
    pub fn new(task: &Task<'a>) -> Stored<'a, E> {
        let rows = stored::Rows::new(task.slice());
        Stored { rows, last: task.outputs.end - 1, dtype: PhantomData }
    }

    /// R rows of W from number `first` on. Where fewer are left, the last one fills the places.
    #[inline(always)]
    fn panel<const R: usize>(&self, first: usize) -> [&'a [u8]; R] {
        let mut w = [self.rows.row(first); R];
        for (n, w) in w.iter_mut().enumerate().skip(1) {
            *w = self.rows.row((first + n).min(self.last));
        }
        w
    }
}

impl<T: Reads<E, W> + PackedBlocks<W>, E: Element, const W: usize> Operand<T, W> for Stored<'_, E> {
    const FEW: usize = 16;

    #[inline(always)]
    fn registers(&self) -> usize {
        self.rows.len.div_ceil(size_of::<[E::Bytes; W]>())
    }

    #[inline(always)]
    fn in_place<const N: usize>(&self, simd: T, panels: &Panels<T::Number>, first: usize, out: &Out) {
        let w = self.panel::<IN_PLACE>(first);
        let next = w[0].as_ptr().wrapping_add(in_place::AHEAD * IN_PLACE * self.rows.stride);
        in_place::in_place::<T, E, W, N>(simd, panels, w, next, out);
    }

    #[inline(always)]
    fn block<const N: usize, const R: usize, const K: usize>(
        &self,
        simd: T,
        panels: &Panels<T::Number>,
        block: &Block,
        first: usize,
        packed: &mut PackedBlock<T::Number, W, R, K>,
        waiting: &mut Waiting<T::Sums, N>,
        out: &Out,
    ) {
        let w = self.panel::<R>(first);
        micro_kernel::block::<T, E, W, N, R, K>(simd, panels, block, w, packed, waiting, out);
    }
}

/// The outputs of a task, N rows of W at a time. A packed panel of W has R rows, and a block of it K registers of each: as many as fill a half
/// or a third of a first cache, so that a block of x fits beside them and is loaded once for all R / N micro-tiles.
#[inline(always)]
fn run_task<T: Simd<W>, O: Operand<T, W>, const W: usize, const N: usize, const R: usize, const K: usize>(
    simd: T,
    task: &Task,
    w: &O,
    panels: &Panels<T::Number>,
) {
    // No closures on the way to the micro-kernel: they would be compiled without the instruction set's features.
    if panels.rows <= O::FEW {
        for first in task.outputs.clone().step_by(IN_PLACE) {
            w.in_place::<N>(simd, panels, first, &task.out.from(first - task.outputs.start));
        }
    } else {
        let registers = w.registers();
        let bytes_of_x = HEIGHT * PANELS.min(panels.count()) * registers * W * size_of::<T::Number>();
        let panels_of_w = if bytes_of_x > CACHED { task.outputs.len().div_ceil(R) } else { 1 };
        let mut memory = ROOM.take();
        // SAFETY: both are arrays of numbers, which any bits are.
        let (packed, sums) =
            unsafe { room::<PackedBlock<T::Number, W, R, K>, Waiting<T::Sums, N>>(&mut memory, panels_of_w) };
        for panel in (0..panels.count()).step_by(PANELS) {
            let some = panel..panels.count().min(panel + PANELS);
            for outputs in task.outputs.clone().step_by(panels_of_w * R) {
                for start in (0..registers).step_by(K) {
                    let end = registers.min(start + K);
                    let block = Block { panels: some.clone(), registers: start..end, last: end == registers };
                    for (i, first) in (outputs..task.outputs.end).step_by(R).enumerate().take(panels_of_w) {
                        let out = &task.out.from(first - task.outputs.start);
                        w.block::<N, R, K>(simd, panels, &block, first, packed, &mut sums[i], out);
                    }
                }
            }
        }
        ROOM.set(memory);
    }
}

/// [`run_task`], compiled for an instruction set: a function for each format of weights.
pub trait MacroKernel<const W: usize>: PackedBlocks<W> {
    fn run(self, task: &Task, w: &impl Operand<Self, W>, panels: &Panels<Self::Number>);
}

macro_rules! macro_kernel {
    ($simd:ident, $w:literal, $number:ty, $n:literal, $r:literal, $k:literal, $features:literal) => {
        impl MacroKernel<$w> for $simd {
            fn run(self, task: &Task, w: &impl Operand<$simd, $w>, panels: &Panels<$number>) {
                #[target_feature(enable = $features)]
                fn copy(simd: $simd, task: &Task, w: &impl Operand<$simd, $w>, panels: &Panels<$number>) {
                    run_task::<_, _, $w, $n, $r, $k>(simd, task, w, panels);
                }
                // SAFETY: the token proves that the CPU has these features.
                unsafe { copy(self, task, w, panels) }
            }
        }
    };
}
// 16 registers hold 4 × 2 sums and what is multiplied; 32 hold 4 × 4.
macro_kernel!(Avx2, 8, f32, 2, 4, 128, "avx2,fma,f16c");
macro_kernel!(Avx512, 16, f32, 4, 8, 32, "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c");
macro_kernel!(Avx512Bf16, 32, u16, 4, 8, 32, "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma");

thread_local! {
    /// For what [`room`] gives.
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Room for a packed block, and for the sums of so many panels of W. Nothing is cleared: that would cost as much as some rows do.
///
/// # Safety
/// Any bits must be a P and an S.
#[inline(always)]
unsafe fn room<P, S>(memory: &mut Vec<f32>, panels: usize) -> (&mut P, &mut [S]) {
    // One more of each, as the first whole one may begin anywhere.
    let [packed, sums] =
        [2 * size_of::<P>(), (panels + 1) * size_of::<S>()].map(|bytes| bytes / size_of::<f32>());
    memory.resize(memory.len().max(packed + sums), 0.0);
    let (packed, sums) = memory.split_at_mut(packed);
    // SAFETY: by the caller.
    unsafe { (&mut packed.align_to_mut::<P>().1[0], &mut sums.align_to_mut::<S>().1[..panels]) }
}
