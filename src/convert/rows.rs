//! Rows of a matrix as numbers, and numbers as the bytes of a dtype.

use crate::error::{Error, Result};
use crate::packed::Matrix;
use crate::tensor::{DType, HostTensor, convert_to_f32};
use half::{bf16, f16};
use rayon::prelude::*;
use std::{io, io::Write, ops::Range};

/// Numbers that are converted at a time.
const PIECE: usize = 1 << 20;

/// A tensor to write.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// The parameter that it is.
    pub parameter: String,
    /// Its name in the file.
    pub name: String,
    pub dtype: DType,
    /// As it is written, outermost first.
    pub shape: Vec<usize>,
    /// Half of a head, where rows are written in RoPE's pairs.
    pub half: Option<usize>,
    /// The model stores it [in, out], which a packed matrix is not.
    pub transposed: bool,
}

impl Tensor {
    /// Its size in the file.
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes_of(self.shape.iter().product()).unwrap_or(0) as u64
    }

    fn cols(&self) -> usize {
        if self.shape.len() < 2 { 1 } else { self.shape[1..].iter().product() }
    }

    /// The matrix's row that is written at place `row`: rows 2i and 2i + 1 of a head are its rows i and i + half.
    fn row(&self, row: usize) -> usize {
        match self.half {
            None => row,
            Some(half) => row - row % (2 * half) + row % 2 * half + row % (2 * half) / 2,
        }
    }

    /// Writes the numbers of a matrix. `progress` is told the bytes of each piece.
    pub fn write(&self, matrix: &Matrix, out: &mut dyn Write, progress: &dyn Fn(u64)) -> Result<(), Wrong> {
        if self.transposed && matches!(matrix, Matrix::Packed(_)) {
            return self.write_transposed(matrix, out, progress);
        }
        let (rows, cols) = (self.shape[0], self.cols());
        let step = (PIECE / cols).max(1);
        let (mut numbers, mut bytes) = (Vec::new(), Vec::new());
        for start in (0..rows).step_by(step) {
            let range = start..rows.min(start + step);
            match matrix {
                // The same bytes: nothing is rounded.
                Matrix::Dense(tensor) if tensor.dtype == self.dtype && self.half.is_none() => {
                    let piece = part(tensor, &range, cols);
                    out.write_all(&piece)?;
                    piece.release();
                    progress(piece.len() as u64);
                    continue;
                }
                _ => numbers.resize(range.len() * cols, 0.0),
            }
            self.read(matrix, &range, &mut numbers);
            encode(self.dtype, &numbers, &mut bytes)?;
            out.write_all(&bytes)?;
            progress(bytes.len() as u64);
            self.release(matrix, &range);
        }
        if let Matrix::Packed(packed) = matrix {
            packed.tensors().iter().for_each(|tensor| tensor.data.release());
        }
        Ok(())
    }

    /// The numbers of the rows that are written at these places.
    fn read(&self, matrix: &Matrix, range: &Range<usize>, numbers: &mut [f32]) {
        let cols = self.cols();
        numbers.par_chunks_mut(cols).enumerate().for_each(|(at, numbers)| {
            let row = self.row(range.start + at);
            match matrix {
                Matrix::Dense(tensor) => {
                    convert_to_f32(tensor.dtype, &part(tensor, &(row..row + 1), cols), numbers);
                }
                Matrix::Packed(packed) => packed.row(row, 0..cols, numbers),
            }
        });
    }

    /// Gives back the pages of what was read, where rows lie one after the other.
    fn release(&self, matrix: &Matrix, range: &Range<usize>) {
        match matrix {
            Matrix::Dense(tensor) if self.half.is_none() => part(tensor, range, self.cols()).release(),
            Matrix::Packed(packed) if packed.in_place() => {
                packed.tensors().iter().for_each(|tensor| tensor.data.release());
            }
            _ => {}
        }
    }

    /// A packed matrix [out, in] as the model's [in, out]: it is widened as a whole.
    fn write_transposed(
        &self,
        matrix: &Matrix,
        out: &mut dyn Write,
        progress: &dyn Fn(u64),
    ) -> Result<(), Wrong> {
        let (inputs, outputs) = (self.shape[0], self.cols());
        let plain = Tensor { shape: vec![outputs, inputs], transposed: false, ..self.clone() };
        let mut numbers = vec![0.0; inputs * outputs];
        plain.read(matrix, &(0..outputs), &mut numbers);
        let (mut row, mut bytes) = (vec![0.0; outputs], Vec::new());
        for input in 0..inputs {
            row.iter_mut().enumerate().for_each(|(output, x)| *x = numbers[output * inputs + input]);
            encode(self.dtype, &row, &mut bytes)?;
            out.write_all(&bytes)?;
            progress(bytes.len() as u64);
        }
        Ok(())
    }
}

