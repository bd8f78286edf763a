//! What is converted: a checkpoint of any format, read a layer at a time.

use super::files;
use crate::backend::cpu::Cpu;
use crate::checkpoint::{
    CheckpointError, Directory, LoadFormat, LoadRules, NameMismatch, StateDict, open_training,
};
use crate::config::{ModelConfig, Place};
use crate::error::{Error, Result};
use crate::model::{self, Completeness, Loading, Model, Parameter, matched, parameters};
use crate::packed::Matrix;
use crate::quant::Quantization;
use crate::tensor::DType;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What tools put in front of all names: torch's compiler, its data parallelism, Lightning.
const WRAPPERS: [&str; 3] = ["_orig_mod.", "module.", "model._orig_mod."];

/// The file of weights in a directory of PyTorch's.
const TORCH: &str = "pytorch_model.bin";

/// A checkpoint.
pub struct Source {
    pub directory: Directory,
    /// A file of PyTorch that is the checkpoint, whatever else is in the directory.
    file: Option<String>,
    /// What is computed.
    pub config: ModelConfig,
    /// What config.json says, or would say.
    pub json: Map<String, Value>,
    rules: LoadRules,
    model: Box<dyn Model<Cpu>>,
    /// Every tensor that the model needs.
    pub parameters: Vec<Parameter>,
    /// The dtype of the weights, if they are stored as numbers of one dtype.
    pub stored: Option<DType>,
}

/// The part of a model whose tensors are read at a time: a layer, or all that is in no layer.
type Group = Option<usize>;

impl Source {
    /// Opens a checkpoint; of a file of PyTorch, `file` is its name in the directory. `config` is the file that takes the place of config.json.
    ///
    /// # Errors
    /// Whatever is wrong with config.json, or with the headers of the weights.
    pub fn open(directory: Directory, file: Option<String>, config: Option<&Path>) -> Result<Source> {
        let file = file.map_or_else(|| only_torch(&directory), |file| Ok(Some(file)))?;
        let (mut config, mut json) = files::config(&directory, config)?;
        let mut rules = LoadRules::default();
        rules.mapper.prefixes = WRAPPERS.map(|prefix| (prefix.to_owned(), Some(String::new()))).into();
        // Tensors may be copied when they are opened, so no more of them are than it takes to know the dtype.
        let last = config.num_hidden_layers.checked_sub(1);
        let some = |name: &str| {
            let mapped = rules.mapper.map(name);
            [None, Some(0), last].contains(&group(&config, mapped.as_deref().unwrap_or(name)))
        };
        let state_dict = open(&directory, file.as_deref(), some)?;
        let unties = config.tie_word_embeddings && model::unties(&config, &state_dict);
        if unties {
            // Both are written, and a reader must not tie them again.
            config.tie_word_embeddings = false;
            json.insert("tie_word_embeddings".into(), false.into());
        }
        let stored = stored(&state_dict);
        state_dict.tensors().for_each(|(_, tensor)| tensor.data.release());
        let mut model = model::build(&Cpu::default(), &config, config.context())?;
        let parameters = parameters(&mut *model)?;
        Ok(Source { directory, file, config, json, rules, model, parameters, stored })
    }

    /// All tensors of the checkpoint.
    ///
    /// # Errors
    /// As [`StateDict::open`].
    pub fn state_dict(&self) -> Result<StateDict> {
        open(&self.directory, self.file.as_deref(), |_| true)
    }

    /// How the weights are loaded.
    pub fn rules(&self) -> &LoadRules {
        &self.rules
    }

    /// The dtype to write if none is asked for: that of the weights, or what config.json says.
    pub fn dtype(&self) -> DType {
        let said = self.config.dtype.filter(|dtype| dtype.is_weight());
        self.stored.or(said).unwrap_or(DType::BF16)
    }

