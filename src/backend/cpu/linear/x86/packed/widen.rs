//! How codes fill registers.

use crate::backend::simd::{Avx2, Avx512, F32};
use std::arch::x86_64::*;

// ANCHOR: widens
/// Registers of L floats from codes. C registers are a block of 32 columns, half a chunk.
///
/// A chunk of codes of 4 bits is 8 words (see `quant/rows.rs`): register j of 8 floats is `(words >> 4 j) & 15`. So one load and a shift, a mask
/// and a conversion for each register make numbers of 32 bytes, and no byte is moved between lanes.
pub trait Widens<const L: usize, const C: usize>: F32<L> {
    /// Codes of 4 bits of a chunk's first or second half, as floats.
    fn nibbles(self, words: &[u8; 32], second: bool) -> [Self::Register; C];
    /// Numbers of a table, by codes of 4 bits.
    fn looked_up(self, words: &[u8; 32], second: bool, table: &[f32; 16]) -> [Self::Register; C];
    /// Bytes without a sign, as floats.
    fn unsigned(self, bytes: &[u8; L]) -> Self::Register;
    /// Bytes with a sign, as floats.
    fn signed(self, bytes: &[u8; L]) -> Self::Register;
    /// e4m3 floats, · 2^−120: that much the biases of the exponents differ.
    fn e4m3(self, bytes: &[u8; L]) -> Self::Register;
    /// The same number in every lane.
    fn all(self, number: f32) -> Self::Register;
    /// a · b.
    fn multiply(self, a: Self::Register, b: Self::Register) -> Self::Register;
}
// ANCHOR_END: widens

impl Widens<8, 4> for Avx2 {
    #[inline(always)]
    fn nibbles(self, words: &[u8; 32], second: bool) -> [__m256; 4] {
        // SAFETY: the token proves that the CPU has AVX2; 32 bytes are read.
        unsafe {
            let (words, mask) = (_mm256_loadu_si256(words.as_ptr().cast()), _mm256_set1_epi32(15));
            let float = |codes: __m256i| _mm256_cvtepi32_ps(_mm256_and_si256(codes, mask));
            let words = if second { _mm256_srli_epi32::<16>(words) } else { words };
            [
                float(words),
                float(_mm256_srli_epi32::<4>(words)),
                float(_mm256_srli_epi32::<8>(words)),
                float(_mm256_srli_epi32::<12>(words)),
            ]
        }
    }

    #[inline(always)]
    fn looked_up(self, words: &[u8; 32], second: bool, table: &[f32; 16]) -> [__m256; 4] {
        // SAFETY: as above; both halves of the table are read.
        unsafe {
            let words = _mm256_loadu_si256(words.as_ptr().cast());
            let (low, high) = (_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table[8..].as_ptr()));
            // The permutation looks at three bits, the blend at the highest: the code's fourth bit is moved there.
            let choose = |codes: __m256i| {
                let fourth = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
                _mm256_blendv_ps(
                    _mm256_permutevar8x32_ps(low, codes),
                    _mm256_permutevar8x32_ps(high, codes),
                    fourth,
                )
            };
            let words = if second { _mm256_srli_epi32::<16>(words) } else { words };
            [
                choose(words),
                choose(_mm256_srli_epi32::<4>(words)),
                choose(_mm256_srli_epi32::<8>(words)),
                choose(_mm256_srli_epi32::<12>(words)),
            ]
        }
    }

    #[inline(always)]
    fn unsigned(self, bytes: &[u8; 8]) -> __m256 {
        // SAFETY: as above; 8 bytes are read.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn signed(self, bytes: &[u8; 8]) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn e4m3(self, bytes: &[u8; 8]) -> __m256 {
        // SAFETY: as above.
        unsafe {
            // The sign and seven bits of exponent and fraction, at the places of f32's.
            let codes = _mm256_slli_epi32::<20>(_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast())));
            _mm256_castsi256_ps(_mm256_and_si256(codes, _mm256_set1_epi32(0x87f0_0000_u32 as i32)))
        }
    }

    #[inline(always)]
    fn all(self, number: f32) -> __m256 {
        // SAFETY: the token proves it.
        unsafe { _mm256_set1_ps(number) }
    }

    #[inline(always)]
    fn multiply(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves it.
        unsafe { _mm256_mul_ps(a, b) }
    }
}

/// Registers of 16 floats hold two of 8: the lower half is shifted by 8 i, the upper half by 8 i + 4.
impl Widens<16, 2> for Avx512 {
    #[inline(always)]
    fn nibbles(self, words: &[u8; 32], second: bool) -> [__m512; 2] {
        let codes = codes_of_16(self, words, second);
        // SAFETY: the token proves that the CPU has AVX-512.
        codes.map(|codes| unsafe { _mm512_cvtepi32_ps(_mm512_and_si512(codes, _mm512_set1_epi32(15))) })
    }

    #[inline(always)]
    fn looked_up(self, words: &[u8; 32], second: bool, table: &[f32; 16]) -> [__m512; 2] {
        let codes = codes_of_16(self, words, second);
        // SAFETY: as above. The permutation looks at four bits.
        codes.map(|codes| unsafe { _mm512_permutexvar_ps(codes, _mm512_loadu_ps(table.as_ptr())) })
    }

    #[inline(always)]
    fn unsigned(self, bytes: &[u8; 16]) -> __m512 {
        // SAFETY: as above; 16 bytes are read.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn signed(self, bytes: &[u8; 16]) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn e4m3(self, bytes: &[u8; 16]) -> __m512 {
        // SAFETY: as above; as in 8 lanes.
        unsafe {
            let codes = _mm512_slli_epi32::<20>(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast())));
            _mm512_castsi512_ps(_mm512_and_si512(codes, _mm512_set1_epi32(0x87f0_0000_u32 as i32)))
        }
    }

    #[inline(always)]
    fn all(self, number: f32) -> __m512 {
        // SAFETY: the token proves it.
        unsafe { _mm512_set1_ps(number) }
    }

    #[inline(always)]
    fn multiply(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves it.
        unsafe { _mm512_mul_ps(a, b) }
    }
}

/// The words of a chunk, shifted so that the lowest 4 bits of lane l of register i are the code of column 16 i + l of a half.
#[inline(always)]
fn codes_of_16(_: Avx512, words: &[u8; 32], second: bool) -> [__m512i; 2] {
    // SAFETY: the token proves that the CPU has AVX-512; 32 bytes are read.
    unsafe {
        let words = _mm512_broadcast_i64x4(_mm256_loadu_si256(words.as_ptr().cast()));
        let shift = |first: i32| {
            let (low, high) = (_mm256_set1_epi32(first), _mm256_set1_epi32(first + 4));
            _mm512_srlv_epi32(words, _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high))
        };
        if second { [shift(16), shift(24)] } else { [shift(0), shift(8)] }
    }
}
