//! Multiplications of f32 by AVX2 and FMA: 8 at a time.

use super::{F32, Simd};
use std::arch::x86_64::*;

/// The token: this CPU has the instructions.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// Asks the CPU.
    #[inline(always)]
    pub fn new() -> Option<Avx2> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Avx2(()))
    }
}

impl Simd<8> for Avx2 {
    type Number = f32;
    type Register = __m256;
    type Sums = __m256;

    #[inline(always)]
    fn zero(self) -> __m256 {
        // SAFETY: the token proves it.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    fn load(self, numbers: &[f32; 8]) -> __m256 {
        // SAFETY: as above; 8 numbers are read.
        unsafe { _mm256_loadu_ps(numbers.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, register: __m256, numbers: &mut [f32; 8]) {
        // SAFETY: as above; 8 numbers are written.
        unsafe { _mm256_storeu_ps(numbers.as_mut_ptr(), register) }
    }

    #[inline(always)]
    fn multiply_add(self, sums: __m256, x: __m256, w: __m256) -> __m256 {
        // SAFETY: the CPU has FMA.
        unsafe { _mm256_fmadd_ps(w, x, sums) }
    }

    #[inline(always)]
    fn finish<const N: usize>(self, sums: [__m256; N]) -> [f32; N] {
        let mut totals = [0.0; N];
        for n in 0..N {
            // SAFETY: the CPU has AVX2.
            totals[n] = unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(sums[n]), _mm256_extractf128_ps::<1>(sums[n]));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            };
        }
        totals
    }
}

impl F32<8> for Avx2 {
    const FUSED: bool = true;
}
