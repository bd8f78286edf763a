//! Shapes that several benches use.

/// The shapes of Qwen/Qwen3-0.6B. Weights are random, so that nothing is downloaded.
pub const QWEN3_0_6B: &str = r#"{
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "torch_dtype": "bfloat16", "vocab_size": 151936,
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
    "rope_theta": 1000000, "hidden_act": "silu", "attention_bias": false, "tie_word_embeddings": true
}"#;
