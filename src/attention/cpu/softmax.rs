//! Scores to weights.

use crate::backend::simd::{F32, Isa, dispatch, exp};

/// e^(x · scale − max) / Σ e^(x · scale − max), in place. Subtracting the largest keeps e^x from overflowing.
pub fn softmax(isa: Isa, scale: f32, x: &mut [f32]) {
    dispatch!(isa, softmax_lanes(scale: f32, x: &mut [f32]));
}

#[inline(always)]
fn softmax_lanes<S: F32<L>, const L: usize>(simd: S, scale: f32, x: &mut [f32]) {
    // Side by side: one after the other, each maximum and each sum would wait for the last.
    let (lanes, rest) = x.as_chunks_mut::<L>();
    let mut max = [f32::NEG_INFINITY; L];
    for lane in &*lanes {
        max = std::array::from_fn(|l| if lane[l] > max[l] { lane[l] } else { max[l] });
    }
    let max = scale * max.iter().chain(&*rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0; L];
    for lane in lanes {
        for l in 0..L {
            lane[l] = exp(simd, lane[l] * scale - max);
            sums[l] += lane[l];
        }
    }
    rest.iter_mut().for_each(|x| *x = exp(simd, *x * scale - max));
    let one = 1.0 / sums.iter().chain(&*rest).sum::<f32>();
    x.iter_mut().for_each(|x| *x *= one);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_survives_large_scores() {
        let e = (-1.0f32).exp();
        for isa in Isa::supported() {
            let mut x = [500.0, 499.5, -500.0];
            softmax(isa, 2.0, &mut x);
            for (got, want) in x.iter().zip([1.0 / (1.0 + e), e / (1.0 + e), 0.0]) {
                assert!((got - want).abs() < 1e-6, "{x:?}");
            }
        }
    }
}
