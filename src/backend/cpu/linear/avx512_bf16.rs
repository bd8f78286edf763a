//! Multiplications of bf16 by AVX-512-BF16: `vdpbf16ps` takes 32 numbers of x and of W and adds their products, two and two, to 16
//! sums in f32. That is twice the multiplications of an f32 instruction. (Intel's manual, volume 2, VDPBF16PS.)

use super::{panels::Panels, stored::Bf16, strips, tasks::Task, tile::Sums};
use std::arch::x86_64::*;

/// A task whose weights are bf16, stored [out, in].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
pub fn task(task: &Task<'_>, panels: &Panels<'_, u16>) {
    strips::task::<DotBf16, Bf16, 2, 32, 4>(task, panels);
}

/// 16 sums. All functions here are to be inlined into one that has the features.
#[derive(Clone, Copy)]
pub struct DotBf16(__m512);

impl Sums<32> for DotBf16 {
    /// The bits of a bf16.
    type Number = u16;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: this type is used where the CPU has AVX-512 only (`Cpu::product`).
        DotBf16(unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    fn multiply_add(self, x: &[u16; 32], w: &[u16; 32]) -> Self {
        // SAFETY: as above, with AVX-512-BF16; 32 numbers of 16 bits are a register, wherever they lie.
        unsafe {
            let [x, w] = [x, w].map(|v| _mm512_loadu_si512(v.as_ptr().cast()));
            DotBf16(_mm512_dpbf16_ps(self.0, std::mem::transmute(w), std::mem::transmute(x)))
        }
    }

    #[inline(always)]
    fn finish<const N: usize>(sums: [Self; N]) -> [f32; N] {
        let at = |n: usize| sums[n.min(N - 1)].0;
        // SAFETY: as above.
        let four = unsafe { sum_four([at(0), at(1), at(2), at(3)]) };
        std::array::from_fn(|n| four[n])
    }
}

/// The lanes of each register added by halves, as `Lanes::sum` does, but four registers at a time.
#[inline(always)]
unsafe fn sum_four([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    // SAFETY: the caller has AVX-512.
    unsafe {
        // Halves of two registers: [a | b] of 8 lanes each, then [a | b | c | d] of 4.
        let halves = |a, b| _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
        let (ab, cd) = (halves(a, b), halves(c, d));
        let quarters = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
        let pairs = _mm512_add_ps(quarters, _mm512_permute_ps::<0x4e>(quarters));
        let sums = _mm512_add_ps(pairs, _mm512_permute_ps::<0xb1>(pairs));
        let first = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
        let mut out = [0.0; 4];
        _mm_storeu_ps(out.as_mut_ptr(), _mm512_castps512_ps128(_mm512_permutexvar_ps(first, sums)));
        out
    }
}
