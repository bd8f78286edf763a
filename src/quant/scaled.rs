//! Bytes with scales, an output's side by side: FP8 (e4m3) as vLLM, DeepSeek and compressed-tensors write it, and int8.
//!
//! ```text
//! weight        F8_E4M3 or I8 [N, K]
//! weight_scale  one number · [N, 1] a channel · [⌈N/bn⌉, ⌈K/bk⌉] blocks, the last of which may be ragged ("weight_scale_inv" in
//!               DeepSeek's files, where it is multiplied all the same)
//! SCB           f32 [N]: bitsandbytes' int8, W = q · SCB / 127
//! ```
//! Such bytes are multiplied where the file is mapped.

use super::fields::float;
use super::format::{Format, Numbers};
use crate::tensor::{DType, HostTensor};
use std::ops::Range;

/// A matrix of bytes.
#[derive(Debug)]
pub struct Scaled {
    pub weight: HostTensor,
    pub scales: HostTensor,
    /// Outputs and inputs that share a scale.
    pub block: [usize; 2],
    /// What scales are divided by: 127 for bitsandbytes.
    pub divisor: f32,
}

impl Scaled {
    /// Scales of a row of blocks.
    fn groups_of_block(&self) -> usize {
        self.weight.shape[1].div_ceil(self.block[1])
    }
}

impl Format for Scaled {
    fn shape(&self) -> [usize; 2] {
        [self.weight.shape[0], self.weight.shape[1]]
    }

    fn label(&self) -> String {
        let kind = if self.weight.dtype == DType::I8 { "int8" } else { "fp8" };
        let [outputs, inputs] = self.shape();
        match self.block {
            [1, of] if of >= inputs => format!("{kind} per channel"),
            [of, _] if of >= outputs => format!("{kind} per tensor"),
            [rows, cols] => format!("{kind} blocks of {rows}x{cols}"),
        }
    }

    fn tensors(&self) -> Vec<&HostTensor> {
        vec![&self.weight, &self.scales]
    }

    fn numbers(&self) -> Numbers {
        if self.weight.dtype == DType::I8 { Numbers::Int8 } else { Numbers::Fp8 }
    }

    fn codes(&self, outputs: Range<usize>, inputs: Range<usize>, codes: &mut [u8]) {
        for (output, codes) in outputs.zip(codes.chunks_exact_mut(inputs.len())) {
            let start = output * self.weight.shape[1];
            codes.copy_from_slice(&self.weight.data[start + inputs.start..start + inputs.end]);
        }
    }

    fn groups(&self) -> usize {
        self.groups_of_block()
    }

    fn group(&self, input: usize) -> usize {
        input / self.block[1]
    }

    fn scale(&self, output: usize, group: usize) -> f32 {
        float(&self.scales, output / self.block[0] * self.groups_of_block() + group) / self.divisor
    }

    fn block(&self) -> Option<[usize; 2]> {
        Some(self.block)
    }

    fn bytes(&self) -> Option<&HostTensor> {
        Some(&self.weight)
    }
}
