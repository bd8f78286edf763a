//! Two loops over vectors that many operations share.

use super::{F32, filled_up};

/// out = a · b. Product i goes to lane i modulo L; at the end the lanes are added by halves.
#[inline(always)]
pub(crate) fn dot<S: F32<L>, const L: usize>(simd: S, a: &[f32], b: &[f32], out: &mut f32) {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<L>(), b.as_chunks::<L>());
    let mut sums = simd.zero();
    for (a, b) in a.iter().zip(b) {
        sums = simd.multiply_add(sums, simd.load(b), simd.load(a));
    }
    if !a_rest.is_empty() {
        sums =
            simd.multiply_add(sums, simd.load(&filled_up(b_rest, 0.0)), simd.load(&filled_up(a_rest, 0.0)));
    }
    [*out] = simd.finish([sums]);
}

/// out += weight · v.
#[inline(always)]
pub(crate) fn add_scaled<S: F32<L>, const L: usize>(simd: S, weight: f32, v: &[f32], out: &mut [f32]) {
    for (out, v) in out.iter_mut().zip(v) {
        *out = simd.multiply_add_one(weight, *v, *out);
    }
}
