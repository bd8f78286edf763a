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
    /// code · scale + offset of the same codes.
    #[inline(always)]
    fn affine(self, words: &[u8; 32], second: bool, scale: f32, offset: f32) -> [Self::Register; C] {
        let (scale, offset, mut numbers) = (self.all(scale), self.all(offset), self.nibbles(words, second));
        for i in 0..C {
            numbers[i] = self.multiply_add(offset, numbers[i], scale);
        }
        numbers
    }
    /// Numbers of a table, by codes of 4 bits.
    fn looked_up(self, words: &[u8; 32], second: bool, table: &[f32; 16]) -> [Self::Register; C];
    /// Bytes without a sign, as floats.
    fn unsigned(self, bytes: &[u8; L]) -> Self::Register;
    /// Bytes with a sign, as floats.
    fn signed(self, bytes: &[u8; L]) -> Self::Register;
    /// e4m3 floats, · 2^−120: that much the biases of the exponents differ.
    fn e4m3(self, bytes: &[u8; L]) -> Self::Register;
    /// 32 codes of 4 bits: the low halves of 16 bytes, then the high ones.
    fn low_then_high(self, bytes: &[u8; 16]) -> [Self::Register; C];
    /// The low or the high halves of 32 bytes.
    fn halves(self, bytes: &[u8; 32], high: bool) -> [Self::Register; C];
    /// code − 32 of 32 codes of 6 bits: four in the low or high halves of bytes, and two in a quarter of others.
    fn six_bits(
        self,
        low: &[u8; 32],
        high_half: bool,
        high: &[u8; 32],
        quarter: usize,
    ) -> [Self::Register; C];
    /// An f16.
    fn half(self, bits: [u8; 2]) -> f32;
    /// The same number in every lane.
    fn all(self, number: f32) -> Self::Register;
    /// a · b.
    fn multiply(self, a: Self::Register, b: Self::Register) -> Self::Register;
}
// ANCHOR_END: widens

impl Widens<8, 4> for Avx2 {
    // ANCHOR: nibbles_avx2
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
    // ANCHOR_END: nibbles_avx2

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
    fn low_then_high(self, bytes: &[u8; 16]) -> [__m256; 4] {
        // SAFETY: as above; 16 bytes are read.
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let low = _mm_and_si128(bytes, _mm_set1_epi8(15));
            let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), _mm_set1_epi8(15));
            floats_of_32(_mm256_set_m128i(high, low))
        }
    }

    #[inline(always)]
    fn halves(self, bytes: &[u8; 32], high: bool) -> [__m256; 4] {
        // SAFETY: as above; 32 bytes are read.
        unsafe {
            let bytes = _mm256_loadu_si256(bytes.as_ptr().cast());
            let bytes = if high { _mm256_srli_epi16::<4>(bytes) } else { bytes };
            floats_of_32(_mm256_and_si256(bytes, _mm256_set1_epi8(15)))
        }
    }

    #[inline(always)]
    fn six_bits(self, low: &[u8; 32], high_half: bool, high: &[u8; 32], quarter: usize) -> [__m256; 4] {
        // SAFETY: the token proves that the CPU has AVX2.
        unsafe { floats_of_32(six_bits(low, high_half, high, quarter)) }
    }

    #[inline(always)]
    fn half(self, bits: [u8; 2]) -> f32 {
        // SAFETY: with AVX2, the token proves F16C.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(u16::from_le_bytes(bits) as i32))) }
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

    /// The 16 numbers that a code can mean are one register, from which a permutation takes them: two instructions for a mask, a
    /// conversion, and a product.
    #[inline(always)]
    fn affine(self, words: &[u8; 32], second: bool, scale: f32, offset: f32) -> [__m512; 2] {
        let codes = codes_of_16(self, words, second);
        // SAFETY: the token proves that the CPU has AVX-512. The permutation looks at four bits.
        unsafe {
            let all = _mm512_loadu_ps(CODES.as_ptr());
            let table = _mm512_fmadd_ps(all, _mm512_set1_ps(scale), _mm512_set1_ps(offset));
            codes.map(|codes| _mm512_permutexvar_ps(codes, table))
        }
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
    fn low_then_high(self, bytes: &[u8; 16]) -> [__m512; 2] {
        // SAFETY: as above; 16 bytes are read.
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let low = _mm_and_si128(bytes, _mm_set1_epi8(15));
            let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), _mm_set1_epi8(15));
            [_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(low)), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(high))]
        }
    }

    #[inline(always)]
    fn halves(self, bytes: &[u8; 32], high: bool) -> [__m512; 2] {
        // SAFETY: as above; 32 bytes are read.
        unsafe {
            let bytes = _mm256_loadu_si256(bytes.as_ptr().cast());
            let bytes = if high { _mm256_srli_epi16::<4>(bytes) } else { bytes };
            wide_floats_of_32(_mm256_and_si256(bytes, _mm256_set1_epi8(15)))
        }
    }

    #[inline(always)]
    fn six_bits(self, low: &[u8; 32], high_half: bool, high: &[u8; 32], quarter: usize) -> [__m512; 2] {
        // SAFETY: the token proves that the CPU has AVX-512, and so AVX2.
        unsafe { wide_floats_of_32(six_bits(low, high_half, high, quarter)) }
    }

    #[inline(always)]
    fn half(self, bits: [u8; 2]) -> f32 {
        // SAFETY: a CPU with AVX-512 has F16C.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(u16::from_le_bytes(bits) as i32))) }
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

/// Every code of 4 bits.
const CODES: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

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

/// 32 bytes with a sign, as floats.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn floats_of_32(bytes: __m256i) -> [__m256; 4] {
    // SAFETY: by the caller.
    unsafe {
        let (first, second) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
        let float = |eight: __m128i| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
        [
            float(first),
            float(_mm_unpackhi_epi64(first, first)),
            float(second),
            float(_mm_unpackhi_epi64(second, second)),
        ]
    }
}

/// The same in registers of 16.
///
/// # Safety
/// The CPU must have AVX-512.
#[inline(always)]
unsafe fn wide_floats_of_32(bytes: __m256i) -> [__m512; 2] {
    // SAFETY: by the caller.
    unsafe {
        let float = |sixteen: __m128i| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sixteen));
        [float(_mm256_castsi256_si128(bytes)), float(_mm256_extracti128_si256::<1>(bytes))]
    }
}

/// code − 32 of 32 codes of 6 bits, as bytes with a sign.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn six_bits(low: &[u8; 32], high_half: bool, high: &[u8; 32], quarter: usize) -> __m256i {
    // SAFETY: by the caller; 32 bytes of each are read.
    unsafe {
        let (low, high) = (_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast()));
        let low = if high_half { _mm256_srli_epi16::<4>(low) } else { low };
        // Bits 2 q and 2 q + 1 come to bits 4 and 5; what else is shifted into a byte is masked away.
        let high = match quarter {
            0 => _mm256_slli_epi16::<4>(high),
            1 => _mm256_slli_epi16::<2>(high),
            2 => high,
            _ => _mm256_srli_epi16::<2>(high),
        };
        let low = _mm256_and_si256(low, _mm256_set1_epi8(0x0f));
        let high = _mm256_and_si256(high, _mm256_set1_epi8(0x30));
        _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32))
    }
}
