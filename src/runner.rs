//! A model that is loaded and ready: backend, weights, attention, and the buffers of a forward pass.

use crate::{
    backend::{Backend, cpu::Cpu},
    batch::Batch,
    checkpoint::{CheckpointError, Directory, LoadRules, StateDict, prefetch},
    config::ModelConfig,
    error::{Error, Result},
    kv::KvOptions,
    machine::Machine,
    model::{
        self, Alone, Attention, AttentionShape, Collective, Completeness, Inputs, LoadEvent, Loading, Model,
        Observer, Pass, Rank,
    },
    sampling::{Sampled, Sampler},
    tensor::{DType, HostTensor},
};
use std::{collections::BTreeMap, sync::Arc};

/// Where the weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadFormat {
    /// safetensors files.
    #[default]
    Safetensors,
    /// Random values of the right shapes; needs config.json only.
    Dummy,
}

/// How to load a model.
#[derive(Default)]
pub struct LoadOptions<'a> {
    pub format: LoadFormat,
    /// What to do with names that are not the model's.
    pub rules: LoadRules,
    /// The longest sequence of this run in tokens, if it is known; the model's context otherwise.
    pub max_length: Option<usize>,
    /// How K and V are kept.
    pub kv: KvOptions,
    /// Told of every tensor.
    pub events: Option<&'a mut dyn FnMut(LoadEvent)>,
    /// Told (bytes, bytes in all) while weights are read. Without it they are read when they are first used.
    pub progress: Option<&'a (dyn Fn(u64, u64) + Sync)>,
}

/// Which part of a model is loaded, and what puts its results together with those of the others.
pub struct Place<B: Backend> {
    pub rank: Rank,
    pub collective: Arc<dyn Collective<B>>,
}

impl<B: Backend> Place<B> {
    /// All of it.
    pub fn alone() -> Place<B> {
        Place { rank: Rank::ALONE, collective: Arc::new(Alone) }
    }
}

/// Runs batches through a model.
pub struct ModelRunner<B: Backend> {
    pub config: ModelConfig,
    pub backend: B,
    pub model: Box<dyn Model<B>>,
    pub attention: Box<dyn Attention<B>>,
    /// Bytes of weights that a step with one token reads; 0 if they were not loaded here.
    pub weight_bytes_per_step: u64,
    max_model_len: usize,
    /// The most tokens of one pass; a longer prompt goes in chunks.
    max_chunk: usize,
    inputs: Inputs<B>,
    tokens_computed: u64,
}

/// Reads and parses a directory's config.json.
///
/// # Errors
/// If it is absent or bad.
pub fn read_config(directory: &Directory) -> Result<ModelConfig> {
    let json = directory.read("config.json")?;
    let json = json.ok_or_else(|| CheckpointError::NoConfig { dir: directory.root() })?;
    Ok(ModelConfig::parse(&json, &directory.path("config.json"))?)
}

impl ModelRunner<Cpu> {
    /// Loads a model for the CPU, with the attention that the options ask for.
    ///
    /// # Errors
    /// Whatever is wrong with config.json or the weights.
    pub fn load(directory: &Directory, options: LoadOptions) -> Result<ModelRunner<Cpu>> {
        ModelRunner::load_on(Cpu::default(), directory, options)
    }
}

impl<B: Machine> ModelRunner<B> {
    /// Loads a model for a machine, with the attention that the options ask for.
    ///
    /// # Errors
    /// Whatever is wrong with config.json or the weights, or missing on the machine.
    pub fn load_on(machine: B, directory: &Directory, options: LoadOptions) -> Result<ModelRunner<B>> {
        // The attention is made once the weights are there: it gets what memory is left.
        ModelRunner::load_parts(machine, directory, options, |machine, model, kv| {
            machine.attention(model, kv)
        })
    }
}

impl<B: Backend> ModelRunner<B> {
    /// Loads a model for a given backend and attention.
    ///
    /// # Errors
    /// Whatever is wrong with config.json or the weights.
    pub fn load_with(
        backend: B,
        directory: &Directory,
        options: LoadOptions,
        attention: impl FnOnce(AttentionShape, &KvOptions) -> Result<Box<dyn Attention<B>>>,
    ) -> Result<ModelRunner<B>> {
        ModelRunner::load_parts(backend, directory, options, |_, model, kv| {
            attention(model.attention_shape(), kv)
        })
    }

    /// Loads a rank's part of a model: of every matrix that is cut, its rows or columns alone. (Step 7.)
    ///
    /// # Errors
    /// Whatever is wrong with config.json or the weights.
    pub fn load_rank(
        backend: B,
        directory: &Directory,
        options: LoadOptions,
        place: Place<B>,
        attention: impl FnOnce(AttentionShape, &KvOptions) -> Result<Box<dyn Attention<B>>>,
    ) -> Result<ModelRunner<B>> {
        ModelRunner::load_at(backend, directory, options, place, |_, model, kv| {
            attention(model.attention_shape(), kv)
        })
    }

