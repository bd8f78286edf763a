//! Every field of the config classes of our families in transformers 5.24 (`models/*/configuration_*.py` and the base class
//! `PreTrainedConfig`), and what becomes of it here. Fields that no class has are ignored, as transformers ignores them.

use super::{Result, fields::Fields};

/// Switches that would change the arithmetic, each with the value that is computed, which is the default too. Another value is refused. The
/// first is in no class: transformers' masks ask any config for it (`masking_utils.py`).
const FIXED: [(&str, bool); 5] = [
    ("is_causal", true),
    ("is_encoder_decoder", false),
    ("add_cross_attention", false),
    ("scale_attn_weights", true),
    ("scale_attn_by_inverse_layer_idx", false),
];

/// Refuses what is not computed.
pub(super) fn check(fields: Fields) -> Result<()> {
    for (field, computed) in FIXED {
        if fields.flag(field)?.unwrap_or(computed) != computed {
            return Err(fields.error(field, format!("only {computed} is supported")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Architecture, ModelConfig};
    use super::FIXED;
    use serde_json::{Map, Value, json};
    use std::{collections::BTreeSet, path::Path};

    /// The fields of each class.
    const BASE: &str = "transformers_version architectures model_type output_hidden_states return_dict dtype chunk_size_feed_forward \
        is_encoder_decoder id2label label2id problem_type quantization_config";
    const DECODER: &str = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act \
        max_position_embeddings initializer_range rms_norm_eps use_cache pad_token_id bos_token_id eos_token_id tie_word_embeddings \
        rope_parameters attention_dropout head_dim";
    const OF_CLASS: [(&str, &str); 6] = [
        ("Llama", "pretraining_tp attention_bias mlp_bias"),
        ("Mistral", "sliding_window"),
        ("Ministral", "sliding_window layer_types"),
        ("Qwen2", "use_sliding_window sliding_window max_window_layers layer_types"),
        ("Qwen3", "attention_bias use_sliding_window sliding_window max_window_layers layer_types"),
        (
            "older spellings",
            "tokenizer_class torch_dtype rope_scaling rope_theta partial_rotary_factor original_max_position_embeddings n_ctx",
        ),
    ];
    const GPT2: &str = "vocab_size n_positions n_embd n_layer n_head n_inner activation_function resid_pdrop embd_pdrop attn_pdrop \
        layer_norm_epsilon initializer_range summary_type summary_use_proj summary_activation summary_proj_to_labels \
        summary_first_dropout scale_attn_weights use_cache bos_token_id eos_token_id pad_token_id scale_attn_by_inverse_layer_idx \
        reorder_and_upcast_attn add_cross_attention tie_word_embeddings";

    /// Read in this folder: the field changes what is computed or when it ends, or a value that is not computed is refused.
    const USED: &str = "architectures model_type tokenizer_class dtype torch_dtype quantization_config vocab_size hidden_size intermediate_size \
        num_hidden_layers num_attention_heads num_key_value_heads hidden_act max_position_embeddings rms_norm_eps pad_token_id \
        eos_token_id tie_word_embeddings rope_parameters rope_scaling rope_theta partial_rotary_factor \
        original_max_position_embeddings head_dim attention_bias mlp_bias sliding_window use_sliding_window max_window_layers \
        layer_types n_positions n_embd n_layer n_head n_inner activation_function layer_norm_epsilon resid_pdrop embd_pdrop \
        attn_pdrop";

    /// Of no effect on a forward pass that is not training: dropout, initial values, other heads and outputs, how tensors are cut
    /// (`pretraining_tp`), and f32 instead of f16 in attention (`reorder_and_upcast_attn`), which is f32 here.
    const IRRELEVANT: &str = "transformers_version output_hidden_states return_dict chunk_size_feed_forward id2label label2id \
        problem_type initializer_range use_cache bos_token_id attention_dropout pretraining_tp n_ctx summary_type summary_use_proj \
        summary_activation summary_proj_to_labels summary_first_dropout reorder_and_upcast_attn";

    fn words(lists: &[&str]) -> BTreeSet<String> {
        lists.iter().flat_map(|list| list.split_whitespace()).map(String::from).collect()
    }

    /// A small config of a family with one more field.
    fn parse(family: Architecture, field: &str, value: Value) -> Result<ModelConfig, String> {
        let mut config = json!({"architectures": [family.class_name()], "vocab_size": 100, "hidden_size": 48, "intermediate_size": 80,
            "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 8});
        let object: &mut Map<String, Value> = config.as_object_mut().unwrap();
        object.insert(field.into(), value);
        ModelConfig::parse(config.to_string().as_bytes(), Path::new("config.json")).map_err(|e| e.to_string())
    }

    #[test]
    fn every_field_of_a_class_is_used_or_refused_or_of_no_effect() {
        let own = OF_CLASS.map(|(_, fields)| fields);
        let all = words(&[&[BASE, DECODER, GPT2][..], &own].concat());
        let fixed: BTreeSet<String> = FIXED.iter().map(|(field, _)| field.to_string()).collect();
        let (used, irrelevant) = (words(&[USED]), words(&[IRRELEVANT]));
        let together: BTreeSet<String> =
            [&used, &irrelevant, &fixed].into_iter().flatten().cloned().collect();
        assert_eq!(together.len(), used.len() + irrelevant.len() + fixed.len(), "a field is in two lists");
        assert_eq!(all.difference(&together).collect::<Vec<_>>(), [""; 0], "no list has these");
        assert_eq!(together.difference(&all).collect::<Vec<_>>(), ["is_causal"], "no class has these");
        let read = [include_str!("family.rs"), include_str!("rope.rs"), include_str!("mod.rs")].concat();
        for field in used {
            assert!(read.contains(&format!("\"{field}\"")), "{field} is not read");
        }
    }

    #[test]
    fn a_switch_that_is_not_computed_is_refused_in_every_family() {
        for family in Architecture::ALL {
            let plain = parse(family, "a", json!(0)).unwrap();
            for (field, computed) in FIXED {
                assert_eq!(parse(family, field, json!(computed)).unwrap(), plain, "{field}");
                assert_eq!(parse(family, field, Value::Null).unwrap(), plain, "{field}");
                assert!(parse(family, field, json!(!computed)).unwrap_err().contains(field), "{field}");
            }
        }
    }

    #[test]
    fn a_field_of_no_effect_may_hold_anything() {
        for family in Architecture::ALL {
            let plain = parse(family, "a", json!(0)).unwrap();
            for field in words(&[IRRELEVANT]) {
                for value in [json!("NaN"), json!({"x": [1]}), json!(-1), json!(true)] {
                    assert_eq!(parse(family, &field, value).unwrap(), plain, "{field}");
                }
            }
        }
    }
}
