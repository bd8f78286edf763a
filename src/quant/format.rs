//! What every layout says of itself: codes, and how a code becomes a number.

use super::device::{CodeWords, DeviceCodes, Fp8Blocks};
use super::rows::PackedRows;
use crate::{error::Result, packed::Packed, tensor::HostTensor};
use std::{fmt, ops::Range};

/// How a code becomes a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// code · scale + offset, for codes of 4 bits and less.
    Affine4,
    /// The same for codes of 5 to 8 bits.
    Affine8,
    /// A signed byte · scale.
    Int8,
    /// An e4m3 float · scale.
    Fp8,
    /// The code is an index into a table of 16 numbers; they are scaled by groups.
    Table,
}

impl Numbers {
    /// Bits that [`PackedRows`] gives a code.
    pub fn bits(self) -> usize {
        match self {
            Numbers::Affine4 | Numbers::Table => 4,
            Numbers::Affine8 | Numbers::Int8 | Numbers::Fp8 => 8,
        }
    }
}

/// A matrix [outputs, inputs] of codes. The inputs are in groups, and each output has a scale for every group.
pub trait Format: Send + Sync + fmt::Debug + 'static {
    /// Outputs and inputs.
    fn shape(&self) -> [usize; 2];
    /// For people, such as `gptq 4-bit g128`.
    fn label(&self) -> String;
    /// The tensors that it is made of.
    fn tensors(&self) -> Vec<&HostTensor>;
    /// How its codes become numbers.
    fn numbers(&self) -> Numbers;
    /// Codes of some outputs and inputs, [outputs.len(), inputs.len()]. Tensors are read in the order of their addresses where that can be.
    fn codes(&self, outputs: Range<usize>, inputs: Range<usize>, codes: &mut [u8]);
    /// Groups of inputs.
    fn groups(&self) -> usize;
    /// The group of an input.
    fn group(&self, input: usize) -> usize;
    /// The scale of an output's group.
    fn scale(&self, output: usize, group: usize) -> f32;

    /// The zero point of an output's group, for the affine kinds; `None` if it is no whole number.
    fn zero(&self, _output: usize, _group: usize) -> Option<u8> {
        None
    }

    /// What is added after scaling: −zero point · scale.
    fn offset(&self, output: usize, group: usize) -> f32 {
        self.zero(output, group).map_or(0.0, |zero| -(zero as f32 * self.scale(output, group)))
    }

    /// What a reader of the file adds to its zero points.
    fn zero_offset(&self) -> u8 {
        0
    }

    /// Outputs and inputs that share a scale, where outputs do.
    fn block(&self) -> Option<[usize; 2]> {
        None
    }

    /// What [`Numbers::Table`] looks up.
    fn table(&self, _output: usize) -> [f32; 16] {
        [0.0; 16]
    }

    /// Adds numbers that are stored beside the codes: calls `add(input, number)`.
    fn sparse(&self, _output: usize, _add: &mut dyn FnMut(usize, f32)) {}

    /// Whether [`sparse`](Format::sparse) adds any.
    fn is_sparse(&self) -> bool {
        false
    }

    /// The tensor that has one byte a code, an output's codes side by side: it can be used where it is mapped.
    fn bytes(&self) -> Option<&HostTensor> {
        None
    }
}

/// A format as a packed matrix.
#[derive(Debug)]
pub struct Coded<F>(pub F);

impl<F: Format> Packed for Coded<F> {
    fn shape(&self) -> [usize; 2] {
        self.0.shape()
    }

    fn label(&self) -> String {
        self.0.label()
    }

    fn tensors(&self) -> Vec<&HostTensor> {
        self.0.tensors()
    }

    fn in_place(&self) -> bool {
        self.0.bytes().is_some()
    }

    fn row(&self, output: usize, inputs: Range<usize>, numbers: &mut [f32]) {
        let format = &self.0;
        let mut codes = vec![0; inputs.len()];
        format.codes(output..output + 1, inputs.clone(), &mut codes);
        let table = format.table(output);
        let mut last = None;
        for ((number, code), input) in numbers.iter_mut().zip(codes).zip(inputs.clone()) {
            let group = format.group(input);
            let (_, scale, offset) = match last {
                Some((of, scale, offset)) if of == group => (of, scale, offset),
                _ => *last.insert((group, format.scale(output, group), format.offset(output, group))),
            };
            *number = match format.numbers() {
                Numbers::Affine4 | Numbers::Affine8 => (code as f32).mul_add(scale, offset),
                Numbers::Int8 => code as i8 as f32 * scale,
                Numbers::Fp8 => e4m3(code) * scale,
                Numbers::Table => table[code as usize] * scale,
            };
        }
        format.sparse(output, &mut |input, number| {
            if inputs.contains(&input) {
                numbers[input - inputs.start] += number;
            }
        });
    }

    fn rows(&self, outputs: Range<usize>, inputs: Range<usize>) -> Result<Option<PackedRows>> {
        // Scales of fp8 are kept 2^120 times as large (see PackedRows): no f32 holds those of 256 and more then.
        let too_large = |output| (0..self.0.groups()).any(|group| self.0.scale(output, group).abs() >= 256.0);
        if self.0.numbers() == Numbers::Fp8 && outputs.clone().any(too_large) {
            return Ok(None);
        }
        PackedRows::new(&self.0, outputs, inputs).map(Some)
    }

    fn device_codes(&self, outputs: Range<usize>, inputs: Range<usize>) -> Result<Option<DeviceCodes>> {
        let (format, part) = (&self.0, (outputs.clone(), inputs.clone()));
        let words = CodeWords::new(format, outputs.clone(), inputs.clone()).map(DeviceCodes::Words);
        let codes = words.or_else(|| Fp8Blocks::new(format, part.0, part.1).map(DeviceCodes::Fp8));
        match codes {
            Some(codes) => {
                format.tensors().iter().for_each(|tensor| tensor.data.release());
                Ok(Some(codes))
            }
            None => Ok(self.rows(outputs, inputs)?.map(DeviceCodes::Rows)),
        }
    }
}

// ANCHOR: e4m3
/// An e4m3 float ("fn": no infinity, 0x7f and 0xff are NaN, the largest is 448). OCP 8-bit Floating Point Specification, 2023.
#[inline(always)]
pub fn e4m3(code: u8) -> f32 {
    // Its exponent and fraction at the places of f32's, then 2^120 for the difference of the biases, which makes subnormals right too.
    let magnitude = f32::from_bits((code as u32 & 0x7f) << 20) * f32::from_bits((127 + 120) << 23);
    let magnitude = if code & 0x7f == 0x7f { f32::NAN } else { magnitude };
    f32::from_bits(magnitude.to_bits() | (code as u32 & 0x80) << 24)
}
// ANCHOR_END: e4m3

#[cfg(test)]
mod tests {
    use super::e4m3;

    #[test]
    fn e4m3_is_that_of_the_crate_float8() {
        for code in 0..=u8::MAX {
            let (got, want) = (e4m3(code), float8::F8E4M3::from_bits(code).to_f32());
            assert!(got == want || got.is_nan() && want.is_nan(), "{code:#x}: {got} for {want}");
        }
    }
}
