//! Wrong answers to the second exercise of chapter 1.

use stairwell::backend::cpu::Kernels;

/// The paper's pairs, neighbours, on weights that Hugging Face permuted for halves.
pub struct Interleaved;

impl Kernels for Interleaved {
    fn rotate_half(&self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        for i in 0..cos.len() {
            let (a, b) = (head[2 * i], head[2 * i + 1]);
            head[2 * i] = a * cos[i] - b * sin[i];
            head[2 * i + 1] = b * cos[i] + a * sin[i];
        }
    }
}

/// The second half is computed from a first half that is already turned.
pub struct OverwritesTheFirstHalf;

impl Kernels for OverwritesTheFirstHalf {
    fn rotate_half(&self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        let half = cos.len();
        for i in 0..half {
            head[i] = head[i] * cos[i] - head[i + half] * sin[i];
            head[i + half] = head[i + half] * cos[i] + head[i] * sin[i];
        }
    }
}

/// By minus the angle: a score then sees a key that lies behind as if it lay ahead.
pub struct TurnedBackwards;

impl Kernels for TurnedBackwards {
    fn rotate_half(&self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        let half = cos.len();
        for i in 0..half {
            let (a, b) = (head[i], head[i + half]);
            head[i] = a * cos[i] + b * sin[i];
            head[i + half] = b * cos[i] - a * sin[i];
        }
    }
}
