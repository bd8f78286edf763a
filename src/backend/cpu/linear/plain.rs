//! Weights stored [out, in], by dot products: the product that every step and every CPU has.
//!
//! Four rows of W are widened to f32 at a time. They stay in the first cache while the rows of x pass by, so W is read from memory
//! once for all rows of a pass. That is why a step with eight rows costs little more than a step with one.

use super::{stored::Rows, tasks::Task};
use crate::{
    backend::simd::{F32, filled_up},
    tensor::convert_to_f32,
};
use std::cell::RefCell;

/// Rows of W that share a row of x.
const GROUP: usize = 4;

thread_local! {
    /// Some rows of W, widened.
    static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The outputs of a task; x: [rows, inputs].
#[inline(always)]
pub fn plain_task<S: F32<L>, const L: usize>(simd: S, task: &Task, x: &[f32], inputs: usize) {
    let (dtype, rows, mut wide) = (task.slice.tensor.dtype, Rows::new(task.slice), WIDE.take());
    wide.resize(GROUP * inputs, 0.0);
    for first in task.outputs.clone().step_by(GROUP) {
        for (n, wide) in wide.chunks_exact_mut(inputs).enumerate() {
            // Where fewer rows are left, the last one fills the places; its sums are not written.
            convert_to_f32(dtype, rows.row((first + n).min(task.outputs.end - 1)), wide);
        }
        let w = [0, 1, 2, 3].map(|n| &wide[n * inputs..][..inputs]);
        let out = task.out.from(first - task.outputs.start);
        let pairs = x.chunks_exact(2 * inputs);
        let last = pairs.remainder();
        for (i, x) in pairs.enumerate() {
            let (a, b) = x.split_at(inputs);
            let [a, b] = dots(simd, [a, b], w);
            out.write(2 * i, a);
            out.write(2 * i + 1, b);
        }
        if !last.is_empty() {
            let [sums] = dots(simd, [last], w);
            out.write(x.len() / inputs - 1, sums);
        }
    }
    WIDE.set(wide);
}

/// Dot products of M rows of x with four rows of W. Product k goes to lane k modulo L; at the end the lanes are added by halves.
#[inline(always)]
fn dots<S: F32<L>, const L: usize, const M: usize>(
    simd: S,
    x: [&[f32]; M],
    w: [&[f32]; GROUP],
) -> [[f32; GROUP]; M] {
    let (x, w) = (x.map(|x| x.as_chunks::<L>()), w.map(|w| w.as_chunks::<L>()));
    let mut sums = [[simd.zero(); GROUP]; M];
    let full = w[0].0.len();
    let (rows, cols) = (x.map(|x| &x.0[..full]), w.map(|w| &w.0[..full]));
    for i in 0..full {
        let w = cols.map(|w| simd.load(&w[i]));
        for m in 0..M {
            let x = simd.load(&rows[m][i]);
            for n in 0..GROUP {
                sums[m][n] = simd.multiply_add(sums[m][n], x, w[n]);
            }
        }
    }
    if !w[0].1.is_empty() {
        for m in 0..M {
            for n in 0..GROUP {
                let (x, w) = (simd.load(&filled_up(x[m].1, 0.0)), simd.load(&filled_up(w[n].1, 0.0)));
                sums[m][n] = simd.multiply_add(sums[m][n], x, w);
            }
        }
    }
    sums.map(|sums| simd.finish(sums))
}
