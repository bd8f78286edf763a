//! The library's error: one variant per area, each message one line that says what to do.

use crate::words::{Spelling, Words, field};

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory, its shards, or its tensors.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::CheckpointError),
    /// config.json.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// generation_config.json.
    #[error(transparent)]
    GenerationConfig(#[from] crate::config::generation::GenerationConfigError),
    /// Tokenizer files, or text that can't be tokenized.
    #[error(transparent)]
    Tokenizer(#[from] crate::tokenizer::TokenizerError),
    /// Sampling parameters, or logits that can't be sampled.
    #[error(transparent)]
    Sampling(#[from] crate::sampling::SamplingError),
    /// The hub, or its cache. (Feature `hub`: `hub::HubError`.)
    #[error(transparent)]
    Hub(Box<dyn std::error::Error + Send + Sync>),
    /// A request that the model can't serve: empty, too long, or with an unknown token.
    #[error("{0}")]
    Request(String),
    /// A parameter whose value this model, machine or build can't take.
    #[error("{}", parameter(field, value, why))]
    Parameter { field: &'static str, value: String, why: Words },
    /// A limit that was reached; the words name the parameter that moves it.
    #[error("{0}")]
    Limit(Words),
    /// A request that can't be had now: a queue that is full, requests that run; or new weights that every rank refused (step 7). Nothing
    /// has changed.
    #[error("{0}")]
    Refused(String),
    /// An engine whose passes fail: it serves nobody any more.
    #[error("{0}")]
    Dead(String),
    /// A command line that asks for what does not go together.
    #[error("{0}")]
    Usage(String),
    /// A device: its driver, its memory, its kernels.
    #[error("{0}")]
    Device(String),
    /// Ranks that don't come together: one is late, gone, or has failed. (Step 7.)
    #[error("{0}")]
    Parallel(String),
    /// A rank that can't go on, as the others hear of it. (Step 7.)
    #[error("rank {rank} failed: {why}")]
    RankFailed { rank: usize, why: String },
    /// A rank whose process gives no sign of life. (Feature `mpi`.)
    #[error(
        "rank {rank}: nothing was heard of it for {seconds} s; its process hangs, or its machine can't be reached"
    )]
    RankSilent { rank: usize, seconds: u64 },
    /// A file that could not be read or written.
    #[error("{path}: {error}")]
    Io { path: std::path::PathBuf, error: std::io::Error },
}

impl Error {
    /// A parameter without a value of its own, or where the value is of no interest.
    pub fn parameter(field: &'static str, why: impl Into<Words>) -> Error {
        Error::Parameter { field, value: String::new(), why: why.into() }
    }

    /// The message in an interface's spelling of the parameters.
    pub fn spelled(&self, spelling: Spelling) -> String {
        let words = match self {
            Error::Parameter { field, value, why } => parameter(field, value, why),
            Error::Limit(words) => words.clone(),
            Error::Checkpoint(error) => error.words(),
            Error::GenerationConfig(error) => error.words(),
            Error::Sampling(error) => error.words(),
            other => other.to_string().into(),
        };
        words.spelled(spelling)
    }
}

fn parameter(name: &str, value: &str, why: &Words) -> Words {
    let space = if value.is_empty() { "" } else { " " };
    format!("{}{space}{value}: {}", field(name), why.spelled(&field)).into()
}
