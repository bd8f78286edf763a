//! AVX2 and AVX-512: `maddubs` multiplies bytes without a sign by bytes with one and adds two products in 16 bits; `madd` adds two such sums.
//!
//! Two products of 128 · 127 fit into 16 bits, so a code may be a byte with a sign if its absolute value is multiplied, and the sign given to x.

use super::integers::{CHUNK, Integers};
use crate::backend::simd::{Avx2, Avx512, Simd, prefetch};
use std::arch::x86_64::*;

impl Integers<8> for Avx2 {
    type Codes = [__m256i; 2];
    type Products = [__m256i; 2];
    type Sums = [__m256; 2];

    #[inline(always)]
    fn zero(self) -> [__m256; 2] {
        [Simd::zero(self); 2]
    }

    #[inline(always)]
    fn halves(self, bytes: &[u8; 32]) -> [__m256i; 2] {
        // SAFETY: the token proves that the CPU has AVX2; 32 bytes are read.
        unsafe {
            let (bytes, mask) = (_mm256_loadu_si256(bytes.as_ptr().cast()), _mm256_set1_epi8(15));
            [_mm256_and_si256(bytes, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask)]
        }
    }

    #[inline(always)]
    fn halves_of_two(self, first: &[u8; 16], second: &[u8; 16]) -> [__m256i; 2] {
        // SAFETY: the token proves it; 16 bytes of each are read.
        unsafe { [halves_of_16(first), halves_of_16(second)] }
    }

    #[inline(always)]
    fn bytes(self, first: &[u8; 32], second: &[u8; 32]) -> [__m256i; 2] {
        // SAFETY: as above; 32 bytes of each are read.
        unsafe { [_mm256_loadu_si256(first.as_ptr().cast()), _mm256_loadu_si256(second.as_ptr().cast())] }
    }

    #[inline(always)]
    fn centred(self, [a, b]: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the token proves it.
        unsafe {
            let sign = _mm256_set1_epi8(-128);
            [_mm256_xor_si256(a, sign), _mm256_xor_si256(b, sign)]
        }
    }

    #[inline(always)]
    fn six_bits(self, low: &[u8; 64], high: &[u8; 32], upper: bool) -> [__m256i; 2] {
        // SAFETY: the token proves it; 64 and 32 bytes are read.
        unsafe {
            let [first, second] = two_bits(high, upper);
            let low =
                [_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(low[32..].as_ptr().cast())];
            let code = |low: __m256i, high: __m256i| {
                let low = if upper { _mm256_srli_epi16::<4>(low) } else { low };
                let code = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(15)), high);
                _mm256_sub_epi8(code, _mm256_set1_epi8(32))
            };
            [code(low[0], first), code(low[1], second)]
        }
    }

    #[inline(always)]
    fn unsigned(self, [a, b]: [__m256i; 2], x: &[i8; CHUNK]) -> [__m256i; 2] {
        // SAFETY: the token proves it; both halves of x are read.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let [first, second] = halves_of_x(x);
            [
                _mm256_madd_epi16(_mm256_maddubs_epi16(a, first), ones),
                _mm256_madd_epi16(_mm256_maddubs_epi16(b, second), ones),
            ]
        }
    }

    #[inline(always)]
    fn signed(self, [a, b]: [__m256i; 2], x: &[i8; CHUNK]) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let [first, second] = halves_of_x(x);
            let two = |codes: __m256i, x: __m256i| {
                _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes))
            };
            [_mm256_madd_epi16(two(a, first), ones), _mm256_madd_epi16(two(b, second), ones)]
        }
    }

    #[inline(always)]
    fn words(self, [low, high]: [__m256i; 2], x: &[i8; CHUNK]) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let [first, second] = halves_of_x(x);
            // Sums of 16 bits: even ones are of the first block, odd ones of the second.
            let four = _mm256_add_epi16(_mm256_maddubs_epi16(low, first), _mm256_maddubs_epi16(high, second));
            [
                _mm256_madd_epi16(four, _mm256_set1_epi32(1)),
                _mm256_madd_epi16(four, _mm256_set1_epi32(1 << 16)),
            ]
        }
    }

    #[inline(always)]
    fn add(self, [a, b]: [__m256; 2], products: [__m256i; 2], scales: [f32; 2]) -> [__m256; 2] {
        // SAFETY: the token proves it.
        unsafe {
            let [first, second] = [_mm256_set1_ps(scales[0]), _mm256_set1_ps(scales[1])];
            [
                _mm256_add_ps(a, _mm256_mul_ps(_mm256_cvtepi32_ps(products[0]), first)),
                _mm256_add_ps(b, _mm256_mul_ps(_mm256_cvtepi32_ps(products[1]), second)),
            ]
        }
    }

    #[inline(always)]
    fn add_halves(self, [a, b]: [__m256; 2], products: [__m256i; 2], scales: [f32; 4]) -> [__m256; 2] {
        // SAFETY: the token proves it.
        unsafe {
            let [w, x, y, z] = scales;
            let (first, second) = (
                _mm256_set_m128(_mm_set1_ps(x), _mm_set1_ps(w)),
                _mm256_set_m128(_mm_set1_ps(z), _mm_set1_ps(y)),
            );
            [
                _mm256_add_ps(a, _mm256_mul_ps(_mm256_cvtepi32_ps(products[0]), first)),
                _mm256_add_ps(b, _mm256_mul_ps(_mm256_cvtepi32_ps(products[1]), second)),
            ]
        }
    }

    #[inline(always)]
    fn total(self, [a, b]: [__m256; 2]) -> f32 {
        // SAFETY: the token proves it.
        let [total] = self.finish([unsafe { _mm256_add_ps(a, b) }]);
        total
    }

    #[inline(always)]
    fn half(self, bits: [u8; 2]) -> f32 {
        // SAFETY: with AVX2, the token proves F16C.
        unsafe { half(bits) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        prefetch(at, 0..1);
    }
}

