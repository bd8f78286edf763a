//! config.json: the numbers that fix a model's shapes and arithmetic.
//!
//! Fields that don't change the arithmetic are ignored, whatever they are called. Values that would change it and that
//! are not implemented (another `hidden_act`, a `rope_type` from next year, quantized weights) are refused: a wrong answer
//! is worse than none. A field that is absent has the default of the family's config class in transformers 5.23.

mod family;
mod fields;
pub mod generation;
mod known;
#[cfg(feature = "quantized")]
mod mistral;
mod names;
mod rope;

pub use family::Architecture;
pub use names::{FamilyNames, LM_HEAD, Place};
pub use rope::{RopeParameters, RopeScaling, Yarn};

pub use crate::quant::Quantization;
pub(crate) use fields::Fields;

use crate::{json, tensor::DType};
use std::path::{Path, PathBuf};

/// Results of this room.
type Result<T, E = ConfigError> = std::result::Result<T, E>;

/// What can be wrong with config.json.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or not an object.
    #[error("{path}: {reason}")]
    Json { path: PathBuf, reason: String },
    /// A field is missing, has the wrong type, or a value that is not supported.
    #[error("{path}: '{field}': {reason}")]
    Field { path: PathBuf, field: String, reason: String },
}

/// The activation between the MLP's two matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · σ(x), also called swish.
    Silu,
    /// x · Φ(x), with the normal distribution Φ.
    Gelu,
    /// GELU by its tanh approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// x · σ(1.702 x), a coarser approximation of GELU.
    QuickGelu,
    /// max(x, 0).
    Relu,
    /// tanh(x).
    Tanh,
}

/// A decoder-only transformer's shapes and constants. Names are Hugging Face's; sizes are in elements.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub architecture: Architecture,
    pub vocab_size: usize,
    pub hidden_size: usize,
    /// Width of the MLP's inner layer.
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Heads of K and V; each serves `num_attention_heads / num_key_value_heads` query heads.
    pub num_key_value_heads: usize,
    /// Width of one head; not always hidden_size / num_attention_heads.
    pub head_dim: usize,
    /// Positions that the model was configured for, before RoPE scaling stretches them.
    pub max_position_embeddings: usize,
    /// ε of RMSNorm or LayerNorm.
    pub norm_eps: f32,
    pub hidden_act: Activation,
    /// Absent for learned positions (GPT-2).
    pub rope: Option<RopeParameters>,
    /// For each layer, how many keys a query sees (itself included); `None` sees all.
    pub sliding_windows: Vec<Option<usize>>,
    /// Whether lm_head and the token embedding are one tensor.
    pub tie_word_embeddings: bool,
    /// Biases of q_proj, k_proj and v_proj.
    pub qkv_bias: bool,
    /// Bias of o_proj.
    pub o_bias: bool,
    /// Biases of gate_proj, up_proj and down_proj.
    pub mlp_bias: bool,
    /// RMSNorm on each head of q and k (Qwen3).
    pub qk_norm: bool,
    /// How weights are packed, if they are.
    pub quantization: Option<Quantization>,
    /// The dtype that the checkpoint says its weights have.
    pub dtype: Option<DType>,
    /// The class of the tokenizer, which tokenizer_config.json may override.
    pub tokenizer_class: Option<String>,
    /// End-of-sequence ids; generation_config.json may override them.
    pub eos_token_id: Vec<u32>,
    /// The padding id, which `print(model)` shows and nothing else uses.
    pub pad_token_id: Option<u32>,
    /// GPT-2's dropout in training: after the embedding, in attention, on the residual. `print(model)` shows it too.
    pub dropout: [f32; 3],
}

impl ModelConfig {
    /// Parses config.json, or, if that is the file's name, Mistral's params.json (step 9). `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file and the field.
    pub fn parse(json: &[u8], path: &Path) -> Result<ModelConfig> {
        let bad = |reason: String| ConfigError::Json { path: path.into(), reason };
        let object = json::object(json).map_err(bad)?;
        let fields = Fields::new(&object, path);
        #[cfg(feature = "quantized")]
        if path.ends_with("params.json") {
            return ModelConfig::read(Fields::new(&mistral::config_json(fields)?, path));
        }
        ModelConfig::read(fields)
    }

