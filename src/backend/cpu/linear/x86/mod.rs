//! Faster products on x86-64: registers of 8 or 16 numbers, blocks that stay in the caches, and instructions that multiply bf16.
//!
//! ```text
//!            k ──▶  block of k      block of k
//! x      ┌───────────────┬───────────────┬──       a panel: 4 rows of x, packed [k / W][4][W] once a product
//!   4    │ panel         │               │         (W numbers fill a register)
//!        ├───────────────┼───────────────┼──
//!   4    │ panel         │               │
//!        └───────────────┴───────────────┴──
//! W      ┌───────────────┬───────────────┬──       a panel of W: some rows; a block of it stays in the first cache
//!   8    │ panel of W    │               │         while the panels of x pass by
//!        └───────────────┴───────────────┴──
//! micro-tile: the 4 × 4 sums of a panel of x and half of a panel of W, a register each, which stay in registers over a block of k
//! ```
//! The micro-kernel loads 8 registers for 16 multiplications of registers, so a core that can load one and multiply one at a time is
//! kept multiplying. A block of x comes from the second cache once for all micro-tiles of a panel of W: with panels of 4 rows, that takes
//! as long as multiplying. Weights that must be widened are packed alike when their panel's turn comes; others are used where they are.
//!
//! With a few rows (a decode step) each weight is used once or twice, and the time is that of reading W from memory. Then
//! W is used in place: a weight is widened in a register and multiplied at once. With one row, rows of W are read one after the other, in
//! the order of their addresses, and as little as possible happens between them.

mod amx;
mod in_place;
mod macro_kernel;
mod micro_kernel;
mod pack;
#[cfg_attr(not(feature = "quantized"), path = "no_packed.rs")]
mod packed;
mod weights;

use super::super::{Cpu, CpuWeight, Isa};
use super::tasks::{Columns, Task, for_each_task};
use super::{Product, plain::plain_task, stored::Part, transposed::transposed_task};
use crate::backend::simd::{Avx2, Avx512, Avx512Bf16, dispatch};
use crate::{backend::simd::amx::Amx, tensor::DType};
use macro_kernel::{MacroKernel, Stored, outputs_of_task};
use pack::{Panels, pack_bf16, pack_f32};
use packed::{Gathered, Widens};
use weights::{Bf16, F16, F32, Reads};

/// y = x Wᵀ, if there is a faster way than dot products. Returns whether y was computed.
pub fn faster_product(
    cpu: &Cpu,
    product: Product,
    x: &[f32],
    weight: &CpuWeight,
    rows: usize,
    y: &[Columns],
) -> bool {
    if cpu.isa() == Isa::Portable {
        return false;
    }
    let amx = (cpu.isa() == Isa::Amx).then(Amx::new).flatten();
    match (product, amx, Avx512Bf16::new()) {
        (Product::DotBf16, Some(amx), _) => amx::product(cpu, amx, x, weight, rows, y),
        (Product::DotBf16, None, Some(simd)) => dot_bf16(cpu, simd, x, weight, rows, y),
        _ => f32_product(cpu, x, weight, rows, y),
    }
    true
}

/// By multiplications of f32.
fn f32_product(cpu: &Cpu, x: &[f32], weight: &CpuWeight, rows: usize, y: &[Columns]) {
    let (isa, inputs) = (cpu.isa(), x.len() / rows);
    let (wide, narrow) = ((isa.lanes() == 16).then(Avx512::new).flatten(), Avx2::new());
    let width = inputs.next_multiple_of(isa.lanes());
    let mut numbers = cpu.take(rows, width);
    fill_f32(isa, x, inputs, numbers.data_mut());
    let panels = &Panels::new(numbers.data(), rows, width);
    let gathered = Gathered::new(cpu, x, inputs, weight);
    for_each_task(weight, rows, inputs, y, outputs_of_task(rows, inputs), |task| {
        let (task, panels) = (&task, &gathered.panels(task.part).unwrap_or(*panels));
        match (wide, narrow) {
            _ if task.is_transposed() => {
                dispatch!(isa, transposed_task(task: &Task<'_>, x: &[f32], inputs: usize));
            }
            _ if !packed::has_product(task.part) => {
                dispatch!(isa, plain_task(task: &Task<'_>, x: &[f32], inputs: usize));
            }
            (Some(simd), _) => f32_task::<Avx512, 16, 2>(simd, task, panels),
            (None, Some(simd)) => f32_task::<Avx2, 8, 4>(simd, task, panels),
            (None, None) => unreachable!("{isa:?} has one of them"),
        }
    });
}

/// Packs rows of x for products of f32.
fn fill_f32(isa: Isa, x: &[f32], inputs: usize, numbers: &mut [f32]) {
    pack::fill(x, inputs, numbers, |x, panel| {
        dispatch!(isa, pack_f32(x: &[f32], inputs: usize, panel: &mut [f32]));
    });
}

/// One task by multiplications of f32.
fn f32_task<T, const L: usize, const C: usize>(simd: T, task: &Task<'_>, panels: &Panels<'_, f32>)
where
    T: Reads<F32, L> + Reads<Bf16, L> + Reads<F16, L> + Widens<L, C> + MacroKernel<L>,
{
    if let Part::Packed(part) = task.part {
        return packed::task::<T, L, C>(simd, task, part, panels);
    }
    match task.slice().tensor.dtype {
        DType::F32 => simd.run(task, &Stored::<F32>::new(task), panels),
        DType::BF16 => simd.run(task, &Stored::<Bf16>::new(task), panels),
        DType::F16 => simd.run(task, &Stored::<F16>::new(task), panels),
        other => panic!("{other} is no weight dtype"),
    }
}

/// By an instruction that multiplies bf16.
fn dot_bf16(cpu: &Cpu, simd: Avx512Bf16, x: &[f32], weight: &CpuWeight, rows: usize, y: &[Columns]) {
    let (isa, inputs) = (cpu.isa(), x.len() / rows);
    let width = inputs.next_multiple_of(32);
    let mut numbers = cpu.take(rows, width / 2);
    let numbers = pack::as_bf16(numbers.data_mut());
    pack::fill(x, inputs, numbers, |x, panel| {
        dispatch!(isa, pack_bf16(x: &[f32], inputs: usize, panel: &mut [u16]));
    });
    let panels = &Panels::new(numbers, rows, width);
    for_each_task(weight, rows, inputs, y, outputs_of_task(rows, inputs), |task| {
        simd.run(&task, &Stored::<Bf16>::new(&task), panels);
    });
}