impl Integers<16> for Avx512 {
    type Codes = __m512i;
    type Products = __m512i;
    type Sums = __m512;

    #[inline(always)]
    fn zero(self) -> __m512 {
        Simd::zero(self)
    }

    #[inline(always)]
    fn halves(self, bytes: &[u8; 32]) -> __m512i {
        // SAFETY: the token proves that the CPU has AVX-512; 32 bytes are read.
        unsafe {
            let bytes = _mm256_loadu_si256(bytes.as_ptr().cast());
            _mm512_and_si512(joined([bytes, _mm256_srli_epi16::<4>(bytes)]), _mm512_set1_epi8(15))
        }
    }

    #[inline(always)]
    fn halves_of_two(self, first: &[u8; 16], second: &[u8; 16]) -> __m512i {
        // SAFETY: as above; 16 bytes of each are read.
        unsafe { joined([halves_of_16(first), halves_of_16(second)]) }
    }

    #[inline(always)]
    fn bytes(self, first: &[u8; 32], second: &[u8; 32]) -> __m512i {
        // SAFETY: as above; 32 bytes of each are read.
        unsafe { joined([first, second].map(|bytes| _mm256_loadu_si256(bytes.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn centred(self, codes: __m512i) -> __m512i {
        // SAFETY: the token proves it.
        unsafe { _mm512_xor_si512(codes, _mm512_set1_epi8(-128)) }
    }

    #[inline(always)]
    fn six_bits(self, low: &[u8; 64], high: &[u8; 32], upper: bool) -> __m512i {
        // SAFETY: the token proves it; 64 and 32 bytes are read.
        unsafe {
            let low = _mm512_loadu_si512(low.as_ptr().cast());
            let low = if upper { _mm512_srli_epi16::<4>(low) } else { low };
            let low = _mm512_and_si512(low, _mm512_set1_epi8(15));
            _mm512_sub_epi8(_mm512_or_si512(low, joined(two_bits(high, upper))), _mm512_set1_epi8(32))
        }
    }

    #[inline(always)]
    fn unsigned(self, codes: __m512i, x: &[i8; CHUNK]) -> __m512i {
        // SAFETY: the token proves it; 64 bytes of x are read.
        unsafe {
            let x = _mm512_loadu_si512(x.as_ptr().cast());
            _mm512_madd_epi16(_mm512_maddubs_epi16(codes, x), _mm512_set1_epi16(1))
        }
    }

    #[inline(always)]
    fn signed(self, codes: __m512i, x: &[i8; CHUNK]) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let (x, negative) = (_mm512_loadu_si512(x.as_ptr().cast()), _mm512_movepi8_mask(codes));
            let x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
            _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_abs_epi8(codes), x), _mm512_set1_epi16(1))
        }
    }

    #[inline(always)]
    fn words(self, codes: __m512i, x: &[i8; CHUNK]) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let two = _mm512_maddubs_epi16(codes, _mm512_loadu_si512(x.as_ptr().cast()));
            // Both halves: the sums of the low and the high halves of the codes. The first half keeps the first block's, the second the other's.
            let four = _mm512_add_epi16(two, _mm512_shuffle_i64x2::<0x4e>(two, two));
            let keep = joined([_mm256_set1_epi32(1), _mm256_set1_epi32(1 << 16)]);
            _mm512_madd_epi16(four, keep)
        }
    }

    #[inline(always)]
    fn add(self, sums: __m512, products: __m512i, [a, b]: [f32; 2]) -> __m512 {
        // SAFETY: the token proves it.
        unsafe {
            let scales = _mm512_mask_broadcastss_ps(_mm512_set1_ps(a), 0xff00, _mm_set_ss(b));
            _mm512_add_ps(sums, _mm512_mul_ps(_mm512_cvtepi32_ps(products), scales))
        }
    }

    #[inline(always)]
    fn add_halves(self, sums: __m512, products: __m512i, scales: [f32; 4]) -> __m512 {
        // SAFETY: the token proves it; 4 scales are read.
        unsafe {
            let places = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
            let scales = _mm512_castps128_ps512(_mm_loadu_ps(scales.as_ptr()));
            let scales = _mm512_permutexvar_ps(places, scales);
            _mm512_add_ps(sums, _mm512_mul_ps(_mm512_cvtepi32_ps(products), scales))
        }
    }

    #[inline(always)]
    fn total(self, sums: __m512) -> f32 {
        let [total] = self.finish([sums]);
        total
    }

    #[inline(always)]
    fn half(self, bits: [u8; 2]) -> f32 {
        // SAFETY: a CPU with AVX-512 has F16C.
        unsafe { half(bits) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        prefetch(at, 0..1);
    }
}

