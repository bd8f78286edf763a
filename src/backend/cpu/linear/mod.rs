//! y = x Wᵀ, with W as it lies in the file: bf16, f16 or f32, [out, in] or (GPT-2) [in, out].
//!
//! Each y[t, o] is one dot product, summed in the same order whatever else is in the batch: number k of a row goes to a fixed
//! lane of a vector register, and at the end the lanes are added by halves. So a token's bits do not depend on its neighbours,
//! nor on which of the ways below was taken.
//!
//! # Blocking
//!
//! ```text
//!            k ──▶  block of k      block of k
//! x      ┌───────────────┬───────────────┬──       a panel: 4 rows of x, packed [k / W][4][W] once a product
//!   4    │ panel         │               │         (W numbers fill a register)
//!        ├───────────────┼───────────────┼──
//!   4    │ panel         │               │
//!        └───────────────┴───────────────┴──
//! W      ┌───────────────┬───────────────┬──       a strip: some rows of W; a block of it stays in the first cache
//!   8    │ strip         │               │         while the panels pass by
//!        └───────────────┴───────────────┴──
//! tile: the 4 × 4 sums of a panel and half of a strip, a register each, which stay in registers over a block of k
//! ```
//! A tile loads 8 registers for 16 multiplications of registers, so a core that can load one and multiply one at a time is
//! kept multiplying. A panel's block comes from the second cache once for all tiles of a strip: with strips of 4 rows, that takes
//! as long as multiplying. Weights that must be widened are packed alike when their strip's turn comes; others are used where they are.
//!
//! With a few rows (a decode step) each weight is used once or twice, and the time is that of reading W from memory. Then
//! W is used in place: a weight is widened in a register and multiplied at once. With one row, rows of W are read one after the other, in
//! the order of their addresses, and as little as possible happens between them.
//!
//! All cores take blocks of outputs, so W is read from memory once for all rows of a pass.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
mod in_place;
mod lanes;
#[cfg(feature = "step2")]
mod of_attention;
mod panels;
mod stored;
mod strips;
mod tasks;
#[cfg(test)]
mod tests;
mod tile;
mod transposed;

#[cfg(feature = "step2")]
pub(super) use of_attention::{F32Sums, Tiles};
#[cfg(feature = "step2")]
pub(super) use stored::prefetch;
pub(super) use tasks::Product;
#[cfg(feature = "step2")]
pub(super) use tile::add_row;

use super::{
    Cpu, CpuTensor, CpuWeight,
    isa::{Isa, PortableShape, dispatch},
};
use crate::{backend::Shaped, tensor::DType};
use lanes::F32Lanes;
#[cfg(target_arch = "x86_64")]
use panels::pack_bf16;
use panels::{Panels, pack_f32};
use stored::{Bf16, F16, F32};
use strips::outputs_of_task;
use tasks::{Columns, Task, for_each_task};
use tile::{Reads, Sums};
use transposed::transposed_task;

/// Rows of x of one pass over W, which bounds the memory that they take once more, packed.
const ROWS: usize = 512;

/// Rows of W at a time on any CPU: aarch64 has 32 registers, and others are not known to have more than 16.
const NARROW: usize = if cfg!(target_arch = "aarch64") { 4 } else { 2 };

/// y[t, o] = Σ_k x[t, k] · W[o, k]. The parts' outputs lie side by side; they are written to one tensor, or to several that have whole parts.
///
/// # Panics
/// If a part was never loaded or does not fit x and y.
pub(super) fn matmul<const N: usize>(cpu: &Cpu, x: &CpuTensor, weight: &CpuWeight, y: &mut [CpuTensor; N]) {
    let inputs = x.cols();
    for slice in weight.slices() {
        let of_slice = if slice.transposed { slice.rows.len() } else { slice.cols.len() };
        assert_eq!(of_slice, inputs, "inputs of {:?}", slice.tensor);
    }
    let product = cpu.product(weight);
    for first in (0..x.rows()).step_by(ROWS) {
        let rows = first..x.rows().min(first + ROWS);
        let columns = y.each_mut().map(|y| Columns::new(y, rows.clone()));
        let x = &x.data()[rows.start * inputs..rows.end * inputs];
        match product {
            #[cfg(target_arch = "x86_64")]
            Product::DotBf16 if cpu.isa() == Isa::Amx => amx::product(cpu, x, weight, rows.len(), &columns),
            #[cfg(target_arch = "x86_64")]
            Product::DotBf16 => dot_bf16(cpu, x, weight, rows.len(), &columns),
            product => f32_product(cpu, x, weight, product == Product::RoundedF32, rows.len(), &columns),
        }
    }
}

/// By multiplications of f32.
fn f32_product(cpu: &Cpu, x: &[f32], weight: &CpuWeight, rounded: bool, rows: usize, y: &[Columns]) {
    let (isa, inputs) = (cpu.isa(), x.len() / rows);
    let width = inputs.next_multiple_of(isa.lanes());
    let mut numbers = cpu.take(rows, width);
    panels::fill(x, inputs, numbers.data_mut(), |x, panel| {
        dispatch!(isa, pack_f32(x: &[f32], inputs: usize, rounded: bool, panel: &mut [f32]));
    });
    let panels = &Panels::new(numbers.data(), rows, width);
    for_each_task(weight, rows, inputs, y, outputs_of_task(rows, inputs), |task| {
        let task = &task;
        match isa {
            _ if task.slice.transposed => {
                dispatch!(isa, transposed_task(task: &Task<'_>, panels: &Panels<'_, f32>));
            }
            // SAFETY: an `Isa` is one that this CPU has.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => unsafe { avx512::task(task, panels) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::task(task, panels) },
            _ => f32_task::<F32Lanes<PortableShape, 4>, 4, NARROW, 4, 256>(task, panels),
        }
    });
}

/// One task by multiplications of f32, N rows of W at a time.
#[inline(always)]
fn f32_task<T, const L: usize, const N: usize, const R: usize, const K: usize>(
    task: &Task<'_>,
    panels: &Panels<'_, f32>,
) where
    T: Sums<L, Number = f32> + Reads<F32, 4, L> + Reads<Bf16, 2, L> + Reads<F16, 2, L>,
{
    match task.slice.tensor.dtype {
        DType::F32 => strips::task::<T, F32, 4, L, N, R, K>(task, panels),
        DType::BF16 => strips::task::<T, Bf16, 2, L, N, R, K>(task, panels),
        DType::F16 => strips::task::<T, F16, 2, L, N, R, K>(task, panels),
        other => panic!("{other} is no weight dtype"),
    }
}

/// By an instruction that multiplies bf16.
#[cfg(target_arch = "x86_64")]
fn dot_bf16(cpu: &Cpu, x: &[f32], weight: &CpuWeight, rows: usize, y: &[Columns]) {
    let (isa, inputs) = (cpu.isa(), x.len() / rows);
    let width = inputs.next_multiple_of(32);
    let mut numbers = cpu.take(rows, width / 2);
    let numbers = panels::as_bf16(numbers.data_mut());
    panels::fill(x, inputs, numbers, |x, panel| {
        dispatch!(isa, pack_bf16(x: &[f32], inputs: usize, panel: &mut [u16]));
    });
    let panels = &Panels::new(numbers, rows, width);
    for_each_task(weight, rows, inputs, y, outputs_of_task(rows, inputs), |task| {
        // SAFETY: `Cpu::product` asks for this where the CPU has it only.
        unsafe { avx512_bf16::task(&task, panels) }
    });
}
