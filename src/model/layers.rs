//! The layers that models are made of: embedding, linear, norms. Each knows its Hugging Face name.

use super::{Collective, Pass, TiedNames};
use crate::backend::{Backend, PartShape};
use crate::{config::LM_HEAD, error::Result};
use std::{ops::Range, sync::Arc};

/// A tensor of the checkpoint as the model wants it: name and shape there, and the part that this process holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The name in the state dict, such as `model.layers.3.self_attn.q_proj.weight`.
    pub name: String,
    /// The shape in the file.
    pub shape: Vec<usize>,
    /// Rows held, of the tensor as stored (a vector has one column).
    pub rows: Range<usize>,
    /// Columns held.
    pub cols: Range<usize>,
    /// Stored as [in, out].
    pub transposed: bool,
}

impl Source {
    /// What is held of it, however it is stored.
    pub fn part(&self) -> PartShape {
        match self.transposed {
            false => PartShape { outputs: self.rows.len(), inputs: self.cols.len() },
            true => PartShape { outputs: self.cols.len(), inputs: self.rows.len() },
        }
    }

    /// Numbers that are held.
    pub fn elements(&self) -> usize {
        self.rows.len() * self.cols.len()
    }

    /// Whether all of its tensor is held, by the parts of one weight together.
    pub fn is_whole(&self, parts: &[Source]) -> bool {
        let held: usize = parts.iter().filter(|part| part.name == self.name).map(Source::elements).sum();
        held == self.shape.iter().product::<usize>()
    }

    /// Whether a load copies it: it is a part of each of the tensor's rows, and other processes hold the rest of them.
    pub fn is_copied(&self, parts: &[Source]) -> bool {
        self.cols.len() < self.shape.get(1).copied().unwrap_or(1) && !self.is_whole(parts)
    }

    /// Where it begins and ends in its tensor, in elements, if it is not copied.
    pub fn span(&self) -> Range<usize> {
        let stride = self.shape.get(1).copied().unwrap_or(1);
        self.rows.start * stride..self.rows.end * stride
    }
}

/// A weight, and the checkpoint tensors that its parts come from. Loaded by [`super::load_weights`].
pub struct Param<B: Backend> {
    pub weight: B::Weight,
    pub sources: Vec<Source>,
}

/// Called with every parameter of a model.
pub type Visit<'a, B> = dyn FnMut(&mut Param<B>) -> Result<()> + 'a;

impl<B: Backend> Param<B> {
    /// An unloaded weight of these parts, stacked along the outputs.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn new(backend: &B, sources: Vec<Source>) -> Result<Param<B>> {
        let shapes: Vec<PartShape> = sources.iter().map(Source::part).collect();
        Ok(Param { weight: backend.weight(&shapes)?, sources })
    }

    /// Memory for a table whose rows are looked up.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn table(backend: &B, source: Source) -> Result<Param<B>> {
        Ok(Param { weight: backend.table(source.part())?, sources: vec![source] })
    }
}

/// y = x Wᵀ + b with N outputs of one matrix: q/k/v, gate/up, GPT-2's fused c_attn, or just one.
pub struct Linear<B: Backend, const N: usize = 1> {
    /// Module names: one for each output, or one for all (c_attn).
    pub names: Vec<String>,
    /// Width of each output.
    pub cols: [usize; N],
    /// The outputs' matrices, stacked. How it is stored is the backend's affair: a quantised one is another weight.
    pub weight: Param<B>,
    pub bias: Option<Param<B>>,
    /// Where the inputs were cut among ranks, the sum is taken before the bias is added.
    pub reduce: Option<Arc<dyn Collective<B>>>,
}

impl<B: Backend, const N: usize> Linear<B, N> {
    /// The outputs, [rows, cols[i]] each.
    pub(super) fn forward_split(&self, pass: &mut Pass<B>, x: &B::Tensor) -> Result<[B::Tensor; N]> {
        pass.see_input(&self.names, x);
        let outputs = if self.reduce.is_none() && self.bias.is_none() && self.names.len() == N {
            pass.backend.matmul_split(x, &self.weight.weight, self.cols)?
        } else {
            let y = self.forward_whole(pass, x)?;
            if self.names.len() < N {
                pass.see(&self.names[0], &y);
            }
            pass.backend.split(y, self.cols)?
        };
        if self.names.len() == N {
            self.names.iter().zip(&outputs).for_each(|(name, y)| pass.see(name, y));
        }
        Ok(outputs)
    }

    /// All outputs side by side: what sums over ranks and a bias are added to.
    fn forward_whole(&self, pass: &mut Pass<B>, x: &B::Tensor) -> Result<B::Tensor> {
        let mut y = pass.backend.matmul(x, &self.weight.weight)?;
        if let Some(collective) = &self.reduce {
            y = collective.reduce(pass.backend, y)?;
        }
        if let Some(bias) = &self.bias {
            y = pass.backend.add_bias(y, &bias.weight)?;
        }
        Ok(y)
    }