    fn read(fields: Fields) -> Result<ModelConfig> {
        let quantization = Quantization::of(fields)?;
        let config = ModelConfig { quantization, ..family::read(fields)? };
        config.check(fields)?;
        Ok(config)
    }

    /// The longest sequence that the model is made for, in tokens.
    pub fn context(&self) -> usize {
        self.rope.as_ref().map_or(self.max_position_embeddings, |r| r.context(self.max_position_embeddings))
    }

    /// About the most bytes that activations of one forward pass over `tokens` tokens take at a time, in f32:
    /// 4 · (tokens · (2 · hidden + the widest layer) + logit rows · vocabulary).
    pub fn activation_bytes(&self, tokens: usize, logit_rows: usize) -> u64 {
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        // Beside the residual and its norm: the larger of attention (qkv, its three parts) and MLP (gate+up, its two parts).
        let widest = (2 * (q + 2 * kv)).max(4 * self.intermediate_size);
        let of_tokens = (tokens as u64).saturating_mul((2 * self.hidden_size + widest) as u64);
        of_tokens.saturating_add((logit_rows as u64).saturating_mul(self.vocab_size as u64)).saturating_mul(4)
    }

    fn check(&self, fields: Fields) -> Result<()> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if heads % kv_heads != 0 {
            let reason = format!("{kv_heads} does not divide num_attention_heads = {heads}");
            return Err(fields.error("num_key_value_heads", reason));
        }
        if self.rope.is_some() && !self.head_dim.is_multiple_of(2) {
            return Err(fields.error("head_dim", format!("{} is odd, and RoPE rotates pairs", self.head_dim)));
        }
        if let Some(RopeParameters { scaling: RopeScaling::Factors(factors), .. }) = &self.rope
            && factors.len() != self.head_dim / 2
        {
            let reason = format!("{} factors for {} frequencies", factors.len(), self.head_dim / 2);
            return Err(fields.error("rope_scaling.factors", reason));
        }
        if self.head_dim > 1 << 16 {
            return Err(fields.error(
                "head_dim",
                format!("{} is more than any model has (the limit is 65536)", self.head_dim),
            ));
        }
        // Sizes of one matrix stay far from overflow, whatever config.json says.
        let widest = (heads * self.head_dim).max(self.intermediate_size).max(self.vocab_size);
        if self.hidden_size.checked_mul(widest).is_none_or(|n| n > 1 << 40) || widest > 1 << 31 {
            return Err(fields.error("hidden_size", "the sizes in this file give an impossibly large model"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn parse(json: &str) -> Result<ModelConfig, String> {
        ModelConfig::parse(json.as_bytes(), Path::new("dir/config.json")).map_err(|e| e.to_string())
    }
    /// A small valid config of a family with `more` fields, which win over the base.
    fn with(architecture: &str, more: &str) -> Result<ModelConfig, String> {
        let mut base: Value = serde_json::from_str(
            r#"{"vocab_size":100,"hidden_size":48,"intermediate_size":80,"num_hidden_layers":4,"num_attention_heads":6,
                "num_key_value_heads":2,"head_dim":8,"some_future_field":{"a":[1]}}"#,
        )
        .unwrap();
        base["architectures"] = Value::from(vec![architecture]);
        let more: Value = serde_json::from_str(more).unwrap();
        base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parse(&base.to_string())
    }

    #[test]
    fn both_spellings_give_the_same_config() {
        let old = r#"{"rope_theta":500000.0,"torch_dtype":"bfloat16","rope_scaling":{"type":"linear","factor":2.0}}"#;
        let new = r#"{"dtype":"bfloat16","rope_parameters":{"rope_theta":500000.0,"rope_type":"linear","factor":2.0}}"#;
        let (old, new) = (with("LlamaForCausalLM", old).unwrap(), with("LlamaForCausalLM", new).unwrap());
        assert_eq!(old, new);
        assert_eq!((old.rope.unwrap().theta, old.dtype), (500000.0, Some(DType::BF16)));
    }

    #[test]
    fn absent_fields_have_the_familys_defaults() {
        let llama = with("LlamaForCausalLM", r#"{"head_dim":null,"num_key_value_heads":null}"#).unwrap();
        assert_eq!((llama.head_dim, llama.num_key_value_heads, llama.max_position_embeddings), (8, 6, 2048));
        let mistral = with("MistralForCausalLM", "{}").unwrap();
        assert_eq!(mistral.sliding_windows, vec![Some(4096); 4]);
        assert_eq!(
            with("MistralForCausalLM", r#"{"sliding_window":null}"#).unwrap().sliding_windows,
            vec![None; 4]
        );
        let qwen2 = with("Qwen2ForCausalLM", "{}").unwrap();
        assert!(qwen2.qkv_bias && !qwen2.o_bias && !qwen2.qk_norm && !qwen2.tie_word_embeddings);
        let gpt2 = parse(
            r#"{"architectures":["GPT2LMHeadModel"],"n_embd":48,"n_layer":2,"n_head":4,"vocab_size":50}"#,
        )
        .unwrap();
        assert_eq!(
            (gpt2.intermediate_size, gpt2.max_position_embeddings, gpt2.tie_word_embeddings),
            (192, 1024, true)
        );
    }

    #[test]
    fn windows_follow_use_sliding_window_and_layer_types() {
        let windows = |more| with("Qwen3ForCausalLM", more).unwrap().sliding_windows;
        assert_eq!(windows(r#"{"sliding_window":5,"use_sliding_window":false}"#), [None; 4]);
        let by_index = r#"{"sliding_window":5,"use_sliding_window":true,"max_window_layers":3}"#;
        assert_eq!(windows(by_index), [None, None, None, Some(5)]);
        let by_type = r#"{"sliding_window":5,"use_sliding_window":true,
            "layer_types":["sliding_attention","full_attention","full_attention","sliding_attention"]}"#;
        assert_eq!(windows(by_type), [Some(5), None, None, Some(5)]);
    }

    #[test]
    fn what_would_change_the_arithmetic_is_refused() {
        let cases = [
            ("LlamaForCausalLM", r#"{"hidden_act":"relu"}"#, "hidden_act"),
            ("LlamaForCausalLM", r#"{"rope_scaling":{"rope_type":"longrope","factor":2}}"#, "longrope"),
            ("LlamaForCausalLM", r#"{"rope_scaling":{"rope_type":"linear"}}"#, "rope_scaling.factor"),
            ("LlamaForCausalLM", r#"{"quantization_config":{"quant_method":"mxfp4","bits":4}}"#, "mxfp4"),
            ("LlamaForCausalLM", r#"{"num_key_value_heads":4}"#, "num_attention_heads = 6"),
            ("LlamaForCausalLM", r#"{"head_dim":null,"hidden_size":50}"#, "hidden_size"),
            ("LlamaForCausalLM", r#"{"head_dim":7}"#, "odd"),
            ("LlamaForCausalLM", r#"{"vocab_size":null}"#, "vocab_size"),
            ("LlamaForCausalLM", r#"{"vocab_size":0}"#, "vocab_size"),
            ("LlamaForCausalLM", r#"{"hidden_size":"48"}"#, "a size"),
            ("LlamaForCausalLM", r#"{"hidden_size":4294967295,"vocab_size":4294967295}"#, "impossibly large"),
            ("Qwen3ForCausalLM", r#"{"layer_types":["chunked_attention"]}"#, "layer_types"),
            (
                "GPT2LMHeadModel",
                r#"{"scale_attn_by_inverse_layer_idx":true,"n_embd":48,"n_layer":2,"n_head":4}"#,
                "inverse",
            ),
            ("LlamaForCausalLM", r#"{"partial_rotary_factor":0.5}"#, "partial_rotary_factor"),
            ("LlamaForCausalLM", r#"{"rope_scaling":{"factor":4.0}}"#, "rope_scaling.rope_type"),
            ("LlamaForCausalLM", r#"{"rope_parameters":{"rope_theta":1e4,"beta_fast":4}}"#, "beta_fast"),
            (
                "MistralForCausalLM",
                r#"{"rope_parameters":{"full_attention":{"rope_type":"default"}}}"#,
                "full_attention",
            ),
            ("LlamaForCausalLM", r#"{"model_type":"mistral"}"#, "LlamaForCausalLM"),
            ("LlamaForCausalLM", r#"{"model_type":"granite"}"#, "'granite'"),
            (
                "MistralForCausalLM",
                r#"{"sliding_window":null,"layer_types":["sliding_attention","full_attention","full_attention","full_attention"]}"#,
                "layer_types",
            ),
            (
                "LlamaForCausalLM",
                r#"{"layer_types":["sliding_attention","full_attention","full_attention","full_attention"]}"#,
                "layer_types",
            ),
            (
                "GPT2LMHeadModel",
                r#"{"activation_function":"mish","n_embd":48,"n_layer":2,"n_head":4}"#,
                "mish",
            ),
            ("BertModel", "{}", "known: GPT2LMHeadModel, LlamaForCausalLM"),
        ];
        for (architecture, more, want) in cases {
            let e = with(architecture, more).expect_err(more);
            assert!(e.contains("config.json") && e.contains(want), "{more}: {e}");
        }
        for json in ["", "{", "[]", "{}"] {
            assert!(parse(json).unwrap_err().contains("config.json"), "{json}");
        }
    }

    #[test]
    fn names_of_old_and_near_families() {
        assert_eq!(with("LLaMAForCausalLM", r#"{"model_type":"llama"}"#), with("LlamaForCausalLM", "{}"));
        assert_eq!(
            with("MinistralForCausalLM", r#"{"model_type":"ministral"}"#),
            with("MistralForCausalLM", "{}")
        );
        let types = r#"{"model_type":"mistral","sliding_window":7,
            "layer_types":["sliding_attention","full_attention","full_attention","sliding_attention"]}"#;
        let windows = with("MistralForCausalLM", types).unwrap().sliding_windows;
        assert_eq!(windows, [Some(7), None, None, Some(7)]);
    }

    #[test]
    fn rope_parameters_that_say_nothing_are_the_default() {
        let plain = with("LlamaForCausalLM", "{}").unwrap();
        for rope in
            [r#"{"rope_type":"default","factor":4.0}"#, r#"{"rope_theta":10000,"partial_rotary_factor":1}"#]
        {
            assert_eq!(with("LlamaForCausalLM", &format!(r#"{{"rope_scaling":{rope}}}"#)).unwrap(), plain);
        }
        // The number inside wins, as in transformers.
        let inside = r#"{"partial_rotary_factor":0.5,"rope_parameters":{"partial_rotary_factor":1.0}}"#;
        assert_eq!(with("LlamaForCausalLM", inside).unwrap(), plain);
    }

    #[test]
    fn gpt2_has_the_activations_of_transformers() {
        let of = |name: &str| {
            let json = format!(r#"{{"n_embd":48,"n_layer":2,"n_head":4,"activation_function":"{name}"}}"#);
            with("GPT2LMHeadModel", &json).unwrap().hidden_act
        };
        assert_eq!(["gelu", "relu", "swish"].map(of), [Activation::Gelu, Activation::Relu, Activation::Silu]);
        assert_eq!(["quick_gelu", "tanh"].map(of), [Activation::QuickGelu, Activation::Tanh]);
        assert_eq!(["gelu_new", "gelu_fast", "gelu_pytorch_tanh"].map(of), [Activation::GeluTanh; 3]);
    }

    #[test]
    fn the_context_is_stretched_as_in_vllm() {
        let context = |more| with("LlamaForCausalLM", more).unwrap().context();
        assert_eq!(context(r#"{"max_position_embeddings":64}"#), 64);
        assert_eq!(
            context(r#"{"max_position_embeddings":64,"rope_scaling":{"type":"dynamic","factor":4.0}}"#),
            256
        );
        let yarn = r#"{"max_position_embeddings":100,"rope_scaling":{"type":"yarn","factor":4.0,"original_max_position_embeddings":64}}"#;
        assert_eq!(context(yarn), 256);
    }
}
