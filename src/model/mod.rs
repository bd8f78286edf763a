//! The models, written once for every backend, in the shape of Hugging Face's module trees.
//!
//! A model is three parts, `embed`, `layers` and `head`; a forward pass is their composition. It holds weights and no state:
//! what a sequence leaves behind is kept by [`Attention`].

mod attention;
mod builder;
mod collective;
mod decoder;
#[cfg(feature = "step4")]
mod forms;
mod gpt2;
mod layers;
mod load;
#[cfg(feature = "quantized")]
mod matched;
mod part;
pub mod rope;
mod tree;
#[cfg(feature = "step4")]
mod weight_bytes;

pub use attention::{Attention, AttentionShape, KvMemory, KvPool, KvScalesFrom};
pub use builder::Builder;
pub use collective::{Alone, Collective, Rank, Share};
pub use decoder::Decoder;
#[cfg(feature = "step4")]
pub use forms::{Form, form_bytes};
pub use gpt2::Gpt2;
pub use layers::{Embedding, LayerNorm, Linear, LmHead, Param, RmsNorm, Source, Visit};
pub use load::{Completeness, LoadEvent, Loading, load_weights, unties};
#[cfg(feature = "quantized")]
pub use matched::{Parameter, matched, parameters};
pub use part::{Part, Stage};
pub use tree::module_tree;
#[cfg(feature = "step4")]
pub use weight_bytes::{WeightBytes, weight_bytes};

use crate::config::{Architecture, ModelConfig};
use crate::{backend::Backend, error::Result};
use std::ops::Range;

/// The parameter names of a tied pair: the checkpoint may hold either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TiedNames {
    pub head: &'static str,
    pub embedding: &'static str,
}

/// A decoder-only language model.
#[allow(clippy::missing_errors_doc)]
pub trait Model<B: Backend>: Send {
    /// Token ids `[tokens]` → [tokens, hidden].
    fn embed(&self, pass: &mut Pass<B>) -> Result<B::Tensor>;
    /// Some of the layers: [tokens, hidden] → [tokens, hidden].
    fn layers(&self, pass: &mut Pass<B>, range: Range<usize>, x: B::Tensor) -> Result<B::Tensor>;
    /// [tokens, hidden] → logits [logit rows, vocabulary].
    fn head(&self, pass: &mut Pass<B>, x: B::Tensor) -> Result<B::Tensor>;
    /// Width of a row between layers.
    fn hidden_size(&self) -> usize;
    /// What attention must know.
    fn attention_shape(&self) -> AttentionShape;
    /// The tied pair, if lm_head is the embedding.
    fn tied(&self) -> Option<TiedNames>;
    /// Visits every parameter, in the order of the module tree.
    fn visit(&mut self, visit: &mut Visit<B>) -> Result<()>;

    // ANCHOR: model_forward
    /// One forward pass over the batch: token ids → logits.
    fn forward(&self, pass: &mut Pass<B>) -> Result<B::Tensor> {
        let x = self.embed(pass)?;
        let x = self.layers(pass, self.attention_shape().layers, x)?;
        self.head(pass, x)
    }
    // ANCHOR_END: model_forward

    /// A stage's part of a pass: the hidden states that the stage before it gave go in, [tokens, hidden], nothing into the first one. The last one gives
    /// logits, the others hidden states. (Step 7; a whole model is first and last.)
    fn forward_stage(&self, pass: &mut Pass<B>, x: Option<B::Tensor>) -> Result<B::Tensor> {
        let stage = self.attention_shape().stage();
        let x = match x {
            Some(x) => x,
            None => self.embed(pass)?,
        };
        let x = self.layers(pass, stage.layers.clone(), x)?;
        if stage.is_last() { self.head(pass, x) } else { Ok(x) }
    }
}

/// A batch's ids, where the backend reads them.
pub struct Inputs<B: Backend> {
    pub tokens: B::Ids,
    pub positions: B::Ids,
    pub logit_rows: B::Ids,
}

/// What one forward pass carries along.
pub struct Pass<'a, B: Backend> {
    pub backend: &'a B,
    pub inputs: &'a Inputs<B>,
    pub attention: &'a mut dyn Attention<B>,
    pub observer: Option<&'a mut dyn Observer<B>>,
}

impl<B: Backend> Pass<'_, B> {
    /// Shows a module's output to the observer, if there is one.
    fn see(&mut self, name: &str, output: &B::Tensor) {
        if let Some(observer) = &mut self.observer {
            observer.output(self.backend, name, output);
        }
    }

    /// Shows what modules multiply to the observer, if there is one.
    fn see_input(&mut self, names: &[String], input: &B::Tensor) {
        if let Some(observer) = &mut self.observer {
            observer.input(self.backend, names, input);
        }
    }
}

/// Sees the output of every module under its Hugging Face name: [tokens, width].
pub trait Observer<B: Backend> {
    fn output(&mut self, backend: &B, name: &str, output: &B::Tensor);

    /// Sees what linear modules of these names multiply: [tokens, inputs].
    fn input(&mut self, _backend: &B, _names: &[String], _input: &B::Tensor) {}
}

/// An unloaded model of the family that `config` names; load it with [`load_weights`].
///
/// # Errors
/// Those of the backend.
pub fn build<B: Backend>(backend: &B, config: &ModelConfig, max_length: usize) -> Result<Box<dyn Model<B>>> {
    build_part(backend, config, max_length, &Part::whole(config))
}

/// The same, of which only a part will be loaded.
///
/// # Errors
/// Those of the backend.
pub fn build_part<B: Backend>(
    backend: &B,
    config: &ModelConfig,
    max_length: usize,
    part: &Part<B>,
) -> Result<Box<dyn Model<B>>> {
    family(&Builder::root(backend, config, part), max_length)
}

fn family<B: Backend>(root: &Builder<B>, max_length: usize) -> Result<Box<dyn Model<B>>> {
    Ok(match root.config.architecture {
        Architecture::Gpt2 => Box::new(Gpt2::new(root)?),
        _ => Box::new(Decoder::new(root, max_length)?),
    })
}

impl AttentionShape {
    /// A part of a model's attention.
    pub fn new(config: &ModelConfig, rank: Rank, stage: &Stage) -> AttentionShape {
        AttentionShape {
            layers: stage.layers.clone(),
            heads: rank.part(config.num_attention_heads).len(),
            kv_heads: rank.shared_part(config.num_key_value_heads).len(),
            head_dim: config.head_dim,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            windows: config.sliding_windows.clone(),
            context: config.context(),
        }
    }

    /// The stage whose attention it is.
    pub fn stage(&self) -> Stage {
        Stage { layers: self.layers.clone(), of: self.windows.len() }
    }
}
