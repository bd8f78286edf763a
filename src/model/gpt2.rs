//! GPT-2: LayerNorm, learned positions, and linear layers stored the other way round.
//!
//! ```text
//! GPT2LMHeadModel(
//!   (transformer): GPT2Model(
//!     (wte): Embedding, (wpe): Embedding
//!     (h): ModuleList( N x GPT2Block(
//!         (ln_1), (attn): c_attn, c_proj, (ln_2), (mlp): c_fc, c_proj ))
//!     (ln_f) )
//!   (lm_head): Linear )
//! ```
//! Its `Conv1D` is a linear layer whose weight is [in, out]; `c_attn` is q, k and v in one. Files on the hub hold the bare
//! names (`h.0.ln_1.weight`), without `transformer.`.

use super::layers::{Embedding, LayerNorm, Linear, LmHead, Visit};
use super::{AttentionShape, Builder, Model, Pass, TiedNames};
use crate::{backend::Backend, config::Activation, error::Result};
use std::ops::Range;

/// The whole model.
pub struct Gpt2<B: Backend> {
    wte: Embedding<B>,
    wpe: Embedding<B>,
    h: Vec<Block<B>>,
    ln_f: LayerNorm<B>,
    lm_head: LmHead<B>,
    attention: AttentionShape,
}

struct Block<B: Backend> {
    name: String,
    layer: usize,
    ln_1: LayerNorm<B>,
    attn: Attn<B>,
    ln_2: LayerNorm<B>,
    mlp: Mlp<B>,
}

struct Attn<B: Backend> {
    name: String,
    c_attn: Linear<B, 3>,
    c_proj: Linear<B>,
}

struct Mlp<B: Backend> {
    name: String,
    c_fc: Linear<B>,
    activation: Activation,
    c_proj: Linear<B>,
}

impl<B: Backend> Block<B> {
    /// [tokens, hidden] → [tokens, hidden].
    fn forward(&self, pass: &mut Pass<B>, x: B::Tensor) -> Result<B::Tensor> {
        let h = self.ln_1.forward(pass, &x)?;
        let [q, k, v] = self.attn.c_attn.forward_split(pass, &h)?;
        let heads = pass.attention.attend(pass.backend, self.layer, [&q, &k, &v])?;
        let h = self.attn.c_proj.forward(pass, &heads)?;
        pass.see(&self.attn.name, &h);

        let (x, h) = self.ln_2.forward_sum(pass, x, &h)?;
        let h = self.mlp.c_fc.forward(pass, &h)?;
        let h = pass.backend.activate(h, self.mlp.activation)?;
        let h = self.mlp.c_proj.forward(pass, &h)?;
        pass.see(&self.mlp.name, &h);
        let x = pass.backend.add(x, &h)?;
        pass.see(&self.name, &x);
        Ok(x)
    }
}

impl<B: Backend> Model<B> for Gpt2<B> {
    fn embed(&self, pass: &mut Pass<B>) -> Result<B::Tensor> {
        let tokens = self.wte.forward(pass, &pass.inputs.tokens)?;
        let positions = self.wpe.forward(pass, &pass.inputs.positions)?;
        pass.backend.add(tokens, &positions)
    }

    fn layers(&self, pass: &mut Pass<B>, range: Range<usize>, mut x: B::Tensor) -> Result<B::Tensor> {
        for block in &self.h[range] {
            x = block.forward(pass, x)?;
        }
        Ok(x)
    }

    fn head(&self, pass: &mut Pass<B>, x: B::Tensor) -> Result<B::Tensor> {
        let x = pass.backend.take_rows(&x, &pass.inputs.logit_rows)?;
        let x = self.ln_f.forward(pass, &x)?;
        self.lm_head.forward(pass, &x, &self.wte)
    }

    fn hidden_size(&self) -> usize {
        self.wte.width()
    }

    fn attention_shape(&self) -> AttentionShape {
        self.attention.clone()
    }

    fn tied(&self) -> Option<TiedNames> {
        self.lm_head.tied()
    }

    fn visit(&mut self, visit: &mut Visit<B>) -> Result<()> {
        visit(&mut self.wte.table)?;
        visit(&mut self.wpe.table)?;
        for block in &mut self.h {
            block.ln_1.visit(visit)?;
            block.attn.c_attn.visit(visit)?;
            block.attn.c_proj.visit(visit)?;
            block.ln_2.visit(visit)?;
            block.mlp.c_fc.visit(visit)?;
            block.mlp.c_proj.visit(visit)?;
        }
        self.ln_f.visit(visit)?;
        self.lm_head.weight.iter_mut().try_for_each(visit)
    }
}

impl<B: Backend> Gpt2<B> {
    /// An unloaded model.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn new(root: &Builder<B>) -> Result<Gpt2<B>> {
        let (config, at) = (root.config, root.at("transformer", "Model"));
        let wte = at.embedding("wte", config.vocab_size)?;
        let wpe = at.whole_embedding("wpe", config.max_position_embeddings)?;
        at.note_dropout("drop", config.dropout[0]);
        Ok(Gpt2 {
            wte,
            wpe,
            h: at.layers("h", "Block", Block::new)?,
            ln_f: at.layer_norm("ln_f")?,
            lm_head: root.lm_head()?,
            attention: AttentionShape::new(config, root.part.rank, &root.part.stage),
        })
    }
}

impl<B: Backend> Block<B> {
    fn new(at: &Builder<B>, layer: usize) -> Result<Block<B>> {
        Ok(Block {
            name: at.path.clone(),
            layer,
            ln_1: at.layer_norm("ln_1")?,
            attn: Attn::new(&at.at("attn", "Attention"))?,
            ln_2: at.layer_norm("ln_2")?,
            mlp: Mlp::new(&at.at("mlp", "MLP"))?,
        })
    }
}

impl<B: Backend> Attn<B> {
    fn new(at: &Builder<B>) -> Result<Attn<B>> {
        let (hidden, [_, attention, residual]) = (at.config.hidden_size, at.config.dropout);
        let attn = Attn {
            name: at.path.clone(),
            c_attn: at.column_conv1d("c_attn", hidden, [hidden; 3])?,
            c_proj: at.row_conv1d("c_proj", hidden, hidden)?,
        };
        at.note_dropout("attn_dropout", attention);
        at.note_dropout("resid_dropout", residual);
        Ok(attn)
    }
}

impl<B: Backend> Mlp<B> {
    fn new(at: &Builder<B>) -> Result<Mlp<B>> {
        let (hidden, inner) = (at.config.hidden_size, at.config.intermediate_size);
        let mlp = Mlp {
            name: at.path.clone(),
            c_fc: at.column_conv1d("c_fc", hidden, [inner])?,
            activation: at.config.hidden_act,
            c_proj: at.row_conv1d("c_proj", inner, hidden)?,
        };
        at.note_activation("act");
        at.note_dropout("dropout", at.config.dropout[2]);
        Ok(mlp)
    }
}
