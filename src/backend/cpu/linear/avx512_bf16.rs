//! Multiplications of bf16 by AVX-512-BF16: `vdpbf16ps` takes 32 numbers of x and of W and adds their products, two and two, to 16
//! sums in f32: twice the multiplications of an f32 instruction. (Intel's manual, volume 2, VDPBF16PS.)

use super::{
    avx512::sum_four,
    panels::Panels,
    stored::Bf16,
    strips,
    tasks::Task,
    tile::{Reads, Sums},
};
use std::arch::x86_64::*;

/// A task whose weights are bf16, stored [out, in].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
pub fn task(task: &Task<'_>, panels: &Panels<'_, u16>) {
    strips::task::<Avx512Bf16, Bf16, 2, 32, 4, 8, 32>(task, panels);
}

/// 16 sums. All functions here are to be inlined into one that has the features, which only runs where the CPU has them too.
#[derive(Clone, Copy)]
pub struct Avx512Bf16(__m512);

impl Sums<32> for Avx512Bf16 {
    /// The bits of a bf16.
    type Number = u16;
    type Register = __m512i;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: the CPU has AVX-512, see the type.
        Avx512Bf16(unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    fn load(numbers: &[u16; 32]) -> __m512i {
        // SAFETY: as above; 32 numbers are read.
        unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(register: __m512i, numbers: &mut [u16; 32]) {
        // SAFETY: as above; 32 numbers are written.
        unsafe { _mm512_storeu_si512(numbers.as_mut_ptr().cast(), register) }
    }

    #[inline(always)]
    fn multiply_add(self, x: __m512i, w: __m512i) -> Self {
        // SAFETY: the CPU has AVX-512-BF16; both types are 512 bits.
        unsafe {
            let [x, w] = std::mem::transmute::<[__m512i; 2], [__m512bh; 2]>([x, w]);
            Avx512Bf16(_mm512_dpbf16_ps(self.0, w, x))
        }
    }

    #[inline(always)]
    fn finish<const N: usize>(sums: [Self; N]) -> [f32; N] {
        let mut four = [sums[0].0; 4];
        for n in 1..N {
            four[n] = sums[n].0;
        }
        // SAFETY: the CPU has AVX-512.
        let four = unsafe { sum_four(four) };
        *four.first_chunk().expect("at most 4")
    }
}

impl Reads<Bf16, 2, 32> for Avx512Bf16 {
    const AS_STORED: bool = true;

    #[inline(always)]
    fn read(weights: &[[u8; 2]; 32]) -> __m512i {
        // SAFETY: 32 weights are read, at any address.
        unsafe { _mm512_loadu_si512(weights.as_ptr().cast()) }
    }
}
