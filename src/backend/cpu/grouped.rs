//! A group of query heads over K and V that are kept: the arithmetic of every CPU attention with a cache.
//!
//! The query heads of a group share one head of K and V, so they are computed together and each vector of K and V is read
//! once. Each number is computed exactly as [`attend_head`](super::attention::attend_head) does: keys in the order of their
//! positions, one by one. So a token's bits depend neither on the batch, nor on how its sequence was cut into forward passes,
//! nor on how K and V are cut into segments.

use super::{
    attention::{add_scaled, dot, softmax},
    isa::{Isa, Shape, dispatch},
};
use half::{bf16, f16, slice::HalfFloatSliceExt};

/// Vectors of K or V as they are kept, one after the other.
#[derive(Clone, Copy)]
pub enum Kept<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
    /// Codes of e4m3, and for each vector what they are multiplied with.
    Fp8 {
        codes: &'a [u8],
        scales: &'a [f32],
    },
}

/// K and V of one head at neighbouring positions.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    pub k: Kept<'a>,
    pub v: Kept<'a>,
    /// Vectors from one position to the next: those of the other heads lie between.
    pub stride: usize,
    /// Positions.
    pub len: usize,
}

/// Working space of [`attend_group`].
#[derive(Default)]
pub struct Scratch {
    /// [group, keys]
    scores: Vec<f32>,
    /// One vector of K or V, widened.
    wide: Vec<f32>,
}

