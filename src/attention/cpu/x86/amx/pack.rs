//! K and V as the tiles read them: bf16, and V turned over.

use super::STEPS;
use crate::backend::simd::amx::{DEPTH, Line, SIDE, transpose};
use crate::backend::simd::to_bf16;
use std::arch::x86_64::*;

/// Numbers as bf16, and what they lose by it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn round(numbers: &[f32], lines: &mut [Line], mut lost: Option<&mut [Line]>) {
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
    // SAFETY: a line is written, which is aligned.
    unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), to_bf16(low, high)) }
}

/// Vᵀ of the first rows of V, a multiple of 32: pairs of rows side by side, then 16 × 16 pairs turned over.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub fn turn(rows: &[Line], depth: usize, used: usize, turned: &mut [Line]) {
    assert!(rows.len() * DEPTH >= used * depth && used.is_multiple_of(DEPTH) && depth.is_multiple_of(SIDE));
    let numbers = rows.as_ptr().cast::<u16>();
    for step in 0..used / DEPTH {
        for first in (0..depth).step_by(SIDE) {
            let mut pairs = [_mm512_setzero_si512(); SIDE];
            // No closure: it would be compiled without AVX-512.
            for (i, pair) in pairs.iter_mut().enumerate() {
                // SAFETY: 16 numbers of each of two rows, inside the slice by the first line.
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
