//! Parameters in device memory, in the dtype of the checkpoint, or packed as it has them.

use super::device::{Address, Device};
use super::memory::Buffer;
use super::quant_matmul::PackedPart;
use crate::backend::{PartShape, Slice};
use crate::error::Result;
use crate::packed::Matrix;
use crate::tensor::{DType, HostTensor, convert_to_f32};
use rayon::prelude::*;
use std::{borrow::Cow, sync::Arc};

/// A parameter: a buffer for each of its parts, or, for a vector, all parts widened to f32.
pub struct CudaWeight {
    parts: Vec<(PartShape, Option<Part>)>,
    /// The parts of a vector (inputs = 1), one after the other, f32.
    vector: Option<Buffer>,
    /// Its rows are looked up, so that it has to be dense.
    is_table: bool,
}

/// A matrix.
pub(super) enum Part {
    Dense(DensePart),
    /// Codes and scales. (Step 9.)
    Packed(PackedPart),
}

/// A matrix of numbers.
pub(super) struct DensePart {
    pub shape: PartShape,
    pub buffer: Buffer,
    pub dtype: DType,
    /// [inputs, outputs] instead of [outputs, inputs].
    pub transposed: bool,
}

impl Part {
    pub fn shape(&self) -> PartShape {
        match self {
            Part::Dense(part) => part.shape,
            Part::Packed(part) => part.shape(),
        }
    }
}

/// Where the outputs of a part go: columns of an activation [rows, cols], from `first` on.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub y: Address,
    pub rows: usize,
    pub cols: usize,
    pub first: usize,
}

impl CudaWeight {
    /// Parts that are not loaded yet.
    pub fn new(parts: &[PartShape]) -> CudaWeight {
        CudaWeight { parts: parts.iter().map(|p| (*p, None)).collect(), vector: None, is_table: false }
    }

    /// A table whose rows are looked up.
    pub fn table(shape: PartShape) -> CudaWeight {
        CudaWeight { is_table: true, ..CudaWeight::new(&[shape]) }
    }

    /// Copies one part to the device, or replaces it. `dtype`: in which a dense matrix is kept there; `None` for as it is stored. A packed matrix
    /// stays packed, if there is a kernel for its format.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn load(
        &mut self,
        device: &Arc<dyn Device>,
        part: usize,
        slice: &Slice<Matrix>,
        dtype: Option<DType>,
    ) -> Result<()> {
        if let Some(packed) = self.packed(device, part, slice, dtype)? {
            self.parts[part].1 = Some(Part::Packed(packed));
            return Ok(());
        }
        let slice = &dense(slice);
        let (rows, cols) = (slice.rows.len(), slice.cols.len());
        let shape = if slice.transposed { (cols, rows) } else { (rows, cols) };
        let expected = self.parts[part].0;
        assert_eq!(shape, (expected.outputs, expected.inputs), "{:?}", slice.tensor);
        let (stored, stored_dtype) = (bytes_of(slice), slice.tensor.dtype);
        if expected.inputs == 1 {
            let mut wide = vec![0.0; rows];
            convert_to_f32(stored_dtype, &stored, &mut wide);
            let start: usize = self.parts[..part].iter().map(|(shape, _)| shape.outputs).sum();
            let total = self.outputs();
            let vector = match &mut self.vector {
                Some(vector) => vector,
                none => none.insert(Buffer::new(device, 4 * total)?),
            };
            return device.upload(vector.address.offset(4 * start), bytemuck::cast_slice(&wide));
        }
        let dtype = dtype.unwrap_or(stored_dtype);
        let bytes = if dtype == stored_dtype { stored } else { convert(stored_dtype, &stored, dtype).into() };
        let transposed = slice.transposed;
        let buffer = Buffer::of(device, &bytes)?;
        self.parts[part].1 = Some(Part::Dense(DensePart { shape: expected, buffer, dtype, transposed }));
        Ok(())
    }

    /// A part that stays packed.
    fn packed(
        &self,
        device: &Arc<dyn Device>,
        part: usize,
        slice: &Slice<Matrix>,
        dtype: Option<DType>,
    ) -> Result<Option<PackedPart>> {
        let (Matrix::Packed(packed), false) = (&slice.tensor, self.is_table) else { return Ok(None) };
        let dtype = dtype.unwrap_or(DType::F32);
        let loaded = PackedPart::load(device, &**packed, slice.rows.clone(), slice.cols.clone(), dtype)?;
        assert!(loaded.as_ref().is_none_or(|loaded| loaded.shape() == self.parts[part].0), "{packed:?}");
        Ok(loaded)
    }

    /// Whether it is a matrix, and not a vector.
    pub fn is_matrix(&self) -> bool {
        self.parts.iter().any(|(shape, _)| shape.inputs > 1)
    }

    /// Outputs over all parts.
    pub fn outputs(&self) -> usize {
        self.parts.iter().map(|(shape, _)| shape.outputs).sum()
    }

    /// A matrix's parts.
    ///
    /// # Panics
    /// If one was never loaded.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().map(|(shape, part)| match part {
            Some(part) => part,
            None => panic!("{shape:?} was never loaded"),
        })
    }

    /// A vector's numbers, f32.
    ///
    /// # Panics
    /// If it is not a vector, or was never loaded.
    pub fn vector(&self) -> Address {
        self.vector.as_ref().expect("a vector that is loaded").address
    }
}

/// A slice of numbers. Those of a packed matrix that no kernel knows are computed: f32, since 16 bits would round them.
fn dense(slice: &Slice<Matrix>) -> Slice {
    let Slice { tensor, rows, cols, transposed } = slice.clone();
    let packed = match tensor {
        Matrix::Dense(tensor) => return Slice { tensor, rows, cols, transposed },
        Matrix::Packed(packed) => packed,
    };
    let (outputs, inputs) = (rows.len(), cols.len());
    let mut numbers = vec![0.0; outputs * inputs];
    numbers
        .par_chunks_mut(inputs)
        .zip(rows)
        .for_each(|(numbers, row)| packed.row(row, cols.clone(), numbers));
    let tensor = HostTensor::from_f32(&[outputs, inputs], &numbers);
    Slice { tensor, rows: 0..outputs, cols: 0..inputs, transposed: false }
}

/// Numbers in another dtype, rounded to the nearest.
fn convert(from: DType, bytes: &[u8], to: DType) -> Vec<u8> {
    let mut wide = vec![0.0; bytes.len() / from.bytes()];
    convert_to_f32(from, bytes, &mut wide);
    match to {
        DType::BF16 => wide.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        DType::F16 => wide.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
        _ => wide.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// The bytes of a slice, one row after the other; in place if its rows are whole.
fn bytes_of(slice: &Slice) -> Cow<'_, [u8]> {
    let (size, (_, stride)) = (slice.tensor.dtype.bytes(), slice.tensor.matrix_shape());
    let row = |row: usize| {
        let start = (row * stride + slice.cols.start) * size;
        &slice.tensor.data[start..start + slice.cols.len() * size]
    };
    if slice.cols.len() == stride {
        let row_bytes = stride * size;
        return slice.tensor.data[slice.rows.start * row_bytes..slice.rows.end * row_bytes].into();
    }
    slice.rows.clone().flat_map(|r| row(r).iter().copied()).collect::<Vec<_>>().into()
}
