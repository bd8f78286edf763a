//! How vectors of K and V are stored: f32, bf16, f16, or fp8 with a scale each.

use super::{cpu::vectors::Kept, options::KvDtype};
use crate::{error::Error, words};
use bytemuck::{Zeroable, allocation::try_zeroed_vec, cast_slice, cast_slice_mut};
use float8::F8E4M3;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use std::{collections::TryReserveError, ops::Range};

/// Room for many vectors of `head_dim` numbers: one token's K or V of one head each.
pub(super) struct Storage {
    head_dim: usize,
    dtype: KvDtype,
    /// In fp8: the scale that all vectors share.
    scale: Option<f32>,
    /// The vectors' bytes, in words that are aligned for every dtype. Zeros cost nothing until they are written.
    pub(super) words: Vec<u32>,
    /// In fp8: what each vector's codes are multiplied with.
    pub(super) scales: Vec<f32>,
}

impl Storage {
    /// Zeros; the system gives the memory when it is first written.
    pub fn new(dtype: KvDtype, vectors: usize, head_dim: usize) -> Result<Storage, TryReserveError> {
        let words = zeros((vectors * head_dim * dtype.stored().bytes()).div_ceil(size_of::<u32>()))?;
        let scales = zeros(if dtype == KvDtype::Fp8 { vectors } else { 0 })?;
        Ok(Storage { head_dim, dtype, scale: None, words, scales })
    }

    /// The same, with one scale for all vectors of fp8; `None`: each has its own.
    pub fn with_scale(self, scale: Option<f32>) -> Storage {
        Storage { scale, ..self }
    }

    /// Which bytes some vectors have.
    pub(super) fn bytes(&self, vectors: Range<usize>) -> Range<usize> {
        let bytes = self.head_dim * self.dtype.stored().bytes();
        vectors.start * bytes..vectors.end * bytes
    }

    /// Stores one vector.
    pub fn write(&mut self, vector: usize, from: &[f32]) {
        let at = self.bytes(vector..vector + 1);
        let bytes = &mut cast_slice_mut::<u32, u8>(&mut self.words)[at];
        match self.dtype {
            KvDtype::F32 => cast_slice_mut(bytes).copy_from_slice(from),
            KvDtype::Bf16 => {
                let kept = cast_slice_mut::<u8, u16>(bytes).reinterpret_cast_mut::<bf16>();
                kept.convert_from_f32_slice(from);
            }
            KvDtype::F16 => {
                let kept = cast_slice_mut::<u8, u16>(bytes).reinterpret_cast_mut::<f16>();
                kept.convert_from_f32_slice(from);
            }
            KvDtype::Fp8 => {
                self.scales[vector] = match self.scale {
                    None => write_fp8(bytes, from),
                    Some(scale) => write_scaled(bytes, from, scale),
                }
            }
        }
    }

    /// What is stored from a vector on.
    pub fn from(&self, vector: usize) -> Kept<'_> {
        let bytes = &cast_slice::<u32, u8>(&self.words)[self.bytes(vector..vector).start..];
        match self.dtype {
            KvDtype::F32 => Kept::F32(cast_slice(bytes)),
            KvDtype::Bf16 => Kept::Bf16(cast_slice::<u8, u16>(bytes).reinterpret_cast()),
            KvDtype::F16 => Kept::F16(cast_slice::<u8, u16>(bytes).reinterpret_cast()),
            KvDtype::Fp8 => Kept::Fp8 { codes: bytes, scales: &self.scales[vector..] },
        }
    }
}

/// The error where no memory is left for K and V: a smaller `field` helps.
pub(super) fn no_memory(field: &'static str) -> impl Fn(TryReserveError) -> Error {
    move |e| {
        Error::Limit(format!("no memory for K and V: {e}; give a smaller {}", words::field(field)).into())
    }
}

/// Up to so many bytes, memory is written when it is allocated. Otherwise the system would find its pages at the first write to each, in
/// the middle of steps, and a server would look as if it leaked.
const WRITTEN_AT_ONCE: usize = 64 << 20;

/// Zeros. Large ones are fresh pages of the system, which takes nothing for them until they are written.
fn zeros<T: Zeroable + Clone>(n: usize) -> Result<Vec<T>, TryReserveError> {
    if n.saturating_mul(size_of::<T>()) > WRITTEN_AT_ONCE
        && let Ok(zeros) = try_zeroed_vec(n)
    {
        return Ok(zeros);
    }
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(n)?; // says what is wrong
    zeros.resize(n, T::zeroed());
    Ok(zeros)
}

/// The largest number of e4m3. (`F8E4M3::MAX` of float8 0.7.0 is 416.)
const E4M3_MAX: f32 = 448.0;

// ANCHOR: write_fp8
/// Rounds a vector to e4m3 (Micikevicius et al., arXiv:2209.05433), scaled so that its largest element becomes 448, the largest
/// number that e4m3 has. Gives the scale: value ≈ code · scale.
fn write_fp8(codes: &mut [u8], from: &[f32]) -> f32 {
    let largest = from.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = (largest / E4M3_MAX).max(f32::MIN_POSITIVE);
    for (code, value) in codes.iter_mut().zip(from) {
        *code = F8E4M3::from_f32(value / scale).to_bits();
    }
    scale
}
// ANCHOR_END: write_fp8

/// The same with a given scale: a larger number than 448 times the scale becomes that.
fn write_scaled(codes: &mut [u8], from: &[f32], scale: f32) -> f32 {
    for (code, value) in codes.iter_mut().zip(from) {
        *code = F8E4M3::from_f32(value / scale).to_bits();
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearest number of e4m3, computed in f64: 3 bits behind the first, and below 2^-6 multiples of 2^-9.
    fn nearest(x: f64) -> f64 {
        let exponent = if x == 0.0 { -6.0 } else { x.abs().log2().floor().max(-6.0) };
        let unit = (exponent - 3.0).exp2();
        (x / unit).round_ties_even() * unit
    }

    /// Every number comes back as the nearest that its scale allows, and the largest as itself: an error of 1/32 in either is too much.
    #[test]
    fn fp8_keeps_the_nearest_numbers() {
        let mut storage = Storage::new(KvDtype::Fp8, 64, 24).unwrap();
        for vector in 0..64 {
            let magnitude = 10f64.powi(vector as i32 % 9 - 4);
            let number = |i: usize| ((i * 7919 + vector * 104_729) % 4001) as f64 / 2000.0 - 1.0;
            let from: Vec<f32> = (0..24).map(|i| (magnitude * number(i).powi(3)) as f32).collect();
            storage.write(vector, &from);
            let Kept::Fp8 { codes, scales } = storage.from(vector) else { panic!("it is fp8") };
            let kept = codes.iter().map(|code| F8E4M3::from_bits(*code).to_f32() * scales[0]);
            let largest = from.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            let scale = f64::from(largest) / 448.0;
            for (x, kept) in from.iter().zip(kept) {
                let want = nearest(f64::from(*x) / scale) * scale;
                assert!(
                    (f64::from(kept) - want).abs() <= 1e-6 * want.abs(),
                    "{x} is kept as {kept}, not {want}"
                );
            }
        }
    }
}
