//! The checkpoint that ships inside the binary: `models/demo`, a small model of our own that writes little stories.

use crate::{checkpoint::Directory, tokenizer::TokenizerFiles};

macro_rules! embed {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../models/demo/", $name)) as &[u8])),*]
    };
}

const FILES: &[(&str, &[u8])] = embed![
    "config.json",
    "generation_config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The demo checkpoint. It is read like one on disk: index, shards, headers.
pub fn directory() -> Directory {
    Directory::Embedded { name: "models/demo", files: FILES }
}

/// The demo checkpoint's tokenizer.
pub fn tokenizer_files() -> TokenizerFiles {
    TokenizerFiles::of(&directory()).expect("files in memory can be read")
}
