//! Below step 9 packed weights are refused.

use crate::config::{ConfigError, Fields};
use crate::model::Loading;
use crate::packed::Matrix;
use crate::{error::Result, tensor::HostTensor};

/// How weights are packed: none of these steps reads any.
#[derive(Clone, Debug, PartialEq)]
pub enum Quantization {}

impl Quantization {
    /// Refuses packed weights.
    pub(crate) fn of(fields: Fields) -> Result<Option<Quantization>, ConfigError> {
        let Some(q) = fields.object("quantization_config", "quantization_config.")? else { return Ok(None) };
        let method = q.text("quant_method")?.unwrap_or("unknown");
        let reason = format!("quantized weights ({method}) need a build with --features step9");
        Err(fields.error("quantization_config", reason))
    }
}

/// The parameters that tensors are: each is one.
pub fn assemble(
    tensors: impl IntoIterator<Item = (String, HostTensor)>,
    _: &Loading,
) -> Result<Vec<(String, Matrix)>> {
    Ok(tensors.into_iter().map(|(name, tensor)| (name, tensor.into())).collect())
}
