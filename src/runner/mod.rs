//! A model that is loaded and ready: backend, weights, attention, and the buffers of a forward pass.

mod load;
mod relay;

pub use load::{LoadFormat, LoadOptions, Weights, read_config};
pub use relay::{RankReport, Relay, RelayReport, Traffic};

use crate::{
    backend::Backend,
    batch::Batch,
    config::ModelConfig,
    error::{Error, Result},
    model::{Attention, Inputs, Model, Observer, Pass},
    sampling::{Sampled, Sampler},
    tensor::HostTensor,
};

/// Runs batches through a model.
pub struct ModelRunner<B: Backend> {
    pub config: ModelConfig,
    pub backend: B,
    pub model: Box<dyn Model<B>>,
    pub attention: Box<dyn Attention<B>>,
    /// Bytes of its weights; 0 if they were not loaded here.
    pub weights: Weights,
    /// What carries passes through the other processes that hold parts of the model, if it is not whole here. (Step 7.)
    pub relay: Option<Box<dyn Relay<B>>>,
    max_model_len: usize,
    /// The most tokens of one pass; a longer prompt goes in chunks.
    max_chunk: usize,
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
            relay: None,
            max_model_len,
            max_chunk: usize::MAX,
            inputs,
            tokens_computed: 0,
            replays: true,
        })
    }

    /// One forward pass: logits of the batch's logit rows, [rows, vocabulary]. Rows behind those are of no meaning: a backend fills up a
    /// batch of many sequences (see [`Backend::padded_rows`]).
    ///
    /// # Errors
    /// Those of the backend and of attention.
    pub fn forward(&mut self, batch: &Batch, observer: Option<&mut dyn Observer<B>>) -> Result<B::Tensor> {
        match self.by_relay(|relay, runner| relay.forward(runner, batch)) {
            Some(logits) => logits,
            None => self.forward_stage(batch, None, observer),
        }
    }

    /// What the relay does with this runner, if there is one.
    fn by_relay<T>(
        &mut self,
        ask: impl FnOnce(&mut dyn Relay<B>, &mut ModelRunner<B>) -> Result<T>,
    ) -> Option<Result<T>> {
        let mut relay = self.relay.take()?;
        let said = ask(&mut *relay, self);
        self.relay = Some(relay);
        Some(said)
    }

    /// What each rank holds and has done; nothing of a model that is whole here.
    ///
    /// # Errors
    /// If a rank is gone.
    pub fn ranks(&mut self) -> Result<Option<RelayReport>> {
        self.by_relay(|relay, runner| relay.report(runner)).transpose()
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

    /// Computes what is not `computed` of one sequence that has the cache to itself, all but the last chunk: how much is computed then. Nothing, if the
    /// attention remembers nothing.
    ///
    /// # Errors
    /// As [`forward`](ModelRunner::forward).
    pub fn forward_chunks(&mut self, sequence: &[u32], mut computed: usize) -> Result<usize> {
        while self.attention.remembers() && sequence.len() - computed > self.max_chunk {
            let mut batch = Batch::default();
            batch.push_alone(&sequence[computed..computed + self.max_chunk], computed);
            batch.logit_rows.clear(); // there is more of the prompt to come
            self.forward(&batch, None)?;
            computed += self.max_chunk;
        }
        Ok(computed)
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

    /// Replaces parameters of the loaded model by name: see [`Model`]'s `update_weights`.
    ///
    /// # Errors
    /// If a name, shape or dtype does not fit; the model is unchanged then.
    pub fn update_weights(&mut self, tensors: impl IntoIterator<Item = (String, HostTensor)>) -> Result<()> {
        if self.relay.is_none() {
            return self.update_part(tensors);
        }
        let tensors = tensors.into_iter().collect();
        let updated = self.by_relay(|relay, runner| relay.update_weights(runner, tensors));
        updated.expect("there is a relay")
    }

    /// The same of what this process holds.
    ///
    /// # Errors
    /// As [`update_weights`](ModelRunner::update_weights).
    pub fn update_part(&mut self, tensors: impl IntoIterator<Item = (String, HostTensor)>) -> Result<()> {
        self.model.update_weights(&self.backend, self.config.architecture, tensors)
    }

    /// Whether the model can serve this prompt; see [`check_prompt`].
    ///
    /// # Errors
    /// As [`check_prompt`], and a prompt longer than the room for K and V.
    pub fn check_prompt(&self, prompt: &[u32]) -> Result<()> {
        check_prompt(&self.config, prompt)?;
        let (n, longest) = (prompt.len(), self.max_model_len());
        if n > longest {
            let message = format!(
                "the prompt has {n} tokens, and this run has room for {longest}; give a larger --max-model-len"
            );
            return Err(Error::Request(message));
        }
        Ok(())
    }
}

/// Whether a model can serve this prompt.
///
/// # Errors
/// [`Error::Request`] for a prompt that is empty, longer than the context, or has an unknown token.
pub fn check_prompt(config: &ModelConfig, prompt: &[u32]) -> Result<()> {
    let (n, context, vocab) = (prompt.len(), config.context(), config.vocab_size);
    if n == 0 {
        return Err(Error::Request("the prompt is empty; give at least one token".into()));
    }
    if let Some(at) = prompt.iter().position(|&id| id as usize >= vocab) {
        let (id, number) = (prompt[at], at + 1);
        let message = format!(
            "token id {id} (number {number} of the prompt) is outside the model's vocabulary of {vocab}"
        );
        return Err(Error::Request(message));
    }
    if n > context {
        let message =
            format!("the prompt has {n} tokens, more than the model's context of {context}; shorten it");
        return Err(Error::Request(message));
    }
    Ok(())
}
