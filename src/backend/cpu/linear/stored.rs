//! Weights as they are stored: how a register of them is read.

use crate::{backend::Slice, tensor::f16_to_f32};

/// A stored weight of B bytes, read as an N: f32, or the bits of a bf16.
pub trait Element<const B: usize, N> {
    fn read(bytes: [u8; B]) -> N;
}

pub struct F32;
impl Element<4, f32> for F32 {
    #[inline(always)]
    fn read(bytes: [u8; 4]) -> f32 {
        f32::from_le_bytes(bytes)
    }
}

pub struct Bf16;
impl Element<2, f32> for Bf16 {
    #[inline(always)]
    fn read(bytes: [u8; 2]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
    }
}
impl Element<2, u16> for Bf16 {
    #[inline(always)]
    fn read(bytes: [u8; 2]) -> u16 {
        u16::from_le_bytes(bytes)
    }
}

pub struct F16;
impl Element<2, f32> for F16 {
    #[inline(always)]
    fn read(bytes: [u8; 2]) -> f32 {
        f16_to_f32(u16::from_le_bytes(bytes))
    }
}

/// A register of W weights.
#[inline(always)]
pub fn read<E: Element<B, N>, N: Copy + Default, const B: usize, const W: usize>(weights: &[[u8; B]; W]) -> [N; W] {
    let mut register = [N::default(); W];
    for l in 0..W {
        register[l] = E::read(weights[l]); // `map` stays a call for 32 of them
    }
    register
}

/// The last register of a row, filled up with zeros.
#[inline(always)]
pub fn read_rest<E: Element<B, N>, N: Copy + Default, const B: usize, const W: usize>(weights: &[[u8; B]]) -> [N; W] {
    let mut register = [N::default(); W];
    register.iter_mut().zip(weights).for_each(|(to, w)| *to = E::read(*w));
    register
}

/// The bytes of one row of a slice that is stored [out, in].
pub fn row<'a>(slice: &'a Slice, row: usize) -> &'a [u8] {
    let (size, (_, stride)) = (slice.tensor.dtype.bytes(), slice.tensor.matrix_shape());
    let start = (slice.rows.start + row) * stride + slice.cols.start;
    &slice.tensor.data[start * size..][..slice.cols.len() * size]
}

/// Asks for memory that will be read soon, into the second cache: the first has places for some 16 lines on their way, too few for
/// the time that memory takes.
#[inline(always)]
pub fn prefetch(from: *const u8, bytes: std::ops::Range<usize>) {
    #[cfg(target_arch = "x86_64")]
    for at in bytes.step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch is a hint. It reads nothing, and an address that is not mapped is ignored.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(at).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, bytes);
}
