//! e^x without a call or a branch, so that loops over it become vector instructions. The C library's computes one number at a time.

use super::F32;

/// Larger results are not f32's; smaller ones are taken for zero.
const LARGEST: f32 = 88.376;
const SMALLEST: f32 = -87.336;
/// Adding and taking away 1.5 · 2²³ rounds to an integer, which the lowest bits of the sum hold.
const ROUND: f32 = 12_582_912.0;

/// e^x, within 2 of the last place: 2^n · e^r with |r| ≤ ln 2 / 2, and a polynomial for e^r (Moshier's Cephes library, expf). Below −87.3 it
/// is 0, above 88.3 it stays 2.4e38, and NaN stays.
#[inline(always)]
pub(crate) fn exp<S: F32<L>, const L: usize>(simd: S, x: f32) -> f32 {
    let in_range = x.clamp(SMALLEST, LARGEST);
    let shifted = simd.multiply_add_one(in_range, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, so that r keeps its last bits.
    let r = simd.multiply_add_one(n, -0.693_359_4, in_range);
    let r = simd.multiply_add_one(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.500_000_06] {
        p = simd.multiply_add_one(p, r, c);
    }
    let e_r = simd.multiply_add_one(p, r * r, r) + 1.0;
    let two_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    let result = if x < SMALLEST { 0.0 } else { e_r * two_n };
    if x.is_nan() { x } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::simd::{Isa, dispatch};

    #[inline(always)]
    fn exp_of_all<S: F32<L>, const L: usize>(simd: S, x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = exp(simd, *x));
    }

    #[test]
    fn is_e_to_the_x() {
        for isa in Isa::supported() {
            let xs: Vec<f32> = (-873_000..883_000).map(|i| i as f32 * 1e-4).collect();
            let mut got = xs.clone();
            let x = &mut got[..];
            dispatch!(isa, exp_of_all(x: &mut [f32]));
            for (x, got) in xs.iter().zip(got) {
                let want = f64::from(*x).exp();
                let error = (f64::from(got) - want).abs() / want;
                assert!(error < 2.0 * f64::from(f32::EPSILON), "e^{x}: {got} for {want}");
            }
            let mut special = [0.0, f32::NEG_INFINITY, -88.0, f32::NAN, f32::INFINITY];
            let x = &mut special[..];
            dispatch!(isa, exp_of_all(x: &mut [f32]));
            assert_eq!(special[..3], [1.0, 0.0, 0.0]);
            assert!(special[3].is_nan() && special[4] > 2e38);
        }
    }
}
