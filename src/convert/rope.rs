//! Llama 3's scaling of RoPE in its two spellings: four numbers in config.json, a factor for each frequency in GGUF.
//!
//! Source: `_compute_llama3_parameters` in transformers' `modeling_rope_utils.py`, and `rope_freqs.weight` in llama.cpp's
//! `convert_hf_to_gguf.py`.

use std::f64::consts::TAU;

/// `rope_type` llama3.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3 {
    pub factor: f64,
    pub low_freq_factor: f64,
    pub high_freq_factor: f64,
    pub original_max_position_embeddings: usize,
}

impl Llama3 {
    /// What each of the head_dim / 2 frequencies θ^(−2i/d) is divided by.
    pub fn factors(&self, theta: f64, head_dim: usize) -> Vec<f32> {
        let original = self.original_max_position_embeddings as f64;
        let [low, high] = [self.low_freq_factor, self.high_freq_factor];
        let factor = |i: usize| {
            let wavelength = TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
            match () {
                () if wavelength < original / high => 1.0,
                () if wavelength > original / low => self.factor,
                () => {
                    let smooth = (original / wavelength - low) / (high - low);
                    1.0 / ((1.0 - smooth) / self.factor + smooth)
                }
            }
        };
        (0..head_dim / 2).map(|i| factor(i) as f32).collect()
    }

    /// The four numbers that give these factors, if they are those of a Llama 3: only `factor` differs among its versions.
    pub fn of_factors(factors: &[f32], theta: f64, head_dim: usize) -> Option<Llama3> {
        let factor = factors.iter().copied().fold(1.0f32, f32::max) as f64;
        let llama3 = Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let same = |(a, b): (&f32, f32)| (a - b).abs() <= 1e-5 * b;
        let computed = llama3.factors(theta, head_dim);
        (computed.len() == factors.len() && factors.iter().zip(computed).all(same)).then_some(llama3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_lead_back_to_their_numbers() {
        let llama3 = Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let factors = llama3.factors(500_000.0, 64);
        assert_eq!((factors[0], factors[31]), (1.0, 32.0));
        assert_eq!(Llama3::of_factors(&factors, 500_000.0, 64), Some(llama3));
        assert_eq!(Llama3::of_factors(&factors, 10_000.0, 64), None);
    }
}
