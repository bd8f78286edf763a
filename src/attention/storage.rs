//! How vectors of K and V are stored: f32, bf16, f16, or fp8 with a scale each.

use super::{cpu::vectors::Kept, options::KvDtype};
use bytemuck::{Zeroable, allocation::try_zeroed_vec};
use float8::F8E4M3;
use half::{bf16, f16, slice::HalfBitsSliceExt};
use std::collections::TryReserveError;

/// Room for many vectors of `head_dim` numbers: one token's K or V of one head each.
pub(super) struct Storage {
    pub(super) head_dim: usize,
    pub(super) values: Values,
}

// ANCHOR: values
pub(super) enum Values {
    F32(Vec<f32>),
    /// The bits: zeroed u16 cost nothing until they are written.
    Bf16(Vec<u16>),
    F16(Vec<u16>),
    /// Codes of e4m3 and, for each vector, what they are multiplied with.
    Fp8 {
        codes: Vec<u8>,
        scales: Vec<f32>,
    },
}
// ANCHOR_END: values

impl Storage {
    /// Zeros; the system gives the memory when it is first written.
    pub fn new(dtype: KvDtype, vectors: usize, head_dim: usize) -> Result<Storage, TryReserveError> {
        let elements = vectors * head_dim;
        let values = match dtype {
            KvDtype::F32 => Values::F32(zeros(elements)?),
            KvDtype::Bf16 => Values::Bf16(zeros(elements)?),
            KvDtype::F16 => Values::F16(zeros(elements)?),
            KvDtype::Fp8 => Values::Fp8 { codes: zeros(elements)?, scales: zeros(vectors)? },
        };
        Ok(Storage { head_dim, values })
    }

    /// Stores one vector.
    pub fn write(&mut self, vector: usize, from: &[f32]) {
        let d = self.head_dim;
        match &mut self.values {
            Values::F32(kept) => kept[vector * d..][..d].copy_from_slice(from),
            Values::Bf16(kept) => {
                for (kept, value) in kept[vector * d..][..d].iter_mut().zip(from) {
                    *kept = bf16::from_f32(*value).to_bits();
                }
            }
            Values::F16(kept) => {
                for (kept, value) in kept[vector * d..][..d].iter_mut().zip(from) {
                    *kept = f16::from_f32(*value).to_bits();
                }
            }
            Values::Fp8 { codes, scales } => {
                scales[vector] = write_fp8(&mut codes[vector * d..][..d], from);
            }
        }
    }

    /// What is stored from a vector on.
    pub fn from(&self, vector: usize) -> Kept<'_> {
        let start = vector * self.head_dim;
        match &self.values {
            Values::F32(kept) => Kept::F32(&kept[start..]),
            Values::Bf16(kept) => Kept::Bf16(kept[start..].reinterpret_cast()),
            Values::F16(kept) => Kept::F16(kept[start..].reinterpret_cast()),
            Values::Fp8 { codes, scales } => Kept::Fp8 { codes: &codes[start..], scales: &scales[vector..] },
        }
    }
}

/// Fresh pages of the system, which takes nothing for them until they are written.
fn zeros<T: Zeroable + Clone>(n: usize) -> Result<Vec<T>, TryReserveError> {
    try_zeroed_vec(n).or_else(|()| {
        let mut zeros = Vec::new();
        zeros.try_reserve_exact(n)?; // says what is wrong
        zeros.resize(n, T::zeroed());
        Ok(zeros)
    })
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
