//! The model families: how each one's config.json is read, and what it leaves to defaults.
//!
//! The defaults are those of the config classes in transformers 5.23 (`models/*/configuration_*.py`).

use super::{Activation, FamilyNames, ModelConfig, Result, RopeParameters, fields::Fields, known, names};
use crate::tensor::DType;
use serde_json::Value;

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
    pub const ALL: [Architecture; 5] = [Self::Gpt2, Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

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
    fn read(fields: Fields) -> Result<Architecture> {
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

/// Reads a config of any known family.
pub(super) fn read(fields: Fields) -> Result<ModelConfig> {
    use Architecture::*;
    known::check(fields)?;
    let architecture = Architecture::read(fields)?;
    let gpt2 = architecture == Gpt2;
    // GPT-2 has names of its own, and transformers takes the usual ones there too.
    let name = |usual, of_gpt2| {
        let takes_own = gpt2 && (fields.raw(of_gpt2).is_some() || fields.raw(usual).is_none());
        if takes_own { of_gpt2 } else { usual }
    };
    let num_hidden_layers = layers(fields, name("num_hidden_layers", "n_layer"))?;
    let hidden_field = name("hidden_size", "n_embd");
    let hidden_size = fields.extent(hidden_field)?;
    let num_attention_heads = fields.extent(name("num_attention_heads", "n_head"))?;
    let default_length = match architecture {
        Gpt2 => 1024,
        Llama => 2048,
        Mistral => 131072,
        Qwen2 | Qwen3 => 32768,
    };
    let max_position_embeddings =
        fields.size(name("max_position_embeddings", "n_positions"))?.unwrap_or(default_length);
    let attention_bias = match architecture {
        Llama | Qwen3 => fields.flag("attention_bias")?.unwrap_or(false),
        _ => gpt2,
    };
    let (epsilon, default_epsilon) = if gpt2 { ("layer_norm_epsilon", 1e-5) } else { ("rms_norm_eps", 1e-6) };
    let dropout = |field: &str| Ok(if gpt2 { fields.float(field)?.unwrap_or(0.1) as f32 } else { 0.0 });
    let pad_token_id = fields.size("pad_token_id").ok().flatten().filter(|_| !gpt2);
    Ok(ModelConfig {
        architecture,
        quantization: None,
        vocab_size: fields.extent("vocab_size")?,
        hidden_size,
        intermediate_size: match gpt2 {
            true => fields.size("n_inner")?.unwrap_or(4 * hidden_size),
            false => fields.extent("intermediate_size")?,
        },
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: key_value_heads(fields, architecture, num_attention_heads)?,
        head_dim: match fields.raw("head_dim") {
            Some(dim) if !gpt2 && !dim.is_null() => fields.extent("head_dim")?,
            None if architecture == Qwen3 => 128,
            _ if hidden_size % num_attention_heads == 0 => hidden_size / num_attention_heads,
            _ => {
                let reason =
                    format!("{hidden_size} is not a multiple of num_attention_heads = {num_attention_heads}");
                return Err(fields.error(hidden_field, reason));
            }
        },
        max_position_embeddings,
        norm_eps: fields.float(epsilon)?.unwrap_or(default_epsilon) as f32,
        hidden_act: activation(fields, gpt2)?,
        rope: (!gpt2).then(|| RopeParameters::read(fields, max_position_embeddings)).transpose()?,
        sliding_windows: sliding_windows(fields, architecture, num_hidden_layers)?,
        tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(gpt2),
        qkv_bias: attention_bias || architecture == Qwen2,
        o_bias: attention_bias,
        mlp_bias: gpt2 || architecture == Llama && fields.flag("mlp_bias")?.unwrap_or(false),
        qk_norm: architecture == Qwen3,
        dtype: dtype(fields)?,
        tokenizer_class: fields.raw("tokenizer_class").and_then(Value::as_str).map(String::from),
        eos_token_id: fields.token_ids("eos_token_id")?,
        pad_token_id: pad_token_id.map(|id| id as u32),
        dropout: [dropout("embd_pdrop")?, dropout("attn_pdrop")?, dropout("resid_pdrop")?],
    })
}

/// A number of layers. The bound keeps what is made for each layer in proportion to a file.
fn layers(fields: Fields, field: &str) -> Result<usize> {
    match fields.extent(field)? {
        n @ ..=4096 => Ok(n),
        n => Err(fields.error(field, format!("{n} layers are more than any model has (the limit is 4096)"))),
    }
}

fn key_value_heads(fields: Fields, architecture: Architecture, heads: usize) -> Result<usize> {
    match (fields.raw("num_key_value_heads"), architecture) {
        (None, Architecture::Mistral) => Ok(8),
        (None, Architecture::Qwen2 | Architecture::Qwen3) => Ok(32),
        (None, _) | (_, Architecture::Gpt2) => Ok(heads),
        (Some(value), _) if value.is_null() => Ok(heads),
        (Some(_), _) => fields.extent("num_key_value_heads"),
    }
}

/// In the layers that `layer_types` names, Mistral slides, and Qwen if `use_sliding_window` says so. Without `layer_types`, Mistral slides in
/// every layer and Qwen from layer `max_window_layers` on. Llama and GPT-2 never do.
fn sliding_windows(fields: Fields, architecture: Architecture, layers: usize) -> Result<Vec<Option<usize>>> {
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

/// The activation by transformers' names (`activations.py`); those of `GeluTanh` are one formula in different orders. Where the MLP has a gate
/// it is SiLU.
fn activation(fields: Fields, gpt2: bool) -> Result<Activation> {
    let (field, default) = if gpt2 { ("activation_function", "gelu_new") } else { ("hidden_act", "silu") };
    let name = fields.text(field)?.unwrap_or(default);
    Ok(match name {
        "silu" | "swish" => Activation::Silu,
        "gelu" | "gelu_python" if gpt2 => Activation::Gelu,
        "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_pytorch_tanh" | "gelu_python_tanh" if gpt2 => {
            Activation::GeluTanh
        }
        "quick_gelu" if gpt2 => Activation::QuickGelu,
        "relu" if gpt2 => Activation::Relu,
        "tanh" if gpt2 => Activation::Tanh,
        _ => {
            let known =
                if gpt2 { "silu, gelu, gelu_new and its like, quick_gelu, relu, tanh" } else { "silu" };
            return Err(fields.error(field, format!("'{name}' is not supported here (known: {known})")));
        }
    })
}

/// The weights' dtype, if it is one of theirs: `dtype`, or `torch_dtype` as it was called before.
fn dtype(fields: Fields) -> Result<Option<DType>> {
    let field = if fields.text("dtype")?.is_some() { "dtype" } else { "torch_dtype" };
    let name = fields.text(field)?.map(|name| name.trim_start_matches("torch."));
    Ok(match name {
        Some("float32" | "float") => Some(DType::F32),
        Some("bfloat16") => Some(DType::BF16),
        Some("float16" | "half") => Some(DType::F16),
        _ => None,
    })
}
