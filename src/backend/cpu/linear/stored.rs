//! Weights as they are stored.

use crate::{backend::Slice, tensor::Stored};

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
