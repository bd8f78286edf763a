//! Weights stored [out, in], by dot products: the product that every step and every CPU has.
//!
//! Four rows of W are widened to f32 at a time. They stay in the first cache while the rows of x pass by, so W is read from memory
//! once for all rows of a pass. That is why a step with eight rows costs little more than a step with one.

use super::tasks::Task;
use crate::backend::simd::{F32, dots};
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
    let mut wide = WIDE.take();
    wide.resize(GROUP * inputs, 0.0);
    for first in task.outputs.clone().step_by(GROUP) {
        for (n, wide) in wide.chunks_exact_mut(inputs).enumerate() {
            // Where fewer rows are left, the last one fills the places; its sums are not written.
            task.part.widen((first + n).min(task.outputs.end - 1), wide);
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