/// Why a tensor can't be written.
pub enum Wrong {
    /// A number that the dtype does not hold.
    Number(f32),
    Io(io::Error),
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Wrong {
        Wrong::Io(error)
    }
}

impl Wrong {
    /// The error, with the tensor and the file.
    pub fn of(self, tensor: &Tensor, path: &std::path::Path) -> Error {
        match self {
            Wrong::Io(error) => Error::Io { path: path.into(), error },
            Wrong::Number(number) => Error::Usage(format!(
                "'{}' holds {number}, which {} does not hold; give --dtype bf16 or --dtype f32",
                tensor.parameter, tensor.dtype
            )),
        }
    }
}

/// Some rows' bytes.
fn part(tensor: &HostTensor, rows: &Range<usize>, cols: usize) -> crate::tensor::Bytes {
    let size = cols * tensor.dtype.bytes();
    tensor.data.part(rows.start * size..rows.end * size)
}

/// Numbers as bytes, rounded to nearest.
fn encode(dtype: DType, numbers: &[f32], bytes: &mut Vec<u8>) -> Result<(), Wrong> {
    bytes.clear();
    match dtype {
        DType::F32 => bytes.extend(numbers.iter().flat_map(|x| x.to_le_bytes())),
        DType::BF16 => bytes.extend(numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes())),
        DType::F16 => {
            // A finite number of more than 65504 would become infinite.
            let lost = numbers.iter().find(|x| x.is_finite() && f16::from_f32(**x).is_infinite());
            if let Some(number) = lost {
                return Err(Wrong::Number(*number));
            }
            bytes.extend(numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()));
        }
        _ => numbers.chunks_exact(32).try_for_each(|block| q8_0(block, bytes))?,
    }
    Ok(())
}

/// A block of Q8_0: d = max |x| / 127 as f16, then x / d rounded, as `quantize_row_q8_0_ref` in `ggml-quants.c` does it: by the d that is not
/// rounded yet.
fn q8_0(block: &[f32], bytes: &mut Vec<u8>) -> Result<(), Wrong> {
    let largest = block.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    if let Some(number) =
        block.iter().find(|x| !x.is_finite() || f16::from_f32(largest / 127.0).is_infinite())
    {
        return Err(Wrong::Number(*number));
    }
    let d = largest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    bytes.extend(f16::from_f32(d).to_le_bytes());
    bytes.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_in_pairs_are_those_of_both_halves() {
        let tensor = Tensor {
            parameter: String::new(),
            name: String::new(),
            dtype: DType::F32,
            shape: vec![8, 1],
            half: Some(2),
            transposed: false,
        };
        let rows: Vec<usize> = (0..8).map(|row| tensor.row(row)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn numbers_that_f16_does_not_hold_are_refused() {
        let mut bytes = Vec::new();
        assert!(matches!(encode(DType::F16, &[1.0, 70000.0], &mut bytes), Err(Wrong::Number(70000.0))));
        assert!(encode(DType::F16, &[f32::INFINITY, 65504.0], &mut bytes).is_ok());
        assert!(matches!(encode(DType::Q8_0, &[f32::NAN; 32], &mut bytes), Err(Wrong::Number(_))));
    }

    #[test]
    fn q8_0_is_off_by_half_a_step_at_most() {
        let block: Vec<f32> = (0..32).map(|i| ((i * 13 % 32) as f32 - 11.0) / 7.0).collect();
        let mut bytes = Vec::new();
        assert!(encode(DType::Q8_0, &block, &mut bytes).is_ok());
        let bytes: [u8; 34] = bytes.try_into().unwrap();
        let read = crate::quant::gguf::small::q8_0(&bytes, 0);
        let d = 20.0 / 7.0 / 127.0;
        assert!(read.iter().zip(&block).all(|(got, want)| (got - want).abs() <= 0.51 * d));
    }
}
