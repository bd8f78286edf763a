//! What a model's weights would take in packed forms, by arithmetic on its shapes: nothing is packed for it.
//!
//! ```text
//! int4 g128    4 bits, and a scale of 16 bits and a zero of 4 for 128 inputs of an output; 4 bytes an input for its group   (GPTQ)
//! int8         8 bits, and a scale of 32 bits for each output                                                    (compressed-tensors)
//! fp8          8 bits, and a scale of 32 bits for a block of 128 · 128                                                      (FP8)
//! q8_0, q4_0   34 and 18 bytes for 32 numbers                                                                             (GGUF)
//! q4_k_m       144 bytes for 256 numbers, and 210 in half of v_proj and down_proj and in lm_head                            (GGUF)
//! ```
//! The first three leave embedding and lm_head as they are, as `stairwell quantize` does. GGUF's forms pack these too, by the rules of
//! `llama_tensor_get_type` in llama.cpp's `llama-quant.cpp`.

use super::{Model, Source};
use crate::backend::Backend;
use crate::config::{ModelConfig, Place};
use crate::error::Result;
use crate::tensor::DType;
use serde::Serialize;

/// Inputs that share a scale in int4.
const GROUP: u64 = 128;

/// A packed form of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::Display)]
pub enum Form {
    #[serde(rename = "int4 g128")]
    #[strum(serialize = "int4 g128")]
    Int4,
    #[serde(rename = "int8")]
    #[strum(serialize = "int8")]
    Int8,
    #[serde(rename = "fp8")]
    #[strum(serialize = "fp8")]
    Fp8,
    #[serde(rename = "q8_0")]
    #[strum(serialize = "q8_0")]
    Q8_0,
    #[serde(rename = "q4_k_m")]
    #[strum(serialize = "q4_k_m")]
    Q4KM,
    #[serde(rename = "q4_0")]
    #[strum(serialize = "q4_0")]
    Q4_0,
}

impl Form {
    /// All of them.
    pub const ALL: [Form; 6] = [Form::Int8, Form::Fp8, Form::Int4, Form::Q8_0, Form::Q4KM, Form::Q4_0];

    /// Whether it is one of GGUF's.
    fn is_gguf(self) -> bool {
        matches!(self, Form::Q8_0 | Form::Q4KM | Form::Q4_0)
    }

    /// Bytes of a matrix [outputs, inputs] of a layer.
    fn in_layer(self, [outputs, inputs]: [u64; 2]) -> u64 {
        let numbers = outputs * inputs;
        match self {
            Form::Int4 => numbers / 2 + outputs * inputs.div_ceil(GROUP) * 5 / 2 + 4 * inputs,
            Form::Int8 => numbers + 4 * outputs,
            _ => numbers + 4 * outputs.div_ceil(128) * inputs.div_ceil(128),
        }
    }

    /// The type of one of GGUF's matrices.
    fn gguf_type(self, name: &str, place: Option<Place>, config: &ModelConfig, inputs: u64) -> DType {
        let head = match place {
            Some(Place::Head) => true,
            Some(Place::Embedding) => config.tie_word_embeddings,
            _ => false,
        };
        let wider = [".v_proj.", ".down_proj."].iter().any(|part| name.contains(part));
        let more = matches!(place, Some(Place::Layer(i)) if wider && more_bits(i, config.num_hidden_layers));
        let wanted = match self {
            Form::Q8_0 => DType::Q8_0,
            _ if head || self == Form::Q4KM && more => DType::Q6_K,
            Form::Q4KM => DType::Q4_K,
            _ => DType::Q4_0,
        };
        // Rows that are no whole blocks of 256 or 32 get the next type that has them.
        let divides = |dtype: DType| inputs.is_multiple_of(dtype.block().0 as u64);
        match wanted {
            dtype if divides(dtype) => dtype,
            DType::Q6_K if divides(DType::Q8_0) => DType::Q8_0,
            DType::Q4_K if divides(DType::Q5_0) => DType::Q5_0,
            _ => DType::F16,
        }
    }
}

/// The layers whose v_proj and down_proj have 6 bits (`use_more_bits` in `llama-quant.cpp`): the first and the last eighth, and every third of the rest.
fn more_bits(layer: usize, layers: usize) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

/// Bytes of all weights in a form. What is not packed has `stored` bytes a number.
///
/// # Errors
/// None of its own.
pub fn form_bytes<B: Backend>(
    model: &mut dyn Model<B>,
    config: &ModelConfig,
    form: Form,
    stored: DType,
) -> Result<u64> {
    let (mut bytes, mut seen) = (0u64, std::collections::BTreeSet::new());
    model.visit(&mut |param| {
        for source in &param.sources {
            if seen.insert(source.name.clone()) {
                bytes += tensor_bytes(source, config, form, stored);
            }
        }
        Ok(())
    })?;
    Ok(bytes)
}

fn tensor_bytes(source: &Source, config: &ModelConfig, form: Form, stored: DType) -> u64 {
    let numbers: usize = source.shape.iter().product();
    let plain = |dtype: DType| dtype.bytes_of(numbers).unwrap_or(0) as u64;
    let place = config.architecture.names().place(&source.name);
    let [rows, cols] = source.shape[..] else {
        return plain(if form.is_gguf() { DType::F32 } else { stored });
    };
    let [outputs, inputs] = if source.transposed { [cols, rows] } else { [rows, cols] }.map(|n| n as u64);
    match form.is_gguf() {
        true => plain(form.gguf_type(&source.name, place, config, inputs)),
        false if matches!(place, Some(Place::Layer(_))) => form.in_layer([outputs, inputs]),
        false => plain(stored),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_by_hand() {
        // 256 · 512: half a byte each; 4 groups with 2.5 bytes for each output; 4 bytes an input.
        assert_eq!(Form::Int4.in_layer([256, 512]), 65536 + 256 * 4 * 5 / 2 + 2048);
        assert_eq!(Form::Int8.in_layer([256, 512]), 131072 + 1024);
        assert_eq!(Form::Fp8.in_layer([200, 130]), 26000 + 4 * 2 * 2);
        let more: Vec<usize> = (0..16).filter(|layer| more_bits(*layer, 16)).collect();
        assert_eq!(more, [0, 1, 4, 7, 10, 13, 14, 15]);
    }
}
