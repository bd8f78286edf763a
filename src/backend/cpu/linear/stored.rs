//! Weights as they are stored.

use crate::backend::Slice;
use std::ops::Range;

/// A dtype of B bytes; each variant says how it reads a register of them ([`Reads`](super::tile::Reads)).
pub struct F32;
pub struct Bf16;
pub struct F16;

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

/// The bytes of one row of a slice that is stored [out, in].
pub fn row(slice: &Slice, row: usize) -> &[u8] {
    Rows::new(slice).row(row)
}

/// The last weights of a row, filled up with zeros to a register's W. (All zero bits are zero in every dtype.)
#[inline(always)]
pub fn filled_up<const B: usize, const W: usize>(rest: &[[u8; B]]) -> [[u8; B]; W] {
    let mut register = [[0; B]; W];
    register[..rest.len()].copy_from_slice(rest);
    register
}

/// Bytes of a line of a cache.
pub const LINE: usize = 64;

/// Asks for memory that will be read soon, into the second cache: the first has places for some 16 lines on their way, too few for
/// the time that memory takes.
#[inline(always)]
pub fn prefetch(from: *const u8, bytes: Range<usize>) {
    #[cfg(target_arch = "x86_64")]
    for at in bytes.step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch is a hint. It reads nothing, and an address that is not mapped is ignored.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(at).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, bytes);
}
