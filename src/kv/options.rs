//! What a user can choose about keys and values, in every build.

use crate::{error::Error, tensor::DType};
use std::{fmt, str::FromStr};

/// How much K and V to keep, and how.
#[derive(Clone, Debug, Default)]
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
}

impl KvOptions {
    /// Step 1's: keep nothing.
    pub fn recompute() -> KvOptions {
        KvOptions { attention: Some(AttentionKind::Recompute), ..KvOptions::default() }
    }
}

/// An implementation of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionKind {
    /// Step 1: nothing is kept.
    Recompute,
    /// Step 2: one contiguous slot a sequence.
    Contiguous,
}

impl AttentionKind {
    /// All of them, whatever this build has.
    pub const ALL: [AttentionKind; 2] = [AttentionKind::Recompute, AttentionKind::Contiguous];

    /// The name on the command line and in stats.
    pub fn name(self) -> &'static str {
        match self {
            AttentionKind::Recompute => "recompute",
            AttentionKind::Contiguous => "contiguous",
        }
    }

    /// The feature that brings it.
    pub fn feature(self) -> &'static str {
        match self {
            AttentionKind::Recompute => "step1",
            AttentionKind::Contiguous => "step2",
        }
    }

    /// What to say where it was not built.
    pub fn needs_a_feature(self) -> Error {
        let (name, feature) = (self.name(), self.feature());
        Error::Usage(format!("attention '{name}' is not in this build; build with --features {feature}"))
    }
}

impl FromStr for AttentionKind {
    type Err = String;
    fn from_str(text: &str) -> Result<AttentionKind, String> {
        let known = || AttentionKind::ALL.map(AttentionKind::name).join(", ");
        let kind = AttentionKind::ALL.into_iter().find(|kind| kind.name() == text);
        kind.ok_or_else(|| format!("there is no attention '{text}'; there are {}", known()))
    }
}

/// How K and V are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvDtype {
    /// As they are computed.
    #[default]
    F32,
    /// Rounded to bf16: half the memory, and half the bytes to read at every token.
    Bf16,
}

impl KvDtype {
    /// The same as a tensor's dtype.
    pub fn stored(self) -> DType {
        match self {
            KvDtype::F32 => DType::F32,
            KvDtype::Bf16 => DType::BF16,
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        self.stored().bytes()
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            KvDtype::F32 => "f32",
            KvDtype::Bf16 => "bf16",
        })
    }
}
