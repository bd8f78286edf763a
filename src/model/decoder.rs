//! Llama, Mistral, Qwen2 and Qwen3: one decoder with a few switches.
//!
//! The structs below are the module tree that `print(model)` shows in Hugging Face (`stairwell inspect` prints it), with the
//! same names as in the checkpoint:
//!
//! ```text
//! Qwen3ForCausalLM(
//!   (model): Qwen3Model(
//!     (embed_tokens): Embedding
//!     (layers): ModuleList( N x Qwen3DecoderLayer(
//!         (self_attn): q_proj, k_proj, v_proj, o_proj, q_norm, k_norm
//!         (mlp): gate_proj, up_proj, down_proj
//!         (input_layernorm), (post_attention_layernorm) ))
//!     (norm) )
//!   (lm_head): Linear )
//! ```
//! q_proj, k_proj and v_proj are three tensors in the checkpoint and one matrix multiplication here; so are gate_proj and
//! up_proj.

use super::layers::{Embedding, Linear, LmHead, Param, RmsNorm, Source, Visit};
use super::rope::Frequencies;
use super::{AttentionShape, Builder, Model, Pass, TiedNames};
use crate::backend::{Backend, Rope, Slice};
use crate::{error::Result, tensor::HostTensor};
use std::ops::Range;

/// The whole model: `model` and `lm_head` of the Hugging Face class.
pub struct Decoder<B: Backend> {
    embed_tokens: Embedding<B>,
    layers: Vec<DecoderLayer<B>>,
    norm: RmsNorm<B>,
    rotary_emb: Rope<B>,
    lm_head: LmHead<B>,
    attention: AttentionShape,
}

struct DecoderLayer<B: Backend> {
    name: String,
    self_attn: SelfAttention<B>,
    mlp: Mlp<B>,
    input_layernorm: RmsNorm<B>,
    post_attention_layernorm: RmsNorm<B>,
}

struct SelfAttention<B: Backend> {
    name: String,
    layer: usize,
    qkv_proj: Linear<B, 3>,
    o_proj: Linear<B>,
    q_norm: Option<RmsNorm<B>>,
    k_norm: Option<RmsNorm<B>>,
}

struct Mlp<B: Backend> {
    name: String,
    gate_up_proj: Linear<B, 2>,
    down_proj: Linear<B>,
}

// ANCHOR: forward
impl<B: Backend> DecoderLayer<B> {
    /// [tokens, hidden] → [tokens, hidden]: attention and MLP, each added to what came in.
    fn forward(&self, pass: &mut Pass<B>, rope: &Rope<B>, x: B::Tensor) -> Result<B::Tensor> {
        let h = self.input_layernorm.forward(pass, &x)?;
        let h = self.self_attn.forward(pass, rope, &h)?;

        let (x, h) = self.post_attention_layernorm.forward_sum(pass, x, &h)?;
        let h = self.mlp.forward(pass, &h)?;
        let x = pass.backend.add(x, &h)?;
        pass.see(&self.name, &x);
        Ok(x)
    }
}

impl<B: Backend> SelfAttention<B> {
    fn forward(&self, pass: &mut Pass<B>, rope: &Rope<B>, x: &B::Tensor) -> Result<B::Tensor> {
        let [mut q, mut k, v] = self.qkv_proj.forward_split(pass, x)?;
        if let Some(q_norm) = &self.q_norm {
            q = q_norm.forward(pass, &q)?;
        }
        if let Some(k_norm) = &self.k_norm {
            k = k_norm.forward(pass, &k)?;
        }
        let positions = &pass.inputs.positions;
        let heads = pass.attention.rotate_and_attend(pass.backend, self.layer, rope, positions, q, k, &v)?;
        let y = self.o_proj.forward(pass, &heads)?;
        pass.see(&self.name, &y);
        Ok(y)
    }
}

impl<B: Backend> Mlp<B> {
    fn forward(&self, pass: &mut Pass<B>, x: &B::Tensor) -> Result<B::Tensor> {
        let [gate, up] = self.gate_up_proj.forward_split(pass, x)?;
        let h = pass.backend.silu_mul(gate, &up)?;
        let y = self.down_proj.forward(pass, &h)?;
        pass.see(&self.name, &y);
        Ok(y)
    }
}
// ANCHOR_END: forward

impl<B: Backend> Model<B> for Decoder<B> {
    fn embed(&self, pass: &mut Pass<B>) -> Result<B::Tensor> {
        self.embed_tokens.forward(pass, &pass.inputs.tokens)
    }

    fn layers(&self, pass: &mut Pass<B>, range: Range<usize>, mut x: B::Tensor) -> Result<B::Tensor> {
        for layer in &self.layers[range] {
            x = layer.forward(pass, &self.rotary_emb, x)?;
        }
        Ok(x)
    }

