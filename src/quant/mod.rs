//! Weights of 8 bits and less (step 9): how each tool lays them out, and how numbers are made of them.
//!
//! ```text
//! tensors of a checkpoint ─ assemble ─▶ (parameter, Matrix) ─ load_weights ─▶ the model
//!   q_proj.qweight, .qzeros, .scales          q_proj.weight
//! ```
//! A [`Packed`](crate::packed::Packed) matrix has one file for each layout.

use crate::config::{ConfigError, Fields};
use crate::model::Loading;
use crate::packed::Matrix;
use crate::{error::Result, tensor::HostTensor};

/// How weights are packed.
#[derive(Clone, Debug, PartialEq)]
pub enum Quantization {}

impl Quantization {
    /// Reads `quantization_config`.
    pub(crate) fn of(fields: Fields) -> Result<Option<Quantization>, ConfigError> {
        let Some(q) = fields.object("quantization_config", "quantization_config.")? else { return Ok(None) };
        let method = q.text("quant_method")?.unwrap_or("unknown");
        let reason = format!("quantized weights ({method}) are not supported yet");
        Err(fields.error("quantization_config", reason))
    }
}

/// The parameters that tensors are.
pub(crate) fn assemble(
    tensors: impl IntoIterator<Item = (String, HostTensor)>,
    _: &Loading,
) -> Result<Vec<(String, Matrix)>> {
    Ok(tensors.into_iter().map(|(name, tensor)| (name, tensor.into())).collect())
}
