//! Tensors by name into a model's parameters: loading, and replacing while the model is in use.
//!
//! Both are one function. The stream of `(name, tensor)` is matched against the parameters first, every name and shape checked,
//! and only then is anything written: all of it or nothing.

use super::{Model, Source, Stage, TiedNames};
use crate::backend::{Backend, Slice};
use crate::checkpoint::{
    CheckpointError, LoadRules, NameMismatch, Resolution, StateDict, check_memory, dummy_tensor,
};
use crate::config::{Architecture, LM_HEAD, ModelConfig};
use crate::error::{Error, Result};
use crate::packed::Matrix;
use crate::quant::{self, Quantization};
use crate::tensor::{DType, HostTensor};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Whether every parameter must come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// A load: a missing parameter is an error.
    All,
    /// An update: parameters that do not come stay as they are.
    Some,
}

/// What a load tells of itself.
#[derive(Clone, Debug, PartialEq)]
pub enum LoadEvent<'a> {
    /// A tensor of the checkpoint became a parameter.
    Loaded {
        name: &'a str,
        parameter: &'a str,
        matrix: &'a Matrix,
        /// The parameters that are one matrix with it, itself included (q, k and v).
        stacked: &'a [Source],
    },
    /// A rule left a tensor out.
    Skipped { name: &'a str },
    /// lm_head and the embedding are one: this tensor serves as both.
    Tied { name: &'a str, parameter: &'a str },
}

/// How to load: everything but the tensors.
pub struct Loading<'a> {
    /// The model's class, for rules and messages.
    pub architecture: Architecture,
    /// What config.json says of packed weights.
    pub quantization: Option<&'a Quantization>,
    pub rules: &'a LoadRules,
    pub completeness: Completeness,
    /// The file that a tensor came from, for messages.
    pub file_of: &'a dyn Fn(&str) -> PathBuf,
    /// The directory, for messages.
    pub origin: PathBuf,
    /// Called as tensors are loaded.
    pub events: &'a mut dyn FnMut(LoadEvent),
}

impl Loading<'_> {
    /// The error that a tensor is wrong.
    pub fn refuse(&self, tensor: &str, reason: String) -> Error {
        CheckpointError::Tensor { path: (self.file_of)(tensor), tensor: tensor.into(), reason }.into()
    }
}

/// Matches a stream of tensors with the model's parameters, checks all of it, then writes all of it.
///
/// # Errors
/// Unexpected, missing or doubled names, shapes and dtypes that don't fit. The model is unchanged then.
// ANCHOR: load_weights
pub fn load_weights<B: Backend>(
    backend: &B,
    model: &mut dyn Model<B>,
    tensors: impl IntoIterator<Item = (String, HostTensor)>,
    loading: Loading,
) -> Result<()> {
    let mut arrived = Arrived::at(model)?;
    for (name, matrix) in quant::assemble(tensors, &loading)? {
        arrived.take(name, matrix, &loading)?;
    }
    arrived.settle_tied(&loading)?;
    arrived.check(&loading)?;
    arrived.write(backend, model, loading.events)
}
// ANCHOR_END: load_weights

impl<B: Backend> dyn Model<B> {
    /// Loads random weights into every parameter (`--load-format dummy`), packed as config.json says, or else of its dtype; returns the
    /// bytes of each.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn load_dummy(&mut self, backend: &B, config: &ModelConfig) -> Result<BTreeMap<String, u64>> {
        let dtype = config.dtype.unwrap_or(DType::BF16);
        let loading = Loading {
            architecture: config.architecture,
            quantization: config.quantization.as_ref(),
            rules: &LoadRules::default(),
            completeness: Completeness::All,
            file_of: &|_| PathBuf::from("dummy"),
            origin: PathBuf::from("dummy"),
            events: &mut |_| {},
        };
        let mut sizes = BTreeMap::new();
        let (stage, tied) = (self.attention_shape().stage(), self.tied().is_some());
        let mut held = 0;
        self.visit(&mut |param| {
            let here = param.sources.iter().filter(|source| stage.holds(&source.name, tied));
            held += here.map(Source::elements).sum::<usize>();
            Ok(())
        })?;
        if backend.in_place() {
            check_memory(held.saturating_mul(dtype.bytes()))?;
        }
        self.visit(&mut |param| {
            for (part, source) in param.sources.iter().enumerate() {
                if !stage.holds(&source.name, tied) {
                    continue;
                }
                if let [rows, cols] = source.shape[..]
                    && let shape = if source.transposed { [cols, rows] } else { [rows, cols] }
                    && let Some(tensors) = quant::dummy_tensors(config, &source.name, shape)?
                {
                    let (_, matrix) = quant::assemble(tensors, &loading)?.pop().expect("one parameter");
                    let size = matrix.bytes() * source.elements() as u64 / (rows * cols) as u64;
                    *sizes.entry(source.name.clone()).or_default() += size;
                    backend.load(&mut param.weight, part, &slice(source, matrix).packed())?;
                    continue;
                }
                let tensor = dummy_tensor(&source.name, dtype, &source.shape)?;
                *sizes.entry(source.name.clone()).or_default() += (source.elements() * dtype.bytes()) as u64;
                // A view of a part would keep the whole tensor.
                let whole = source.is_whole(&param.sources);
                let slice = if whole { slice(source, tensor) } else { copied(slice(source, tensor)) };
                backend.load(&mut param.weight, part, &slice.into())?;
            }
            Ok(())
        })?;
        Ok(sizes)
    }
}

