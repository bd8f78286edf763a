//! A checkpoint's tensors by the parameters that they are, without a load: for what writes them elsewhere.

use super::{Loading, Model, load::Arrived};
use crate::backend::Backend;
use crate::tensor::HostTensor;
use crate::{error::Result, packed::Matrix, quant};
use std::collections::{BTreeMap, BTreeSet};

/// A tensor of the checkpoint that a model needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The name in the state dict.
    pub name: String,
    /// The shape in the state dict.
    pub shape: Vec<usize>,
    /// Stored as [in, out], unless it is packed.
    pub transposed: bool,
}

/// All tensors that a model needs, in the order of the module tree. A tied lm_head is not among them.
///
/// # Errors
/// None of its own.
pub fn parameters<B: Backend>(model: &mut dyn Model<B>) -> Result<Vec<Parameter>> {
    let (mut parameters, mut seen) = (Vec::new(), BTreeSet::new());
    model.visit(&mut |param| {
        for source in &param.sources {
            if seen.insert(source.name.clone()) {
                let (name, shape) = (source.name.clone(), source.shape.clone());
                parameters.push(Parameter { name, shape, transposed: source.transposed });
            }
        }
        Ok(())
    })?;
    Ok(parameters)
}

/// Matches tensors with a model's parameters as a load does; names, shapes and dtypes are checked. What came, by parameter. Of a tied pair one is
/// there, under the embedding's name.
///
/// # Errors
/// As [`load_weights`](super::load_weights).
pub fn matched<B: Backend>(
    model: &mut dyn Model<B>,
    tensors: impl IntoIterator<Item = (String, HostTensor)>,
    loading: &Loading,
) -> Result<BTreeMap<String, Matrix>> {
    let mut arrived = Arrived::at(model)?;
    for (name, matrix) in quant::assemble(tensors, loading)? {
        arrived.take(name, matrix, loading)?;
    }
    arrived.settle_tied(loading)?;
    arrived.check(loading)?;
    Ok(arrived.matrices.into_iter().map(|(parameter, (_, matrix))| (parameter, matrix)).collect())
}
