//! A checkpoint in another format or dtype: what anything that loads becomes as safetensors or GGUF.
//!
//! ```text
//! Source ─ a layer's tensors ─▶ matrices ─ rows ─▶ f32 ─ encode ─▶ bytes ─▶ shards or one GGUF file   ─ rename ─▶ DIR
//! (any format)                  (dense or packed)      (a piece at a time)   in .DIR.partial-PID
//! ```
//! Tensors are read and written a few rows at a time. A matrix whose rows lie in another order in the file is copied once, with those of its
//! layer, so the memory depends on the largest tensor and not on the model. Everything is written into a folder of another name, which gets its own
//! name once it is whole and was checked.

pub mod check;
mod files;
mod folder;
mod gguf;
mod rope;
mod rows;
mod safetensors;
mod source;

pub use folder::{Partial, refuse_used};
pub use source::Source;

use crate::error::{Error, Result};
use crate::tensor::DType;
use clap::ValueEnum;
use std::path::Path;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum Format {
    /// A directory as transformers writes it.
    Safetensors,
    /// One GGUF file, with the tokenizer in it.
    Gguf,
}

/// The type of the numbers that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    F32,
    F16,
    Bf16,
    /// 8 bits, a scale for 32 numbers; GGUF only. Vectors stay f32.
    #[value(name = "q8_0")]
    Q8_0,
}

impl Kind {
    /// The dtype of matrices.
    pub fn dtype(self) -> DType {
        match self {
            Kind::F32 => DType::F32,
            Kind::F16 => DType::F16,
            Kind::Bf16 => DType::BF16,
            Kind::Q8_0 => DType::Q8_0,
        }
    }
}

/// How a checkpoint is written.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub format: Format,
    pub dtype: DType,
    /// The most bytes of a shard's tensors; a larger tensor has a shard of its own.
    pub shard_size: u64,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub tensors: usize,
    /// Of all tensors.
    pub bytes: u64,
    pub files: usize,
}

impl Target {
    /// Writes everything into a folder that is there and empty. `progress` is told (bytes, bytes in all).
    ///
    /// # Errors
    /// What the source lacks, numbers that the dtype does not hold, models that the format does not have; a disk that is full.
    pub fn write(&self, source: &mut Source, into: &Path, progress: &dyn Fn(u64, u64)) -> Result<Written> {
        if self.format == Format::Safetensors && self.dtype.is_block() {
            let message = "--dtype q8_0: only GGUF has this type; add --to gguf, or see `stairwell quantize`";
            return Err(Error::Usage(message.into()));
        }
        match self.format {
            Format::Safetensors => {
                let written = safetensors::write(self, source, into, progress)?;
                files::carry(source, self.dtype, into)?;
                Ok(written)
            }
            Format::Gguf => gguf::write(self, source, into, progress),
        }
    }
}