/// What came, by parameter: the tensor, and its name in the checkpoint.
#[derive(Default)]
pub(super) struct Arrived {
    /// Every parameter's name and shape in the checkpoint.
    pub(super) sources: BTreeMap<String, Vec<usize>>,
    /// Those that are stored [in, out], unless they are packed.
    transposed: BTreeSet<String>,
    pub(super) tied: Option<TiedNames>,
    /// What is another stage's is left to it.
    stage: Stage,
    pub(super) matrices: BTreeMap<String, (String, Matrix)>,
    /// lm_head.weight of a tied model.
    pub(super) tied_head: Option<(String, Matrix)>,
    skipped: Vec<String>,
    unexpected: Vec<String>,
}

impl Arrived {
    /// Nothing yet.
    pub(super) fn at<B: Backend>(model: &mut dyn Model<B>) -> Result<Arrived> {
        let (mut sources, mut transposed) = (BTreeMap::new(), BTreeSet::new());
        model.visit(&mut |param| {
            sources.extend(param.sources.iter().map(|s| (s.name.clone(), s.shape.clone())));
            transposed.extend(param.sources.iter().filter(|s| s.transposed).map(|s| s.name.clone()));
            Ok(())
        })?;
        let (stage, tied) = (model.attention_shape().stage(), model.tied());
        Ok(Arrived { sources, transposed, tied, stage, ..Arrived::default() })
    }

    /// Whether this stage needs a tensor of this name.
    fn holds(&self, name: &str) -> bool {
        self.stage.holds(name, self.tied.is_some())
    }

    pub(super) fn take(&mut self, name: String, matrix: Matrix, loading: &Loading) -> Result<()> {
        let (sources, tied) = (&self.sources, self.tied);
        let is_parameter = |n: &str| sources.contains_key(n) || tied.is_some_and(|t| t.head == n);
        let names = loading.architecture.names();
        let skipped = names.skipped.iter().any(|end| name.ends_with(end)) || quant::is_kv_scale(&name);
        let resolution = match skipped {
            true => Resolution::Skipped,
            false => loading.rules.resolve(&name, names.prefix, is_parameter),
        };
        match resolution {
            Resolution::Skipped => self.skipped.push(name),
            Resolution::Unexpected(_) if loading.quantization.is_some() && is_zero_bias(&name, &matrix) => {
                self.skipped.push(name);
            }
            Resolution::Unexpected(_) => self.unexpected.push(name),
            Resolution::Parameter(parameter) => {
                // A tied head has the embedding's shape.
                let of = tied.filter(|t| t.head == parameter).map_or(parameter.as_str(), |t| t.embedding);
                let transposed = self.transposed.contains(of);
                check_matrix(&name, &matrix, &sources[of], transposed, loading)?;
                if !self.holds(&parameter) {
                    return Ok(()); // another stage's
                }
                if of != parameter {
                    self.tied_head = Some((name, matrix));
                } else if let Some((other, _)) =
                    self.matrices.insert(parameter.clone(), (name.clone(), matrix))
                {
                    let reason = format!("'{other}' and '{name}' are both the parameter '{parameter}'");
                    return Err(loading.refuse(&name, reason));
                }
            }
        }
        Ok(())
    }

    /// Tied embeddings in either direction: the checkpoint may hold the embedding, lm_head, or both if they are equal.
    pub(super) fn settle_tied(&mut self, loading: &Loading) -> Result<()> {
        let (Some(TiedNames { embedding, .. }), Some((name, head))) = (self.tied, &self.tied_head) else {
            return Ok(());
        };
        match self.matrices.get(embedding) {
            None => drop(self.matrices.insert(embedding.into(), self.tied_head.take().expect("it is there"))),
            Some((_, matrix)) if matrix == head => {}
            Some((other, _)) => {
                let reason =
                    format!("the model ties it with '{other}' into one tensor, and the two that came differ");
                return Err(loading.refuse(name, reason));
            }
        }
        Ok(())
    }

