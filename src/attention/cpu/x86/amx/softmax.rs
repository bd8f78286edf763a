//! Softmax of a block of scores, 16 queries in the lanes of a register.

use crate::backend::simd::amx::{DEPTH, Line, SIDE};
use crate::backend::simd::to_bf16;
use std::{arch::x86_64::*, ops::Range};

/// Of each of 16 queries.
#[derive(Clone, Copy)]
pub struct State {
    /// The largest score so far.
    pub max: __m512,
    /// The sum of weights so far.
    pub total: __m512,
    /// How many keys it sees.
    pub seen: __m512i,
}

// ANCHOR: weigh
/// P of a block, e^(s · scale − max), and what sums so far must be multiplied with: e^(old max − new max).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn weigh(
    state: &mut State,
    scores: &[Line],
    columns: usize,
    keys: Range<usize>,
    scale: f32,
    weights: &mut [Line],
) -> __m512 {
    assert!(scores.len() * SIDE >= keys.len() * columns && weights.len() * DEPTH >= keys.len() * columns);
    assert!(columns <= SIDE && keys.len().is_multiple_of(2));
    let lanes = ((1u32 << columns) - 1) as u16;
    let (scores, weights) = (scores.as_ptr().cast::<f32>(), weights.as_mut_ptr().cast::<i32>());
    let score = |key: usize| {
        // SAFETY: a row of S, inside the slice by the first line.
        let row = unsafe { _mm512_maskz_loadu_ps(lanes, scores.add(key * columns)) };
        let visible = _mm512_cmpgt_epi32_mask(state.seen, _mm512_set1_epi32((keys.start + key) as i32));
        _mm512_mask_blend_ps(visible, _mm512_set1_ps(f32::NEG_INFINITY), row)
    };
    let mut max = state.max;
    for key in 0..keys.len() {
        max = _mm512_max_ps(max, score(key));
    }
    let in_powers_of_2 = _mm512_set1_ps(scale * std::f32::consts::LOG2_E);
    let weight = |score: __m512| power_of_2(_mm512_mul_ps(_mm512_sub_ps(score, max), in_powers_of_2));
    let interleave: [u16; DEPTH] = std::array::from_fn(|i| (i / 2 + i % 2 * SIDE) as u16);
    // SAFETY: 32 numbers are read.
    let interleave = unsafe { _mm512_loadu_si512(interleave.as_ptr().cast()) };
    let (mut even, mut odd) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for pair in 0..keys.len() / 2 {
        let (a, b) = (weight(score(2 * pair)), weight(score(2 * pair + 1)));
        let pairs = _mm512_permutexvar_epi16(interleave, to_bf16(a, b));
        // SAFETY: a row of P is written, inside the slice by the first line.
        unsafe { _mm512_mask_storeu_epi32(weights.add(pair * columns), lanes, pairs) }
        // The sum of what values are multiplied with: as f32, a bf16 is the upper half.
        even = _mm512_add_ps(even, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)));
        odd = _mm512_add_ps(odd, _mm512_castsi512_ps(_mm512_andnot_si512(_mm512_set1_epi32(0xffff), pairs)));
    }
    let alpha = weight(state.max);
    state.total = _mm512_fmadd_ps(state.total, alpha, _mm512_add_ps(even, odd));
    state.max = max;
    alpha
}
// ANCHOR_END: weigh

/// 2^x for x ≤ 0: 2^n · 2^r with |r| ≤ 1/2, and the first terms of 2^r's series, within 2e-6.
#[target_feature(enable = "avx512f")]
fn power_of_2(x: __m512) -> __m512 {
    let n = _mm512_roundscale_ps::<0>(x);
    let r = _mm512_sub_ps(_mm512_max_ps(x, _mm512_set1_ps(-200.0)), _mm512_max_ps(n, _mm512_set1_ps(-200.0)));
    let mut p = _mm512_set1_ps(1.333_355_8e-3);
    for c in [9.618_129e-3, 5.550_411e-2, 0.240_226_5, std::f32::consts::LN_2, 1.0] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, n)
}

/// Multiplies each query's numbers.
#[target_feature(enable = "avx512f")]
pub fn rescale(sums: &mut [Line], depth: usize, columns: usize, by: __m512) {
    assert!(columns <= SIDE && sums.len() * SIDE >= depth * columns);
    let (lanes, sums) = (((1u32 << columns) - 1) as u16, sums.as_mut_ptr().cast::<f32>());
    for row in 0..depth {
        // SAFETY: a row of O, inside the slice by the first line.
        unsafe {
            let at = sums.add(row * columns);
            _mm512_mask_storeu_ps(at, lanes, _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, at), by));
        }
    }
}
