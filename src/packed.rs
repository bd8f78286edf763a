//! A parameter as a checkpoint holds it: numbers side by side, or codes of a few bits with the scales that make numbers of them.
//!
//! Below step 9 every parameter is [`Matrix::Dense`]. Step 9 adds the formats of `quant/`, each of which is a [`Packed`] matrix.

#[cfg(feature = "quantized")]
use crate::error::Result;
use crate::tensor::HostTensor;
use std::{fmt, ops::Range, sync::Arc};

/// The numbers of one parameter.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// One tensor of f32, bf16 or f16.
    Dense(HostTensor),
    /// Codes and scales, often in several tensors.
    Packed(Arc<dyn Packed>),
}

// ANCHOR: packed
/// A matrix [outputs, inputs] whose numbers are computed from codes.
pub trait Packed: Send + Sync + fmt::Debug {
    /// Outputs and inputs.
    fn shape(&self) -> [usize; 2];
    /// What people call it, such as `gptq 4-bit g128` or `Q4_K`.
    fn label(&self) -> String;
    /// The tensors that it is made of, as they lie in the file.
    fn tensors(&self) -> Vec<&HostTensor>;
    /// The numbers of one output, `inputs.len()` of them, without rounding beyond that of f32.
    fn row(&self, output: usize, inputs: Range<usize>, numbers: &mut [f32]);
    /// Some outputs and inputs as rows that the CPU multiplies; `None` if only [`row`](Packed::row) knows the numbers. (Step 9.)
    ///
    /// # Errors
    /// If there is no memory for them.
    #[cfg(feature = "quantized")]
    fn rows(
        &self,
        _outputs: Range<usize>,
        _inputs: Range<usize>,
    ) -> Result<Option<crate::quant::PackedRows>> {
        Ok(None)
    }

    /// Some outputs and inputs as a device multiplies them; `None` if no kernel does. (Step 9.)
    ///
    /// # Errors
    /// If there is no memory for them.
    #[cfg(feature = "quantized")]
    fn device_codes(
        &self,
        _outputs: Range<usize>,
        _inputs: Range<usize>,
    ) -> Result<Option<crate::quant::DeviceCodes>> {
        Ok(None)
    }

    /// GGUF's blocks, which the CPU multiplies where they lie. (Step 9.)
    #[cfg(feature = "quantized")]
    fn blocks(&self) -> Option<&crate::quant::gguf::Blocks> {
        None
    }

    /// Whether a CPU multiplies its tensors where they lie. Otherwise a load makes other rows of the same size of them.
    fn in_place(&self) -> bool;

    /// Bytes of its tensors.
    fn bytes(&self) -> u64 {
        self.tensors().iter().map(|tensor| tensor.data.len() as u64).sum()
    }
}
// ANCHOR_END: packed

impl From<HostTensor> for Matrix {
    fn from(tensor: HostTensor) -> Matrix {
        Matrix::Dense(tensor)
    }
}

impl Matrix {
    /// Extents as the model knows them: of a packed matrix, outputs and inputs.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Matrix::Dense(tensor) => tensor.shape.clone(),
            Matrix::Packed(packed) => packed.shape().into(),
        }
    }

    /// Its dtype or format, for people.
    pub fn label(&self) -> String {
        match self {
            Matrix::Dense(tensor) => tensor.dtype.to_string(),
            Matrix::Packed(packed) => packed.label(),
        }
    }

    /// Bytes of its tensors.
    pub fn bytes(&self) -> u64 {
        match self {
            Matrix::Dense(tensor) => tensor.data.len() as u64,
            Matrix::Packed(packed) => packed.bytes(),
        }
    }
}

/// Whether the tensors are equal, byte for byte.
impl PartialEq for Matrix {
    fn eq(&self, other: &Matrix) -> bool {
        match (self, other) {
            (Matrix::Dense(a), Matrix::Dense(b)) => a == b,
            (Matrix::Packed(a), Matrix::Packed(b)) => a.shape() == b.shape() && a.tensors() == b.tensors(),
            _ => false,
        }
    }
}