    fn load_parts(
        backend: B,
        directory: &Directory,
        options: LoadOptions,
        attention: impl FnOnce(&B, &dyn Model<B>, &KvOptions) -> Result<Box<dyn Attention<B>>>,
    ) -> Result<ModelRunner<B>> {
        ModelRunner::load_at(backend, directory, options, Place::alone(), attention)
    }

    fn load_at(
        backend: B,
        directory: &Directory,
        options: LoadOptions,
        place: Place<B>,
        attention: impl FnOnce(&B, &dyn Model<B>, &KvOptions) -> Result<Box<dyn Attention<B>>>,
    ) -> Result<ModelRunner<B>> {
        let mut kv = options.kv.clone();
        let mut config = read_config(directory)?;
        let max_length = options.max_length.unwrap_or(usize::MAX).min(config.context());
        let build = |config: &ModelConfig| {
            model::build_part(&backend, config, max_length, place.rank, place.collective.clone())
        };
        let (model, sizes) = match options.format {
            LoadFormat::Dummy => {
                let mut model = build(&config)?;
                let sizes = model.load_dummy(&backend, config.dtype.unwrap_or(DType::BF16))?;
                (model, sizes)
            }
            LoadFormat::Safetensors => {
                let state_dict = StateDict::open(directory)?;
                config.tie_word_embeddings &= !model::unties(&config, &state_dict);
                let mut model = build(&config)?;
                let sizes = load_state_dict(&backend, &mut *model, &config, &state_dict, options)?;
                (model, sizes)
            }
        };
        kv.weight_bytes = sizes.values().sum();
        let attention = attention(&backend, &*model, &kv)?;
        let weight_bytes_per_step = bytes_per_step(&*model, &sizes);
        let mut runner = ModelRunner::new(config, backend, model, attention)?;
        runner.weight_bytes_per_step = weight_bytes_per_step;
        runner.max_model_len = runner.max_model_len.min(kv.max_model_len.unwrap_or(usize::MAX));
        runner.max_chunk = kv.max_chunk.unwrap_or(usize::MAX).max(1);
        Ok(runner)
    }

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
            weight_bytes_per_step: 0,
            max_model_len,
            max_chunk: usize::MAX,
            inputs,
            tokens_computed: 0,
        })
    }

    /// One forward pass: logits of the batch's logit rows, [rows, vocabulary]. Rows behind those are of no meaning: a backend fills up a
    /// batch of many sequences (see [`Backend::padded_rows`]).
    ///
    /// # Errors
    /// Those of the backend and of attention.
    pub fn forward(
        &mut self,
        batch: &Batch,
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
        // A replay would show an observer nothing.
        let key = attention.begin(backend, batch)?.filter(|_| observer.is_none());
        backend.replay(key, &mut || {
            let observer = observer.as_mut().map(|o| &mut **o as &mut dyn Observer<B>);
            model.forward(&mut Pass { backend, inputs, attention: &mut **attention, observer })
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

/// Bytes of each parameter, by name.
type Sizes = BTreeMap<String, u64>;

/// Loads a checkpoint's weights.
fn load_state_dict<B: Backend>(
    backend: &B,
    model: &mut dyn Model<B>,
    config: &ModelConfig,
    state_dict: &StateDict,
    options: LoadOptions,
) -> Result<Sizes> {
    let (mut used, mut sizes) = (Vec::new(), Sizes::new());
    let mut events = options.events;
    // What a backend copies is read by then, one tensor after the other; what it uses in place is touched at the end.
    let copied = options.progress.filter(|_| !backend.in_place());
    let total = state_dict.total_bytes();
    let mut watch = |event: LoadEvent| {
        if let LoadEvent::Loaded { name, parameter, tensor, .. } = &event {
            used.push((*name).to_owned());
            sizes.insert((*parameter).to_owned(), tensor.data.len() as u64);
            if let Some(progress) = copied {
                progress(tensor.data.len() as u64, total);
            }
        }
        if let Some(events) = &mut events {
            events(event);
        }
    };
    let loading = Loading {
        architecture: config.architecture,
        rules: &options.rules,
        completeness: Completeness::All,
        file_of: &|name| state_dict.file_of(name),
        origin: state_dict.directory().root(),
        events: &mut watch,
    };
    model::load_weights(backend, model, state_dict.tensors(), loading)?;
    if let Some(progress) = options.progress.filter(|_| backend.in_place()) {
        used.dedup();
        let total = used.iter().filter_map(|n| state_dict.entry(n)).map(|e| e.info.range.len() as u64).sum();
        prefetch(state_dict, used.iter().map(String::as_str), |bytes| progress(bytes, total));
    }
    Ok(sizes)
}

/// Bytes of weights that a forward pass over one token reads: all but the embedding tables, of which it reads a row. A tied table
/// is lm_head too, and read whole.
fn bytes_per_step<B: Backend>(model: &dyn Model<B>, sizes: &Sizes) -> u64 {
    let is_table =
        |name: &str| ["embed_tokens.weight", "wte.weight", "wpe.weight"].iter().any(|t| name.ends_with(t));
    let is_head = |name: &str| model.tied().is_some_and(|tied| tied.embedding == name);
    sizes.iter().filter(|(name, _)| !is_table(name) || is_head(name)).map(|(_, bytes)| bytes).sum()
}
