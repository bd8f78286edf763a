//! The model families: how each one's config.json is read, and what it leaves to defaults.
//!
//! The defaults are those of the config classes in transformers 5.23 (`models/*/configuration_*.py`).

use super::{
    Activation, ConfigError, FamilyNames, ModelConfig, RopeParameters, fields::Fields, known, names,
};
use crate::tensor::DType;
use std::fmt;

/// A model class of Hugging Face that stairwell implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Gpt2,
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 5] = [
        Architecture::Gpt2,
        Architecture::Llama,
        Architecture::Mistral,
        Architecture::Qwen2,
        Architecture::Qwen3,
    ];

    /// What it calls things.
    pub fn names(self) -> &'static FamilyNames {
        match self {
            Architecture::Gpt2 => &names::GPT2,
            Architecture::Llama => &names::LLAMA,
            Architecture::Mistral => &names::MISTRAL,
            Architecture::Qwen2 => &names::QWEN2,
            Architecture::Qwen3 => &names::QWEN3,
        }
    }

    /// The class name in config.json's `architectures`.
    pub fn class_name(self) -> &'static str {
        self.names().architecture
    }

    /// The family that a name in `architectures` or `model_type` means.
    fn called(name: &str) -> Option<Architecture> {
        Architecture::ALL.into_iter().find(|family| family.names().is_called(name))
    }

    /// From `architectures`, or `model_type` where that is absent. transformers goes by the one and vLLM by the other, so two that disagree
    /// are refused.
    fn read(fields: Fields) -> Result<Architecture, ConfigError> {
        let class = fields.list("architectures")?.and_then(|list| list.first()).and_then(|v| v.as_str());
        let model_type = fields.text("model_type")?;
        let named = class.or(model_type);
        let family = named.and_then(Architecture::called).ok_or_else(|| {
            let known = Architecture::ALL.map(Architecture::class_name).join(", ");
            let name = named.map_or("no architecture".into(), |n| format!("'{n}'"));
            fields.error("architectures", format!("{name} is not supported (known: {known})"))
        })?;
        match model_type {
            Some(name) if Architecture::called(name) != Some(family) => {
                let (class, usual) = (family.class_name(), family.names().model_type);
                let reason = format!(
                    "'{name}' does not go with the architecture {class}, which is '{usual}'; correct one of the two"
                );
                Err(fields.error("model_type", reason))
            }
            _ => Ok(family),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class_name())
    }
}

/// Reads a config of any known family.
pub(super) fn read(fields: Fields) -> Result<ModelConfig, ConfigError> {
    known::check(fields)?;
    match Architecture::read(fields)? {
        Architecture::Gpt2 => read_gpt2(fields),
        decoder => read_decoder(fields, decoder),
    }
}

