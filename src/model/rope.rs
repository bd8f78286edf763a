//! Rotary position embedding: the frequencies, and how they are scaled for long contexts.
//!
//! A head of width d is d/2 pairs. Pair i at position p is turned by the angle p · f_i, with f_i = θ^(−2i/d), so the dot
//! product of a rotated query and a rotated key depends on how far apart they are and not on where they stand.
//!
//! **Which two elements are a pair** is a convention, and there are two. The paper (Su et al., arXiv:2104.09864) and llama2.c
//! pair neighbours (2i, 2i+1), *interleaved*. Hugging Face pairs element i with element i + d/2, *rotate-half*, and its
//! checkpoints have the rows of q_proj and k_proj permuted to fit. stairwell reads those checkpoints, so it rotates halves;
//! the rotation itself is [`crate::backend::cpu::Kernels::rotate_half`]. Mixing them up gives text that is fine for a few
//! tokens and gibberish after twenty.
//!
//! The scaled variants follow transformers 5.23 (`modeling_rope_utils.py`); powers and divisions are f32, the few scalar
//! logarithms f64, as there.

use crate::config::{ModelConfig, RopeScaling, Yarn};
use std::f64::consts::PI;

/// Frequencies of one model, and a factor on cos and sin.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// f_i in radians per position, [head_dim / 2].
    pub inv_freq: Vec<f32>,
    /// Multiplies cos and sin (yarn); 1 otherwise.
    pub attention_scaling: f32,
}

impl Frequencies {
    /// The frequencies for a model, or `None` if it has learned positions.
    ///
    /// `max_length` is the longest sequence of this run, in tokens. Only `dynamic` asks for it: its base grows with the
    /// length, and a base that moved while a sequence grows would contradict the keys that are already cached. vLLM fixes it
    /// too, at the model's longest context.
    pub fn new(config: &ModelConfig, max_length: usize) -> Option<Frequencies> {
        let (rope, head_dim) = (config.rope.as_ref()?, config.head_dim);
        // ANCHOR: plain
        let plain = |theta: f64| -> Vec<f32> {
            let exponent = |i: usize| (2 * i) as f32 / head_dim as f32;
            (0..head_dim / 2).map(|i| 1.0 / (theta as f32).powf(exponent(i))).collect()
        };
        // ANCHOR_END: plain
        let unscaled = |inv_freq| Frequencies { inv_freq, attention_scaling: 1.0 };
        Some(match &rope.scaling {
            RopeScaling::Default => unscaled(plain(rope.theta)),
            RopeScaling::Linear { factor } => {
                unscaled(plain(rope.theta).iter().map(|f| f / *factor as f32).collect())
            }
            RopeScaling::Dynamic { factor } => {
                let (d, max_position) = (head_dim as f64, config.max_position_embeddings as f64);
                let length = (max_length as f64).max(max_position);
                let stretch = factor * length / max_position - (factor - 1.0);
                unscaled(plain(rope.theta * stretch.powf(d / (d - 2.0))))
            }
            RopeScaling::Yarn(y) => Frequencies {
                inv_freq: yarn(y, &plain(rope.theta), rope.theta, head_dim),
                attention_scaling: y.attention_scaling() as f32,
            },
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let (factor, low, high) = (*factor as f32, *low_freq_factor as f32, *high_freq_factor as f32);
                let original = *original_max_position_embeddings as f32;
                let scale = |f: &f32| llama3(*f, factor, low, high, original);
                unscaled(plain(rope.theta).iter().map(scale).collect())
            }
            RopeScaling::Factors(factors) => {
                unscaled(plain(rope.theta).iter().zip(factors).map(|(f, factor)| f / factor).collect())
            }
        })
    }
}

/// Waves longer than the trained context are slowed by `factor`, short ones kept, those between blended.
fn llama3(f: f32, factor: f32, low: f32, high: f32, original: f32) -> f32 {
    let wavelength = 2.0 * PI as f32 / f;
    if wavelength > original / low {
        f / factor
    } else if wavelength < original / high {
        f
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * f / factor + smooth * f
    }
}

/// YaRN (Peng et al., arXiv:2309.00071): dimensions that turn often within the trained context keep their frequency, those
/// that turn less than once are interpolated, with a linear ramp between.
fn yarn(y: &Yarn, plain: &[f32], theta: f64, head_dim: usize) -> Vec<f32> {
    let d = head_dim as f64;
    // The dimension that makes `turns` full turns over the trained context.
    let dimension = |turns: f64| {
        d * (y.original_max_position_embeddings as f64 / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln())
    };
    let (mut low, mut high) = (dimension(y.beta_fast), dimension(y.beta_slow));
    if y.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(d - 1.0));
    if low == high {
        high += 0.001;
    }
    let ramp = |i: usize| ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
    let blend = |(i, f): (usize, &f32)| f / y.factor as f32 * ramp(i) + f * (1.0 - ramp(i));
    plain.iter().enumerate().map(blend).collect()
}

impl Yarn {
    /// The factor on cos and sin: 0.1 · ln(factor) + 1 unless the config gives it or its parts.
    fn attention_scaling(&self) -> f64 {
        let m = |k: f64| if self.factor <= 1.0 { 1.0 } else { 0.1 * k * self.factor.ln() + 1.0 };
        match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(given), _, _) => given,
            (None, Some(mscale), Some(all)) => m(mscale) / m(all),
            _ => m(1.0),
        }
    }
}
