//! Below step 9 packed weights are refused.

use crate::attention::{KvOptions, KvScales, KvScalesFile};
use crate::checkpoint::{Directory, StateDict};
use crate::config::{ConfigError, Fields, ModelConfig};
use crate::error::{Error, Result};
use crate::model::{Loading, Rank};
use crate::packed::Matrix;
use crate::tensor::HostTensor;
use std::{ops::Range, path::Path};

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

    /// Its name.
    pub fn method(&self) -> &'static str {
        match *self {}
    }

    /// A file beside config.json would say it.
    pub fn beside(_: &Directory) -> Result<Option<Quantization>> {
        Ok(None)
    }
}

/// Random codes of a packed parameter.
pub fn dummy_tensors(_: &ModelConfig, _: &str, _: [usize; 2]) -> Result<Option<Vec<(String, HostTensor)>>> {
    Ok(None)
}

/// Scales of K and V come with packed weights.
pub fn is_kv_scale(_: &str) -> bool {
    false
}

/// Scales of K and V come with packed weights.
pub fn kv_scales(_: &KvOptions, _: Option<&StateDict>, _: Range<usize>, _: Rank) -> Result<Option<KvScales>> {
    Ok(None)
}

/// Refuses a file of scales.
pub fn read_kv_scales(path: &Path, _: &ModelConfig) -> Result<KvScalesFile> {
    let (value, why) = (path.display().to_string(), "scales of K and V need a build with --features step9");
    Err(Error::Parameter { field: "quantization_param_path", value, why: why.into() })
}

/// The parameters that tensors are: each is one.
pub fn assemble(
    tensors: impl IntoIterator<Item = (String, HostTensor)>,
    _: &Loading,
) -> Result<Vec<(String, Matrix)>> {
    Ok(tensors.into_iter().map(|(name, tensor)| (name, tensor.into())).collect())
}
