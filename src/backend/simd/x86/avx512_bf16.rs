//! Multiplications of bf16 by AVX-512-BF16: `vdpbf16ps` takes 32 numbers of x and of W and adds their products, two and two, to 16
//! sums in f32: twice the multiplications of an f32 instruction. (Intel's manual, volume 2, VDPBF16PS.)

use super::{Avx512, Simd, avx512::sum_all};
use std::arch::x86_64::*;

/// The token: this CPU has the instructions.
#[derive(Clone, Copy)]
pub struct Avx512Bf16(());

impl Avx512Bf16 {
    /// Asks the CPU.
    #[inline(always)]
    pub fn new() -> Option<Avx512Bf16> {
        let has = Avx512::new().is_some() && is_x86_feature_detected!("avx512bf16");
        has.then_some(Avx512Bf16(()))
    }
}

impl Simd<32> for Avx512Bf16 {
    /// The bits of a bf16.
    type Number = u16;
    type Register = __m512i;
    type Sums = __m512;

    #[inline(always)]
    fn zero(self) -> __m512 {
        // SAFETY: the token proves it.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    fn load(self, numbers: &[u16; 32]) -> __m512i {
        // SAFETY: as above; 32 numbers are read.
        unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, register: __m512i, numbers: &mut [u16; 32]) {
        // SAFETY: as above; 32 numbers are written.
        unsafe { _mm512_storeu_si512(numbers.as_mut_ptr().cast(), register) }
    }

    #[inline(always)]
    fn multiply_add(self, sums: __m512, x: __m512i, w: __m512i) -> __m512 {
        // SAFETY: the CPU has AVX-512-BF16; both types are 512 bits.
        unsafe {
            let [x, w] = std::mem::transmute::<[__m512i; 2], [__m512bh; 2]>([x, w]);
            _mm512_dpbf16_ps(sums, w, x)
        }
    }

    #[inline(always)]
    fn finish<const N: usize>(self, sums: [__m512; N]) -> [f32; N] {
        // SAFETY: as above.
        unsafe { sum_all(sums) }
    }
}

/// 32 numbers as bf16, rounded to the nearest.
///
/// # Safety
/// The CPU must have AVX-512-BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn to_bf16(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both types are 512 bits.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}