    // ANCHOR: head
    fn head(&self, pass: &mut Pass<B>, x: B::Tensor) -> Result<B::Tensor> {
        let x = pass.backend.take_rows(&x, &pass.inputs.logit_rows)?;
        let x = self.norm.forward(pass, &x)?;
        self.lm_head.forward(pass, &x, &self.embed_tokens)
    }
    // ANCHOR_END: head

    fn hidden_size(&self) -> usize {
        self.embed_tokens.width()
    }

    fn attention_shape(&self) -> AttentionShape {
        self.attention.clone()
    }

    fn tied(&self) -> Option<TiedNames> {
        self.lm_head.tied()
    }

    fn visit(&mut self, visit: &mut Visit<B>) -> Result<()> {
        visit(&mut self.embed_tokens.table)?;
        for layer in &mut self.layers {
            let SelfAttention { qkv_proj, o_proj, q_norm, k_norm, .. } = &mut layer.self_attn;
            qkv_proj.visit(visit)?;
            o_proj.visit(visit)?;
            q_norm.iter_mut().chain(k_norm).try_for_each(|norm| visit(&mut norm.weight))?;
            layer.mlp.gate_up_proj.visit(visit)?;
            layer.mlp.down_proj.visit(visit)?;
            visit(&mut layer.input_layernorm.weight)?;
            visit(&mut layer.post_attention_layernorm.weight)?;
        }
        visit(&mut self.norm.weight)?;
        self.lm_head.weight.iter_mut().try_for_each(visit)
    }
}

impl<B: Backend> Decoder<B> {
    /// An unloaded model. `max_length` is the longest sequence of this run (see [`Frequencies::new`]).
    ///
    /// # Errors
    /// Those of the backend.
    pub fn new(root: &Builder<B>, max_length: usize) -> Result<Decoder<B>> {
        let (config, model) = (root.config, root.at("model", "Model"));
        Ok(Decoder {
            embed_tokens: model.embedding("embed_tokens", config.vocab_size)?,
            layers: model.layers("layers", "DecoderLayer", DecoderLayer::new)?,
            norm: model.rms_norm("norm", config.hidden_size)?,
            rotary_emb: rotary_embedding(&model, max_length)?,
            lm_head: root.lm_head()?,
            attention: AttentionShape::new(config, root.part.rank, &root.part.stage),
        })
    }
}

impl<B: Backend> DecoderLayer<B> {
    fn new(at: &Builder<B>, layer: usize) -> Result<DecoderLayer<B>> {
        let hidden = at.config.hidden_size;
        Ok(DecoderLayer {
            name: at.path.clone(),
            self_attn: SelfAttention::new(&at.at("self_attn", "Attention"), layer)?,
            mlp: Mlp::new(&at.at("mlp", "MLP"))?,
            input_layernorm: at.rms_norm("input_layernorm", hidden)?,
            post_attention_layernorm: at.rms_norm("post_attention_layernorm", hidden)?,
        })
    }
}

impl<B: Backend> SelfAttention<B> {
    fn new(at: &Builder<B>, layer: usize) -> Result<SelfAttention<B>> {
        let config = at.config;
        let q = config.num_attention_heads * config.head_dim;
        let norm = |name: &str| config.qk_norm.then(|| at.rms_norm(name, config.head_dim)).transpose();
        Ok(SelfAttention {
            name: at.path.clone(),
            layer,
            qkv_proj: at.qkv_linear(["q_proj", "k_proj", "v_proj"], config.hidden_size, config.qkv_bias)?,
            o_proj: at.row_linear("o_proj", q, config.hidden_size, config.o_bias)?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
        })
    }
}

impl<B: Backend> Mlp<B> {
    fn new(at: &Builder<B>) -> Result<Mlp<B>> {
        let (hidden, inner, bias) = (at.config.hidden_size, at.config.intermediate_size, at.config.mlp_bias);
        let mlp = Mlp {
            name: at.path.clone(),
            gate_up_proj: at.column_linear(["gate_proj", "up_proj"], hidden, [inner, inner], bias)?,
            down_proj: at.row_linear("down_proj", inner, hidden, bias)?,
        };
        at.note_activation("act_fn");
        Ok(mlp)
    }
}

fn rotary_embedding<B: Backend>(at: &Builder<B>, max_length: usize) -> Result<Rope<B>> {
    let (backend, config) = (at.backend, at.config);
    at.note("rotary_emb", format_args!("{}RotaryEmbedding()", config.architecture.names().class));
    let frequencies = Frequencies::new(config, max_length).expect("every decoder family has RoPE");
    let n = frequencies.inv_freq.len();
    let source = Source { name: String::new(), shape: vec![n], rows: 0..n, cols: 0..1, transposed: false };
    let mut inv_freq = Param::new(backend, vec![source])?.weight;
    let tensor = HostTensor::from_f32(&[n], &frequencies.inv_freq);
    backend.load(&mut inv_freq, 0, &Slice { tensor, rows: 0..n, cols: 0..1, transposed: false }.into())?;
    Ok(Rope { inv_freq, head_dim: config.head_dim, scaling: frequencies.attention_scaling })
}
