//! y = x Wᵀ, with W as it lies in the file: bf16, f16 or f32, [out, in] or (GPT-2) [in, out].
//!
//! Each y[t, o] is one dot product, summed in the same order whatever else is in the batch: number k of a row goes to a fixed
//! lane of a vector register, and at the end the lanes are added by halves. So a token's bits do not depend on its neighbours,
//! nor on which of the products was taken.
//!
//! `plain.rs` is the product that steps 1 to 3 have. Step 4 adds `x86/`, which multiplies the same numbers faster.
//!
//! All cores take blocks of outputs, so W is read from memory once for all rows of a pass.

#[cfg(not(all(feature = "step4", target_arch = "x86_64")))]
#[path = "plain_only.rs"]
mod faster;
#[cfg(all(feature = "step4", target_arch = "x86_64"))]
#[path = "x86/mod.rs"]
mod faster;
// Step 9 multiplies packed weights fast.
#[cfg_attr(not(feature = "quantized"), path = "packed_only.rs")]
mod packed;
// And by activations of 8 bits.
#[cfg_attr(not(feature = "quantized"), path = "no_int8.rs")]
mod int8;
mod plain;
mod stored;
mod tasks;
#[cfg(test)]
mod tests;
mod transposed;

pub use int8::HAS as HAS_INT8;
pub(super) use int8::multiplies as multiplies_int8;
pub(super) use stored::Part;
pub(super) use tasks::Product;

use super::{Cpu, CpuTensor, CpuWeight};
use crate::backend::{Shaped, simd::dispatch};
use faster::faster_product;
use half::bf16;
use plain::plain_task;
use tasks::{Columns, TASK, Task, for_each_task};
use transposed::transposed_task;

/// Rows of x of one pass over W, which bounds the memory that they take once more, packed.
const ROWS: usize = 512;

/// y[t, o] = Σ_k x[t, k] · W[o, k]. The parts' outputs lie side by side; they are written to one tensor, or to several that have whole parts.
///
/// # Panics
/// If a part was never loaded or does not fit x and y.
pub(super) fn matmul<const N: usize>(cpu: &Cpu, x: &CpuTensor, weight: &CpuWeight, y: &mut [CpuTensor; N]) {
    let inputs = x.cols();
    for part in weight.parts() {
        assert_eq!(part.shape().inputs, inputs, "inputs");
    }
    let product = cpu.product(weight);
    for first in (0..x.rows()).step_by(ROWS) {
        let rows = first..x.rows().min(first + ROWS);
        let columns = y.each_mut().map(|y| Columns::new(y, rows.clone()));
        let mut x = &x.data()[rows.start * inputs..rows.end * inputs];
        if product == Product::Int8 {
            int8::product(cpu, x, weight, rows.len(), &columns);
            continue;
        }
        let mut rounded = None;
        if product == Product::RoundedF32 {
            let rounded = rounded.insert(cpu.take(rows.len(), inputs));
            cpu.for_each_chunk(rounded.data_mut(), inputs, |row, to| {
                to.iter_mut().zip(&x[row * inputs..]).for_each(|(to, x)| *to = bf16::from_f32(*x).to_f32());
            });
            x = rounded.data();
        }
        if !faster_product(cpu, product, x, weight, rows.len(), &columns) {
            plain_product(cpu, x, weight, rows.len(), &columns);
        }
    }
}

/// The product of f32 by dot products.
fn plain_product(cpu: &Cpu, x: &[f32], weight: &CpuWeight, rows: usize, y: &[Columns]) {
    let (isa, inputs) = (cpu.isa(), x.len() / rows);
    for_each_task(weight, rows, inputs, y, TASK, |task| {
        let task = &task;
        if task.is_transposed() {
            dispatch!(isa, transposed_task(task: &Task<'_>, x: &[f32], inputs: usize));
        } else {
            dispatch!(isa, plain_task(task: &Task<'_>, x: &[f32], inputs: usize));
        }
    });
}
