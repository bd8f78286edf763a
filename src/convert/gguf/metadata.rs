//! What config.json says, by GGUF's keys.
//!
//! Source of the keys: `constants.py` in gguf-py; of what they mean: `convert_hf_to_gguf.py` in llama.cpp.

use super::super::Source;
use super::super::rope::Llama3;
use super::values::Pairs;
use crate::config::{Activation, Architecture, ModelConfig, RopeScaling, Yarn};
use crate::error::{Error, Result};
use crate::tensor::DType;

fn refuse<T>(why: &str) -> Result<T> {
    Err(Error::Usage(format!("--to gguf: {why}; leave the flag out, safetensors has every model")))
}

/// The value of `general.architecture`. A Mistral is a llama in GGUF.
pub fn architecture(config: &ModelConfig) -> Result<&'static str> {
    match config.architecture {
        Architecture::Llama | Architecture::Mistral => Ok("llama"),
        Architecture::Qwen2 => Ok("qwen2"),
        Architecture::Qwen3 => Ok("qwen3"),
        Architecture::Gpt2 => refuse("GPT-2 is not written as GGUF"),
    }
}

/// `general.file_type`, which tells people what most tensors are (`llama_ftype` in `llama.h`).
fn file_type(dtype: DType) -> usize {
    match dtype {
        DType::F16 => 1,
        DType::Q8_0 => 7,
        DType::BF16 => 32,
        _ => 0,
    }
}

/// Adds sizes and constants.
///
/// # Errors
/// What GGUF has no key for, or no reader computes.
pub fn add(pairs: &mut Pairs, source: &Source, dtype: DType) -> Result<()> {
    let config = &source.config;
    let name = architecture(config)?;
    if config.hidden_act != Activation::Silu {
        return refuse("its activation is not SiLU, and a GGUF file can't say so");
    }
    pairs.text("general.architecture", name);
    pairs.text("general.type", "model");
    if let Some(name) = source.path().file_stem().and_then(|name| name.to_str()) {
        pairs.text("general.name", name);
    }
    pairs.size("general.file_type", file_type(dtype));
    pairs.size("general.quantization_version", 2);
    pairs.size("general.alignment", super::ALIGNMENT as usize);
    for (key, size) in [
        ("vocab_size", config.vocab_size),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("block_count", config.num_hidden_layers),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
    ] {
        pairs.size(&format!("{name}.{key}"), size);
    }
    pairs.float(&format!("{name}.attention.layer_norm_rms_epsilon"), config.norm_eps.into());
    let windows = &config.sliding_windows;
    match windows.first().copied().flatten() {
        _ if windows.iter().any(|window| *window != windows[0]) => {
            return refuse("some of its layers have a sliding window, and a GGUF file can't say which");
        }
        Some(window) => pairs.size(&format!("{name}.attention.sliding_window"), window),
        None => {}
    }
    rope(pairs, name, config)
}

fn rope(pairs: &mut Pairs, name: &str, config: &ModelConfig) -> Result<()> {
    let Some(rope) = &config.rope else { return refuse("it has no rotary positions") };
    pairs.float(&format!("{name}.rope.freq_base"), rope.theta);
    match &rope.scaling {
        RopeScaling::Default | RopeScaling::Llama3 { .. } | RopeScaling::Factors(_) => Ok(()),
        RopeScaling::Linear { factor } => {
            pairs.text(&format!("{name}.rope.scaling.type"), "linear");
            pairs.float(&format!("{name}.rope.scaling.factor"), *factor);
            Ok(())
        }
        RopeScaling::Yarn(parameters) => yarn(pairs, name, parameters),
        RopeScaling::Dynamic { .. } => refuse("its RoPE scaling is dynamic, and a GGUF file can't say so"),
    }
}

fn yarn(pairs: &mut Pairs, name: &str, yarn: &Yarn) -> Result<()> {
    if !yarn.truncate || yarn.mscale.is_some() || yarn.mscale_all_dim.is_some() {
        return refuse("its YaRN has truncate, mscale or mscale_all_dim, and a GGUF file can't say so");
    }
    let key = |name_of: &str| format!("{name}.rope.scaling.{name_of}");
    pairs.text(&key("type"), "yarn");
    pairs.float(&key("factor"), yarn.factor);
    pairs.size(&key("original_context_length"), yarn.original_max_position_embeddings);
    pairs.float(&key("yarn_beta_fast"), yarn.beta_fast);
    pairs.float(&key("yarn_beta_slow"), yarn.beta_slow);
    if let Some(factor) = yarn.attention_factor {
        // llama.cpp multiplies what the factor gives.
        pairs.float(&key("attn_factor"), factor / (0.1 * yarn.factor.ln() + 1.0));
    }
    Ok(())
}

/// What RoPE's frequencies are divided by, where that is a tensor in GGUF.
///
/// # Errors
/// Architectures that have no such tensor.
pub fn rope_factors(config: &ModelConfig) -> Result<Option<Vec<f32>>> {
    let Some(rope) = &config.rope else { return Ok(None) };
    let factors = match &rope.scaling {
        RopeScaling::Factors(factors) => factors.clone(),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => Llama3 {
            factor: *factor,
            low_freq_factor: *low_freq_factor,
            high_freq_factor: *high_freq_factor,
            original_max_position_embeddings: *original_max_position_embeddings,
        }
        .factors(rope.theta, config.head_dim),
        _ => return Ok(None),
    };
    match architecture(config)? {
        "llama" => Ok(Some(factors)),
        name => refuse(&format!("its RoPE scaling is llama3, which GGUF's {name} does not have")),
    }
}
