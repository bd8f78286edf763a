//! How registers are filled with weights as they are stored.

use crate::backend::simd::{Avx2, Avx512, Avx512Bf16, Simd};
use std::arch::x86_64::*;

/// A dtype of weights, which lie in a file at any address.
pub trait Element {
    /// Of one weight.
    type Bytes: Copy;
    const ZERO: Self::Bytes;
    /// The weights of a row.
    fn numbers(row: &[u8]) -> &[Self::Bytes];
}

/// So many bytes, of which so many bits are an exponent.
pub struct Float<const BYTES: usize, const EXPONENT: usize>;
pub type F32 = Float<4, 8>;
pub type Bf16 = Float<2, 8>;
pub type F16 = Float<2, 5>;

impl<const B: usize, const EXPONENT: usize> Element for Float<B, EXPONENT> {
    type Bytes = [u8; B];
    const ZERO: [u8; B] = [0; B];
    #[inline(always)]
    fn numbers(row: &[u8]) -> &[[u8; B]] {
        row.as_chunks().0
    }
}

// ANCHOR: reads
/// How a variant reads W weights of the dtype E.
pub trait Reads<E: Element, const W: usize>: Simd<W> {
    /// Whether a register holds them as they are stored.
    const AS_STORED: bool = false;
    fn read(self, weights: &[E::Bytes; W]) -> Self::Register;
}
// ANCHOR_END: reads

impl Reads<F32, 8> for Avx2 {
    const AS_STORED: bool = true;

    #[inline(always)]
    fn read(self, weights: &[[u8; 4]; 8]) -> __m256 {
        // SAFETY: the token proves that the CPU has AVX2; 8 weights are read, at any address.
        unsafe { _mm256_loadu_ps(weights.as_ptr().cast()) }
    }
}

impl Reads<Bf16, 8> for Avx2 {
    #[inline(always)]
    fn read(self, weights: &[[u8; 2]; 8]) -> __m256 {
        // SAFETY: as above. A bf16 is the upper half of an f32.
        unsafe {
            let bits = _mm_loadu_si128(weights.as_ptr().cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
        }
    }
}

impl Reads<F16, 8> for Avx2 {
    #[inline(always)]
    fn read(self, weights: &[[u8; 2]; 8]) -> __m256 {
        // SAFETY: as above; with AVX2, the token proves F16C.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(weights.as_ptr().cast())) }
    }
}

impl Reads<F32, 16> for Avx512 {
    const AS_STORED: bool = true;

    #[inline(always)]
    fn read(self, weights: &[[u8; 4]; 16]) -> __m512 {
        // SAFETY: the token proves that the CPU has AVX-512; 16 weights are read, at any address.
        unsafe { _mm512_loadu_ps(weights.as_ptr().cast()) }
    }
}

impl Reads<Bf16, 16> for Avx512 {
    #[inline(always)]
    fn read(self, weights: &[[u8; 2]; 16]) -> __m512 {
        // SAFETY: as above. A bf16 is the upper half of an f32.
        unsafe {
            let bits = _mm256_loadu_si256(weights.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
        }
    }
}

impl Reads<F16, 16> for Avx512 {
    #[inline(always)]
    fn read(self, weights: &[[u8; 2]; 16]) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(weights.as_ptr().cast())) }
    }
}

impl Reads<Bf16, 32> for Avx512Bf16 {
    const AS_STORED: bool = true;

    #[inline(always)]
    fn read(self, weights: &[[u8; 2]; 32]) -> __m512i {
        // SAFETY: the token proves that the CPU has AVX-512; 32 weights are read, at any address.
        unsafe { _mm512_loadu_si512(weights.as_ptr().cast()) }
    }
}
