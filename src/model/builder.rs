//! Makes layers by name. A builder stands at a place in the module tree; [`Builder::at`] goes one level down.
//!
//! Layers are made empty. Their [`Source`]s say which tensors of the checkpoint they want, and [`super::load_weights`] brings
//! them.

use super::layers::{Embedding, LayerNorm, Linear, LmHead, Param, RmsNorm, Source};
use super::tree::{Module, Modules, python_float};
use super::{Alone, Part};
use crate::config::{Activation, ModelConfig};
use crate::{backend::Backend, error::Result};
use std::{fmt, ops::Range, sync::Arc};

/// Where and how layers are made.
pub struct Builder<'a, B: Backend> {
    pub backend: &'a B,
    pub config: &'a ModelConfig,
    /// What of the model is held.
    pub part: &'a Part<B>,
    /// Module path so far, such as `model.layers.3`.
    pub path: String,
    /// Where modules are noted, for [`super::module_tree`]. Then only the first of the layers is made, since they print alike.
    pub(super) modules: Option<&'a Modules>,
}

impl<'a, B: Backend> Builder<'a, B> {
    /// The root of a part of a model.
    pub(super) fn root(backend: &'a B, config: &'a ModelConfig, part: &'a Part<B>) -> Builder<'a, B> {
        Builder { backend, config, part, path: String::new(), modules: None }
    }
}

/// Making a layer fails for reasons of the backend only.
#[allow(clippy::missing_errors_doc)]
impl<B: Backend> Builder<'_, B> {
    /// A builder for the child module `name`, whose class is the family's `kind`, such as `Attention`.
    pub fn at(&self, name: &str, kind: &str) -> Builder<'_, B> {
        self.note(name, format_args!("{}{kind}", self.class()));
        self.below(name)
    }

    /// A ModuleList of the model's layers, whose class is the family's `kind`; `new` makes one of them.
    ///
    /// # Errors
    /// Those of `new`.
    pub fn layers<T>(
        &self,
        name: &str,
        kind: &str,
        new: impl Fn(&Builder<B>, usize) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.note(name, format_args!("ModuleList"));
        let (list, count, class) = (self.below(name), self.config.num_hidden_layers, self.class());
        // torch prints equal modules once.
        match count {
            1 => list.note("0", format_args!("{class}{kind}")),
            n => list.note(&format!("0-{}", n - 1), format_args!("{n} x {class}{kind}")),
        }
        let made = if self.modules.is_some() { 1 } else { count };
        (0..made).map(|i| new(&list.below(&i.to_string()), i)).collect()
    }

    /// Notes a child module, as it prints.
    pub fn note(&self, name: &str, label: fmt::Arguments) {
        if let Some(modules) = self.modules {
            let depth = self.child(name).split('.').count();
            modules.borrow_mut().push(Module { depth, name: name.into(), label: label.to_string() });
        }
    }

    /// Notes a dropout, which only training needs.
    pub fn note_dropout(&self, name: &str, p: f32) {
        self.note(name, format_args!("Dropout(p={}, inplace=False)", python_float(p)));
    }

    /// Notes the MLP's activation.
    pub fn note_activation(&self, name: &str) {
        match self.config.hidden_act {
            Activation::Silu => self.note(name, format_args!("SiLUActivation()")),
            Activation::Gelu => self.note(name, format_args!("GELUActivation()")),
            Activation::GeluTanh => self.note(name, format_args!("NewGELUActivation()")),
            Activation::QuickGelu => self.note(name, format_args!("QuickGELUActivation()")),
            Activation::Tanh => self.note(name, format_args!("Tanh()")),
            Activation::Relu => self.note(name, format_args!("ReLU()")),
        }
    }

    fn note_linear(&self, name: &str, inputs: usize, outputs: usize, bias: bool) {
        let bias = if bias { "True" } else { "False" };
        self.note(name, format_args!("Linear(in_features={inputs}, out_features={outputs}, bias={bias})"));
    }

    /// What the family's classes begin with.
    fn class(&self) -> &'static str {
        self.config.architecture.names().class
    }

    fn below(&self, name: &str) -> Builder<'_, B> {
        Builder { path: self.child(name), ..*self }
    }

    fn child(&self, name: &str) -> String {
        if self.path.is_empty() { name.into() } else { format!("{}.{name}", self.path) }
    }

    fn param(&self, sources: Vec<Source>) -> Result<Param<B>> {
        Param::new(self.backend, sources)
    }

    /// A table [rows, hidden], cut by rows among ranks.
    pub fn embedding(&self, name: &str, rows: usize) -> Result<Embedding<B>> {
        let padding = self.config.pad_token_id.map_or(String::new(), |id| format!(", padding_idx={id}"));
        self.note(name, format_args!("Embedding({rows}, {}{padding})", self.config.hidden_size));
        let source = matrix(self.child(name), rows, self.config.hidden_size);
        let source = Source { rows: self.part.rank.part(rows), ..source };
        let (table, collective) = (Param::table(self.backend, source)?, self.part.collective.clone());
        Ok(Embedding { name: self.child(name), table, collective })
    }

    /// A table [rows, hidden] that every rank holds whole: learned positions.
    pub fn whole_embedding(&self, name: &str, rows: usize) -> Result<Embedding<B>> {
        self.note(name, format_args!("Embedding({rows}, {})", self.config.hidden_size));
        let source = matrix(self.child(name), rows, self.config.hidden_size);
        let table = Param::table(self.backend, source)?;
        Ok(Embedding { name: self.child(name), table, collective: Arc::new(Alone) })
    }

    /// The language model's head, cut by vocabulary among ranks; without a weight if it is tied to the embedding.
    pub fn lm_head(&self) -> Result<LmHead<B>> {
        let (vocab_size, hidden) = (self.config.vocab_size, self.config.hidden_size);
        self.note_linear("lm_head", hidden, vocab_size, false);
        let source = Source {
            rows: self.part.rank.part(vocab_size),
            ..matrix(self.child("lm_head"), vocab_size, hidden)
        };
        let own = || self.param(vec![source]);
        let weight = (!self.config.tie_word_embeddings).then(own).transpose()?;
        let embedding = self.config.architecture.names().embedding;
        Ok(LmHead { weight, embedding, vocab_size, collective: self.part.collective.clone() })
    }

    /// N matrices [outputs, inputs], multiplied as one; each is cut by outputs among ranks.
    pub fn column_linear<const N: usize>(
        &self,
        names: [&str; N],
        inputs: usize,
        outputs: [usize; N],
        bias: bool,
    ) -> Result<Linear<B, N>> {
        let parts = outputs.map(|n| self.part.rank.part(n));
        self.cut_linear(names, inputs, outputs, parts, bias)
    }

    /// q_proj, k_proj and v_proj as one, cut by heads among ranks. A head of K and V is held by several ranks where these outnumber them.
    pub fn qkv_linear(&self, names: [&str; 3], inputs: usize, bias: bool) -> Result<Linear<B, 3>> {
        let ModelConfig { num_attention_heads, num_key_value_heads, head_dim, .. } = *self.config;
        let of_heads = |heads: Range<usize>| heads.start * head_dim..heads.end * head_dim;
        let (q, kv) =
            (self.part.rank.part(num_attention_heads), self.part.rank.shared_part(num_key_value_heads));
        let outputs = [num_attention_heads, num_key_value_heads, num_key_value_heads].map(|n| n * head_dim);
        self.cut_linear(names, inputs, outputs, [of_heads(q), of_heads(kv.clone()), of_heads(kv)], bias)
    }

    /// N matrices [outputs, inputs] of which this rank holds some outputs.
    fn cut_linear<const N: usize>(
        &self,
        names: [&str; N],
        inputs: usize,
        outputs: [usize; N],
        parts: [Range<usize>; N],
        bias: bool,
    ) -> Result<Linear<B, N>> {
        names.iter().zip(outputs).for_each(|(name, n)| self.note_linear(name, inputs, n, bias));
        let paths = names.map(|name| self.child(name));
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for ((path, &n), rows) in paths.iter().zip(&outputs).zip(&parts) {
            weights.push(Source { rows: rows.clone(), ..matrix(path.clone(), n, inputs) });
            biases.push(Source { rows: rows.clone(), ..whole_vector(format!("{path}.bias"), n) });
        }
        let bias = bias.then(|| self.param(biases)).transpose()?;
        let cols = parts.map(|p| p.len());
        Ok(Linear { names: paths.to_vec(), cols, weight: self.param(weights)?, bias, reduce: None })
    }

    /// One matrix [outputs, inputs], cut by inputs among ranks, whose results are summed.
    pub fn row_linear(&self, name: &str, inputs: usize, outputs: usize, bias: bool) -> Result<Linear<B>> {
        self.note_linear(name, inputs, outputs, bias);
        let source = matrix(self.child(name), outputs, inputs);
        self.reduced(name, Source { cols: self.part.rank.part(inputs), ..source }, outputs, bias)
    }

    /// GPT-2's Conv1D: one matrix [inputs, N · outputs] with N outputs, each cut among ranks.
    pub fn column_conv1d<const N: usize>(
        &self,
        name: &str,
        inputs: usize,
        outputs: [usize; N],
    ) -> Result<Linear<B, N>> {
        let path = self.child(name);
        let total: usize = outputs.iter().sum();
        self.note(name, format_args!("Conv1D(nf={total}, nx={inputs})"));
        let (mut weights, mut biases, mut start) = (Vec::new(), Vec::new(), 0);
        let cols = outputs.map(|n| {
            let part = self.part.rank.part(n);
            let held = start + part.start..start + part.end;
            weights.push(Source {
                cols: held.clone(),
                transposed: true,
                ..matrix(path.clone(), inputs, total)
            });
            biases.push(Source { rows: held, ..whole_vector(format!("{path}.bias"), total) });
            start += n;
            part.len()
        });
        let bias = Some(self.param(biases)?);
        Ok(Linear { names: vec![path], cols, weight: self.param(weights)?, bias, reduce: None })
    }

    /// GPT-2's Conv1D: one matrix [inputs, outputs], cut by inputs among ranks.
    pub fn row_conv1d(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear<B>> {
        self.note(name, format_args!("Conv1D(nf={outputs}, nx={inputs})"));
        let source = matrix(self.child(name), inputs, outputs);
        let source = Source { rows: self.part.rank.part(inputs), transposed: true, ..source };
        self.reduced(name, source, outputs, true)
    }

    fn reduced(&self, name: &str, source: Source, outputs: usize, bias: bool) -> Result<Linear<B>> {
        let path = self.child(name);
        let bias = bias.then(|| self.vector(format!("{path}.bias"), outputs)).transpose()?;
        let (weight, reduce) = (self.param(vec![source])?, Some(self.part.collective.clone()));
        Ok(Linear { names: vec![path], cols: [outputs], weight, bias, reduce })
    }

    fn vector(&self, name: String, n: usize) -> Result<Param<B>> {
        self.param(vec![whole_vector(name, n)])
    }

    /// RMSNorm over groups of `group` columns.
    pub fn rms_norm(&self, name: &str, group: usize) -> Result<RmsNorm<B>> {
        let eps = python_float(self.config.norm_eps);
        self.note(name, format_args!("{}RMSNorm(({group},), eps={eps})", self.class()));
        let name = self.child(name);
        let weight = self.vector(format!("{name}.weight"), group)?;
        Ok(RmsNorm { name, weight, group, eps: self.config.norm_eps })
    }

    /// LayerNorm over rows.
    pub fn layer_norm(&self, name: &str) -> Result<LayerNorm<B>> {
        let (n, eps) = (self.config.hidden_size, python_float(self.config.norm_eps));
        self.note(name, format_args!("LayerNorm(({n},), eps={eps}, elementwise_affine=True, bias=True)"));
        let name = self.child(name);
        let (weight, bias) =
            (self.vector(format!("{name}.weight"), n)?, self.vector(format!("{name}.bias"), n)?);
        Ok(LayerNorm { name, weight, bias, eps: self.config.norm_eps })
    }
}

/// The tensor `path.weight` of shape [rows, cols], whole.
fn matrix(path: String, rows: usize, cols: usize) -> Source {
    Source {
        name: path + ".weight",
        shape: vec![rows, cols],
        rows: 0..rows,
        cols: 0..cols,
        transposed: false,
    }
}

/// The tensor `name` of shape [n], whole.
fn whole_vector(name: String, n: usize) -> Source {
    Source { name, shape: vec![n], rows: 0..n, cols: 0..1, transposed: false }
}
