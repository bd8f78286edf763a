//! The operations that a model needs, and the machines that carry them out.
//!
//! A model never touches a number: it asks its backend, so the same model runs on the CPU (step 1) and on a GPU (step 5).
//! Every operation here is per token: row r of the result depends on row r of the inputs and on weights. Rows meet only in
//! [`crate::model::Attention`].
//!
//! Operations take `&self`, so that they nest. An operation that works in place takes its tensor by value. A tensor gives its
//! memory back to the backend's workspace when it is dropped.

pub mod cpu;
#[cfg(feature = "step5")]
pub mod cuda;
pub mod simd;

use crate::sampling::{Draw, SamplingError};
use crate::{config::Activation, error::Result};
use crate::{packed::Matrix, tensor::HostTensor};
use std::ops::Range;

/// A part of one parameter: the rows and columns that this process holds. Always a view, never a copy.
#[derive(Clone, Debug)]
pub struct Slice<T = HostTensor> {
    /// The whole parameter, one- or two-dimensional.
    pub tensor: T,
    /// Rows of the tensor as it is stored.
    pub rows: Range<usize>,
    /// Columns of the tensor as it is stored.
    pub cols: Range<usize>,
    /// Stored as [in, out] (GPT-2's Conv1D) instead of [out, in].
    pub transposed: bool,
}

impl From<Slice> for Slice<Matrix> {
    fn from(slice: Slice) -> Slice<Matrix> {
        let Slice { tensor, rows, cols, transposed } = slice;
        Slice { tensor: tensor.into(), rows, cols, transposed }
    }
}

impl Slice<Matrix> {
    /// The slice of a packed matrix, which always lies [out, in].
    pub fn packed(self) -> Slice<Matrix> {
        match self.transposed {
            true => Slice { rows: self.cols, cols: self.rows, transposed: false, ..self },
            false => self,
        }
    }
}

/// The size of one part of a weight: outputs and inputs, however it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartShape {
    pub outputs: usize,
    pub inputs: usize,
}

/// Extents of an activation.
pub trait Shaped {
    fn rows(&self) -> usize;
    fn cols(&self) -> usize;
}

/// Rotary embedding as the backend holds it; see [`crate::model::rope`].
pub struct Rope<B: Backend> {
    /// Frequencies, [head_dim / 2].
    pub inv_freq: B::Weight,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on cos and sin.
    pub scaling: f32,
}

/// A forward pass that can run more than once.
pub type Forward<'a, Tensor> = &'a mut dyn FnMut() -> Result<Tensor>;

/// What was drawn: a token for each draw, or why there is none.
pub type Drawn = Vec<Result<u32, SamplingError>>;