fn read_decoder(fields: Fields, architecture: Architecture) -> Result<ModelConfig, ConfigError> {
    use Architecture::*;
    let num_hidden_layers = layers(fields, "num_hidden_layers")?;
    let num_attention_heads = fields.extent("num_attention_heads")?;
    let default_length = match architecture {
        Llama => 2048,
        Mistral => 131072,
        _ => 32768,
    };
    let max_position_embeddings = fields.size("max_position_embeddings")?.unwrap_or(default_length);
    let attention_bias = match architecture {
        Llama | Qwen3 => fields.flag("attention_bias")?.unwrap_or(false),
        _ => false,
    };
    Ok(ModelConfig {
        architecture,
        vocab_size: fields.extent("vocab_size")?,
        hidden_size: fields.extent("hidden_size")?,
        intermediate_size: fields.extent("intermediate_size")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: key_value_heads(fields, architecture, num_attention_heads)?,
        head_dim: head_dim(fields, architecture, num_attention_heads)?,
        max_position_embeddings,
        norm_eps: fields.float("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        hidden_act: activation(fields, "hidden_act", "silu", &["silu", "swish"])?,
        rope: Some(RopeParameters::read(fields, max_position_embeddings)?),
        sliding_windows: sliding_windows(fields, architecture, num_hidden_layers)?,
        tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        qkv_bias: attention_bias || architecture == Qwen2,
        o_bias: attention_bias,
        mlp_bias: architecture == Llama && fields.flag("mlp_bias")?.unwrap_or(false),
        qk_norm: architecture == Qwen3,
        dtype: dtype(fields)?,
        eos_token_id: fields.token_ids("eos_token_id")?,
        pad_token_id: fields.size("pad_token_id").ok().flatten().map(|id| id as u32),
        dropout: [0.0; 3],
    })
}

/// A number of layers. The bound keeps what is made for each layer in proportion to a file.
fn layers(fields: Fields, field: &str) -> Result<usize, ConfigError> {
    match fields.extent(field)? {
        n @ ..=4096 => Ok(n),
        n => Err(fields.error(field, format!("{n} layers are more than any model has (the limit is 4096)"))),
    }
}

fn key_value_heads(fields: Fields, architecture: Architecture, heads: usize) -> Result<usize, ConfigError> {
    match (fields.raw("num_key_value_heads"), architecture) {
        (None, Architecture::Mistral) => Ok(8),
        (None, Architecture::Qwen2 | Architecture::Qwen3) => Ok(32),
        (None, _) => Ok(heads),
        (Some(value), _) if value.is_null() => Ok(heads),
        (Some(_), _) => fields.extent("num_key_value_heads"),
    }
}

fn head_dim(fields: Fields, architecture: Architecture, heads: usize) -> Result<usize, ConfigError> {
    if fields.size("head_dim")?.is_some() {
        return fields.extent("head_dim");
    }
    if architecture == Architecture::Qwen3 && fields.raw("head_dim").is_none() {
        return Ok(128);
    }
    let hidden = fields.extent("hidden_size")?;
    if hidden % heads != 0 {
        let reason =
            format!("{hidden} is not a multiple of num_attention_heads = {heads}, and there is no head_dim");
        return Err(fields.error("hidden_size", reason));
    }
    Ok(hidden / heads)
}

/// In the layers that `layer_types` names, Mistral slides, and Qwen if `use_sliding_window` says so. Without `layer_types`, Mistral slides in
/// every layer and Qwen from layer `max_window_layers` on. Llama and GPT-2 never do.
fn sliding_windows(
    fields: Fields,
    architecture: Architecture,
    layers: usize,
) -> Result<Vec<Option<usize>>, ConfigError> {
    let window = match fields.raw("sliding_window") {
        None => Some(4096),
        Some(_) => fields.size("sliding_window")?,
    };
    if window == Some(0) {
        return Err(fields.error("sliding_window", "a window of 0 keys sees nothing; use null for no window"));
    }
    let (slides, default_first) = match architecture {
        Architecture::Mistral => (true, 0),
        Architecture::Qwen2 | Architecture::Qwen3 => {
            let first = fields.size("max_window_layers")?.unwrap_or(28);
            (fields.flag("use_sliding_window")?.unwrap_or(false), first)
        }
        Architecture::Llama | Architecture::Gpt2 => (false, 0),
    };
    let window = window.filter(|_| slides);
    let Some(types) = fields.list("layer_types")? else {
        return Ok((0..layers).map(|i| window.filter(|_| i >= default_first)).collect());
    };
    if types.len() != layers {
        let reason = format!("it has {} entries for {layers} layers", types.len());
        return Err(fields.error("layer_types", reason));
    }
    let of_type = |t: &serde_json::Value| {
        match t.as_str() {
        Some("full_attention" | "attention") => Ok(None),
        Some("sliding_attention") if window.is_some() => Ok(window),
        Some("sliding_attention") => Err(fields
            .error("layer_types", "'sliding_attention' needs sliding_window, and in Qwen use_sliding_window; Llama and GPT-2 have none")),
        _ => Err(fields.error("layer_types", format!("{t} is not supported"))),
    }
    };
    types.iter().map(of_type).collect()
}

fn read_gpt2(fields: Fields) -> Result<ModelConfig, ConfigError> {
    // transformers accepts both of its spellings.
    let extent = |ours: &str, usual: &str| match fields.raw(ours) {
        Some(_) => fields.extent(ours),
        None => fields.extent(usual).map_err(|_| fields.error(ours, "it is missing")),
    };
    let hidden_size = extent("n_embd", "hidden_size")?;
    let heads = extent("n_head", "num_attention_heads")?;
    extent("n_layer", "num_hidden_layers")?;
    let layers =
        layers(fields, if fields.raw("n_layer").is_some() { "n_layer" } else { "num_hidden_layers" })?;
    if hidden_size % heads != 0 {
        return Err(fields.error("n_embd", format!("{hidden_size} is not a multiple of n_head = {heads}")));
    }
    let dropout = |field: &str| Ok(fields.float(field)?.unwrap_or(0.1) as f32);
    let positions = fields.size("n_positions")?.or(fields.size("max_position_embeddings")?);
    Ok(ModelConfig {
        architecture: Architecture::Gpt2,
        vocab_size: fields.extent("vocab_size")?,
        hidden_size,
        intermediate_size: fields.size("n_inner")?.unwrap_or(4 * hidden_size),
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        head_dim: hidden_size / heads,
        max_position_embeddings: positions.unwrap_or(1024),
        norm_eps: fields.float("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
        hidden_act: activation(
            fields,
            "activation_function",
            "gelu_new",
            &ACTIVATIONS.map(|(name, _)| name),
        )?,
        rope: None,
        sliding_windows: sliding_windows(fields, Architecture::Gpt2, layers)?,
        tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(true),
        qkv_bias: true,
        o_bias: true,
        mlp_bias: true,
        qk_norm: false,
        dtype: dtype(fields)?,
        eos_token_id: fields.token_ids("eos_token_id")?,
        pad_token_id: None,
        dropout: [dropout("embd_pdrop")?, dropout("attn_pdrop")?, dropout("resid_pdrop")?],
    })
}

/// transformers' names of activations (`activations.py`). Those of `GeluTanh` are one formula in different order.
const ACTIVATIONS: [(&str, Activation); 10] = [
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("relu", Activation::Relu),
];

/// The activation that a field names, if it is one of `known`.
fn activation(fields: Fields, field: &str, default: &str, known: &[&str]) -> Result<Activation, ConfigError> {
    let name = fields.text(field)?.unwrap_or(default);
    let found = ACTIVATIONS.into_iter().find(|(n, _)| *n == name && known.contains(n));
    found.map(|(_, activation)| activation).ok_or_else(|| {
        fields.error(field, format!("'{name}' is not supported here (known: {})", known.join(", ")))
    })
}

/// `dtype`, or `torch_dtype` as it was called before.
fn dtype(fields: Fields) -> Result<Option<DType>, ConfigError> {
    let field = if fields.text("dtype")?.is_some() { "dtype" } else { "torch_dtype" };
    Ok(fields.text(field)?.and_then(DType::from_torch))
}
