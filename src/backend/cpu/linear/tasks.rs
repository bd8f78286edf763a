//! How a product is cut into tasks, and where they write.

use super::super::{CpuTensor, CpuWeight};
use super::stored::Part;
use crate::backend::{Shaped, Slice};
use rayon::prelude::*;
use std::{marker::PhantomData, ops::Range};

/// Outputs of one task, for most products.
pub const TASK: usize = 64;
/// Multiplications below which a second thread costs more than it brings.
const SMALL: usize = 1 << 16;

/// What a product multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// x and W as f32.
    F32,
    /// x rounded to bf16, then as f32: where no instruction multiplies bf16.
    RoundedF32,
    /// x rounded to 8 bits, codes of W, as integers. (Step 9.)
    Int8,
    /// x rounded to bf16, W of bf16, by an instruction that multiplies them.
    DotBf16,
}

/// Outputs of one part that one thread computes.
pub struct Task<'a> {
    pub part: &'a Part,
    /// Which of the part's outputs.
    pub outputs: Range<usize>,
    /// Where the first of them goes.
    pub out: Out<'a>,
}

impl<'a> Task<'a> {
    /// Whether W is stored [in, out].
    pub fn is_transposed(&self) -> bool {
        matches!(self.part, Part::Dense(slice) if slice.transposed)
    }

    /// Numbers as they lie in the file.
    ///
    /// # Panics
    /// If the part is packed: such parts have products of their own.
    pub fn slice(&self) -> &'a Slice {
        match self.part {
            Part::Dense(slice) => slice,
            Part::Packed(_) => panic!("a packed part"),
        }
    }
}

/// Runs `body` on every task of `size` outputs of a product with `rows` rows of x, on all cores if it is large. Tensors of y have the outputs
/// of whole parts.
pub fn for_each_task(
    weight: &CpuWeight,
    rows: usize,
    inputs: usize,
    y: &[Columns],
    size: usize,
    body: impl Fn(Task) + Sync,
) {
    let outputs = |part: &Part| part.shape().outputs;
    let count: usize = weight.parts().map(|part| outputs(part).div_ceil(size)).sum();
    let run = |mut number: usize| {
        let (mut y, mut column) = (y.iter(), 0);
        let mut current = y.next().expect("a tensor to write to");
        for part in weight.parts() {
            if column == current.cols {
                (current, column) = (y.next().expect("columns for all outputs"), 0);
            }
            let tasks = outputs(part).div_ceil(size);
            if number < tasks {
                let first = number * size;
                let outputs = first..outputs(part).min(first + size);
                let out =
                    Out { y: current, column: column + first, count: outputs.len(), thread: PhantomData };
                return body(Task { part, outputs, out });
            }
            number -= tasks;
            column += outputs(part);
        }
    };
    if rows * inputs * weight.outputs() < SMALL {
        (0..count).for_each(run);
    } else {
        (0..count).into_par_iter().for_each(run);
    }
}

/// y's columns for some of its rows, written by several threads, each its own.
pub struct Columns<'a> {
    start: *mut f32,
    rows: usize,
    cols: usize,
    tensor: PhantomData<&'a mut CpuTensor>,
}
// SAFETY: the pointer is only used through `Out`; one thread has it, and its columns are no other's.
unsafe impl Sync for Columns<'_> {}

impl Columns<'_> {
    /// Of these rows of y.
    pub fn new(y: &mut CpuTensor, rows: Range<usize>) -> Columns<'_> {
        let cols = y.cols();
        let part = &mut y.data_mut()[rows.start * cols..rows.end * cols];
        Columns { start: part.as_mut_ptr(), rows: rows.len(), cols, tensor: PhantomData }
    }
}

/// Where sums go: `count` columns from `column`, which belong to one task and its thread.
#[derive(Clone, Copy)]
pub struct Out<'a> {
    y: &'a Columns<'a>,
    column: usize,
    pub count: usize,
    thread: PhantomData<*mut f32>,
}

impl Out<'_> {
    /// The same, some columns later.
    #[inline(always)]
    pub fn from(self, columns: usize) -> Self {
        Self { column: self.column + columns, count: self.count.saturating_sub(columns), ..self }
    }

    /// Where the columns of a row begin.
    #[inline(always)]
    pub fn row(&self, row: usize) -> *mut f32 {
        assert!(row < self.y.rows && self.column + self.count <= self.y.cols);
        // SAFETY: inside the tensor by the line above.
        unsafe { self.y.start.add(row * self.y.cols + self.column) }
    }

    /// Writes the first `count` of these into a row.
    #[inline(always)]
    pub fn write<const N: usize>(&self, row: usize, values: [f32; N]) {
        if self.count == 0 {
            return; // the rows that fill up a panel
        }
        let to = self.row(row);
        // SAFETY: `row` has checked that `count` columns are inside the tensor; no other task writes them.
        unsafe {
            if self.count >= N {
                to.cast::<[f32; N]>().write(values);
            } else {
                values.iter().take(self.count).enumerate().for_each(|(n, value)| to.add(n).write(*value));
            }
        }
    }
}
