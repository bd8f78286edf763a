//! What requests need of a checkpoint, read once: config.json, generation_config.json and the tokenizer.

use crate::{
    checkpoint::Directory,
    config::{ModelConfig, generation::GenerationConfig},
    error::{Error, Result},
    runner::read_config,
    tokenizer::{Tokenizer, TokenizerFiles},
};
use std::sync::OnceLock;

/// A directory, and what stands in its small files.
pub struct Checkpoint {
    pub directory: Directory,
    pub config: ModelConfig,
    pub generation: Option<GenerationConfig>,
    /// Read when it is asked for: token ids can be served without one. Or why there is none.
    tokenizer: OnceLock<Result<Tokenizer, String>>,
}

impl Checkpoint {
    /// Reads config.json and generation_config.json.
    ///
    /// # Errors
    /// If one of the first two is bad, or config.json is absent.
    pub fn open(directory: Directory) -> Result<Checkpoint> {
        let config = read_config(&directory)?;
        let file = "generation_config.json";
        let parse = |json: Vec<u8>| GenerationConfig::parse(&json, &directory.path(file));
        let generation = directory.read(file)?.map(parse).transpose()?;
        Ok(Checkpoint { directory, config, generation, tokenizer: OnceLock::new() })
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// Why there is none.
    pub fn tokenizer(&self) -> Result<&Tokenizer, &str> {
        let read = || {
            let model_type = self.config.architecture.names().model_type;
            let files = TokenizerFiles::for_model(&self.directory, Some(model_type.to_owned()));
            files.and_then(Tokenizer::new).map_err(|error| error.to_string())
        };
        self.tokenizer.get_or_init(read).as_ref().map_err(String::as_str)
    }

    /// The tokenizer, for `what` of a request that can't do without.
    pub(super) fn tokenizer_for(&self, what: &str) -> Result<&Tokenizer> {
        self.tokenizer().map_err(|why| Error::Request(format!("{what} needs a tokenizer: {why}")))
    }

    /// Tokens that end an output: those of generation_config.json, or else those of config.json.
    pub fn eos_token_id(&self) -> &[u32] {
        match &self.generation {
            Some(generation) if !generation.eos_token_id.is_empty() => &generation.eos_token_id,
            _ => &self.config.eos_token_id,
        }
    }
}
