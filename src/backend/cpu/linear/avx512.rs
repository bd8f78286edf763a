//! Multiplications of f32 by AVX-512: 16 at a time.

use super::{
    panels::Panels,
    stored::{Bf16, F16, F32},
    tasks::Task,
    tile::{Reads, Sums},
};
use std::arch::x86_64::*;

/// A task. 32 registers hold 4 × 4 sums and what is multiplied.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub fn task(task: &Task<'_>, panels: &Panels<'_, f32>) {
    super::f32_task::<Avx512, 16, 4, 8, 32>(task, panels);
}

/// 16 sums. All functions here are to be inlined into one that has the features, which only runs where the CPU has them too.
#[derive(Clone, Copy)]
pub struct Avx512(pub(super) __m512);

impl Sums<16> for Avx512 {
    type Number = f32;
    type Register = __m512;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: the CPU has AVX-512, see the type.
        Avx512(unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    fn load(numbers: &[f32; 16]) -> __m512 {
        // SAFETY: as above; 16 numbers are read.
        unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
    }

    #[inline(always)]
    fn store(register: __m512, numbers: &mut [f32; 16]) {
        // SAFETY: as above; 16 numbers are written.
        unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), register) }
    }

    #[inline(always)]
    fn multiply_add(self, x: __m512, w: __m512) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_fmadd_ps(w, x, self.0) })
    }

    #[inline(always)]
    fn finish<const N: usize>(sums: [Self; N]) -> [f32; N] {
        let mut four = [sums[0].0; 4];
        for n in 1..N {
            four[n] = sums[n].0;
        }
        // SAFETY: as above.
        let four = unsafe { sum_four(four) };
        *four.first_chunk().expect("at most 4")
    }
}

/// The lanes of each register added by halves, as `Lanes::sum` does, but four registers at a time.
///
/// # Safety
/// The CPU must have AVX-512.
#[inline(always)]
pub unsafe fn sum_four([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
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
        out
    }
}

impl Reads<F32, 4, 16> for Avx512 {
    const AS_STORED: bool = true;

    #[inline(always)]
    fn read(weights: &[[u8; 4]; 16]) -> __m512 {
        // SAFETY: 16 weights are read, at any address.
        unsafe { _mm512_loadu_ps(weights.as_ptr().cast()) }
    }
}

impl Reads<Bf16, 2, 16> for Avx512 {
    #[inline(always)]
    fn read(weights: &[[u8; 2]; 16]) -> __m512 {
        // SAFETY: 16 weights are read. A bf16 is the upper half of an f32.
        unsafe {
            let bits = _mm256_loadu_si256(weights.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
        }
    }
}

impl Reads<F16, 2, 16> for Avx512 {
    #[inline(always)]
    fn read(weights: &[[u8; 2]; 16]) -> __m512 {
        // SAFETY: 16 weights are read.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(weights.as_ptr().cast())) }
    }
}