/// The halves of a chunk of x.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn halves_of_x(x: &[i8; CHUNK]) -> [__m256i; 2] {
    // SAFETY: by the caller; 64 bytes are read.
    unsafe { [_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x[32..].as_ptr().cast())] }
}

/// The low halves of 16 bytes, then the high ones.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn halves_of_16(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: by the caller; 16 bytes are read.
    unsafe {
        let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
        _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes), _mm256_set1_epi8(15))
    }
}

/// Bits 0 and 1 of 32 bytes, and bits 2 and 3, or bits 4 and 5, and 6 and 7; as bits 4 and 5.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn two_bits(bytes: &[u8; 32], upper: bool) -> [__m256i; 2] {
    // SAFETY: by the caller; 32 bytes are read. What else is shifted into a byte is masked away.
    unsafe {
        let (bytes, mask) = (_mm256_loadu_si256(bytes.as_ptr().cast()), _mm256_set1_epi8(0x30));
        let both = match upper {
            false => [_mm256_slli_epi16::<4>(bytes), _mm256_slli_epi16::<2>(bytes)],
            true => [bytes, _mm256_srli_epi16::<2>(bytes)],
        };
        [_mm256_and_si256(both[0], mask), _mm256_and_si256(both[1], mask)]
    }
}

/// Two registers as one.
///
/// # Safety
/// The CPU must have AVX-512.
#[inline(always)]
unsafe fn joined([low, high]: [__m256i; 2]) -> __m512i {
    // SAFETY: by the caller.
    unsafe { _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high) }
}

/// An f16.
///
/// # Safety
/// The CPU must have F16C.
#[inline(always)]
unsafe fn half(bits: [u8; 2]) -> f32 {
    // SAFETY: by the caller.
    unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(u16::from_le_bytes(bits))))) }
}
