//! Weights stored [in, out], as GPT-2's: a row of W is scaled and added, input by input.

use super::tasks::Task;
use crate::backend::simd::F32;
use crate::tensor::convert_to_f32;
use std::cell::RefCell;

thread_local! {
    /// A row of W, widened, and the sums.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The outputs of a task; x: [rows, inputs].
#[inline(always)]
pub fn transposed_task<S: F32<L>, const L: usize>(simd: S, task: &Task, x: &[f32], inputs: usize) {
    let mut scratch = SCRATCH.take();
    let (slice, width) = (task.slice(), task.outputs.len());
    let (dtype, (_, stride)) = (slice.tensor.dtype, slice.tensor.matrix_shape());
    scratch.clear();
    scratch.resize((x.len() / inputs + 1) * width, 0.0);
    let (w, sums) = scratch.split_at_mut(width);
    for k in 0..slice.rows.len() {
        let first = (slice.rows.start + k) * stride + slice.cols.start + task.outputs.start;
        convert_to_f32(dtype, &slice.tensor.data[first * dtype.bytes()..][..width * dtype.bytes()], w);
        for (row, sums) in sums.chunks_exact_mut(width).enumerate() {
            let x = x[row * inputs + k];
            for (sum, w) in sums.iter_mut().zip(&*w) {
                *sum = simd.multiply_add_one(x, *w, *sum);
            }
        }
    }
    for (row, sums) in sums.chunks_exact(width).enumerate() {
        for (i, &sum) in sums.iter().enumerate() {
            task.out.from(i).write(row, [sum]);
        }
    }
    SCRATCH.set(scratch);
}
