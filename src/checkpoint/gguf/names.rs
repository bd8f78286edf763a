//! GGUF's names of tensors, and Hugging Face's.
//!
//! Source: `MODEL_TENSOR` and `TensorNameMap` in gguf-py, for the tensors that our families have.

/// Outside of the layers.
const OUTER: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// In layer i: `blk.i.` and `model.layers.i.`.
const INNER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Hugging Face's name. A name that is none of ours stays as it is, so that a load refuses it by its own name.
pub fn hugging_face(name: &str) -> String {
    mapped(name).unwrap_or_else(|| name.into())
}

fn mapped(name: &str) -> Option<String> {
    let (module, kind) = name.rsplit_once('.')?;
    let find =
        |table: &[(&str, &'static str)], name: &str| Some(table.iter().find(|(from, _)| *from == name)?.1);
    match module.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, module)) => {
            let layer: usize = layer.parse().ok()?;
            Some(format!("model.layers.{layer}.{}.{kind}", find(&INNER, module)?))
        }
        None => Some(format!("{}.{kind}", find(&OUTER, module)?)),
    }
}

/// GGUF's name of a tensor that Hugging Face calls so; `None` for one that the models of GGUF do not have.
pub fn of_hugging_face(name: &str) -> Option<String> {
    let (module, kind) = name.rsplit_once('.')?;
    let find = |table: &[(&'static str, &str)], name: &str| Some(table.iter().find(|(_, to)| *to == name)?.0);
    match module.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
        Some((layer, module)) => {
            let layer: usize = layer.parse().ok()?;
            Some(format!("blk.{layer}.{}.{kind}", find(&INNER, module)?))
        }
        None => Some(format!("{}.{kind}", find(&OUTER, module)?)),
    }
}

/// Which of a model's projections has its rows in pairs, where the architecture has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotated {
    Query,
    Key,
}

impl Rotated {
    /// Whether a tensor of this name in the file is a rotated projection's weight or bias.
    pub fn of(name: &str) -> Option<Rotated> {
        match name.strip_prefix("blk.")?.split_once('.')?.1.rsplit_once('.')?.0 {
            "attn_q" => Some(Rotated::Query),
            "attn_k" => Some(Rotated::Key),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hugging_face() {
        for (name, want) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("output_norm.weight", "model.norm.weight"),
            ("blk.12.attn_q.bias", "model.layers.12.self_attn.q_proj.bias"),
            ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
            ("blk.0.attn_k_norm.weight", "model.layers.0.self_attn.k_norm.weight"),
            ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_gate_exps.weight"),
            ("blk.x.attn_q.weight", "blk.x.attn_q.weight"),
            ("", ""),
        ] {
            assert_eq!(hugging_face(name), want);
            assert!(want == name || of_hugging_face(want).as_deref() == Some(name), "{want}");
        }
        assert_eq!(Rotated::of("blk.3.attn_k.bias"), Some(Rotated::Key));
        assert_eq!(Rotated::of("blk.3.attn_k_norm.weight"), None);
    }
}
