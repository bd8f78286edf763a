//! From tensors to parameters: a packed matrix is made of several tensors of one module.

mod layouts;

use super::config::Quantization;
use super::fields::words;
use super::format::{Coded, Format};
use super::gguf;
use crate::error::Result;
use crate::model::Loading;
use crate::packed::{Matrix, Packed};
use crate::tensor::{DType, HostTensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the names of a packed matrix's tensors end with, after the module's.
const PARTS: [&str; 31] = [
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "lookup_table",
    "rows",
    "cols",
    "vals",
    "full_rows",
    "full_row_indices",
    "startrows",
    "weight_packed",
    "weight_shape",
    "weight_zero_point",
    "weight_g_idx",
    "weight_scale",
    "weight_scale_inv",
    "input_scale",
    "input_zero_point",
    "SCB",
    "weight_format",
    "weight.absmax",
    "weight.quant_map",
    "weight.nested_absmax",
    "weight.nested_quant_map",
    "weight.quant_state.bitsandbytes__nf4",
    "weight.quant_state.bitsandbytes__fp4",
    "weight.format",
    "weight.SCB",
    "weight_global_scale",
    "weight",
];

/// The tensors of one module, by what their names end with.
struct Parts<'a, 'b> {
    module: String,
    tensors: BTreeMap<&'static str, HostTensor>,
    loading: &'a Loading<'b>,
}

/// The parameters that tensors are: dense ones as they come, packed ones under the name of their module's `weight`.
pub(crate) fn assemble(
    tensors: impl IntoIterator<Item = (String, HostTensor)>,
    loading: &Loading,
) -> Result<Vec<(String, Matrix)>> {
    let (mut parameters, mut modules) = (Vec::new(), BTreeMap::<String, Parts>::new());
    for (name, tensor) in tensors {
        refuse_tiny_chat(&name, loading)?;
        let Some(_) = loading.quantization else {
            parameters.push((name, gguf::matrix(tensor)));
            continue;
        };
        let part = PARTS.into_iter().find(|part| {
            let module = name.strip_suffix(part).is_some_and(|module| module.ends_with('.'));
            module && (*part != "weight" || !tensor.dtype.is_weight())
        });
        let Some(part) = part else {
            parameters.push((name, gguf::matrix(tensor)));
            continue;
        };
        let module = name[..name.len() - part.len() - 1].to_owned();
        let new = || Parts { module: module.clone(), tensors: BTreeMap::new(), loading };
        modules.entry(module.clone()).or_insert_with(new).tensors.insert(part, tensor);
    }
    let Some(quantization) = loading.quantization else { return Ok(parameters) };
    for (module, parts) in modules {
        if let Some(packed) = parts.matrix(quantization)? {
            parameters.push((module + ".weight", Matrix::Packed(packed)));
        }
    }
    Ok(parameters)
}

/// TinyChat packs AWQ's codes in an order of its own, and says so by no other name than that of its zeros.
fn refuse_tiny_chat(name: &str, loading: &Loading) -> Result<()> {
    if !name.ends_with(".scaled_zeros") {
        return Ok(());
    }
    let reason = "this is TinyChat's layout of AWQ, which is not read; give a checkpoint that AutoAWQ wrote (\"version\": \"gemm\"), or pack \
                  the original with `stairwell quantize --method awq-rtn`";
    Err(loading.refuse(name, reason.into()))
}

fn coded<F: Format>(format: F) -> Option<Arc<dyn Packed>> {
    Some(Arc::new(Coded(format)))
}

impl Parts<'_, '_> {
    /// The matrix of these tensors; `None` if they are scales of activations alone.
    fn matrix(mut self, quantization: &Quantization) -> Result<Option<Arc<dyn Packed>>> {
        for scale in ["input_scale", "input_zero_point", "weight_format", "weight.format", "startrows"] {
            self.tensors.remove(scale);
        }
        if self.tensors.is_empty() {
            return Ok(None);
        }
        Ok(match quantization {
            Quantization::Gptq(config) => coded(self.gptq(config)?),
            Quantization::Awq { group_size, version } => coded(self.awq(*group_size, *version)?),
            Quantization::SqueezeLlm { bits } => coded(self.squeezellm(*bits)?),
            Quantization::Fp8 { block } => coded(self.scaled(DType::F8_E4M3, *block)?),
            Quantization::CompressedTensors(schemes) => {
                let scheme = schemes.iter().find(|scheme| scheme.is_of(&self.module));
                let scheme = scheme.ok_or_else(|| {
                    self.refuse("weight_scale", "quantization_config has no group for this module".into())
                })?;
                match self.tensors.contains_key("weight_packed") {
                    true => coded(self.pack_quantized(scheme)?),
                    false => {
                        let dtype = self.tensors.get("weight").map_or(DType::I8, |weight| weight.dtype);
                        coded(self.scaled(dtype, scheme.block)?)
                    }
                }
            }
            Quantization::BitsAndBytes if self.tensors.contains_key("weight.quant_map") => {
                coded(self.four_bit()?)
            }
            Quantization::BitsAndBytes => coded(self.bnb_int8()?),
        })
    }

    fn refuse(&self, part: &str, reason: String) -> crate::error::Error {
        self.loading.refuse(&format!("{}.{part}", self.module), reason)
    }

    /// Takes a tensor that must be there, of one of some dtypes and so many dimensions.
    fn take(&mut self, part: &'static str, dtypes: &[DType], dimensions: usize) -> Result<HostTensor> {
        let taken = self.take_if_there(part, dtypes, dimensions)?;
        taken.ok_or_else(|| {
            let others: Vec<_> = self.tensors.keys().copied().collect();
            self.refuse(
                part,
                format!("it is missing, and a packed matrix needs it beside {}", others.join(", ")),
            )
        })
    }

    fn take_if_there(
        &mut self,
        part: &'static str,
        dtypes: &[DType],
        dimensions: usize,
    ) -> Result<Option<HostTensor>> {
        let Some(tensor) = self.tensors.remove(part) else { return Ok(None) };
        let (dtype, shape) = (tensor.dtype, &tensor.shape);
        if !dtypes.contains(&dtype) {
            let list = dtypes.iter().map(DType::to_string).collect::<Vec<_>>().join(", ");
            return Err(self.refuse(part, format!("dtype {dtype}, expected {list}")));
        }
        if shape.len() != dimensions || shape.contains(&0) {
            return Err(self.refuse(part, format!("shape {shape:?}, expected {dimensions} dimensions")));
        }
        Ok(Some(tensor))
    }

    /// Every tensor was used.
    fn end(&self) -> Result<()> {
        match self.tensors.keys().next() {
            None => Ok(()),
            Some(part) => Err(self.refuse(part, "this kind of packed matrix has no such tensor".into())),
        }
    }

    fn expect(&self, part: &str, actual: &[usize], expected: &[usize]) -> Result<()> {
        match actual == expected {
            true => Ok(()),
            false => Err(self.refuse(part, format!("shape {actual:?}, expected {expected:?}"))),
        }
    }

    /// Indices below a bound.
    fn check_indices(&self, part: &str, tensor: &HostTensor, bound: usize) -> Result<()> {
        let wrong = words(tensor)
            .iter()
            .map(|word| i32::from_le_bytes(*word))
            .find(|i| *i < 0 || *i as usize >= bound);
        match wrong {
            None => Ok(()),
            Some(index) => Err(self.refuse(part, format!("it holds {index}, and there are {bound}"))),
        }
    }
}
