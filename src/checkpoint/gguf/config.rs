//! The config.json that a GGUF file stands for.
//!
//! Source of the keys: `constants.py` in gguf-py; of what they mean: llama.cpp's `llama-model.cpp` and `convert_hf_to_gguf.py`.

use super::super::Result;
use super::{Gguf, metadata::Metadata};
use crate::tensor::DType;
use serde_json::{Map, Value, json};

/// A size that must be there.
pub fn needed(metadata: &Metadata, key: &str) -> Result<usize> {
    metadata.size(key)?.ok_or_else(|| metadata.bad(format!("there is no '{key}'")))
}

/// The file's text.
pub fn json(gguf: &Gguf) -> Result<Vec<u8>> {
    let metadata = &gguf.metadata;
    let size = |name: &str| needed(metadata, &gguf.key(name));
    let window = metadata.size(&gguf.key("attention.sliding_window"))?.filter(|window| *window > 0);
    let (class, model_type) = match gguf.architecture {
        "qwen2" => ("Qwen2ForCausalLM", "qwen2"),
        "qwen3" => ("Qwen3ForCausalLM", "qwen3"),
        // A Mistral is a llama in GGUF.
        _ if window.is_some() => ("MistralForCausalLM", "mistral"),
        _ => ("LlamaForCausalLM", "llama"),
    };
    let (hidden, heads) = (size("embedding_length")?, size("attention.head_count")?);
    let head_dim = head_dim(gguf, hidden, heads)?;
    refuse_others(gguf, head_dim)?;
    let epsilon = gguf.key("attention.layer_norm_rms_epsilon");
    let epsilon = metadata.float(&epsilon)?.ok_or_else(|| gguf.bad(format!("there is no '{epsilon}'")))?;
    let tensors = &gguf.tensors.header.tensors;
    let embedding = tensors.get("model.embed_tokens.weight");
    let embedding = embedding.ok_or_else(|| gguf.bad("there is no tensor 'token_embd.weight'".into()))?;
    let config = json!({
        "architectures": [class],
        "model_type": model_type,
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": size("feed_forward_length")?,
        "num_hidden_layers": size("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.size(&gguf.key("attention.head_count_kv"))?.unwrap_or(heads),
        "head_dim": head_dim,
        "max_position_embeddings": size("context_length")?,
        "rms_norm_eps": epsilon,
        "rope_theta": metadata.float(&gguf.key("rope.freq_base"))?.unwrap_or(10000.0),
        "rope_scaling": rope_scaling(gguf, head_dim)?,
        "sliding_window": window,
        "use_sliding_window": window.is_some(),
        "max_window_layers": 0,
        "tie_word_embeddings": !tensors.contains_key("lm_head.weight"),
        "attention_bias": tensors.contains_key("model.layers.0.self_attn.q_proj.bias"),
        "mlp_bias": tensors.contains_key("model.layers.0.mlp.gate_proj.bias"),
        "eos_token_id": super::tokenizer::ends_of_text(gguf)?,
        "bos_token_id": metadata.size("tokenizer.ggml.bos_token_id")?,
        "pad_token_id": metadata.size("tokenizer.ggml.padding_token_id")?,
    });
    Ok(config.to_string().into_bytes())
}

fn head_dim(gguf: &Gguf, hidden: usize, heads: usize) -> Result<usize> {
    let key = gguf.key("attention.key_length");
    match gguf.metadata.size(&key)? {
        Some(length) => Ok(length),
        None if heads > 0 && hidden.is_multiple_of(heads) => Ok(hidden / heads),
        None => {
            Err(gguf
                .bad(format!("{hidden} numbers do not divide into {heads} heads, and there is no '{key}'")))
        }
    }
}

/// Refuses what would change the arithmetic and is not computed.
fn refuse_others(gguf: &Gguf, head_dim: usize) -> Result<()> {
    let size_is = |name: &str, want: usize, why: &str| {
        let key = gguf.key(name);
        match gguf.metadata.size(&key)? {
            Some(found) if found != want => Err(gguf.bad(format!("'{key}' is {found}, not {want}: {why}"))),
            _ => Ok(()),
        }
    };
    size_is(
        "attention.value_length",
        head_dim,
        "heads of v that are wider than those of k are not supported",
    )?;
    size_is("rope.dimension_count", head_dim, "partial rotation is not supported")?;
    size_is("expert_count", 0, "mixtures of experts are not supported; use a dense model")?;
    let scale = gguf.key("attention.scale");
    match gguf.metadata.float(&scale)? {
        Some(found) if (found * (head_dim as f64).sqrt() - 1.0).abs() > 1e-5 => {
            Err(gguf.bad(format!("'{scale}' is {found}; only 1 / sqrt(head_dim) is supported")))
        }
        _ => Ok(()),
    }
}

/// `rope_scaling`, null if there is none. A tensor of factors stands for Llama 3's scaling, and llama.cpp takes it before everything else.
fn rope_scaling(gguf: &Gguf, head_dim: usize) -> Result<Value> {
    if let Some(info) = &gguf.tensors.rope_factors {
        if info.dtype != DType::F32 || info.shape != [head_dim / 2] {
            let (dtype, shape) = (info.dtype, &info.shape);
            return Err(
                gguf.bad(format!("'rope_freqs.weight' is {dtype} {shape:?}, not F32 [{}]", head_dim / 2))
            );
        }
        let factors = gguf.f32_values(info);
        if let Some(wrong) = factors.iter().find(|factor| !factor.is_finite() || **factor <= 0.0) {
            return Err(
                gguf.bad(format!("'rope_freqs.weight' holds {wrong}, which no frequency is divided by"))
            );
        }
        return Ok(json!({"rope_type": "factors", "factors": factors}));
    }
    let float = |name: &str| gguf.metadata.float(&gguf.key(name));
    // Before there were kinds of scaling, files had the linear one's factor alone.
    let factor = match float("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => float("rope.scale_linear")?,
    };
    let factor = factor.filter(|factor| *factor != 0.0);
    let key = gguf.key("rope.scaling.type");
    match (gguf.metadata.text(&key)?, factor) {
        (Some("none"), _) | (None, None) => Ok(Value::Null),
        (Some("linear"), None) => Ok(Value::Null),
        (Some("linear") | None, Some(factor)) => Ok(json!({"rope_type": "linear", "factor": factor})),
        (Some("yarn"), Some(factor)) => yarn(gguf, factor),
        (Some("yarn"), None) => Err(gguf.bad(format!("'{key}' is 'yarn', and there is no factor for it"))),
        (Some(other), _) => {
            Err(gguf.bad(format!("'{key}' is '{other}'; none, linear and yarn are supported")))
        }
    }
}

fn yarn(gguf: &Gguf, factor: f64) -> Result<Value> {
    let float = |name: &str| gguf.metadata.float(&gguf.key(name));
    for (name, computed) in [("rope.scaling.yarn_ext_factor", 1.0), ("rope.scaling.yarn_log_multiplier", 0.0)]
    {
        if let Some(found) = float(name)?.filter(|found| *found != computed) {
            return Err(gguf.bad(format!("'{}' is {found}; only {computed} is supported", gguf.key(name))));
        }
    }
    let mut yarn = Map::new();
    let mut insert = |name: &str, value: Value| drop(yarn.insert(name.into(), value));
    insert("rope_type", "yarn".into());
    insert("factor", factor.into());
    let original = gguf.metadata.size(&gguf.key("rope.scaling.original_context_length"))?;
    original.into_iter().for_each(|length| insert("original_max_position_embeddings", length.into()));
    let names = [("rope.scaling.yarn_beta_fast", "beta_fast"), ("rope.scaling.yarn_beta_slow", "beta_slow")];
    for (name, of_hugging_face) in names {
        float(name)?.into_iter().for_each(|beta| insert(of_hugging_face, beta.into()));
    }
    // llama.cpp multiplies what the factor gives; Hugging Face has the product.
    let times = float("rope.scaling.attn_factor")?.filter(|times| *times != 1.0);
    times
        .into_iter()
        .for_each(|times| insert("attention_factor", (times * (0.1 * factor.ln() + 1.0)).into()));
    Ok(yarn.into())
}