    pub(super) fn visit(&mut self, visit: &mut Visit<B>) -> Result<()> {
        visit(&mut self.weight)?;
        self.bias.iter_mut().try_for_each(visit)
    }
}

impl<B: Backend> Linear<B> {
    /// [rows, inputs] → [rows, outputs].
    pub(super) fn forward(&self, pass: &mut Pass<B>, x: &B::Tensor) -> Result<B::Tensor> {
        let [y] = self.forward_split(pass, x)?;
        Ok(y)
    }
}

/// A table with one row a token (or a position).
pub struct Embedding<B: Backend> {
    pub name: String,
    pub table: Param<B>,
    pub collective: Arc<dyn Collective<B>>,
}

impl<B: Backend> Embedding<B> {
    /// Numbers of a row.
    pub(super) fn width(&self) -> usize {
        self.table.sources[0].cols.len()
    }

    /// ids [rows] → [rows, hidden].
    pub(super) fn forward(&self, pass: &mut Pass<B>, ids: &B::Ids) -> Result<B::Tensor> {
        let first_row = self.table.sources[0].rows.start;
        let x = pass.backend.embed(&self.table.weight, first_row, ids)?;
        let x = self.collective.reduce(pass.backend, x)?;
        pass.see(&self.name, &x);
        Ok(x)
    }
}

/// The last linear layer, hidden → vocabulary. Tied, it has no weight of its own and uses the embedding table.
pub struct LmHead<B: Backend> {
    pub weight: Option<Param<B>>,
    /// The embedding table's name, for a tied checkpoint that holds either.
    pub embedding: &'static str,
    pub vocab_size: usize,
    pub collective: Arc<dyn Collective<B>>,
}

impl<B: Backend> LmHead<B> {
    // ANCHOR: lm_head
    /// [rows, hidden] → logits [rows, vocabulary].
    pub(super) fn forward(
        &self,
        pass: &mut Pass<B>,
        x: &B::Tensor,
        embedding: &Embedding<B>,
    ) -> Result<B::Tensor> {
        let table = self.weight.as_ref().unwrap_or(&embedding.table);
        let logits = pass.backend.matmul(x, &table.weight)?;
        let logits = self.collective.gather(pass.backend, logits, self.vocab_size)?;
        pass.see("lm_head", &logits);
        Ok(logits)
    }
    // ANCHOR_END: lm_head

    /// The tied pair, if it is tied.
    pub(super) fn tied(&self) -> Option<TiedNames> {
        self.weight.is_none().then_some(TiedNames { head: LM_HEAD, embedding: self.embedding })
    }
}

/// RMSNorm over groups of `group` columns: the row, or one head.
pub struct RmsNorm<B: Backend> {
    pub name: String,
    pub weight: Param<B>,
    pub group: usize,
    pub eps: f32,
}

impl<B: Backend> RmsNorm<B> {
    pub(super) fn forward(&self, pass: &mut Pass<B>, x: &B::Tensor) -> Result<B::Tensor> {
        let y = pass.backend.rms_norm(x, &self.weight.weight, self.group, self.eps)?;
        pass.see(&self.name, &y);
        Ok(y)
    }

    /// x + y, and its norm.
    pub(super) fn forward_sum(
        &self,
        pass: &mut Pass<B>,
        x: B::Tensor,
        y: &B::Tensor,
    ) -> Result<(B::Tensor, B::Tensor)> {
        let (sum, normed) = pass.backend.add_rms_norm(x, y, &self.weight.weight, self.eps)?;
        pass.see(&self.name, &normed);
        Ok((sum, normed))
    }
}

/// LayerNorm over rows.
pub struct LayerNorm<B: Backend> {
    pub name: String,
    pub weight: Param<B>,
    pub bias: Param<B>,
    pub eps: f32,
}

impl<B: Backend> LayerNorm<B> {
    pub(super) fn forward(&self, pass: &mut Pass<B>, x: &B::Tensor) -> Result<B::Tensor> {
        let y = pass.backend.layer_norm(x, &self.weight.weight, &self.bias.weight, self.eps)?;
        pass.see(&self.name, &y);
        Ok(y)
    }

    /// x + y, and its norm.
    pub(super) fn forward_sum(
        &self,
        pass: &mut Pass<B>,
        x: B::Tensor,
        y: &B::Tensor,
    ) -> Result<(B::Tensor, B::Tensor)> {
        let (weight, bias) = (&self.weight.weight, &self.bias.weight);
        let (sum, normed) = pass.backend.add_layer_norm(x, y, weight, bias, self.eps)?;
        pass.see(&self.name, &normed);
        Ok((sum, normed))
    }

    pub(super) fn visit(&mut self, visit: &mut Visit<B>) -> Result<()> {
        visit(&mut self.weight)?;
        visit(&mut self.bias)
    }
}
