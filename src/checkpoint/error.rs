//! What can be wrong with a checkpoint directory, one variant per cause.
//!
//! Every message is one line that names the file, what is wrong with it, and what to do.

use crate::{tensor::DType, words, words::Words};
use std::path::PathBuf;

/// Results of this room.
pub(super) type Result<T, E = CheckpointError> = std::result::Result<T, E>;

/// See the module's documentation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The path does not exist, and it can't be the id of a model on the hub.
    #[error("model {model}: there is no such directory; give the directory of a Hugging Face checkpoint")]
    NoSuchDirectory { model: String },
    /// The path does not exist, and no model of that id is in the local Hugging Face cache.
    #[error(
        "model {model}: there is no such directory, and no such model in the Hugging Face cache at {cache}. \
         Fetch it with: stairwell pull {model} (a build with --features hub), or with: hf download {model}"
    )]
    NotCached { model: String, cache: PathBuf },
    /// The model is in the cache, the revision is not.
    #[error(
        "revision {revision}: {model} is in the cache at {cache}, but not this revision. Cached: {known}"
    )]
    NoSuchRevision { model: String, revision: String, cache: PathBuf, known: String },
    /// A revision that can't be one.
    #[error("revision {revision}: {why}")]
    BadRevision { revision: String, why: &'static str },
    /// The model's name is that of a file.
    #[error(
        "model {path}: this is a file, and no GGUF file; give the directory that holds config.json and the .safetensors files"
    )]
    NotADirectory { path: PathBuf },
    /// A GGUF file, below the step that reads it.
    #[error(
        "{path}: GGUF files need a build with --features step9. Or give the directory of the original Hugging Face checkpoint \
         (config.json and .safetensors files)"
    )]
    Gguf { path: PathBuf },
    /// A GGUF file that is damaged, hostile, or of a kind that is not read.
    #[error("{path}: bad GGUF file: {reason}")]
    BadGguf { path: PathBuf, reason: String },
    /// A directory with GGUF files, of which each is a model.
    #[error(
        "{dir}: the weights there are GGUF files ({files}), and each is a model; give the path of one of them"
    )]
    WhichGguf { dir: PathBuf, files: String },
    /// No config.json in the directory.
    #[error(
        "{dir}: there is no config.json, so this is no Hugging Face checkpoint directory. Give the directory that holds \
         config.json and the .safetensors files"
    )]
    NoConfig { dir: PathBuf },
    /// A layout of another tool.
    #[error("{path}: {what}")]
    Foreign { path: PathBuf, what: &'static str },
    /// Neither `model.safetensors` nor an index.
    #[error("{dir}: there is neither model.safetensors nor model.safetensors.index.json")]
    NoWeights { dir: PathBuf },
    /// Only pickled weights, which this build does not read.
    #[error(
        "{dir}: the weights are only there as {file}, a pickle. Build stairwell with --features step9, which reads its tensors and runs \
         nothing; or convert it: python -c \
         \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{dir}').save_pretrained('{dir}')\""
    )]
    OnlyPickle { dir: PathBuf, file: String },
    /// A load format that the directory has no files of.
    #[error("{dir}: the load format {format} reads {files}, and the directory has no such file")]
    NoFilesOf { dir: PathBuf, format: String, files: &'static str },
    /// PyTorch's files with names that do not say which holds the weights.
    #[error(
        "{dir}: any of {files} may hold the weights; call the one that does pytorch_model.bin, or add the index of shards, pytorch_model.bin.index.json"
    )]
    ManyTorchFiles { dir: PathBuf, files: String },
    /// A file of PyTorch that is damaged or hostile, or holds something else than a state dict.
    #[error("{path}: {reason}. Nothing in this file was executed")]
    Torch { path: PathBuf, reason: String },
    /// `git clone` without git-lfs leaves small text files in place of large ones.
    #[error("{path}: this is a Git LFS pointer, not the file itself. Fetch the files with: git lfs pull")]
    LfsPointer { path: PathBuf },
    /// Weights that the machine has no memory for.
    #[error(
        "there is no memory for {bytes} bytes of weights ({error}); this model is too large for the machine"
    )]
    NoMemory { bytes: usize, error: std::io::Error },
    /// The operating system refused.
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    /// A JSON file that is not JSON, or not of the right form.
    #[error("{path}: {reason}")]
    Json { path: PathBuf, reason: String },
    /// The index names a shard that is not on disk.
    #[error(
        "{index}: tensor '{tensor}' is in shard {shard}, which is not in the directory. Download the missing file"
    )]
    MissingShard { index: PathBuf, tensor: String, shard: String },
    /// A shard name that leaves the directory.
    #[error("{index}: tensor '{tensor}' is said to be in '{shard}', which is not a plain file name; refused")]
    UnsafeShardName { index: PathBuf, tensor: String, shard: String },
    /// The index promises a tensor that its shard does not hold.
    #[error("{index}: tensor '{tensor}' should be in {shard}, but that file does not hold it")]
    NotInShard { index: PathBuf, tensor: String, shard: String },
    /// Shorter than its header says, as after an interrupted download.
    #[error("{path}: truncated: {what} ends at byte {needed} and the file has {actual}. Download it again")]
    Truncated { path: PathBuf, what: String, needed: u64, actual: u64 },
    /// The header is damaged or hostile.
    #[error("{path}: bad safetensors header: {reason}")]
    Header { path: PathBuf, reason: String },
    /// One tensor's entry in the header is damaged or hostile.
    #[error("{path}: tensor '{tensor}': {reason}")]
    Tensor { path: PathBuf, tensor: String, reason: String },
    /// Names that the checkpoint lacks and names that the model lacks.
    #[error("{0}")]
    Names(#[from] super::NameMismatch),
    /// A tensor of another shape than the config gives.
    #[error(
        "{file}: parameter '{name}' has shape {actual:?} in the file, but config.json makes it {expected:?}"
    )]
    Shape { file: String, name: String, expected: Vec<usize>, actual: Vec<usize> },
    /// A dtype that is not a weight's.
    #[error(
        "{file}: parameter '{name}' has dtype {actual}, and weights are read as F32, BF16 or F16. Convert the \
         checkpoint with transformers: from_pretrained(…, dtype=torch.bfloat16), then save_pretrained"
    )]
    WeightDType { file: String, name: String, actual: DType },
}

impl CheckpointError {
    /// The message, with the fields that it names.
    pub fn words(&self) -> Words {
        use CheckpointError::*;
        // These messages begin with their field.
        let field = match self {
            NoSuchDirectory { .. } | NotCached { .. } | NotADirectory { .. } => "model",
            NoSuchRevision { .. } | BadRevision { .. } => "revision",
            Names(mismatch) => return mismatch.words(),
            _ => return self.to_string().into(),
        };
        (words::field(field) + &self.to_string()[field.len()..]).into()
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> CheckpointError {
        let path = path.into();
        move |error| CheckpointError::Io { path, error }
    }
}
