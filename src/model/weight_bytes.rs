//! What a model's weights will take: a load's matching of names, shapes and dtypes, without the bytes.

use super::{Completeness, Loading, Model, load::Arrived};
use crate::checkpoint::{LoadRules, StateDict};
use crate::tensor::DType;
use crate::{backend::Backend, config::ModelConfig, error::Result, quant};
use std::collections::BTreeMap;

/// Bytes of a model's weights, by what becomes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct WeightBytes {
    /// Parameters by dtype, as they are stored. These are held.
    #[serde(rename = "weights_bytes_by_dtype")]
    pub parameters: BTreeMap<String, u64>,
    /// lm_head.weight beside the embedding, where config.json ties the two. A load compares them: if they are equal, as they should
    /// be, one of them serves as both; if not, this is held too. Headers do not tell.
    #[serde(rename = "tied_copy_bytes")]
    pub tied_copy: u64,
    /// Tensors that a rule leaves out.
    #[serde(rename = "skipped_bytes")]
    pub skipped: u64,
}

impl WeightBytes {
    /// Bytes of all parameters.
    pub fn held(&self) -> u64 {
        self.parameters.values().sum()
    }

    fn add(&mut self, label: String, bytes: u64) {
        *self.parameters.entry(label).or_default() += bytes;
    }
}

/// The bytes that a load of `state_dict` into `model` will hold. Headers are compared with the model, and tensors are not read.
/// Without a state dict, those of dummy weights.
///
/// # Errors
/// As those of a load: names, shapes and dtypes that don't fit.
pub fn weight_bytes<B: Backend>(
    model: &mut dyn Model<B>,
    config: &ModelConfig,
    state_dict: Option<&StateDict>,
    rules: &LoadRules,
) -> Result<WeightBytes> {
    let mut arrived = Arrived::at(model)?;
    let mut bytes = WeightBytes::default();
    let Some(state_dict) = state_dict else {
        let dtype = config.dtype.unwrap_or(DType::BF16);
        let elements: u64 =
            arrived.sources.values().map(|shape| shape.iter().product::<usize>() as u64).sum();
        bytes.add(dtype.to_string(), elements * dtype.bytes() as u64);
        return Ok(bytes);
    };
    let loading = Loading {
        architecture: config.architecture,
        quantization: config.quantization.as_ref(),
        rules,
        completeness: Completeness::All,
        file_of: &|name| state_dict.file_of(name),
        origin: state_dict.directory().root(),
        events: &mut |_| {},
    };
    for (name, matrix) in quant::assemble(state_dict.tensors(), &loading)? {
        arrived.take(name, matrix, &loading)?;
    }
    if let (Some(tied), Some(head)) = (arrived.tied, arrived.tied_head.take()) {
        match arrived.matrices.contains_key(tied.embedding) {
            true => bytes.tied_copy = head.1.bytes(),
            false => drop(arrived.matrices.insert(tied.embedding.into(), head)),
        }
    }
    arrived.check(&loading)?;
    arrived.matrices.values().for_each(|(_, matrix)| bytes.add(matrix.label(), matrix.bytes()));
    // A norm in a block type is held as f32, which may be more than the file has.
    bytes.skipped = state_dict.total_bytes().saturating_sub(bytes.held() + bytes.tied_copy);
    Ok(bytes)
}