    /// Packed, for messages; `None` if the weights are plain numbers.
    pub fn packed(&self) -> Option<&'static str> {
        self.config.quantization.as_ref().map(Quantization::method)
    }

    /// Calls `take` with every parameter, in the order of [`parameters`](Source::parameters).
    ///
    /// # Errors
    /// Names, shapes and dtypes that do not fit the model, and those of `take`.
    pub fn each(&mut self, mut take: impl FnMut(&Parameter, Matrix) -> Result<()>) -> Result<()> {
        let (mut outer, mut layer, mut now) = (self.matrices(None)?, BTreeMap::new(), None);
        for parameter in self.parameters.clone() {
            let group = group(&self.config, &parameter.name);
            if group.is_some() && group != now {
                // Those of the layer before may be copies.
                layer.clear();
                (layer, now) = (self.matrices(group)?, group);
            }
            let matrices = if group.is_some() { &mut layer } else { &mut outer };
            let matrix = matrices.remove(&parameter.name).ok_or_else(|| self.lacks(&parameter.name))?;
            take(&parameter, matrix)?;
        }
        Ok(())
    }

    /// The matrices of a group.
    fn matrices(&mut self, wanted: Group) -> Result<BTreeMap<String, Matrix>> {
        let (config, rules) = (&self.config, &self.rules);
        let held = |name: &str| {
            let mapped = rules.mapper.map(name);
            group(config, mapped.as_deref().unwrap_or(name)) == wanted
        };
        let state_dict = open(&self.directory, self.file.as_deref(), held)?;
        let loading = Loading {
            architecture: config.architecture,
            quantization: config.quantization.as_ref(),
            rules,
            completeness: Completeness::Some,
            file_of: &|name| state_dict.file_of(name),
            origin: self.directory.root(),
            events: &mut |_| {},
        };
        let matrices = matched(&mut *self.model, state_dict.tensors(), &loading)?;
        // A tied pair was compared.
        matrices.values().for_each(|matrix| match matrix {
            Matrix::Dense(tensor) => tensor.data.release(),
            Matrix::Packed(packed) => packed.tensors().iter().for_each(|tensor| tensor.data.release()),
        });
        Ok(matrices)
    }

    fn lacks(&self, name: &str) -> Error {
        let (missing, known) = ([name.to_owned()], Vec::new());
        let class = self.config.architecture.class_name();
        let directory = self.directory.root().display().to_string();
        CheckpointError::Names(NameMismatch::new(class, directory, [&missing, &[], &known])).into()
    }

    /// The path of the file of PyTorch, or of the directory.
    pub fn path(&self) -> PathBuf {
        self.file.as_ref().map_or_else(|| self.directory.root(), |file| self.directory.path(file))
    }
}

/// The name of a directory's one file of weights, if that is PyTorch's: it may be a training checkpoint.
fn only_torch(directory: &Directory) -> Result<Option<String>> {
    let files = directory.list()?;
    let others = [".safetensors", ".gguf", ".index.json"];
    let other = files.iter().any(|file| others.iter().any(|end| file.ends_with(end)));
    Ok(Some(TORCH.to_owned()).filter(|torch| !other && files.contains(torch)))
}

fn group(config: &ModelConfig, name: &str) -> Group {
    match config.architecture.names().place(name) {
        Some(Place::Layer(layer)) => Some(layer),
        _ => None,
    }
}

fn open(
    directory: &Directory,
    file: Option<&str>,
    wanted: impl Fn(&str) -> bool + Sync,
) -> Result<StateDict> {
    Ok(match file {
        Some(file) => open_training(directory, file, wanted)?,
        None => StateDict::open_some(directory, LoadFormat::Auto, wanted)?,
    })
}

/// The dtype of all matrices that are stored as numbers; `None` if there is more than one, or any are packed.
fn stored(state_dict: &StateDict) -> Option<DType> {
    let infos = state_dict.names().filter_map(|name| state_dict.entry(name)).map(|entry| entry.info);
    let mut dtypes = infos.filter(|info| info.shape.len() > 1).map(|info| info.dtype);
    let first = dtypes.next()?;
    (first.is_weight() && dtypes.all(|dtype| dtype == first)).then_some(first)
}
