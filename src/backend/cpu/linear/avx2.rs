//! Multiplications of f32 by AVX2 and FMA: 8 at a time.

use super::{
    panels::Panels,
    stored::{Bf16, F16, F32},
    tasks::Task,
    tile::{Reads, Sums},
};
use std::arch::x86_64::*;

/// A task. 16 registers hold 4 × 2 sums and what is multiplied.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn task(task: &Task<'_>, panels: &Panels<'_, f32>) {
    super::f32_task::<Avx2, 8, 2, 4, 128>(task, panels);
}

/// 8 sums. All functions here are to be inlined into one that has the features, which only runs where the CPU has them too.
#[derive(Clone, Copy)]
pub struct Avx2(pub(super) __m256);

impl Sums<8> for Avx2 {
    type Number = f32;
    type Register = __m256;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: the CPU has AVX2, see the type.
        Avx2(unsafe { _mm256_setzero_ps() })
    }

    #[inline(always)]
    fn load(numbers: &[f32; 8]) -> __m256 {
        // SAFETY: as above; 8 numbers are read.
        unsafe { _mm256_loadu_ps(numbers.as_ptr()) }
    }

    #[inline(always)]
    fn store(register: __m256, numbers: &mut [f32; 8]) {
        // SAFETY: as above; 8 numbers are written.
        unsafe { _mm256_storeu_ps(numbers.as_mut_ptr(), register) }
    }

    #[inline(always)]
    fn multiply_add(self, x: __m256, w: __m256) -> Self {
        // SAFETY: the CPU has FMA.
        Avx2(unsafe { _mm256_fmadd_ps(w, x, self.0) })
    }

    #[inline(always)]
    fn finish<const N: usize>(sums: [Self; N]) -> [f32; N] {
        let mut totals = [0.0; N];
        for n in 0..N {
            // SAFETY: the CPU has AVX2.
            totals[n] = unsafe {
                let four =
                    _mm_add_ps(_mm256_castps256_ps128(sums[n].0), _mm256_extractf128_ps::<1>(sums[n].0));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            };
        }
        totals
    }
}

impl Reads<F32, 4, 8> for Avx2 {
    const AS_STORED: bool = true;

    #[inline(always)]
    fn read(weights: &[[u8; 4]; 8]) -> __m256 {
        // SAFETY: 8 weights are read, at any address.
        unsafe { _mm256_loadu_ps(weights.as_ptr().cast()) }
    }
}

impl Reads<Bf16, 2, 8> for Avx2 {
    #[inline(always)]
    fn read(weights: &[[u8; 2]; 8]) -> __m256 {
        // SAFETY: 8 weights are read. A bf16 is the upper half of an f32.
        unsafe {
            let bits = _mm_loadu_si128(weights.as_ptr().cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
        }
    }
}

impl Reads<F16, 2, 8> for Avx2 {
    #[inline(always)]
    fn read(weights: &[[u8; 2]; 8]) -> __m256 {
        // SAFETY: 8 weights are read; the CPU has F16C.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(weights.as_ptr().cast())) }
    }
}
