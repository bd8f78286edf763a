//! How codes fill registers.

use crate::backend::simd::{Avx2, Avx512, F32};
use std::arch::x86_64::*;

// ANCHOR: widens
/// Registers of L floats from codes. C registers are a chunk of 64 columns.
///
/// A chunk of codes of 4 bits is 8 words (see `quant/rows.rs`): register j of 8 floats is `(words >> 4 j) & 15`. So one load and a shift, a mask
/// and a conversion for each register make numbers of 32 bytes, and no byte is moved between lanes.
pub trait Widens<const L: usize, const C: usize>: F32<L> {
    /// Codes of 4 bits, as floats.
    fn nibbles(self, words: &[u8; 32]) -> [Self::Register; C];
    /// Numbers of a table, by codes of 4 bits.
    fn looked_up(self, words: &[u8; 32], table: &[f32; 16]) -> [Self::Register; C];
    /// Bytes without a sign, as floats.
    fn unsigned(self, bytes: &[u8; L]) -> Self::Register;
    /// Bytes with a sign, as floats.
    fn signed(self, bytes: &[u8; L]) -> Self::Register;
    /// e4m3 floats.
    fn e4m3(self, bytes: &[u8; L]) -> Self::Register;
    /// The same number in every lane.
    fn all(self, number: f32) -> Self::Register;
    /// a · b.
    fn multiply(self, a: Self::Register, b: Self::Register) -> Self::Register;
}
// ANCHOR_END: widens

impl Widens<8, 8> for Avx2 {
    #[inline(always)]
    fn nibbles(self, words: &[u8; 32]) -> [__m256; 8] {
        // SAFETY: the token proves that the CPU has AVX2; 32 bytes are read.
        unsafe {
            let (words, mask) = (_mm256_loadu_si256(words.as_ptr().cast()), _mm256_set1_epi32(15));
            let float = |codes: __m256i| _mm256_cvtepi32_ps(_mm256_and_si256(codes, mask));
            [
                float(words),
                float(_mm256_srli_epi32::<4>(words)),
                float(_mm256_srli_epi32::<8>(words)),
                float(_mm256_srli_epi32::<12>(words)),
                float(_mm256_srli_epi32::<16>(words)),
                float(_mm256_srli_epi32::<20>(words)),
                float(_mm256_srli_epi32::<24>(words)),
                float(_mm256_srli_epi32::<28>(words)),
            ]
        }
    }

    #[inline(always)]
    fn looked_up(self, words: &[u8; 32], table: &[f32; 16]) -> [__m256; 8] {
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
            [
                choose(words),
                choose(_mm256_srli_epi32::<4>(words)),
                choose(_mm256_srli_epi32::<8>(words)),
                choose(_mm256_srli_epi32::<12>(words)),
                choose(_mm256_srli_epi32::<16>(words)),
                choose(_mm256_srli_epi32::<20>(words)),
                choose(_mm256_srli_epi32::<24>(words)),
                choose(_mm256_srli_epi32::<28>(words)),
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
        // SAFETY: as above; with AVX2, the token proves F16C.
        unsafe {
            // Exponent and fraction at the places of an f16's, whose bias is 8 more; f16 has a conversion that takes subnormals as they are.
            let codes = _mm_cvtepu8_epi16(_mm_loadl_epi64(bytes.as_ptr().cast()));
            let magnitude = _mm_slli_epi16::<7>(_mm_and_si128(codes, _mm_set1_epi16(0x7f)));
            // A NaN is 0x7f, and f16's NaNs have all bits of the exponent set.
            let nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f << 7));
            let sign = _mm_slli_epi16::<8>(_mm_and_si128(codes, _mm_set1_epi16(0x80)));
            let half =
                _mm_or_si128(_mm_or_si128(magnitude, sign), _mm_and_si128(nan, _mm_set1_epi16(0x7e00)));
            _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0))
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
impl Widens<16, 4> for Avx512 {
    #[inline(always)]
    fn nibbles(self, words: &[u8; 32]) -> [__m512; 4] {
        let codes = codes_of_16(self, words);
        // SAFETY: the token proves that the CPU has AVX-512.
        codes.map(|codes| unsafe { _mm512_cvtepi32_ps(_mm512_and_si512(codes, _mm512_set1_epi32(15))) })
    }

    #[inline(always)]
    fn looked_up(self, words: &[u8; 32], table: &[f32; 16]) -> [__m512; 4] {
        let codes = codes_of_16(self, words);
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
            let codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(bytes.as_ptr().cast()));
            let magnitude = _mm256_slli_epi16::<7>(_mm256_and_si256(codes, _mm256_set1_epi16(0x7f)));
            let nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f << 7));
            let sign = _mm256_slli_epi16::<8>(_mm256_and_si256(codes, _mm256_set1_epi16(0x80)));
            let nan = _mm256_and_si256(nan, _mm256_set1_epi16(0x7e00));
            let half = _mm256_or_si256(_mm256_or_si256(magnitude, sign), nan);
            _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0))
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

/// The words of a chunk, shifted so that the lowest 4 bits of lane l of register i are the code of column 16 i + l.
#[inline(always)]
fn codes_of_16(_: Avx512, words: &[u8; 32]) -> [__m512i; 4] {
    // SAFETY: the token proves that the CPU has AVX-512; 32 bytes are read.
    unsafe {
        let words = _mm512_broadcast_i64x4(_mm256_loadu_si256(words.as_ptr().cast()));
        let shift = |low: i32| {
            let high = low + 4;
            let by = _mm512_setr_epi32(
                low, low, low, low, low, low, low, low, high, high, high, high, high, high, high, high,
            );
            _mm512_srlv_epi32(words, by)
        };
        [shift(0), shift(8), shift(16), shift(24)]
    }
}
