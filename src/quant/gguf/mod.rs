//! GGUF's block types: a row is blocks, and a block is scales and the codes that they scale.
//!
//! ```text
//! Q4_0, 32 numbers in 18 bytes:    d: f16 │ 16 bytes, a code in each half              number = d · (code − 8)
//! Q4_K, 256 numbers in 144 bytes:  d, dmin: f16 │ 8 six-bit scales and mins │ codes    number = d · scale · code − dmin · min
//! ```
//! Each type is one function from a block's bytes to 32 of its numbers: see [`small`] for the types with 32 numbers in a block, and
//! [`super_blocks`] for those with 256. The formulas are those of `ggml-quants.c`, in the same order, so that every rounding to f32 is the same.

pub mod small;
pub mod super_blocks;

use crate::packed::{Matrix, Packed};
use crate::tensor::{DType, HostTensor, convert_to_f32};
use std::{ops::Range, sync::Arc};

/// Numbers that one call computes.
pub const SUB_BLOCK: usize = 32;

/// A matrix of a block type.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// [outputs, inputs], or with rows in pairs [heads, half, 2, inputs].
    tensor: HostTensor,
}

/// The parameter that a tensor is. A matrix of blocks stays as it lies; a vector of blocks becomes f32; rows in pairs come into the order in
/// which the model rotates them.
pub(crate) fn matrix(tensor: HostTensor) -> Matrix {
    match (tensor.dtype.is_block(), tensor.shape.len()) {
        (true, 2 | 4) => Matrix::Packed(Arc::new(Blocks { tensor })),
        (true, _) => ordered(widened(&tensor)).into(),
        (false, _) => ordered(tensor).into(),
    }
}

/// A tensor of blocks in f32.
fn widened(tensor: &HostTensor) -> HostTensor {
    let mut numbers = vec![0.0; tensor.len()];
    let inputs = numbers.len();
    widen_row(tensor.dtype, &tensor.data, 0..inputs, &mut numbers);
    HostTensor::from_f32(&tensor.shape, &numbers)
}

/// A tensor of numbers whose rows are not in pairs: a copy, if they were.
fn ordered(tensor: HostTensor) -> HostTensor {
    let (heads, half, inputs) = match tensor.shape[..] {
        [heads, half, 2] => (heads, half, None),
        [heads, half, 2, inputs] => (heads, half, Some(inputs)),
        _ => return tensor,
    };
    let rows = 2 * heads * half;
    let row_bytes = tensor.data.len() / rows;
    let mut bytes = Vec::with_capacity(tensor.data.len());
    for row in 0..rows {
        bytes.extend_from_slice(&tensor.data[stored_row(row, half) * row_bytes..][..row_bytes]);
    }
    tensor.data.release();
    let shape: Vec<usize> = [rows].into_iter().chain(inputs).collect();
    HostTensor::from_bytes(tensor.dtype, &shape, bytes)
}

/// Where row `row` of a rotated projection lies, if rows are in pairs: rows i and i + half of a head are its rows 2i and 2i + 1.
fn stored_row(row: usize, half: usize) -> usize {
    let (head, row) = (row / (2 * half), row % (2 * half));
    2 * (head * half + row % half) + row / half
}

impl Blocks {
    /// The type of its blocks.
    pub fn dtype(&self) -> DType {
        self.tensor.dtype
    }

    /// The blocks of all outputs, where they lie in the file.
    pub fn bytes(&self) -> BlockBytes<'_> {
        let half = match self.tensor.shape[..] {
            [_, half, _, _] => Some(half),
            _ => None,
        };
        BlockBytes { bytes: &self.tensor.data, len: self.tensor.data.len() / self.shape()[0], half }
    }
}

/// The blocks of a matrix.
#[derive(Clone, Copy)]
pub struct BlockBytes<'a> {
    pub bytes: &'a [u8],
    /// Bytes of an output.
    pub len: usize,
    /// Half of a head's outputs, if rows are in pairs.
    half: Option<usize>,
}

impl BlockBytes<'_> {
    /// Where an output's blocks begin.
    #[inline(always)]
    pub fn start_of(&self, output: usize) -> usize {
        self.len * self.half.map_or(output, |half| stored_row(output, half))
    }
}

impl Packed for Blocks {
    fn shape(&self) -> [usize; 2] {
        let (inputs, outer) = self.tensor.shape.split_last().expect("a matrix");
        [outer.iter().product(), *inputs]
    }

    fn label(&self) -> String {
        self.tensor.dtype.to_string()
    }

    fn tensors(&self) -> Vec<&HostTensor> {
        vec![&self.tensor]
    }

    fn row(&self, output: usize, inputs: Range<usize>, numbers: &mut [f32]) {
        let rows = self.bytes();
        let row = &rows.bytes[rows.start_of(output)..][..rows.len];
        widen_row(self.tensor.dtype, row, inputs, numbers);
    }

    fn in_place(&self) -> bool {
        true
    }

    fn blocks(&self) -> Option<&Blocks> {
        Some(self)
    }
}

/// The numbers `inputs` of a row.
///
/// # Panics
/// If the type is no weight's, or the row is shorter.
fn widen_row(dtype: DType, row: &[u8], inputs: Range<usize>, numbers: &mut [f32]) {
    match dtype {
        DType::Q4_0 => widen(row, inputs, numbers, small::q4_0),
        DType::Q4_1 => widen(row, inputs, numbers, small::q4_1),
        DType::Q5_0 => widen(row, inputs, numbers, small::q5_0),
        DType::Q5_1 => widen(row, inputs, numbers, small::q5_1),
        DType::Q8_0 => widen(row, inputs, numbers, small::q8_0),
        DType::IQ4_NL => widen(row, inputs, numbers, small::iq4_nl),
        DType::Q2_K => widen(row, inputs, numbers, super_blocks::q2_k),
        DType::Q3_K => widen(row, inputs, numbers, super_blocks::q3_k),
        DType::Q4_K => widen(row, inputs, numbers, super_blocks::q4_k),
        DType::Q5_K => widen(row, inputs, numbers, super_blocks::q5_k),
        DType::Q6_K => widen(row, inputs, numbers, super_blocks::q6_k),
        DType::IQ4_XS => widen(row, inputs, numbers, super_blocks::iq4_xs),
        dtype => {
            let size = dtype.bytes();
            convert_to_f32(dtype, &row[inputs.start * size..inputs.end * size], numbers);
        }
    }
}

/// The numbers `inputs` of a row of blocks of BYTES bytes. A range may begin and end inside a block, as a rank's does.
#[inline(always)]
fn widen<const BYTES: usize>(
    row: &[u8],
    inputs: Range<usize>,
    numbers: &mut [f32],
    sub_block: impl Fn(&[u8; BYTES], usize) -> [f32; SUB_BLOCK],
) {
    // Blocks of 32 numbers have at most 34 bytes, those of 256 at least 84.
    let per_block = if BYTES < 64 { 1 } else { 8 };
    let (blocks, _) = row.as_chunks::<BYTES>();
    let (mut at, mut rest) = (inputs.start, numbers);
    while !rest.is_empty() {
        let (index, skip) = (at / SUB_BLOCK, at % SUB_BLOCK);
        let part = sub_block(&blocks[index / per_block], index % per_block);
        let count = (SUB_BLOCK - skip).min(rest.len());
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&part[skip..skip + count]);
        (at, rest) = (at + count, later);
    }
}

#[cfg(test)]
mod tests;
