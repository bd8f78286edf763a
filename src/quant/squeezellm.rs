//! SqueezeLLM's layout: 3 or 4 bits that choose from a table, which every output has of its own; outliers stand beside the codes.
//!
//! ```text
//! qweight       i32 [K·b/32, N]  GPTQ's stream        lookup_table  f32 [N, 2^b]      W[n, k] = lookup_table[n][q]
//! rows, cols, vals               CSR by output: added to W       full_rows f32 [K, T], full_row_indices i32 [T]: whole outputs, added too
//! ```

use super::fields::{field, float, words};
use super::format::{Format, Numbers};
use crate::tensor::HostTensor;
use std::ops::Range;

/// A SqueezeLLM matrix.
#[derive(Debug)]
pub struct SqueezeLlm {
    pub bits: usize,
    pub qweight: HostTensor,
    pub lookup_table: HostTensor,
    /// rows, cols, vals.
    pub csr: Option<[HostTensor; 3]>,
    /// full_rows, full_row_indices.
    pub full: Option<[HostTensor; 2]>,
}

impl Format for SqueezeLlm {
    fn shape(&self) -> [usize; 2] {
        [self.qweight.shape[1], self.qweight.shape[0] * 32 / self.bits]
    }

    fn label(&self) -> String {
        format!("squeezellm {}-bit", self.bits)
    }

    fn tensors(&self) -> Vec<&HostTensor> {
        let beside = self.csr.iter().flatten().chain(self.full.iter().flatten());
        [&self.qweight, &self.lookup_table].into_iter().chain(beside).collect()
    }

    fn numbers(&self) -> Numbers {
        Numbers::Table
    }

    fn codes(&self, outputs: Range<usize>, inputs: Range<usize>, codes: &mut [u8]) {
        let (words, n, width) = (words(&self.qweight), self.qweight.shape[1], inputs.len());
        for (at, input) in inputs.enumerate() {
            for (row, output) in outputs.clone().enumerate() {
                codes[row * width + at] = field(self.bits, input, |word| words[word * n + output]);
            }
        }
    }

    fn groups(&self) -> usize {
        1
    }

    fn group(&self, _: usize) -> usize {
        0
    }

    fn scale(&self, _: usize, _: usize) -> f32 {
        1.0
    }

    fn table(&self, output: usize) -> [f32; 16] {
        let size = 1 << self.bits;
        std::array::from_fn(|code| match code < size {
            true => float(&self.lookup_table, output * size + code),
            false => 0.0,
        })
    }

    fn sparse(&self, output: usize, add: &mut dyn FnMut(usize, f32)) {
        if let Some([rows, cols, vals]) = &self.csr {
            let row = |at: usize| i32::from_le_bytes(words(rows)[at]) as usize;
            for at in row(output)..row(output + 1) {
                add(i32::from_le_bytes(words(cols)[at]) as usize, float(vals, at));
            }
        }
        if let Some([full_rows, indices]) = &self.full {
            let top = indices.shape[0];
            for at in (0..top).filter(|at| i32::from_le_bytes(words(indices)[*at]) as usize == output) {
                (0..full_rows.shape[0]).for_each(|input| add(input, float(full_rows, input * top + at)));
            }
        }
    }

    fn is_sparse(&self) -> bool {
        self.csr.is_some() || self.full.is_some()
    }
}
