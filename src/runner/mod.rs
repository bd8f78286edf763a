//! A model that is loaded and ready: backend, weights, attention, and the buffers of a forward pass.

mod load;
mod prompt;
mod report;

pub use crate::checkpoint::LoadFormat;
pub use crate::quant::read_kv_scales;
pub use load::{LoadOptions, Weights, read_config, read_config_for};
pub use prompt::{Prompt, check_prompt, check_room};
pub use report::RunnerReport;

use crate::model::{Attention, Completeness, Inputs, Loading, Model, Observer, Pass, load_weights};
use crate::sampling::{Sampled, Sampler};
use crate::{backend::Backend, batch::Batch, checkpoint::LoadRules, config::ModelConfig};
use crate::{error::Result, tensor::HostTensor};
use std::path::PathBuf;

/// Runs batches through a model.
pub struct ModelRunner<B: Backend> {
    pub config: ModelConfig,
    pub backend: B,
    pub model: Box<dyn Model<B>>,
    pub attention: Box<dyn Attention<B>>,
    /// Bytes of its weights; 0 if they were not loaded here.
    pub weights: Weights,
    max_model_len: usize,
    inputs: Inputs<B>,
    tokens_computed: u64,
    /// Whether passes can be recorded and replayed: not where they meet other ranks.
    replays: bool,
}

impl<B: Backend> ModelRunner<B> {
    /// Puts loaded parts together.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn new(
        config: ModelConfig,
        backend: B,
        model: Box<dyn Model<B>>,
        attention: Box<dyn Attention<B>>,
    ) -> Result<ModelRunner<B>> {
        let inputs =
            Inputs { tokens: backend.ids(0)?, positions: backend.ids(0)?, logit_rows: backend.ids(0)? };
        let max_model_len = config.context().min(attention.max_tokens().unwrap_or(usize::MAX));
        Ok(ModelRunner {
            config,
            backend,
            model,
            attention,
            weights: Weights::default(),
            max_model_len,
            inputs,
            tokens_computed: 0,
            replays: true,
        })
    }

    /// One forward pass: logits of the batch's logit rows, [rows, vocabulary]. Rows behind those have no meaning: a backend fills up a
    /// batch of many sequences (see [`Backend::padded_rows`]).
    ///
    /// # Errors
    /// Those of the backend and of attention.
    pub fn forward(&mut self, batch: &Batch, observer: Option<&mut dyn Observer<B>>) -> Result<B::Tensor> {
        self.forward_stage(batch, None, observer)
    }

    /// This process's part of a pass: hidden states of the stage before it go in, if there is one, and hidden states or logits come out.
    ///
    /// # Errors
    /// As [`forward`](ModelRunner::forward).
    pub fn forward_stage(
        &mut self,
        batch: &Batch,
        mut x: Option<B::Tensor>,
        mut observer: Option<&mut dyn Observer<B>>,
    ) -> Result<B::Tensor> {
        let ModelRunner { backend, model, attention, inputs, .. } = self;
        self.tokens_computed += batch.tokens.len() as u64;
        let more_rows =
            batch.decode_rows().map(|n| backend.padded_rows(n)).filter(|rows| *rows > batch.tokens.len());
        let padded = more_rows.map(|rows| batch.padded(rows));
        let batch = padded.as_ref().unwrap_or(batch);
        backend.write(&mut inputs.tokens, &batch.tokens)?;
        backend.write(&mut inputs.positions, &batch.positions)?;
        backend.write(&mut inputs.logit_rows, &batch.logit_rows)?;
        // A replay would show an observer nothing, and say nothing to other ranks.
        let key = attention.begin(backend, batch)?.filter(|_| observer.is_none() && self.replays);
        backend.replay(key, &mut || {
            let observer = observer.as_mut().map(|o| &mut **o as &mut dyn Observer<B>);
            let pass = &mut Pass { backend, inputs, attention: &mut **attention, observer };
            model.forward_stage(pass, x.take())
        })
    }

    /// The next token after one row of logits.
    ///
    /// # Errors
    /// Those of the backend, and logits that no token can be drawn from.
    pub fn sample(&self, logits: &B::Tensor, sampler: &mut Sampler) -> Result<Sampled> {
        if let Some(draw) = sampler.draw()
            && let Some(drawn) = self.backend.draw(logits, &[draw])?
        {
            let token = drawn.into_iter().next().expect("a token for each draw")?;
            return Ok(sampler.drawn(token));
        }
        Ok(sampler.sample(&mut self.backend.download(logits)?)?)
    }

    /// The longest sequence in tokens: the model's context, what was asked for, or what there is room for.
    pub fn max_model_len(&self) -> usize {
        self.max_model_len
    }

    /// Tokens that went through the model so far.
    pub fn tokens_computed(&self) -> u64 {
        self.tokens_computed
    }

    /// Replaces parameters of the loaded model by name, all of them or none, checked as a load is.
    /// Sequences in flight keep K and V of the old weights; start them anew.
    ///
    /// # Errors
    /// If a name, shape or dtype does not fit; the model is unchanged then.
    pub fn update_weights(&mut self, tensors: impl IntoIterator<Item = (String, HostTensor)>) -> Result<()> {
        let loading = Loading {
            architecture: self.config.architecture,
            quantization: self.config.quantization.as_ref(),
            rules: &LoadRules::default(),
            completeness: Completeness::Some,
            file_of: &|_| PathBuf::from("update"),
            origin: PathBuf::from("update"),
            events: &mut |_| {},
        };
        load_weights(&self.backend, &mut *self.model, tensors, loading)
    }

    /// Whether the model can serve this prompt; see [`check_prompt`].
    ///
    /// # Errors
    /// As [`check_prompt`], and a prompt longer than the room for K and V.
    pub fn check_prompt(&self, prompt: &[u32]) -> Result<()> {
        check_prompt(&self.config, prompt)?;
        check_room(prompt.len(), self.max_model_len())
    }
}
