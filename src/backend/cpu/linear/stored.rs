//! Weights as they are held: where the file is mapped, or packed.

use super::packed::PackedPart;
use crate::backend::{PartShape, Slice};
use crate::tensor::{DType, convert_to_f32};
use crate::{error::Result, packed::Matrix};

/// One part of a weight.
pub enum Part {
    /// Numbers as they lie in the file.
    Dense(Slice),
    /// Codes and scales.
    Packed(PackedPart),
}

impl Part {
    /// # Errors
    /// If there is no memory for rows of codes.
    pub fn new(slice: &Slice<Matrix>) -> Result<Part> {
        let Slice { tensor, rows, cols, transposed } = slice.clone();
        Ok(match tensor {
            Matrix::Dense(tensor) => Part::Dense(Slice { tensor, rows, cols, transposed }),
            Matrix::Packed(packed) => Part::Packed(PackedPart::new(packed, rows, cols)?),
        })
    }

    pub fn shape(&self) -> PartShape {
        match self {
            Part::Dense(Slice { rows, cols, transposed: false, .. }) => {
                PartShape { outputs: rows.len(), inputs: cols.len() }
            }
            Part::Dense(Slice { rows, cols, transposed: true, .. }) => {
                PartShape { outputs: cols.len(), inputs: rows.len() }
            }
            Part::Packed(part) => part.shape(),
        }
    }

    /// Whether an instruction that multiplies bf16 can use it: bf16, the inputs of an output side by side.
    pub fn dots_bf16(&self) -> bool {
        matches!(self, Part::Dense(slice) if slice.tensor.dtype == DType::BF16 && !slice.transposed)
    }

    /// The numbers of one output, whose inputs lie side by side.
    #[inline(always)]
    pub fn widen(&self, output: usize, numbers: &mut [f32]) {
        match self {
            Part::Dense(slice) => convert_to_f32(slice.tensor.dtype, Rows::new(slice).row(output), numbers),
            Part::Packed(part) => part.widen(output, numbers),
        }
    }
}

/// The rows of a slice that is stored [out, in].
pub struct Rows<'a> {
    /// The tensor from the first row's first weight on.
    bytes: &'a [u8],
    /// Bytes of a row, and from one row to the next.
    pub len: usize,
    pub stride: usize,
}

impl<'a> Rows<'a> {
    pub fn new(slice: &'a Slice) -> Rows<'a> {
        let (size, (_, inputs)) = (slice.tensor.dtype.bytes(), slice.tensor.matrix_shape());
        let start = slice.rows.start * inputs + slice.cols.start;
        Rows {
            bytes: &slice.tensor.data[start * size..],
            len: slice.cols.len() * size,
            stride: inputs * size,
        }
    }

    #[inline(always)]
    pub fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.stride..][..self.len]
    }
}
