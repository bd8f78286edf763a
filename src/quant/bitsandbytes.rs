//! bitsandbytes' 4 bits, nf4 and fp4: codes choose from a table of 16, and blocks over the flattened matrix have a scale.
//!
//! ```text
//! weight               U8 [N·K/2, 1]  two codes a byte, the *high* four bits first        weight.quant_map  f32 [16]
//! weight.absmax        f32 [N·K/block], or U8 with a scale of scales:
//!   absmax[i] = nested_quant_map[u8] · nested_absmax[i / nested_blocksize] + nested_offset
//! W.flat[i] = quant_map[code] · absmax[i / block]
//! ```
//! Its int8 is [`Scaled`](super::scaled::Scaled) bytes with `SCB`.

use super::fields::float;
use super::format::{Format, Numbers};
use crate::tensor::HostTensor;
use std::ops::Range;

/// An nf4 or fp4 matrix.
#[derive(Debug)]
pub struct FourBit {
    pub kind: &'static str,
    pub shape: [usize; 2],
    pub weight: HostTensor,
    pub quant_map: HostTensor,
    pub absmax: HostTensor,
    pub nested: Option<Nested>,
    /// Numbers of a block.
    pub block: usize,
}

/// Scales of scales.
#[derive(Debug)]
pub struct Nested {
    pub absmax: HostTensor,
    pub quant_map: HostTensor,
    pub block: usize,
    pub offset: f32,
}

impl FourBit {
    fn absmax(&self, block: usize) -> f32 {
        match &self.nested {
            None => float(&self.absmax, block),
            Some(Nested { absmax, quant_map, block: of, offset }) => {
                float(quant_map, self.absmax.data[block] as usize) * float(absmax, block / of) + offset
            }
        }
    }

    /// Blocks that a row touches. Rows of whole blocks have them all to themselves.
    fn blocks_of_row(&self) -> usize {
        self.shape[1].div_ceil(self.block)
    }
}

impl Format for FourBit {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn label(&self) -> String {
        format!("bitsandbytes {} g{}", self.kind, self.block)
    }

    fn tensors(&self) -> Vec<&HostTensor> {
        let nested = self.nested.iter().flat_map(|nested| [&nested.absmax, &nested.quant_map]);
        [&self.weight, &self.quant_map, &self.absmax].into_iter().chain(nested).collect()
    }

    fn numbers(&self) -> Numbers {
        Numbers::Table
    }

    fn codes(&self, outputs: Range<usize>, inputs: Range<usize>, codes: &mut [u8]) {
        for (output, codes) in outputs.zip(codes.chunks_exact_mut(inputs.len())) {
            for (code, input) in codes.iter_mut().zip(inputs.clone()) {
                let at = output * self.shape[1] + input;
                *code = self.weight.data[at / 2] >> (if at.is_multiple_of(2) { 4 } else { 0 }) & 15;
            }
        }
    }

    fn groups(&self) -> usize {
        self.blocks_of_row()
    }

    fn group(&self, input: usize) -> usize {
        input / self.block
    }

    fn scale(&self, output: usize, group: usize) -> f32 {
        self.absmax(output * self.blocks_of_row() + group)
    }

    fn table(&self, _: usize) -> [f32; 16] {
        std::array::from_fn(|code| float(&self.quant_map, code))
    }
}
