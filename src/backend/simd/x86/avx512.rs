//! Multiplications of f32 by AVX-512: 16 at a time.

use super::{Avx2, F32, Simd};
use std::arch::x86_64::*;

/// The token: this CPU has the instructions.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// Asks the CPU.
    #[inline(always)]
    pub fn new() -> Option<Avx512> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && Avx2::new().is_some();
        has.then_some(Avx512(()))
    }
}

impl Simd<16> for Avx512 {
    type Number = f32;
    type Register = __m512;
    type Sums = __m512;

    #[inline(always)]
    fn zero(self) -> __m512 {
        // SAFETY: the token proves it.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    fn load(self, numbers: &[f32; 16]) -> __m512 {
        // SAFETY: as above; 16 numbers are read.
        unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, register: __m512, numbers: &mut [f32; 16]) {
        // SAFETY: as above; 16 numbers are written.
        unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), register) }
    }

    #[inline(always)]
    fn multiply_add(self, sums: __m512, x: __m512, w: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(w, x, sums) }
    }

    #[inline(always)]
    fn finish<const N: usize>(self, sums: [__m512; N]) -> [f32; N] {
        // SAFETY: as above.
        unsafe { sum_all(sums) }
    }
}

/// The lanes of each of up to four registers, added by halves: all four at a time, in the order in which `Portable` adds its lanes.
///
/// # Safety
/// The CPU must have AVX-512.
#[inline(always)]
pub unsafe fn sum_all<const N: usize>(sums: [__m512; N]) -> [f32; N] {
    let mut four = [sums[0]; 4];
    four[1..N].copy_from_slice(&sums[1..]);
    let [a, b, c, d] = four;
    // SAFETY: the caller has AVX-512.
    unsafe {
        // Halves of two registers, [a | b] of 8 lanes each; of four, [a | b | c | d] of 4; then within these.
        let ab = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
        let cd = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
        let fours = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
        let twos = _mm512_add_ps(fours, _mm512_permute_ps::<0x4e>(fours));
        let sums = _mm512_add_ps(twos, _mm512_permute_ps::<0xb1>(twos));
        let first_of_each = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
        let mut out = [0.0; 4];
        _mm_storeu_ps(out.as_mut_ptr(), _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_each, sums)));
        *out.first_chunk().expect("at most 4")
    }
}

impl F32<16> for Avx512 {
    const FUSED: bool = true;
}
