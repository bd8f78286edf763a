//! K and V as the tiles read them: bf16, and V turned over.

use super::STEPS;
use crate::{
    attention::cpu::vectors::Segment,
    backend::simd::amx::{DEPTH, Line, SIDE, transpose},
};
use std::arch::x86_64::*;

/// K and V of the positions in order.
pub struct Vectors<'a, I> {
    segments: I,
    current: Option<Segment<'a>>,
    /// The next position of the current segment.
    next: usize,
}

impl<'a, I: Iterator<Item = Segment<'a>>> Vectors<'a, I> {
    pub fn new(segments: I) -> Self {
        Vectors { segments, current: None, next: 0 }
    }

    /// The next `count` of them as rows of bf16, and zeros behind these up to `used`.
    #[inline(always)]
    pub fn take(
        &mut self,
        count: usize,
        used: usize,
        head_dim: usize,
        wide: &mut [f32],
        k: &mut [Line],
        v: &mut [Line],
    ) {
        let lines = head_dim.div_ceil(DEPTH); // of a row
        for (i, (k, v)) in k.chunks_exact_mut(2 * lines).zip(v.chunks_exact_mut(lines)).take(used).enumerate()
        {
            if i >= count {
                k.fill(Line::ZERO);
                v.fill(Line::ZERO);
                continue;
            }
            while self.current.is_none_or(|segment| self.next == segment.len) {
                (self.current, self.next) =
                    (Some(self.segments.next().expect("as many positions as keys")), 0);
            }
            let segment = self.current.expect("set above");
            let number = self.next * segment.stride;
            // SAFETY: inlined into a function that has these features.
            unsafe {
                let (first, second) = k.split_at_mut(lines);
                round(segment.k.vector(number, wide), first, Some(second));
                round(segment.v.vector(number, wide), v, None);
            }
            self.next += 1;
        }
    }
}

/// Numbers as bf16, and what they lose by it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn round(numbers: &[f32], lines: &mut [Line], mut lost: Option<&mut [Line]>) {
    for (i, (numbers, line)) in numbers.chunks(DEPTH).zip(lines).enumerate() {
        let mask = u32::MAX >> (DEPTH - numbers.len());
        // SAFETY: the masks let as many numbers be read as there are.
        let (low, high) = unsafe {
            (
                _mm512_maskz_loadu_ps(mask as u16, numbers.as_ptr()),
                _mm512_maskz_loadu_ps((mask >> SIDE) as u16, numbers.as_ptr().wrapping_add(SIDE)),
            )
        };
        store(low, high, line);
        if let Some(lost) = &mut lost {
            let rest = |x: __m512| _mm512_sub_ps(x, _mm512_cvtpbh_ps(_mm512_cvtneps_pbh(x)));
            store(rest(low), rest(high), &mut lost[i]);
        }
    }
}

/// 32 numbers as bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn store(low: __m512, high: __m512, line: &mut Line) {
    // SAFETY: both types are 512 bits; a line is written.
    unsafe {
        let pairs = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
        _mm512_store_si512(line.0.as_mut_ptr().cast(), pairs);
    }
}

/// Vᵀ of the first rows of V, a multiple of 32: pairs of rows side by side, then 16 × 16 pairs turned over.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub fn turn(rows: &[Line], depth: usize, used: usize, turned: &mut [Line]) {
    let numbers = rows.as_ptr().cast::<u16>();
    for step in 0..used / DEPTH {
        for first in (0..depth).step_by(SIDE) {
            let mut pairs = [_mm512_setzero_si512(); SIDE];
            // No closure: it would be compiled without AVX-512.
            for (i, pair) in pairs.iter_mut().enumerate() {
                // SAFETY: 16 numbers of each of two rows.
                let (low, high) = unsafe {
                    let from = numbers.add((step * DEPTH + 2 * i) * depth + first);
                    (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(depth).cast()))
                };
                let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high));
                *pair = _mm512_or_si512(_mm512_cvtepu16_epi32(low), high);
            }
            // SAFETY: this function has AVX-512.
            let columns = unsafe { transpose(pairs) };
            for (line, column) in turned[first * STEPS + step..].iter_mut().step_by(STEPS).zip(columns) {
                // SAFETY: a line is written.
                unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), column) }
            }
        }
    }
}
