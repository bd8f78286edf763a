//! A GGUF file: a model's weights, its configuration and its tokenizer in one file, as llama.cpp keeps them.
//!
//! ```text
//! ┌────────┬─────────┬──────────┬────────┬──────────────┬────────────────────────────┬─────────┬────────────────────┐
//! │ "GGUF" │ version │ tensors  │ pairs  │ pairs of key │ name, extents, type, offset│ padding │ data of each       │
//! │        │ u32     │ u64      │ u64    │ and value    │ of each tensor             │         │ tensor, and padding│
//! └────────┴─────────┴──────────┴────────┴──────────────┴────────────────────────────┴─────────┴────────────────────┘
//!                                                                                              a multiple of the alignment
//! ```
//! Extents stand innermost first, so a matrix of 4 outputs and 8 inputs has [8, 4]. Offsets count from the start of the data.
//! Format: `docs/gguf.md` in ggml's repository.
//!
//! Most files were made from a Hugging Face checkpoint, and here one becomes such a checkpoint again: tensors have Hugging Face's names
//! and extents, and [`Gguf::file`] writes the config.json, tokenizer.json and tokenizer_config.json that the file stands for. So everything
//! that reads a checkpoint reads a GGUF file.

mod config;
mod cursor;
mod metadata;
pub(crate) mod names;
pub(crate) mod splits;
mod tensors;
mod tokenizer;

use super::{CheckpointError, Header, Result, TensorInfo, directory};
use cursor::Cursor;
use metadata::Metadata;
use std::path::Path;
use tensors::{Heads, Tensors};

/// What every file begins with.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";

/// The value of `general.architecture` of the models that we compute.
const ARCHITECTURES: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// A file's header, checked.
pub struct Gguf<'a> {
    file: &'a [u8],
    architecture: &'a str,
    metadata: Metadata<'a>,
    tensors: Tensors,
}

impl<'a> Gguf<'a> {
    /// Parses and checks the header of a whole file. Of a mapped file only the header's pages are read. It takes at most twice the file's
    /// size and a megabyte of memory, whatever the file claims.
    ///
    /// # Errors
    /// [`CheckpointError::BadGguf`], [`CheckpointError::Truncated`] or [`CheckpointError::Tensor`], each naming `path`.
    pub fn parse(file: &'a [u8], path: &'a Path) -> Result<Gguf<'a>> {
        directory::refuse_lfs_pointer(file, path)?;
        let mut cursor = Cursor::new(file, path, 0);
        if !file.starts_with(MAGIC) {
            return Err(cursor.bad("it does not begin with \"GGUF\"; is it another kind of file?".into()));
        }
        cursor.at = MAGIC.len();
        check_version(cursor.u32("the version")?).map_err(|reason| cursor.bad(reason))?;
        let (tensors, pairs) = (cursor.size("the number of tensors")?, cursor.size("the number of pairs")?);
        let metadata = Metadata::read(&mut cursor, pairs, file, path)?;
        let architecture = check_architecture(&metadata)?;
        check_parts(&metadata)?;
        let heads = (architecture == "llama").then(|| heads(&metadata)).transpose()?;
        let tensors = Tensors::read(cursor, tensors, alignment(&metadata)?, heads, path)?;
        Ok(Gguf { file, architecture, metadata, tensors })
    }

    /// The tensors, under Hugging Face's names.
    ///
    /// A tensor whose rows are in RoPE's pairs has the shape [heads, half, 2, inputs] instead of [heads · 2 · half, inputs]: llama.cpp rotates
    /// neighbours, so its rows 2i and 2i + 1 of a head are rows i and i + half of Hugging Face's.
    pub fn header(&self) -> &Header {
        &self.tensors.header
    }

    /// The bytes that a small file of a Hugging Face checkpoint of this model would have; `None` for a file that it would not have.
    ///
    /// # Errors
    /// [`CheckpointError::BadGguf`] for what the file lacks, or what is not supported.
    pub fn file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match name {
            "config.json" => config::json(self).map(Some),
            "tokenizer.json" => tokenizer::file(self),
            "tokenizer_config.json" => tokenizer::config(self).map(Some),
            _ => Ok(None),
        }
    }

    fn bad(&self, reason: String) -> CheckpointError {
        self.metadata.bad(reason)
    }

    /// The key `NAME` of this architecture: `llama.NAME`.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// The values of a tensor of f32.
    fn f32_values(&self, info: &TensorInfo) -> Vec<f32> {
        self.file[info.range.clone()].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}

/// The tensors of a whole file.
pub fn header(file: &[u8], path: &Path) -> Result<Header> {
    Ok(Gguf::parse(file, path)?.tensors.header)
}

/// A small file of the checkpoint that a whole file stands for: see [`Gguf::file`].
pub fn small_file(file: &[u8], path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    Gguf::parse(file, path)?.file(name)
}

fn check_version(version: u32) -> Result<(), String> {
    match version {
        2 | 3 => Ok(()),
        1 => Err("its version is 1, of August 2023, which is not read; convert the model again".into()),
        _ if (1..=3).contains(&version.swap_bytes()) => {
            Err("it is big-endian, which is not read; convert it with gguf-py's gguf-convert-endian".into())
        }
        _ => Err(format!("its version is {version}; versions 2 and 3 are read")),
    }
}

fn check_architecture<'a>(metadata: &Metadata<'a>) -> Result<&'a str> {
    let architecture = metadata.text("general.architecture")?;
    architecture.filter(|name| ARCHITECTURES.contains(name)).ok_or_else(|| {
        let name = architecture.map_or("not there".into(), |name| format!("'{name}'"));
        let known = ARCHITECTURES.join(", ");
        metadata.bad(format!(
            "general.architecture is {name}, and the models {known} are computed (Llama, Mistral, Qwen2 and Qwen3); use a file of one of these"
        ))
    })
}

/// A model may be split into several files.
fn check_parts(metadata: &Metadata) -> Result<()> {
    match metadata.size("split.count")? {
        Some(parts @ 2..) => Err(metadata.bad(format!(
            "it is one of {parts} parts of a model, and parts are not read; join them with llama-gguf-split --merge"
        ))),
        _ => Ok(()),
    }
}

fn alignment(metadata: &Metadata) -> Result<usize> {
    let alignment = metadata.size("general.alignment")?.unwrap_or(32);
    if !alignment.is_power_of_two() {
        return Err(metadata.bad(format!("general.alignment is {alignment}, which is no power of two")));
    }
    Ok(alignment)
}

fn heads(metadata: &Metadata) -> Result<Heads> {
    let query = config::needed(metadata, "llama.attention.head_count")?;
    Ok(Heads { query, key: metadata.size("llama.attention.head_count_kv")?.unwrap_or(query) })
}
