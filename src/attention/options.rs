//! The options for keys and values that a user has in every build.

use crate::{error::Error, model::KvScalesFrom, tensor::DType};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};

/// How much K and V to keep, and how.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KvOptions {
    /// `None`: the best of this build.
    pub attention: Option<AttentionKind>,
    /// How K and V are stored.
    pub dtype: KvDtype,
    /// The longest sequence in tokens, prompt and output. `None`: the model's context, or as much of it as memory allows.
    pub max_model_len: Option<usize>,
    /// Sequences that are kept at a time. `None`: one.
    pub max_num_seqs: Option<usize>,
    /// The most tokens of one sequence in one forward pass. `None`: a whole sequence.
    pub max_chunk: Option<usize>,
    /// Bytes of the weights, which a run needs beside K and V; set by the loader.
    pub weight_bytes: u64,
    /// How much to keep in all. `None`: what `max_num_seqs` sequences need (blocks: twice that), or as much of it as memory allows.
    pub budget: Option<KvBudget>,
    /// Tokens of a block, a power of two. `None`: 16. (`Paged`, step 4.)
    pub block_size: Option<usize>,
    /// Host memory for sequences that are swapped out. (`Paged`, step 4.)
    pub swap: KvSwap,
    /// Scales that a file gives for [`KvDtype::Fp8`]. (Step 9.)
    pub scales_file: Option<KvScalesFile>,
    /// The scales that this process uses; set by the loader. `None`: every vector has a scale of its own.
    pub scales: Option<KvScales>,
    /// Other processes or threads that want as much of the same memory, for weights and for K and V. (Step 7.)
    pub neighbours: usize,
}

/// One scale for all K of a layer, and one for all its V: they are stored as fp8(K / scale), and read as fp8 · scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KvScales {
    pub from: KvScalesFrom,
    /// The first layer of this process.
    pub first: usize,
    /// [K, V] of each of its layers.
    pub layers: Vec<[f32; 2]>,
}

/// A file of scales, as `--quantization-param-path` names it. (Step 9.)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KvScalesFile {
    pub path: PathBuf,
    /// Of each tensor parallel rank, a scale for K and V of each layer of the model.
    pub ranks: Vec<Vec<f32>>,
}

/// Host memory for K and V that are swapped out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvSwap {
    #[default]
    None,
    Bytes(u64),
    /// As many blocks as the pool.
    AsThePool,
}

/// How much K and V to keep, over all sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvBudget {
    /// `--kv-memory`
    Bytes(u64),
    /// `--max-kv-tokens`
    Tokens(usize),
}

impl KvOptions {
    /// Whether the attention that is asked for, or the best one of this build, keeps no K and V.
    pub fn keeps_nothing(&self) -> bool {
        self.attention.unwrap_or(AttentionKind::BEST) == AttentionKind::Recompute
    }

    /// The scales of K and V of a layer in fp8, if all its vectors share them.
    pub fn scales_of(&self, layer: usize) -> Option<[f32; 2]> {
        let scales = self.scales.as_ref().filter(|_| self.dtype == KvDtype::Fp8)?;
        scales.layers.get(layer.checked_sub(scales.first)?).copied()
    }

    /// Where the scales of fp8 come from; `None` if K and V have no scales.
    pub fn scales_from(&self) -> Option<KvScalesFrom> {
        let from = self.scales.as_ref().map_or(KvScalesFrom::Vectors, |scales| scales.from);
        Some(from).filter(|_| self.dtype == KvDtype::Fp8)
    }

    /// Step 1's: keep nothing.
    pub fn recompute() -> KvOptions {
        KvOptions { attention: Some(AttentionKind::Recompute), ..KvOptions::default() }
    }
}

/// An implementation of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum AttentionKind {
    /// Step 1: nothing is kept
    Recompute,
    /// Step 2: one contiguous slot a sequence
    Contiguous,
    /// Step 4: blocks of a pool
    Paged,
}

impl AttentionKind {
    /// The name on the command line and in stats.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The message of a build without it.
    pub fn needs_a_feature(self) -> Error {
        let name = self.name();
        let feature = if self == AttentionKind::Paged { "step4" } else { "step2" };
        Error::Usage(format!("attention '{name}' is not in this build; build with --features {feature}"))
    }
}

/// How K and V are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KvDtype {
    /// As they are computed.
    #[default]
    #[value(help = None)]
    F32,
    /// Rounded to bf16: half the memory, and half the bytes to read at every token.
    #[value(help = None)]
    Bf16,
    /// Rounded to f16: as much, with three more bits of mantissa and three fewer of exponent (up to 65,504).
    #[value(help = None)]
    F16,
    /// Rounded to fp8 (e4m3): about a quarter. Each token and head has an f32 scale, unless the checkpoint or a file gives one a layer.
    #[serde(rename = "fp8-e4m3")]
    #[value(name = "fp8-e4m3", aliases = ["fp8", "fp8_e4m3"], help = "fp8 with a scale for each token and head")]
    Fp8,
}

impl KvDtype {
    /// All of them, the widest first.
    pub const ALL: [KvDtype; 4] = [KvDtype::F32, KvDtype::Bf16, KvDtype::F16, KvDtype::Fp8];

    /// The same as a tensor's dtype.
    pub fn stored(self) -> DType {
        match self {
            KvDtype::F32 => DType::F32,
            KvDtype::Bf16 => DType::BF16,
            KvDtype::F16 => DType::F16,
            KvDtype::Fp8 => DType::F8_E4M3,
        }
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no dtype is hidden").get_name())
    }
}