// ANCHOR: attend_group
/// out = softmax(q kᵀ · scale) v for the query heads that share these keys; q and out: [group, head_dim].
/// `segments` gives the `keys` positions in order; it is walked twice, once for K and once for V.
#[allow(clippy::too_many_arguments)]
pub fn attend_group<'a>(
    isa: Isa,
    q: &[f32],
    head_dim: usize,
    segments: impl Iterator<Item = Segment<'a>> + Clone,
    keys: usize,
    scale: f32,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let Scratch { scores, wide } = scratch;
    scores.resize(q.len() / head_dim * keys, 0.0);
    wide.resize(head_dim, 0.0);
    let mut at = 0;
    for segment in segments.clone() {
        let (scores, wide) = (&mut scores[at..], &mut wide[..]);
        dispatch!(isa, score(q: &[f32], segment: Segment<'_>, keys: usize, scale: f32, wide: &mut [f32], scores: &mut [f32]));
        at += segment.len;
    }
    assert_eq!(at, keys, "positions of the segments");
    scores.chunks_exact_mut(keys).for_each(softmax);
    out.fill(0.0);
    at = 0;
    for segment in segments {
        let (weights, wide, out) = (&scores[at..], &mut wide[..], &mut *out);
        dispatch!(isa, add_weighted(weights: &[f32], segment: Segment<'_>, keys: usize, wide: &mut [f32], out: &mut [f32]));
        at += segment.len;
    }
}
// ANCHOR_END: attend_group

// ANCHOR: score
/// scores[g, i] = q_g · k_i · scale for the keys of a segment; `scores` has `keys` columns.
#[inline(always)]
fn score<S: Shape, const L: usize>(
    q: &[f32],
    segment: Segment<'_>,
    keys: usize,
    scale: f32,
    wide: &mut [f32],
    scores: &mut [f32],
) {
    let d = wide.len();
    for i in 0..segment.len {
        let k = segment.k.vector(i * segment.stride, wide);
        for (g, q) in q.chunks_exact(d).enumerate() {
            let score = &mut scores[g * keys + i];
            dot::<S, L>(q, k, score);
            *score *= scale;
        }
    }
}
// ANCHOR_END: score

/// out_g += Σ weights[g, i] · v_i over a segment; `weights` has `keys` columns.
#[inline(always)]
fn add_weighted<S: Shape, const L: usize>(
    weights: &[f32],
    segment: Segment<'_>,
    keys: usize,
    wide: &mut [f32],
    out: &mut [f32],
) {
    let d = wide.len();
    for i in 0..segment.len {
        let v = segment.v.vector(i * segment.stride, wide);
        for (g, out) in out.chunks_exact_mut(d).enumerate() {
            add_scaled::<S, L>(weights[g * keys + i], v, out);
        }
    }
}

impl Kept<'_> {
    /// A vector by its number, as f32: in place, or widened into `wide`, whose length it has.
    #[inline(always)]
    fn vector<'a>(&'a self, number: usize, wide: &'a mut [f32]) -> &'a [f32] {
        let start = number * wide.len();
        match self {
            Kept::F32(kept) => &kept[start..][..wide.len()],
            Kept::Bf16(kept) => {
                for (wide, kept) in wide.iter_mut().zip(&kept[start..]) {
                    *wide = f32::from_bits(u32::from(kept.to_bits()) << 16);
                }
                wide
            }
            Kept::F16(kept) => {
                kept[start..][..wide.len()].convert_to_f32_slice(wide);
                wide
            }
            Kept::Fp8 { codes, scales } => {
                let scale = scales[number];
                for (wide, code) in wide.iter_mut().zip(&codes[start..]) {
                    *wide = E4M3[*code as usize] * scale;
                }
                wide
            }
        }
    }
}

/// The numbers that the codes of e4m3 stand for: a sign, four bits of exponent with bias 7, three of mantissa; no infinity, and
/// all ones is NaN (Micikevicius et al., arXiv:2209.05433, table 1).
static E4M3: [f32; 256] = {
    let (mut table, mut code) = ([0.0; 256], 0);
    while code < 256 {
        let (exponent, mantissa) = (code as u32 >> 3 & 15, code as u32 & 7);
        // Below the smallest exponent there is no leading one. Powers of two by their bits: const fn has no powi.
        table[code] = match () {
            () if exponent == 15 && mantissa == 7 => f32::NAN,
            () if exponent == 0 => mantissa as f32 / 8.0 * f32::from_bits(121 << 23),
            () => (1.0 + mantissa as f32 / 8.0) * f32::from_bits((exponent + 120) << 23),
        };
        if code >= 128 {
            table[code] = -table[code];
        }
        code += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Values in −2..2 that bf16 and f16 hold exactly.
    fn value(i: usize) -> f32 {
        ((i * 37 % 64) as f32 - 31.0) / 16.0
    }

    /// A prompt of n rows needs memory for the scores of one row, not for n · n: chapter 6 says so.
    #[test]
    fn scores_of_one_row_are_all_that_is_kept() {
        let (d, group, rows) = (8, 2, 500);
        let [q, k] = [group * d, rows * d].map(|n| (0..n).map(value).collect::<Vec<f32>>());
        let (mut scratch, mut out) = (Scratch::default(), vec![0.0; group * d]);
        for keys in 1..=rows {
            let segment = Segment { k: Kept::F32(&k), v: Kept::F32(&k), stride: 1, len: keys };
            attend_group(Isa::Portable, &q, d, [segment].into_iter(), keys, 1.0, &mut scratch, &mut out);
        }
        assert_eq!((scratch.scores.len(), scratch.wide.len()), (group * rows, d));
        assert!(scratch.scores.capacity() <= 2 * group * rows);
    }

    /// Two query heads over 7 keys of 19 numbers, those of another head between them, in one segment and in three.
    #[test]
    fn every_isa_dtype_and_cut_agrees_with_f64() {
        let (d, n, stride, scale) = (19, 7, 2, 0.25);
        let step = d * stride;
        let q: Vec<f32> = (0..2 * d).map(value).collect();
        let k: Vec<f32> = (0..n * step).map(|i| value(i + 5)).collect();
        let v: Vec<f32> = (0..n * step).map(|i| value(3 * i + 1)).collect();
        let bf16s = |x: &[f32]| x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>();
        let f16s = |x: &[f32]| x.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>();
        let (k16, v16, kf16, vf16) = (bf16s(&k), bf16s(&v), f16s(&k), f16s(&v));

        let score = |g: usize, t: usize| -> f64 {
            (0..d).map(|i| q[g * d + i] as f64 * k[t * step + i] as f64).sum::<f64>() * scale as f64
        };
        let want = |g: usize, i: usize| -> f64 {
            let sum: f64 = (0..n).map(|t| score(g, t).exp()).sum();
            (0..n).map(|t| score(g, t).exp() / sum * v[t * step + i] as f64).sum()
        };
        for isa in Isa::supported() {
            let cut = |cuts: &[usize], kept: &str| {
                let segments = cuts.windows(2).map(|c| {
                    let (at, len) = (c[0] * step, c[1] - c[0]);
                    let (k, v) = match kept {
                        "bf16" => (Kept::Bf16(&k16[at..]), Kept::Bf16(&v16[at..])),
                        "f16" => (Kept::F16(&kf16[at..]), Kept::F16(&vf16[at..])),
                        _ => (Kept::F32(&k[at..]), Kept::F32(&v[at..])),
                    };
                    Segment { k, v, stride, len }
                });
                let mut out = vec![f32::NAN; 2 * d];
                attend_group(isa, &q, d, segments, n, scale, &mut Scratch::default(), &mut out);
                out
            };
            let whole = cut(&[0, n], "f32");
            for (i, got) in whole.iter().enumerate() {
                let want = want(i / d, i % d);
                assert!((*got as f64 - want).abs() < 1e-5, "{isa:?}: {got} for {want}");
            }
            for (cuts, kept) in
                [(&[0, 1, 4, n][..], "f32"), (&[0, n], "bf16"), (&[0, 3, n], "bf16"), (&[0, 3, n], "f16")]
            {
                assert_eq!(cut(cuts, kept), whole, "{isa:?}: cut at {cuts:?}, {kept}");
            }
        }
    }

    /// The table against the library that rounds to e4m3.
    #[test]
    fn codes_of_e4m3_are_the_numbers_that_they_stand_for() {
        for code in 0..=255u8 {
            let (got, want) = (E4M3[code as usize], float8::F8E4M3::from_bits(code).to_f32());
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{code}: {got} for {want}"
            );
        }
        let codes: Vec<u8> = (0..12).map(|i| i * 17 % 120).collect();
        let kept = Kept::Fp8 { codes: &codes, scales: &[9.0, 2.0, 0.5] };
        let mut wide = [0.0; 4];
        for (number, scale) in [(0, 9.0), (1, 2.0), (2, 0.5)] {
            let want = codes[number * 4..][..4].iter().map(|code| E4M3[*code as usize] * scale);
            assert!(kept.vector(number, &mut wide).iter().copied().eq(want), "vector {number}");
        }
    }
}
