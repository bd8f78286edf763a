//! AWQ's layouts (AutoAWQ): 4 bits, in three versions.
//!
//! ```text
//! gemm       qweight i32 [K, N/8]   word c has columns 8c …, in the order 0 2 4 6 1 3 5 7;  qzeros i32 [G, N/8] alike;  scales f16 [G, N]
//! gemv       qweight i32 [N, K/8]   in order;  qzeros i32 [N, zw];  scales f16 [N, 8·zw], padded with zeros
//! gemv_fast  qweight i16 [N/4, K]   4 outputs × 64 inputs interleaved;  scales f16 [8·zw, N];  qzeros f16 [8·zw, N] = −zero · scale
//! W[n, k] = (q − z) · scale
//! ```

use super::fields::{field, float, words};
use super::format::{Format, Numbers};
use crate::tensor::HostTensor;
use std::ops::Range;

/// How codes are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AwqVersion {
    Gemm,
    Gemv,
    GemvFast,
}

/// An AWQ matrix.
#[derive(Debug)]
pub struct Awq {
    pub version: AwqVersion,
    pub qweight: HostTensor,
    pub qzeros: HostTensor,
    pub scales: HostTensor,
    /// Inputs of a group.
    pub group_size: usize,
}

/// The field of column 8c + j in word c of the version gemm.
const FIELDS: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Format for Awq {
    fn shape(&self) -> [usize; 2] {
        let [rows, cols] = self.qweight.shape[..] else { unreachable!("checked when it was made") };
        match self.version {
            AwqVersion::Gemm => [cols * 8, rows],
            AwqVersion::Gemv => [rows, cols * 8],
            AwqVersion::GemvFast => [rows * 4, cols],
        }
    }

    fn label(&self) -> String {
        let version = match self.version {
            AwqVersion::Gemm => "gemm",
            AwqVersion::Gemv => "gemv",
            AwqVersion::GemvFast => "gemv_fast",
        };
        format!("awq {version} 4-bit g{}", self.group_size)
    }

    fn tensors(&self) -> Vec<&HostTensor> {
        vec![&self.qweight, &self.qzeros, &self.scales]
    }

    fn numbers(&self) -> Numbers {
        Numbers::Affine4
    }

    fn codes(&self, outputs: Range<usize>, inputs: Range<usize>, codes: &mut [u8]) {
        let (width, stride) = (inputs.len(), self.qweight.shape[1]);
        match self.version {
            AwqVersion::Gemm => {
                let words = words(&self.qweight);
                for (at, input) in inputs.enumerate() {
                    let row = &words[input * stride..][..stride];
                    for (n, output) in outputs.clone().enumerate() {
                        codes[n * width + at] = gemm_field(row, output);
                    }
                }
            }
            AwqVersion::Gemv => {
                let words = words(&self.qweight);
                for (n, output) in outputs.enumerate() {
                    let row = &words[output * stride..][..stride];
                    for (at, input) in inputs.clone().enumerate() {
                        codes[n * width + at] = field(4, input, |word| row[word]);
                    }
                }
            }
            AwqVersion::GemvFast => {
                for (n, output) in outputs.enumerate() {
                    for (at, input) in inputs.clone().enumerate() {
                        let (short, shift) = gemv_fast_place(output, input, stride);
                        let short = u16::from_le_bytes(self.qweight.data.as_chunks().0[short]);
                        codes[n * width + at] = (short >> shift & 15) as u8;
                    }
                }
            }
        }
    }

    fn groups(&self) -> usize {
        self.shape()[1].div_ceil(self.group_size)
    }

    fn group(&self, input: usize) -> usize {
        input / self.group_size
    }

    fn scale(&self, output: usize, group: usize) -> f32 {
        float(&self.scales, self.place(output, group))
    }

    fn zero(&self, output: usize, group: usize) -> Option<u8> {
        let stride = self.qzeros.shape[1];
        match self.version {
            AwqVersion::Gemm => Some(gemm_field(&words(&self.qzeros)[group * stride..][..stride], output)),
            AwqVersion::Gemv => {
                let row = &words(&self.qzeros)[output * stride..][..stride];
                Some(field(4, group, |word| row[word]))
            }
            AwqVersion::GemvFast => {
                // The file has −zero · scale, rounded to f16; the zero point is a whole number, so that the rounding can be undone.
                let zero = (-self.stored_offset(output, group) / self.scale(output, group)).round();
                (0.0..16.0).contains(&zero).then_some(zero as u8)
            }
        }
    }

    fn offset(&self, output: usize, group: usize) -> f32 {
        match self.zero(output, group) {
            Some(zero) => -(zero as f32 * self.scale(output, group)),
            None => self.stored_offset(output, group),
        }
    }
}

impl Awq {
    /// What gemv_fast's `qzeros` has.
    fn stored_offset(&self, output: usize, group: usize) -> f32 {
        float(&self.qzeros, self.place(output, group))
    }

    /// Where the scale of an output's group is.
    fn place(&self, output: usize, group: usize) -> usize {
        let stride = self.scales.shape[1];
        match self.version {
            AwqVersion::Gemm | AwqVersion::GemvFast => group * stride + output,
            AwqVersion::Gemv => output * stride + group,
        }
    }
}

// ANCHOR: gemm_field
/// Column n of a row of words in the order 0 2 4 6 1 3 5 7.
fn gemm_field(row: &[[u8; 4]], n: usize) -> u8 {
    (u32::from_le_bytes(row[n / 8]) >> (4 * FIELDS[n % 8]) & 15) as u8
}
// ANCHOR_END: gemm_field

/// The short of gemv_fast that has a code, and its lowest bit there.
///
/// Four outputs share a row. In each run of 32 inputs, input 8a + 2b + c is first put at 8b + 2a + c (as `[0, 1, 8, 9, 16, 17, 24, 25, 2, …]`),
/// then each 8 of them in the order 0 2 4 6 1 3 5 7; 64 inputs of each of the four outputs follow each other, four codes a short.
fn gemv_fast_place(output: usize, input: usize, stride: usize) -> (usize, usize) {
    let (run, within) = (input / 32 * 32, input % 32);
    let (a, b, c) = (within / 8, within % 8 / 2, within % 2);
    let place = 8 * b + 2 * a + c;
    let eighth = place % 8;
    let place = run + place / 8 * 8 + eighth % 2 * 4 + eighth / 2;
    let nibble = (output % 4) * 64 + place % 64;
    (output / 4 * stride + place / 64 * 64 + nibble / 4, nibble % 4 * 4)
}
