//! The kinds of files that weights come from.

use super::state_dict::{FileFormat, Safetensors};
use super::{Directory, Result};
#[cfg(feature = "quantized")]
use super::{mistral::Consolidated, pickle::Torch};
use clap::ValueEnum;
use strum::Display;

/// Where the weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Display, ValueEnum)]
#[strum(serialize_all = "lowercase")]
pub enum LoadFormat {
    /// The first kind that is there: a GGUF file, safetensors, Mistral's own files, PyTorch's files.
    #[default]
    #[value(help = None)]
    Auto,
    /// safetensors files.
    #[value(help = None)]
    Safetensors,
    /// PyTorch's files, whose pickles are read and not executed.
    #[cfg(feature = "quantized")]
    #[value(help = None)]
    Pt,
    /// Mistral's own names and order of rows: params.json and consolidated.safetensors.
    #[cfg(feature = "quantized")]
    #[value(help = None)]
    Mistral,
    /// A GGUF file, which `--model` must name.
    #[cfg(feature = "quantized")]
    #[value(help = None)]
    Gguf,
    /// Random values of the right shapes; needs config.json only.
    #[value(help = None)]
    Dummy,
}

impl LoadFormat {
    /// Whether weights are read from files.
    pub fn has_files(self) -> bool {
        self != LoadFormat::Dummy
    }

    /// The files that may hold the model's shapes; the first one that is there counts.
    pub fn configs(self) -> &'static [&'static str] {
        match self {
            #[cfg(feature = "quantized")]
            LoadFormat::Mistral => &["params.json", "config.json"],
            _ if cfg!(feature = "quantized") => &["config.json", "params.json"],
            _ => &["config.json"],
        }
    }

    /// The formats that are looked for, one after the other.
    pub(super) fn order(self) -> &'static [LoadFormat] {
        match self {
            LoadFormat::Auto => &[
                LoadFormat::Safetensors,
                #[cfg(feature = "quantized")]
                LoadFormat::Mistral,
                #[cfg(feature = "quantized")]
                LoadFormat::Pt,
            ],
            LoadFormat::Safetensors => &[LoadFormat::Safetensors],
            #[cfg(feature = "quantized")]
            LoadFormat::Pt => &[LoadFormat::Pt],
            #[cfg(feature = "quantized")]
            LoadFormat::Mistral => &[LoadFormat::Mistral],
            #[cfg(feature = "quantized")]
            LoadFormat::Gguf => &[],
            LoadFormat::Dummy => &[],
        }
    }

    /// How this format's files in a directory are read; `None` if it is certain that there are none.
    pub(super) fn files(self, directory: &Directory) -> Result<Option<Box<dyn FileFormat>>> {
        Ok(match self {
            LoadFormat::Safetensors => Some(Box::new(Safetensors::of(directory)?)),
            #[cfg(feature = "quantized")]
            LoadFormat::Pt => Some(Box::new(Torch::of(directory)?)),
            #[cfg(feature = "quantized")]
            LoadFormat::Mistral => match Consolidated::of(directory)? {
                Some(consolidated) => Some(Box::new(consolidated)),
                None => None,
            },
            #[cfg(feature = "quantized")]
            LoadFormat::Gguf => None,
            LoadFormat::Auto | LoadFormat::Dummy => None,
        })
    }

    /// Whether a GGUF file may be read.
    pub(super) fn reads_gguf(self) -> bool {
        match self {
            #[cfg(feature = "quantized")]
            LoadFormat::Gguf => true,
            other => other == LoadFormat::Auto,
        }
    }

    /// The files without which a format that was asked for can't be read, for messages.
    pub(super) fn needs(self) -> Option<&'static str> {
        match self {
            #[cfg(feature = "quantized")]
            LoadFormat::Pt => Some("pytorch_model.bin or pytorch_model.bin.index.json"),
            #[cfg(feature = "quantized")]
            LoadFormat::Mistral => Some("params.json with consolidated.safetensors or its index"),
            #[cfg(feature = "quantized")]
            LoadFormat::Gguf => Some("the one GGUF file that --model names"),
            LoadFormat::Auto | LoadFormat::Safetensors | LoadFormat::Dummy => None,
        }
    }
}
