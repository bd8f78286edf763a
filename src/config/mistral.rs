//! params.json, which Mistral's own checkpoints have in place of config.json.
//!
//! Each field becomes the field of Hugging Face that means the same, as vLLM maps them (`transformers_utils/configs/mistral.py`), and the
//! rest is read as config.json is. What has no such field would change the arithmetic, and is refused.

use super::{Fields, Result};
use serde_json::{Map, Value, json};

/// What a dense decoder with plain RoPE does not have.
const REFUSED: [&str; 8] =
    ["moe", "vision_encoder", "multimodal", "yarn", "llama_4_scaling", "q_lora_rank", "kv_lora_rank", "lora"];

/// The longest sequence where the file has no length, as in vLLM.
const DEFAULT_LENGTH: usize = 128_000;

/// The config.json that says the same.
pub(super) fn config_json(params: Fields) -> Result<Map<String, Value>> {
    for field in REFUSED {
        if params.raw(field).is_some_and(|value| !value.is_null()) {
            let reason = "models with it are not supported in Mistral's layout; if there is a version with config.json, use that";
            return Err(params.error(field, reason));
        }
    }
    let (dim, heads) = (params.extent("dim")?, params.extent("n_heads")?);
    let head_dim = match params.size("head_dim")? {
        Some(dim) => dim,
        None if dim % heads == 0 => dim / heads,
        None => {
            return Err(
                params.error("head_dim", format!("it is missing, and n_heads does not divide dim = {dim}"))
            );
        }
    };
    let length = match params.size("max_seq_len")? {
        Some(length) => Some(length),
        None => params.size("max_position_embeddings")?,
    };
    let mut config = json!({
        "architectures": ["MistralForCausalLM"],
        "vocab_size": params.extent("vocab_size")?,
        "hidden_size": dim,
        "intermediate_size": params.extent("hidden_dim")?,
        "num_hidden_layers": params.extent("n_layers")?,
        "num_attention_heads": heads,
        "num_key_value_heads": params.size("n_kv_heads")?.unwrap_or(heads),
        "head_dim": head_dim,
        "max_position_embeddings": length.unwrap_or(DEFAULT_LENGTH),
        "rms_norm_eps": params.float("norm_eps")?.unwrap_or(1e-5),
        "hidden_act": params.text("activation")?.unwrap_or("silu"),
        "rope_theta": rope_theta(params)?,
        "sliding_window": params.size("sliding_window")?,
        "tie_word_embeddings": params.flag("tied_embeddings")?.unwrap_or(false),
    });
    if let Some(quantization) = quantization(params)? {
        config["quantization_config"] = quantization;
    }
    match config {
        Value::Object(config) => Ok(config),
        _ => unreachable!("an object was written"),
    }
}

/// The base of RoPE. The first models have none, and a sliding window. Without a window, mistral-inference takes another base than vLLM.
fn rope_theta(params: Fields) -> Result<f64> {
    match (params.float("rope_theta")?, params.size("sliding_window")?) {
        (Some(theta), _) => Ok(theta),
        (None, Some(_)) => Ok(10_000.0),
        (None, None) => Err(params.error(
            "rope_theta",
            "it is missing; add the base that the model was trained with (mostly 1000000.0)",
        )),
    }
}

/// `quantization` as `quantization_config`. `qscheme_act` is about activations, which stay in f32.
fn quantization(params: Fields) -> Result<Option<Value>> {
    let Some(quantization) = params.object("quantization", "quantization.")? else { return Ok(None) };
    match quantization.text("qformat_weight")? {
        Some("fp8_e4m3") => Ok(Some(json!({"quant_method": "fp8", "activation_scheme": "static"}))),
        other => {
            let other = other.unwrap_or("no format");
            Err(quantization.error("qformat_weight", format!("'{other}' is not supported (known: fp8_e4m3)")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ModelConfig;
    use super::*;
    use std::path::Path;

    /// Mistral's parameters with `more` fields; null takes a field away.
    fn with(more: Value) -> Result<ModelConfig, String> {
        let mut params = json!({"dim": 64, "n_layers": 2, "head_dim": 16, "hidden_dim": 96, "n_heads": 4, "n_kv_heads": 2,
            "norm_eps": 1e-5, "vocab_size": 100, "rope_theta": 1e6});
        let params = params.as_object_mut().unwrap();
        params.extend(more.as_object().unwrap().clone());
        params.retain(|_, value| !value.is_null());
        let params = serde_json::to_vec(params).unwrap();
        ModelConfig::parse(&params, Path::new("dir/params.json")).map_err(|e| e.to_string())
    }

    #[test]
    fn params_mean_what_config_json_means() {
        let hf = json!({"architectures": ["MistralForCausalLM"], "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-5,
            "rope_theta": 1e6, "max_position_embeddings": 512, "sliding_window": null});
        let hf = ModelConfig::parse(hf.to_string().as_bytes(), Path::new("config.json")).unwrap();
        assert_eq!(with(json!({"max_seq_len": 512})).unwrap(), hf);
        assert_eq!(with(json!({"max_position_embeddings": 512, "head_dim": null})).unwrap(), hf);
        let first = with(json!({"rope_theta": null, "sliding_window": 32})).unwrap();
        assert_eq!((first.rope.unwrap().theta, first.sliding_windows), (10_000.0, vec![Some(32); 2]));
    }

    #[test]
    fn what_is_not_computed_is_refused_by_its_name() {
        for (more, want) in [
            (json!({"dim": null}), "'dim'"),
            (json!({"n_heads": 0}), "'n_heads'"),
            (json!({"moe": {"num_experts": 8}}), "'moe'"),
            (json!({"yarn": {"factor": 8}}), "'yarn'"),
            (json!({"rope_theta": null}), "'rope_theta'"),
            (json!({"sliding_window": [32, 64]}), "'sliding_window'"),
            (json!({"quantization": {"qformat_weight": "int4"}}), "'quantization.qformat_weight'"),
        ] {
            let said = with(more).unwrap_err();
            assert!(said.contains("params.json") && said.contains(want), "{said}");
        }
    }
}
