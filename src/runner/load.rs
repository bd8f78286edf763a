//! From a checkpoint directory to a model that is ready.

use super::ModelRunner;
use crate::checkpoint::{CheckpointError, Directory, LoadFormat, LoadRules, StateDict, foreign, prefetch};
use crate::config::{ModelConfig, Place};
use crate::model::{Attention, AttentionShape, Completeness, LoadEvent, Loading, Model, Part, Source, Stage};
use crate::quant::{self, Quantization};
use crate::tensor::{Bytes, HostTensor};
use crate::{attention::KvOptions, backend::Backend, backend::cpu::Cpu, error::Result};
use crate::{machine::Machine, model, packed::Matrix};
use std::collections::BTreeMap;

/// How to load a model.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// The directory's config.json, if it was read before.
    pub config: Option<ModelConfig>,
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

/// Reads and parses a directory's config.json, or what stands for it where that is absent.
///
/// # Errors
/// If it is absent or bad.
pub fn read_config(directory: &Directory) -> Result<ModelConfig> {
    read_config_for(directory, LoadFormat::Auto)
}

/// The same for weights of a format: Mistral's own layout has params.json.
///
/// # Errors
/// As [`read_config`].
pub fn read_config_for(directory: &Directory, format: LoadFormat) -> Result<ModelConfig> {
    for file in format.configs() {
        if let Some(json) = directory.read(file)? {
            let mut config = ModelConfig::parse(&json, &directory.path(file))?;
            if config.quantization.is_none() {
                config.quantization = Quantization::beside(directory)?;
            }
            return Ok(config);
        }
    }
    let none = || CheckpointError::NoConfig { dir: directory.root() };
    Err(foreign(directory).unwrap_or_else(none).into())
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
        ModelRunner::load_part(machine, directory, options, None, |machine, model, kv| {
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
        ModelRunner::load_part(backend, directory, options, None, |_, model, kv| {
            attention(model.attention_shape(), kv)
        })
    }

    /// Loads a part of a model: some of its layers, and of every matrix that is cut, some rows or columns. Nothing else is read (step 7).
    /// Without a part, all of it.
    ///
    /// # Errors
    /// Whatever is wrong with config.json or the weights, as far as this part can see it.
    pub fn load_part(
        backend: B,
        directory: &Directory,
        options: LoadOptions,
        part: Option<Part<B>>,
        attention: impl FnOnce(&B, &dyn Model<B>, &KvOptions) -> Result<Box<dyn Attention<B>>>,
    ) -> Result<ModelRunner<B>> {
        let mut kv = options.kv.clone();
        let mut config =
            options.config.clone().map_or_else(|| read_config_for(directory, options.format), Ok)?;
        let part = part.unwrap_or_else(|| Part::whole(&config));
        let max_length = options.max_length.unwrap_or(usize::MAX).min(config.context());
        let build = |config: &ModelConfig| model::build_part(&backend, config, max_length, &part);
        let scales = |kv: &KvOptions, state_dict, model: &dyn Model<B>| {
            quant::kv_scales(kv, state_dict, model.attention_shape().layers, part.rank)
        };
        let (model, loaded) = match options.format {
            LoadFormat::Dummy => {
                let mut model = build(&config)?;
                let sizes = model.load_dummy(&backend, &config)?;
                let copied = sizes.values().sum();
                kv.scales = scales(&kv, None, &*model)?;
                (model, Loaded { sizes, copied })
            }
            format => {
                let tied = config.tie_word_embeddings;
                let held = |name: &str| part.stage.holds(name, tied);
                let state_dict = StateDict::open_some(directory, format, held)?;
                config.tie_word_embeddings &= !model::unties(&config, &state_dict);
                let mut model = build(&config)?;
                kv.scales = scales(&kv, Some(&state_dict), &*model)?;
                let loaded = load_state_dict(&backend, &mut *model, &config, &state_dict, options)?;
                (model, loaded)
            }
        };
        kv.weight_bytes = loaded.sizes.values().sum();
        let attention = attention(&backend, &*model, &kv)?;
        let weights = loaded.summary(&*model);
        let mut runner = ModelRunner::new(config, backend, model, attention)?;
        runner.weights = weights;
        runner.replays = part.rank.world_size == 1 && part.stage == Stage::whole(&runner.config);
        runner.max_model_len = runner.max_model_len.min(kv.max_model_len.unwrap_or(usize::MAX));
        Ok(runner)
    }
}

/// Bytes of a model's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Weights {
    /// Held by this process: of parameters that are cut, its slices.
    #[serde(rename = "weight_bytes")]
    pub held: u64,
    /// Those of them that were copied to memory of its own, or to a device. The others are used where the file is mapped.
    #[serde(rename = "weight_bytes_copied")]
    pub copied: u64,
    /// What a step with one token reads.
    #[serde(rename = "weight_bytes_per_step")]
    pub per_step: u64,
}

