//! Wrong answers to the first exercise of chapter 1. A story may survive them, since ε is small beside most rows; the contract
//! looks at rows where it is not.

use stairwell::backend::cpu::Kernels;

/// x / √(mean(x²)): not a number for a row of zeros.
pub struct WithoutEps;

impl Kernels for WithoutEps {
    fn rms_norm(&self, out: &mut [f32], x: &[f32], weight: &[f32], _eps: f32) {
        let root = mean(x.iter().map(|x| x * x)).sqrt();
        for i in 0..x.len() {
            out[i] = x[i] / root * weight[i];
        }
    }
}

/// √(mean(x²)) + ε: the same for large x, another for small.
pub struct EpsOutsideTheRoot;

impl Kernels for EpsOutsideTheRoot {
    fn rms_norm(&self, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let root = mean(x.iter().map(|x| x * x)).sqrt() + eps;
        for i in 0..x.len() {
            out[i] = x[i] / root * weight[i];
        }
    }
}

/// LayerNorm's habit.
pub struct MeanSubtracted;

impl Kernels for MeanSubtracted {
    fn rms_norm(&self, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let center = mean(x.iter().copied());
        let root = (mean(x.iter().map(|x| (x - center) * (x - center))) + eps).sqrt();
        for i in 0..x.len() {
            out[i] = (x[i] - center) / root * weight[i];
        }
    }
}

fn mean(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let n = values.len() as f32;
    values.sum::<f32>() / n
}
