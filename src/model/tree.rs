//! The module tree as `print(model)` shows it in Hugging Face transformers.

use crate::config::{Activation, Architecture, ModelConfig};
use std::fmt::Write;

/// The text of `print(model)`, without a newline at the end.
pub fn module_tree(config: &ModelConfig) -> String {
    let root = match config.architecture {
        Architecture::Gpt2 => gpt2(config),
        _ => decoder(config),
    };
    let mut text = String::new();
    root.print(&mut text, 0);
    text
}

/// A module: how it prints, and its children by name.
struct Node {
    label: String,
    children: Vec<(String, Node)>,
}

impl Node {
    fn leaf(label: impl Into<String>) -> Node {
        Node { label: label.into(), children: Vec::new() }
    }

    fn new<const N: usize>(label: impl Into<String>, children: [(&str, Node); N]) -> Node {
        let children = children.into_iter().map(|(name, node)| (name.to_owned(), node)).collect();
        Node { label: label.into(), children }
    }

    fn print(&self, text: &mut String, depth: usize) {
        text.push_str(&self.label);
        if self.children.is_empty() {
            return;
        }
        text.push_str("(\n");
        for (name, child) in &self.children {
            let _ = write!(text, "{:width$}({name}): ", "", width = 2 * depth + 2);
            child.print(text, depth + 1);
            text.push('\n');
        }
        let _ = write!(text, "{:width$})", "", width = 2 * depth);
    }
}

fn decoder(c: &ModelConfig) -> Node {
    let family = c.architecture.class_name().trim_end_matches("ForCausalLM");
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let (hidden, inner) = (c.hidden_size, c.intermediate_size);
    let norm = |n: usize| Node::leaf(format!("{family}RMSNorm(({n},), eps={})", python_float(c.norm_eps)));
    let mut attention = Node::new(
        format!("{family}Attention"),
        [
            ("q_proj", linear(hidden, q, c.qkv_bias)),
            ("k_proj", linear(hidden, kv, c.qkv_bias)),
            ("v_proj", linear(hidden, kv, c.qkv_bias)),
            ("o_proj", linear(q, hidden, c.o_bias)),
        ],
    );
    if c.qk_norm {
        attention.children.push(("q_norm".into(), norm(c.head_dim)));
        attention.children.push(("k_norm".into(), norm(c.head_dim)));
    }
    let mlp = Node::new(
        format!("{family}MLP"),
        [
            ("gate_proj", linear(hidden, inner, c.mlp_bias)),
            ("up_proj", linear(hidden, inner, c.mlp_bias)),
            ("down_proj", linear(inner, hidden, c.mlp_bias)),
            ("act_fn", activation(c)),
        ],
    );
    let layer = Node::new(
        format!("{family}DecoderLayer"),
        [
            ("self_attn", attention),
            ("mlp", mlp),
            ("input_layernorm", norm(hidden)),
            ("post_attention_layernorm", norm(hidden)),
        ],
    );
    let model = Node::new(
        format!("{family}Model"),
        [
            ("embed_tokens", embedding(c.vocab_size, hidden, c.pad_token_id)),
            ("layers", repeated(layer, c.num_hidden_layers)),
            ("norm", norm(hidden)),
            ("rotary_emb", Node::leaf(format!("{family}RotaryEmbedding()"))),
        ],
    );
    Node::new(
        c.architecture.class_name(),
        [("model", model), ("lm_head", linear(hidden, c.vocab_size, false))],
    )
}

fn gpt2(c: &ModelConfig) -> Node {
    let (hidden, inner) = (c.hidden_size, c.intermediate_size);
    let eps = python_float(c.norm_eps);
    let norm =
        || Node::leaf(format!("LayerNorm(({hidden},), eps={eps}, elementwise_affine=True, bias=True)"));
    let conv1d = |inputs: usize, outputs: usize| Node::leaf(format!("Conv1D(nf={outputs}, nx={inputs})"));
    let dropout = |p: f32| Node::leaf(format!("Dropout(p={}, inplace=False)", python_float(p)));
    let [embedding_dropout, attention_dropout, residual_dropout] = c.dropout;
    let attention = Node::new(
        "GPT2Attention",
        [
            ("c_attn", conv1d(hidden, 3 * hidden)),
            ("c_proj", conv1d(hidden, hidden)),
            ("attn_dropout", dropout(attention_dropout)),
            ("resid_dropout", dropout(residual_dropout)),
        ],
    );
    let mlp = Node::new(
        "GPT2MLP",
        [
            ("c_fc", conv1d(hidden, inner)),
            ("c_proj", conv1d(inner, hidden)),
            ("act", activation(c)),
            ("dropout", dropout(residual_dropout)),
        ],
    );
    let block =
        Node::new("GPT2Block", [("ln_1", norm()), ("attn", attention), ("ln_2", norm()), ("mlp", mlp)]);
    let transformer = Node::new(
        "GPT2Model",
        [
            ("wte", embedding(c.vocab_size, hidden, None)),
            ("wpe", embedding(c.max_position_embeddings, hidden, None)),
            ("drop", dropout(embedding_dropout)),
            ("h", repeated(block, c.num_hidden_layers)),
            ("ln_f", norm()),
        ],
    );
    Node::new(
        "GPT2LMHeadModel",
        [("transformer", transformer), ("lm_head", linear(hidden, c.vocab_size, false))],
    )
}

fn linear(inputs: usize, outputs: usize, bias: bool) -> Node {
    let bias = if bias { "True" } else { "False" };
    Node::leaf(format!("Linear(in_features={inputs}, out_features={outputs}, bias={bias})"))
}

fn embedding(rows: usize, width: usize, padding: Option<u32>) -> Node {
    let padding = padding.map_or(String::new(), |id| format!(", padding_idx={id}"));
    Node::leaf(format!("Embedding({rows}, {width}{padding})"))
}

fn activation(config: &ModelConfig) -> Node {
    Node::leaf(match config.hidden_act {
        Activation::Silu => "SiLUActivation()",
        Activation::GeluTanh => "NewGELUActivation()",
    })
}

/// A ModuleList of equal modules, which torch prints once.
fn repeated(node: Node, count: usize) -> Node {
    let (name, label) = match count {
        1 => ("0".into(), node.label),
        n => (format!("0-{}", n - 1), format!("{n} x {}", node.label)),
    };
    Node { label: "ModuleList".into(), children: vec![(name, Node { label, ..node })] }
}

/// As Python prints a float: 1e-06, 0.01.
fn python_float(x: f32) -> String {
    if x != 0.0 && x < 1e-4 {
        let text = format!("{x:e}");
        let (mantissa, exponent) = text.split_once("e-").unwrap_or((&text, "0"));
        format!("{mantissa}e-{exponent:0>2}")
    } else {
        format!("{x:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        for (x, want) in
            [(1e-6, "1e-06"), (1e-5, "1e-05"), (0.01, "0.01"), (1.5e-5, "1.5e-05"), (1e-12, "1e-12")]
        {
            assert_eq!(python_float(x), want);
        }
    }
}
