//! compressed-tensors' `pack-quantized`: codes of any width up to 8 bits, packed along the inputs.
//!
//! ```text
//! weight_packed      i32 [N, words]      an output's codes q + 2^(b−1), least significant first
//! weight_scale       [N, G]              weight_zero_point  i32 [⌈N·b/32⌉, G]: the same stream along n, of z + 2^(b−1)
//! weight_g_idx       i32 [K], with dynamic act-order
//! W[n, k] = (q − z) · scale
//! ```
//! Where b does not divide 32, older files put ⌊32/b⌋ codes into a word and newer ones let codes straddle words: the width tells which.
//! `int-quantized` and `float-quantized` are [`Scaled`](super::scaled::Scaled) bytes.

use super::fields::{field, float, words};
use super::format::{Format, Numbers};
use crate::tensor::HostTensor;
use std::ops::Range;

/// A pack-quantized matrix.
#[derive(Debug)]
pub struct PackQuantized {
    pub bits: usize,
    pub shape: [usize; 2],
    pub weight_packed: HostTensor,
    pub weight_scale: HostTensor,
    pub weight_zero_point: Option<HostTensor>,
    pub weight_g_idx: Option<HostTensor>,
    pub group_size: usize,
    /// ⌊32/b⌋ codes a word.
    pub whole_words: bool,
}

impl PackQuantized {
    /// Code number `at` of a row of words.
    fn code(&self, at: usize, word: impl Fn(usize) -> [u8; 4]) -> u8 {
        if !self.whole_words {
            return field(self.bits, at, word);
        }
        let in_word = 32 / self.bits;
        (u32::from_le_bytes(word(at / in_word)) >> (at % in_word * self.bits) & ((1 << self.bits) - 1)) as u8
    }
}

impl Format for PackQuantized {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn label(&self) -> String {
        format!("compressed-tensors {}-bit g{}", self.bits, self.group_size)
    }

    fn tensors(&self) -> Vec<&HostTensor> {
        let beside = self.weight_zero_point.iter().chain(&self.weight_g_idx);
        [&self.weight_packed, &self.weight_scale].into_iter().chain(beside).collect()
    }

    fn numbers(&self) -> Numbers {
        if self.bits <= 4 { Numbers::Affine4 } else { Numbers::Affine8 }
    }

    fn codes(&self, outputs: Range<usize>, inputs: Range<usize>, codes: &mut [u8]) {
        let (words, stride) = (words(&self.weight_packed), self.weight_packed.shape[1]);
        for (output, codes) in outputs.zip(codes.chunks_exact_mut(inputs.len())) {
            let row = &words[output * stride..][..stride];
            for (code, input) in codes.iter_mut().zip(inputs.clone()) {
                *code = self.code(input, |word| row[word]);
            }
        }
    }

    fn groups(&self) -> usize {
        self.weight_scale.shape[1]
    }

    fn group(&self, input: usize) -> usize {
        match &self.weight_g_idx {
            Some(g_idx) => u32::from_le_bytes(words(g_idx)[input]) as usize,
            None => input / self.group_size,
        }
    }

    fn scale(&self, output: usize, group: usize) -> f32 {
        float(&self.weight_scale, output * self.weight_scale.shape[1] + group)
    }

    /// Words of four codes of 8 bits are bytes side by side.
    fn bytes(&self) -> Option<&HostTensor> {
        (self.bits == 8 && self.shape[1].is_multiple_of(4)).then_some(&self.weight_packed)
    }

    fn zero(&self, output: usize, group: usize) -> Option<u8> {
        // Stored codes and zero points are both moved by 2^(b−1), so their difference is as it was.
        let half = 1 << (self.bits - 1);
        Some(match &self.weight_zero_point {
            None => half,
            Some(zeros) => {
                let (words, stride) = (words(zeros), zeros.shape[1]);
                self.code(output, |word| words[word * stride + group])
            }
        })
    }
}