/// A machine that computes.
///
/// All methods fail only for reasons of the machine (memory, a driver). Shapes that don't fit are bugs and panic.
#[allow(clippy::missing_errors_doc)]
pub trait Backend: Sized + Send + 'static {
    /// An activation [rows, cols]. Dropping it returns its memory to the workspace.
    type Tensor: Shaped + Send;
    /// u32 values in a buffer that keeps its address: tokens, positions, rows.
    type Ids: Send;
    /// A parameter, where the backend wants it: views of the mapped file, or a device buffer.
    type Weight: Send + Sync;

    // Parameters and transfers.

    /// A weight of stacked parts, not loaded yet. Stacking is along the outputs.
    fn weight(&self, parts: &[PartShape]) -> Result<Self::Weight>;
    /// A weight whose rows [`embed`](Backend::embed) looks up. A tied head multiplies it too.
    fn table(&self, shape: PartShape) -> Result<Self::Weight> {
        self.weight(&[shape])
    }
    /// Loads one part, or replaces it.
    fn load(&self, weight: &mut Self::Weight, part: usize, slice: &Slice<Matrix>) -> Result<()>;
    /// A buffer for up to `capacity` ids.
    fn ids(&self, capacity: usize) -> Result<Self::Ids>;
    /// Fills a buffer of ids.
    fn write(&self, ids: &mut Self::Ids, values: &[u32]) -> Result<()>;
    /// An activation from host memory, row-major.
    fn upload(&self, data: &[f32], rows: usize, cols: usize) -> Result<Self::Tensor>;
    /// An activation to host memory, row-major.
    fn download(&self, x: &Self::Tensor) -> Result<Vec<f32>>;

    // Operations.

    /// Rows of the table, [ids, hidden]. Row i of the table is token `first_row + i`; tokens outside give zeros.
    fn embed(&self, table: &Self::Weight, first_row: usize, ids: &Self::Ids) -> Result<Self::Tensor>;
    /// y = x Wᵀ: [rows, inputs] → [rows, outputs].
    fn matmul(&self, x: &Self::Tensor, weight: &Self::Weight) -> Result<Self::Tensor>;
    /// The same, with the columns of y cut into N tensors. A backend that can write them apart saves a copy.
    fn matmul_split<const N: usize>(
        &self,
        x: &Self::Tensor,
        weight: &Self::Weight,
        cols: [usize; N],
    ) -> Result<[Self::Tensor; N]> {
        self.split(self.matmul(x, weight)?, cols)
    }
    /// x + bias on every row.
    fn add_bias(&self, x: Self::Tensor, bias: &Self::Weight) -> Result<Self::Tensor>;
    /// Cuts the columns into N tensors.
    fn split<const N: usize>(&self, x: Self::Tensor, cols: [usize; N]) -> Result<[Self::Tensor; N]>;
    /// x / √(mean(x²) + ε) · weight, over each group of `group` columns (the row, or one head).
    fn rms_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Weight,
        group: usize,
        eps: f32,
    ) -> Result<Self::Tensor>;
    /// (x − mean) / √(variance + ε) · weight + bias, over each row.
    fn layer_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Weight,
        bias: &Self::Weight,
        eps: f32,
    ) -> Result<Self::Tensor>;
    /// Rotates every head to its row's position.
    fn rope(&self, x: Self::Tensor, positions: &Self::Ids, rope: &Rope<Self>) -> Result<Self::Tensor>;
    /// silu(gate) · up, element by element.
    fn silu_mul(&self, gate: Self::Tensor, up: &Self::Tensor) -> Result<Self::Tensor>;
    /// An activation, element by element.
    fn activate(&self, x: Self::Tensor, activation: Activation) -> Result<Self::Tensor>;
    /// x + y, element by element.
    fn add(&self, x: Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor>;
    /// x + y, and its RMSNorm over whole rows.
    fn add_rms_norm(
        &self,
        x: Self::Tensor,
        y: &Self::Tensor,
        weight: &Self::Weight,
        eps: f32,
    ) -> Result<(Self::Tensor, Self::Tensor)> {
        let sum = self.add(x, y)?;
        let normed = self.rms_norm(&sum, weight, sum.cols(), eps)?;
        Ok((sum, normed))
    }
    /// x + y, and its LayerNorm.
    fn add_layer_norm(
        &self,
        x: Self::Tensor,
        y: &Self::Tensor,
        weight: &Self::Weight,
        bias: &Self::Weight,
        eps: f32,
    ) -> Result<(Self::Tensor, Self::Tensor)> {
        let sum = self.add(x, y)?;
        let normed = self.layer_norm(&sum, weight, bias, eps)?;
        Ok((sum, normed))
    }
    /// Some rows of x.
    fn take_rows(&self, x: &Self::Tensor, rows: &Self::Ids) -> Result<Self::Tensor>;

    /// A token for each of the first rows of logits, drawn where they are; `None` if this backend leaves that to the host.
    fn draw(&self, _logits: &Self::Tensor, _draws: &[Draw]) -> Result<Option<Drawn>> {
        Ok(None)
    }

    /// Whether weights are used where the checkpoint is mapped. Otherwise `load` copies them.
    fn in_place(&self) -> bool {
        true
    }

    /// Rows to which a batch of so many sequences, each with one token, is filled up, so that few recorded passes serve them all.
    fn padded_rows(&self, decode_rows: usize) -> usize {
        decode_rows
    }

    /// Runs a forward pass, or replays what an earlier one with the same key recorded (a CUDA graph).
    fn replay(&self, _key: Option<u64>, forward: Forward<Self::Tensor>) -> Result<Self::Tensor> {
        forward()
    }
}