/// What a load has done.
#[derive(Default)]
struct Loaded {
    /// Bytes that are held of each parameter, by name.
    sizes: BTreeMap<String, u64>,
    copied: u64,
}

impl Loaded {
    /// A tensor of the checkpoint became a parameter, of which `parts` are held.
    fn add(&mut self, parameter: &str, matrix: &Matrix, parts: &[Source], in_place: bool) -> u64 {
        let all = matrix.shape().iter().product::<usize>().max(1) as u64;
        let bytes = |source: &Source| matrix.bytes() * source.elements() as u64 / all;
        let held = || parts.iter().filter(|source| source.name == parameter);
        let size = held().map(bytes).sum();
        let copied = |source: &&Source| match matrix {
            Matrix::Dense(_) => source.is_copied(parts),
            Matrix::Packed(packed) => !packed.in_place(),
        };
        self.copied += held().filter(|source| !in_place || copied(source)).map(bytes).sum::<u64>();
        self.sizes.insert(parameter.to_owned(), size);
        size
    }

    /// In all. A pass over one token reads everything but the embedding tables, of which it reads a row; a tied table is lm_head too, and
    /// read whole where that is.
    fn summary<B: Backend>(&self, model: &dyn Model<B>) -> Weights {
        let is_table = |name: &str| matches!(Place::of(name), Some(Place::Embedding | Place::Positions));
        let last = model.attention_shape().stage().is_last();
        let is_head = |name: &str| last && model.tied().is_some_and(|tied| tied.embedding == name);
        let read = self.sizes.iter().filter(|(name, _)| !is_table(name) || is_head(name));
        let per_step = read.map(|(_, bytes)| bytes).sum();
        Weights { held: self.sizes.values().sum(), copied: self.copied, per_step }
    }
}

/// Loads a checkpoint's weights.
fn load_state_dict<B: Backend>(
    backend: &B,
    model: &mut dyn Model<B>,
    config: &ModelConfig,
    state_dict: &StateDict,
    options: LoadOptions,
) -> Result<Loaded> {
    let (mut in_file, mut loaded) = (Vec::new(), Loaded::default());
    let mut events = options.events;
    // What a backend copies is read by then, one tensor after the other; what it uses in place is touched at the end.
    let in_place = backend.in_place();
    let copied = options.progress.filter(|_| !in_place);
    let total = state_dict.total_bytes();
    let mut watch = |event: LoadEvent| {
        if let LoadEvent::Loaded { name, parameter, matrix, stacked } = &event {
            let bytes = loaded.add(parameter, matrix, stacked, in_place && !state_dict.is_copied(name));
            match matrix {
                Matrix::Dense(tensor) => in_file.extend(view(tensor, parameter, stacked)),
                Matrix::Packed(packed) if packed.in_place() => {
                    in_file.extend(packed.tensors().into_iter().map(|tensor| tensor.data.clone()));
                }
                Matrix::Packed(_) => {}
            }
            if let Some(progress) = copied {
                progress(bytes, total);
            }
        }
        if let Some(events) = &mut events {
            events(event);
        }
    };
    let loading = Loading {
        architecture: config.architecture,
        quantization: config.quantization.as_ref(),
        rules: &options.rules,
        completeness: Completeness::All,
        file_of: &|name| state_dict.file_of(name),
        origin: state_dict.directory().root(),
        events: &mut watch,
    };
    model::load_weights(backend, model, state_dict.tensors(), loading)?;
    if let Some(progress) = options.progress.filter(|_| in_place) {
        let total = in_file.iter().map(|bytes| bytes.len() as u64).sum();
        prefetch(&in_file, |bytes| progress(bytes, total));
    }
    Ok(loaded)
}

/// What will be read of a tensor where it is mapped: from the first of its parts to the last one, unless they are copied.
fn view(tensor: &HostTensor, parameter: &str, parts: &[Source]) -> Option<Bytes> {
    let in_place = parts.iter().filter(|source| source.name == parameter && !source.is_copied(parts));
    let span = in_place.map(Source::span).reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))?;
    let size = tensor.dtype.bytes();
    Some(tensor.data.part(span.start * size..span.end * size))
}
