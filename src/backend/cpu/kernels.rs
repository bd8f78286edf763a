//! The small operations of the CPU, one row or one head at a time.
//!
//! They are a trait, so that another implementation (a reader's own RMSNorm, say) can run the whole model:
//! `Cpu::with_kernels(Box::new(Mine))`.

use crate::backend::simd::{F32, Isa, dispatch, dot, exp};
use crate::config::Activation;
use std::f32::consts::FRAC_1_SQRT_2;

/// Operations on one row or one head. The default bodies are plain Rust.
pub trait Kernels: Send + Sync {
    // ANCHOR: rms_norm
    /// out = x / √(mean(x²) + ε) · weight; all `[n]`. (Zhang & Sennrich, arXiv:1910.07467.)
    fn rms_norm(&self, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let mean_square = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
        let scale = 1.0 / (mean_square + eps).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * w;
        }
    }
    // ANCHOR_END: rms_norm

    /// out = (x − mean) / √(variance + ε) · weight + bias; all `[n]`. (Ba et al., arXiv:1607.06450.)
    fn layer_norm(&self, out: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], eps: f32) {
        let n = x.len() as f32;
        let mean = x.iter().sum::<f32>() / n;
        let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n;
        let scale = 1.0 / (variance + eps).sqrt();
        for (((out, x), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = (x - mean) * scale * w + b;
        }
    }

    // ANCHOR: rotate_half
    /// Turns the pairs (i, i + d/2) of one head `[d]` by the angles whose cosines and sines are given, [d/2] each.
    fn rotate_half(&self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        let (first, second) = head.split_at_mut(cos.len());
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
    // ANCHOR_END: rotate_half

    // ANCHOR: kv_head
    /// Which head of K and V serves a query head: the `heads / kv_heads` query heads of a group are neighbours.
    fn kv_head(&self, head: usize, heads: usize, kv_heads: usize) -> usize {
        head / (heads / kv_heads)
    }
    // ANCHOR_END: kv_head

    // ANCHOR: silu_mul
    /// gate = silu(gate) · up = gate / (1 + e^−gate) · up; both `[n]`.
    fn silu_mul(&self, gate: &mut [f32], up: &[f32]) {
        for (g, u) in gate.iter_mut().zip(up) {
            *g = *g / (1.0 + (-*g).exp()) * u;
        }
    }
    // ANCHOR_END: silu_mul

    /// The activation of an MLP without a gate; `x` is `[n]`.
    fn activate(&self, x: &mut [f32], activation: Activation) {
        match activation {
            Activation::GeluTanh => self.gelu(x),
            Activation::Gelu => x.iter_mut().for_each(|v| *v *= 0.5 * (1.0 + libm::erff(*v * FRAC_1_SQRT_2))),
            Activation::Silu => x.iter_mut().for_each(|v| *v /= 1.0 + (-*v).exp()),
            Activation::QuickGelu => x.iter_mut().for_each(|v| *v /= 1.0 + (-1.702 * *v).exp()),
            Activation::Tanh => x.iter_mut().for_each(|v| *v = v.tanh()),
            Activation::Relu => x.iter_mut().for_each(|v| *v = v.max(0.0)),
        }
    }

    /// x = GELU(x) ≈ x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))); `[n]`. (Hendrycks & Gimpel, arXiv:1606.08415.)
    fn gelu(&self, x: &mut [f32]) {
        const ROOT_2_OVER_PI: f32 = 0.797_884_6;
        for v in x {
            *v = 0.5 * *v * (1.0 + (ROOT_2_OVER_PI * (*v + 0.044715 * *v * *v * *v)).tanh());
        }
    }
}

/// What stairwell uses: the default bodies, and those that a prompt spends time in for vectors.
pub struct Standard(pub Isa);

impl Default for Standard {
    /// With the best instruction set of this machine.
    fn default() -> Standard {
        Standard(Isa::detect())
    }
}

impl Kernels for Standard {
    fn rms_norm(&self, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        dispatch!(self.0, rms_norm(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32));
    }

    fn silu_mul(&self, gate: &mut [f32], up: &[f32]) {
        dispatch!(self.0, silu_mul(gate: &mut [f32], up: &[f32]));
    }
}

#[inline(always)]
fn rms_norm<S: F32<L>, const L: usize>(simd: S, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let mut squares = 0.0;
    dot(simd, x, x, &mut squares);
    let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * w;
    }
}

#[inline(always)]
fn silu_mul<S: F32<L>, const L: usize>(simd: S, gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(simd, -*g)) * u;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The default bodies, to compare with.
    struct Plain;
    impl Kernels for Plain {}

    /// Values by the formulas of transformers' `activations.py`, in f64.
    #[test]
    fn activations_equal_torch() {
        let x = [-3.0, -0.5, 0.0, 0.25, 2.0];
        for (activation, want) in [
            (Activation::Gelu, [-0.004049694, -0.15426877, 0.0, 0.14967659, 1.9544997]),
            (Activation::Silu, [-0.14227761, -0.18877033, 0.0, 0.14054415, 1.7615942]),
            (Activation::QuickGelu, [-0.01807131, -0.14961156, 0.0, 0.15119965, 1.9356586]),
            (Activation::Tanh, [-0.9950547, -0.46211717, 0.0, 0.24491866, 0.9640276]),
            (Activation::Relu, [0.0, 0.0, 0.0, 0.25, 2.0]),
        ] {
            let mut got = x;
            Plain.activate(&mut got, activation);
            assert!(
                got.iter().zip(want).all(|(g, w): (&f32, f32)| (g - w).abs() < 1e-6),
                "{activation:?} {got:?}"
            );
        }
    }

    #[test]
    fn vectors_do_what_the_plain_bodies_do() {
        let x: Vec<f32> = (0..77).map(|i| (i * 37 % 64) as f32 - 31.5).collect();
        let weight: Vec<f32> = (0..77).map(|i| (i * 11 % 32) as f32 / 16.0).collect();
        for isa in Isa::supported() {
            let (mut got, mut want) = (vec![0.0; 77], vec![0.0; 77]);
            Standard(isa).rms_norm(&mut got, &x, &weight, 1e-6);
            Plain.rms_norm(&mut want, &x, &weight, 1e-6);
            let close = |got: &[f32], want: &[f32]| {
                got.iter().zip(want).all(|(g, w)| (g - w).abs() <= 1e-5 * w.abs().max(1e-3))
            };
            assert!(close(&got, &want), "{got:?} for {want:?}");
            got.copy_from_slice(&x);
            want.copy_from_slice(&x);
            Standard(isa).silu_mul(&mut got, &weight);
            Plain.silu_mul(&mut want, &weight);
            assert!(close(&got, &want), "{got:?} for {want:?}");
        }
    }
}
