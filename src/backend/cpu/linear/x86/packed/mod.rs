//! Products with packed weights: a chunk of codes is widened to registers of f32 when it is needed.
//!
//! With up to four rows of x (a decode step), the registers are multiplied at once: the time is that of reading the codes, and of the five
//! instructions that make 8 numbers of them and multiply. With more rows, a block of a panel of W is widened into the first cache, and the
//! micro-kernel of dense weights takes it from there. Both add the products of an output in the same order, so a row's bits do not depend
//! on how many rows there are.

#![allow(clippy::needless_range_loop)] // plain loops keep the instruction set's features

mod codes;
mod gguf;
mod rows;
mod widen;

pub use widen::Widens;

use super::super::super::{Cpu, CpuTensor, CpuWeight};
use super::super::{packed::PackedPart, stored::Part, tasks::Task};
use super::macro_kernel::MacroKernel;
use super::{fill_f32, pack::Panels};
use crate::backend::simd::{F32, Isa, dispatch};
use crate::quant::{NO_INPUT, Numbers, PackedRows};
use codes::{Codes, E4m3, Looked, Nibbles, Signed, Unsigned};
use rows::{Rows, RowsOfBlocks};
use std::ptr;

/// Whether a part has a product here.
pub fn has_product(part: &Part) -> bool {
    matches!(part, Part::Dense(_) | Part::Packed(PackedPart::Rows(_) | PackedPart::Blocks { .. }))
}

/// x for parts whose columns are not in the order of the inputs.
pub struct Gathered<'a>(Vec<(&'a PackedRows, usize, CpuTensor)>);

impl<'a> Gathered<'a> {
    pub fn new(cpu: &Cpu, x: &[f32], inputs: usize, weight: &'a CpuWeight) -> Gathered<'a> {
        let rows = x.len() / inputs;
        let packed = weight.parts().filter_map(|part| match part {
            Part::Packed(PackedPart::Rows(packed)) => Some((packed, packed.gather.as_ref()?)),
            _ => None,
        });
        let in_order = packed.map(|(packed, gather)| {
            let mut columns = cpu.take(rows, packed.columns);
            cpu.for_each_chunk(columns.data_mut(), packed.columns, |row, columns| {
                let x = &x[row * inputs..][..inputs];
                for (column, &input) in columns.iter_mut().zip(&**gather) {
                    *column = if input == NO_INPUT { 0.0 } else { x[input as usize] };
                }
            });
            let mut panels = cpu.take(rows, packed.columns);
            fill_f32(cpu.isa(), columns.data(), packed.columns, panels.data_mut());
            (packed, rows, panels)
        });
        Gathered(in_order.collect())
    }

    /// Those of a part.
    pub fn panels(&self, part: &Part) -> Option<Panels<'_, f32>> {
        let Part::Packed(PackedPart::Rows(rows)) = part else { return None };
        let (packed, rows, panels) = self.0.iter().find(|(packed, ..)| ptr::eq(*packed, rows))?;
        Some(Panels::new(panels.data(), *rows, packed.columns))
    }
}

/// The outputs of a task of a packed part.
pub fn task<T, const L: usize, const C: usize>(simd: T, task: &Task, part: &PackedPart, panels: &Panels<f32>)
where
    T: Widens<L, C> + MacroKernel<L>,
{
    let last = task.outputs.end - 1;
    match part {
        PackedPart::Rows(rows) => match rows.numbers {
            Numbers::Affine4 => run(simd, task, Codes::<Nibbles>::new(rows, last), panels),
            Numbers::Table => run(simd, task, Codes::<Looked>::new(rows, last), panels),
            Numbers::Affine8 => run(simd, task, Codes::<Unsigned>::new(rows, last), panels),
            Numbers::Int8 => run(simd, task, Codes::<Signed>::new(rows, last), panels),
            Numbers::Fp8 => run(simd, task, Codes::<E4m3>::new(rows, last), panels),
        },
        PackedPart::Blocks { blocks, outputs, inputs } => {
            gguf::task(simd, task, blocks, outputs.start, inputs, panels);
        }
        PackedPart::Matrix { .. } => unreachable!("has_product said so"),
    }
    if let PackedPart::Rows(PackedRows { sparse: Some(sparse), .. }) = part {
        let isa = if L == 16 { Isa::Avx512 } else { Isa::Avx2 };
        dispatch!(isa, add_sparse(task: &Task<'_>, sparse: &[Vec<(u32, f32)>], panels: &Panels<'_, f32>));
    }
}

fn run<T, W, const L: usize, const C: usize>(simd: T, task: &Task, w: W, panels: &Panels<f32>)
where
    T: Widens<L, C> + MacroKernel<L>,
    W: Rows<T, L, C>,
{
    simd.run(task, &RowsOfBlocks::<W, C>(w), panels);
}

/// Adds the numbers beside the codes.
#[inline(always)]
fn add_sparse<T: F32<L>, const L: usize>(
    simd: T,
    task: &Task<'_>,
    sparse: &[Vec<(u32, f32)>],
    panels: &Panels<'_, f32>,
) {
    for (n, output) in task.outputs.clone().enumerate() {
        let out = task.out.from(n);
        for row in 0..panels.rows {
            // SAFETY: `row` checks the place; the task has its columns to itself, and has written them.
            let mut sum = unsafe { out.row(row).read() };
            for &(column, number) in &sparse[output] {
                sum = simd.multiply_add_one(panels.number::<L>(row, column as usize), number, sum);
            }
            out.write(row, [sum]);
        }
    }
}
