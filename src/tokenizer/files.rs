//! The files that a tokenizer is made of.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::TokenizerError;

/// The contents of the tokenizer's files, from disk or embedded in a program.
#[derive(Debug, Clone, Default)]
pub struct TokenizerFiles {
    /// The directory that the files are from, for messages.
    pub origin: PathBuf,
    /// `tokenizer.json`: vocabulary, merges and the steps around them.
    pub tokenizer_json: Option<Vec<u8>>,
    /// `tokenizer_config.json`: class, special tokens, chat template.
    pub tokenizer_config: Option<Vec<u8>>,
    /// `special_tokens_map.json`: special tokens, in older checkpoints.
    pub special_tokens_map: Option<Vec<u8>>,
    /// `chat_template.jinja`: takes precedence over the template in `tokenizer_config.json`.
    pub chat_template: Option<Vec<u8>>,
    /// Whether SentencePiece's `tokenizer.model` is there (it is not read).
    pub has_tokenizer_model: bool,
    /// `model_type` of `config.json`. It decides how transformers reads some tokenizers: the same files
    /// split "a\<s\>b" differently for `llama` and `mistral`.
    pub model_type: Option<String>,
}

impl TokenizerFiles {
    /// Reads the files in `dir`. Files that are absent are no error here.
    pub fn read(dir: &Path) -> Result<Self, TokenizerError> {
        let config = read_if_present(&dir.join("config.json"))?.unwrap_or_default();
        // A config.json that is wrong is for the model's loader to complain about.
        let config: Value = serde_json::from_slice(&config).unwrap_or_default();
        Self::read_for(dir, config["model_type"].as_str().map(String::from))
    }

    /// The same where config.json has been read: `model_type` is what it says.
    pub fn read_for(dir: &Path, model_type: Option<String>) -> Result<Self, TokenizerError> {
        Ok(Self {
            origin: dir.to_path_buf(),
            tokenizer_json: read_if_present(&dir.join("tokenizer.json"))?,
            tokenizer_config: read_if_present(&dir.join("tokenizer_config.json"))?,
            special_tokens_map: read_if_present(&dir.join("special_tokens_map.json"))?,
            chat_template: read_if_present(&dir.join("chat_template.jinja"))?,
            has_tokenizer_model: dir.join("tokenizer.model").is_file(),
            model_type,
        })
    }

    /// `tokenizer_config.json`, with what `special_tokens_map.json` adds to it; empty if there is neither.
    ///
    /// transformers reads the map only for checkpoints whose config does not list `added_tokens_decoder`.
    pub(super) fn config(&self) -> Result<Map<String, Value>, TokenizerError> {
        let mut config = self.object("tokenizer_config.json", self.tokenizer_config.as_deref())?;
        if !config.contains_key("added_tokens_decoder") {
            config.extend(self.object("special_tokens_map.json", self.special_tokens_map.as_deref())?);
        }
        Ok(config)
    }

    fn object(&self, name: &str, bytes: Option<&[u8]>) -> Result<Map<String, Value>, TokenizerError> {
        let Some(bytes) = bytes else { return Ok(Map::new()) };
        let bad = |reason| TokenizerError::BadConfig { file: self.origin.join(name), reason };
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(_) => Err(bad("it should be a JSON object, {…}".into())),
            Err(error) => Err(bad(not_json(bytes, &error))),
        }
    }
}

fn read_if_present(file: &Path) -> Result<Option<Vec<u8>>, TokenizerError> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(TokenizerError::Io { file: file.to_path_buf(), source }),
    }
}

/// Says why these bytes are not JSON.
pub(super) fn not_json(bytes: &[u8], error: &serde_json::Error) -> String {
    if bytes.starts_with(b"version https://git-lfs") {
        return "it is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`".into();
    }
    if bytes.is_empty() {
        return "the file is empty".into();
    }
    format!("it is not JSON: {error}")
}
