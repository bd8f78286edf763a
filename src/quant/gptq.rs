//! GPTQ's layout (AutoGPTQ, GPTQModel): 2, 3, 4 or 8 bits, codes packed along the inputs.
//!
//! ```text
//! qweight  i32 [K·b/32, N]   column n is a stream of b-bit codes q[0], q[1], …
//! qzeros   i32 [G, N·b/32]   the same along n
//! scales   f16 [G, N]        g_idx i32 [K], the group of an input; k / group size without it
//! W[n, k] = (q − z) · scale, z = stored + 1 ("gptq", by an old accident) or stored ("gptq_v2")
//! ```
//! A stored zero of all ones has no agreed meaning: AutoGPTQ means 0, vLLM's kernel computes 2^b, GPTQModel carries into the next field. We
//! take AutoGPTQ's.

use super::fields::{field, float, words};
use super::format::{Format, Numbers};
use crate::tensor::HostTensor;
use std::ops::Range;

/// A GPTQ matrix.
#[derive(Debug)]
pub struct Gptq {
    pub bits: usize,
    pub qweight: HostTensor,
    pub qzeros: HostTensor,
    pub scales: HostTensor,
    pub g_idx: Option<HostTensor>,
    /// Inputs of a group, where there is no `g_idx`.
    pub group_size: usize,
    /// What is added to a stored zero: 1 or 0.
    pub zero_offset: u8,
    /// `g_idx` is not monotone.
    pub act_order: bool,
}

impl Format for Gptq {
    fn shape(&self) -> [usize; 2] {
        [self.qweight.shape[1], self.qweight.shape[0] * 32 / self.bits]
    }

    fn label(&self) -> String {
        let order = if self.act_order { " act-order" } else { "" };
        format!("gptq {}-bit g{}{order}", self.bits, self.group_size)
    }

    fn tensors(&self) -> Vec<&HostTensor> {
        [&self.qweight, &self.qzeros, &self.scales].into_iter().chain(&self.g_idx).collect()
    }

    fn numbers(&self) -> Numbers {
        if self.bits <= 4 { Numbers::Affine4 } else { Numbers::Affine8 }
    }

    fn codes(&self, outputs: Range<usize>, inputs: Range<usize>, codes: &mut [u8]) {
        let (words, n) = (words(&self.qweight), self.qweight.shape[1]);
        let width = inputs.len();
        for (at, input) in inputs.enumerate() {
            for (row, output) in outputs.clone().enumerate() {
                codes[row * width + at] = field(self.bits, input, |word| words[word * n + output]);
            }
        }
    }

    fn groups(&self) -> usize {
        self.scales.shape[0]
    }

    fn group(&self, input: usize) -> usize {
        match &self.g_idx {
            Some(g_idx) => u32::from_le_bytes(words(g_idx)[input]) as usize,
            None => input / self.group_size,
        }
    }

    fn scale(&self, output: usize, group: usize) -> f32 {
        float(&self.scales, group * self.scales.shape[1] + output)
    }

    // ANCHOR: zero
    fn zero(&self, output: usize, group: usize) -> Option<u8> {
        let row = &words(&self.qzeros)[group * self.qzeros.shape[1]..][..self.qzeros.shape[1]];
        let stored = field(self.bits, output, |word| row[word]);
        let mask = (1_u16 << self.bits) - 1;
        Some(((stored as u16 + self.zero_offset as u16) & mask) as u8)
    }
    // ANCHOR_END: zero

    fn zero_offset(&self) -> u8 {
        self.zero_offset
    }
}