    pub(super) fn check(&self, loading: &Loading) -> Result<()> {
        let (sources, lacks) =
            (&self.sources, |name: &str| self.holds(name) && !self.matrices.contains_key(name));
        let missing: Vec<String> = match loading.completeness {
            Completeness::Some => Vec::new(),
            Completeness::All => sources.keys().filter(|name| lacks(name)).cloned().collect(),
        };
        if missing.is_empty() && self.unexpected.is_empty() {
            return Ok(());
        }
        let known: Vec<String> = sources.keys().cloned().collect();
        let directory = loading.origin.display().to_string();
        let class = loading.architecture.class_name();
        let mismatch = NameMismatch::new(class, directory, [&missing, &self.unexpected, &known]);
        Err(CheckpointError::Names(mismatch).into())
    }

    fn write<B: Backend>(
        &self,
        backend: &B,
        model: &mut dyn Model<B>,
        events: &mut dyn FnMut(LoadEvent),
    ) -> Result<()> {
        model.visit(&mut |param| {
            for (part, source) in param.sources.iter().enumerate() {
                let Some((name, matrix)) = self.matrices.get(&source.name) else { continue };
                let slice = match matrix {
                    Matrix::Dense(tensor) if source.is_copied(&param.sources) => {
                        copied(slice(source, tensor.clone())).into()
                    }
                    Matrix::Dense(tensor) => slice(source, tensor.clone()).into(),
                    Matrix::Packed(_) => slice(source, matrix.clone()).packed(),
                };
                backend.load(&mut param.weight, part, &slice)?;
                // GPT-2's c_attn is one tensor and three parts.
                if part == 0 || param.sources[part - 1].name != source.name {
                    let (parameter, stacked) = (&source.name, &param.sources);
                    events(LoadEvent::Loaded { name, parameter, matrix, stacked });
                }
            }
            Ok(())
        })?;
        if let (Some(tied), Some((name, _))) = (self.tied, &self.tied_head) {
            events(LoadEvent::Tied { name, parameter: tied.embedding });
        }
        self.skipped.iter().for_each(|name| events(LoadEvent::Skipped { name }));
        Ok(())
    }
}

fn check_matrix(
    name: &str,
    matrix: &Matrix,
    expected: &[usize],
    transposed: bool,
    loading: &Loading,
) -> Result<(), CheckpointError> {
    let file = || (loading.file_of)(name).display().to_string();
    let (mut expected, actual) = (expected.to_vec(), matrix.shape());
    if transposed && matches!(matrix, Matrix::Packed(_)) {
        expected.reverse();
    }
    if actual != expected {
        return Err(CheckpointError::Shape { file: file(), name: name.into(), expected, actual });
    }
    match matrix {
        Matrix::Dense(HostTensor { dtype: actual, .. }) if !actual.is_weight() => {
            Err(CheckpointError::WeightDType { file: file(), name: name.into(), actual: *actual })
        }
        Matrix::Dense(_) | Matrix::Packed(_) => Ok(()),
    }
}

/// A bias that adds nothing: tools that pack weights write one for every matrix, also of models that have none.
fn is_zero_bias(name: &str, matrix: &Matrix) -> bool {
    let Matrix::Dense(tensor) = matrix else { return false };
    name.ends_with(".bias") && tensor.dtype.is_weight() && tensor.to_f32().iter().all(|number| *number == 0.0)
}

fn slice<T>(source: &Source, tensor: T) -> Slice<T> {
    Slice { tensor, rows: source.rows.clone(), cols: source.cols.clone(), transposed: source.transposed }
}

// ANCHOR: copied
/// A slice whose rows are parts of the tensor's, copied into memory of its own: read in place, every page of the file would have a piece of each rank's.
fn copied(slice: Slice) -> Slice {
    let (size, (_, stride)) = (slice.tensor.dtype.bytes(), slice.tensor.matrix_shape());
    let held = |row: usize| (row * stride + slice.cols.start) * size..(row * stride + slice.cols.end) * size;
    let (rows, cols) = (slice.rows.len(), slice.cols.len());
    let mut bytes = Vec::with_capacity(rows * cols * size);
    slice.rows.clone().for_each(|row| bytes.extend_from_slice(&slice.tensor.data[held(row)]));
    slice.tensor.data.release();
    let shape = if slice.tensor.shape.len() == 1 { vec![rows] } else { vec![rows, cols] };
    let tensor = HostTensor::from_bytes(slice.tensor.dtype, &shape, bytes);
    Slice { tensor, rows: 0..rows, cols: 0..cols, transposed: slice.transposed }
}
// ANCHOR_END: copied

/// Whether a checkpoint that config.json calls tied holds both tensors with different values. transformers 5 then uses each as
/// it is stored (`tie_weights` in `modeling_utils.py`), and so does stairwell.
pub fn unties(config: &ModelConfig, state_dict: &StateDict) -> bool {
    let names = config.architecture.names();
    let bare = names.embedding.strip_prefix(names.prefix);
    let embedding =
        [Some(names.embedding), bare].into_iter().flatten().find_map(|name| state_dict.tensor(name));
    match (embedding, state_dict.tensor(LM_HEAD)) {
        (Some(embedding), Some(head)) => config.tie_word_embeddings && embedding != head,
        _ => false,
    }
}
