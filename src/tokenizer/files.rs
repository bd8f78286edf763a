//! The files that a tokenizer is made of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{StepsFrom, TokenizerError};
use crate::{checkpoint::Directory, json};

/// Files that mistral-common reads: tiktoken's vocabulary, or SentencePiece's.
const OF_MISTRAL: [&str; 4] =
    ["tekken.json", "tokenizer.model.v3", "tokenizer.model.v2", "tokenizer.model.v1"];

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
    /// `added_tokens.json`: tokens and their ids, in older checkpoints.
    pub added_tokens: Option<Vec<u8>>,
    /// `vocab.json` and `merges.txt`: what old checkpoints of GPT-2 have instead of `tokenizer.json`.
    pub vocab_and_merges: Option<(Vec<u8>, Vec<u8>)>,
    /// `chat_template.jinja`: takes precedence over the template in `tokenizer_config.json`.
    pub chat_template: Option<Vec<u8>>,
    /// `additional_chat_templates/NAME.jinja`, by name.
    pub additional_chat_templates: BTreeMap<String, Vec<u8>>,
    /// Whether SentencePiece's `tokenizer.model` is there (it is not read).
    pub has_tokenizer_model: bool,
    /// The name of Mistral's own tokenizer file, if one is there (it is not read).
    pub mistral_tokenizer: Option<&'static str>,
    /// `model_type` of `config.json`. It decides how transformers reads some tokenizers: the same files
    /// split "a\<s\>b" differently for `llama` and `mistral`.
    pub model_type: Option<String>,
    /// `tokenizer_class` of `config.json`, for a `tokenizer_config.json` that has none.
    pub tokenizer_class: Option<String>,
    /// Whose steps are taken; the class's if the checkpoint names one.
    pub from: Option<StepsFrom>,
}

impl TokenizerFiles {
    /// Reads the files in `dir`. Files that are absent are no error here.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub fn read(dir: &Path) -> Result<Self, TokenizerError> {
        Self::of(&Directory::Disk(dir.into()))
    }

    /// Reads the files of a checkpoint.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub fn of(directory: &Directory) -> Result<Self, TokenizerError> {
        let config = directory.read("config.json")?.unwrap_or_default();
        // A config.json that is wrong is for the model's loader to complain about.
        let config = json::object(&config).unwrap_or_default();
        let text = |field: &str| config.get(field).and_then(Value::as_str).map(String::from);
        Self::for_model(directory, text("model_type"), text("tokenizer_class"))
    }

    /// The same where config.json has been read: `model_type` and `tokenizer_class` are what it says.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub fn for_model(
        directory: &Directory,
        model_type: Option<String>,
        tokenizer_class: Option<String>,
    ) -> Result<Self, TokenizerError> {
        // A GGUF file has the steps themselves, and names no class that would build others.
        let model_type = model_type.filter(|_| directory.gguf().is_none());
        Ok(Self {
            origin: directory.root(),
            tokenizer_json: directory.read("tokenizer.json")?,
            tokenizer_config: directory.read("tokenizer_config.json")?,
            special_tokens_map: directory.read("special_tokens_map.json")?,
            added_tokens: directory.read("added_tokens.json")?,
            vocab_and_merges: directory.read("vocab.json")?.zip(directory.read("merges.txt")?),
            chat_template: directory.read("chat_template.jinja")?,
            additional_chat_templates: additional_chat_templates(directory)?,
            has_tokenizer_model: directory.has("tokenizer.model"),
            mistral_tokenizer: OF_MISTRAL.into_iter().find(|file| directory.has(file)),
            model_type,
            tokenizer_class,
            from: None,
        })
    }

    /// `tokenizer_config.json`, with what `special_tokens_map.json` and `config.json` add to it.
    ///
    /// transformers reads the map only for checkpoints whose config does not list `added_tokens_decoder`.
    pub(super) fn config(&self) -> Result<Map<String, Value>, TokenizerError> {
        let mut config = self.object("tokenizer_config.json", self.tokenizer_config.as_deref())?;
        if !config.contains_key("added_tokens_decoder") {
            config.extend(self.object("special_tokens_map.json", self.special_tokens_map.as_deref())?);
        }
        if let (None | Some(Value::Null), Some(class)) =
            (config.get("tokenizer_class"), &self.tokenizer_class)
        {
            config.insert("tokenizer_class".into(), class.as_str().into());
        }
        Ok(config)
    }

    /// `added_tokens.json`; empty if there is none.
    pub(super) fn added_tokens(&self) -> Result<Map<String, Value>, TokenizerError> {
        self.object("added_tokens.json", self.added_tokens.as_deref())
    }

    fn object(&self, name: &str, bytes: Option<&[u8]>) -> Result<Map<String, Value>, TokenizerError> {
        let read = bytes.map_or(Ok(Map::new()), json::object);
        read.map_err(|reason| TokenizerError::BadConfig { file: self.origin.join(name), reason })
    }
}

fn additional_chat_templates(directory: &Directory) -> Result<BTreeMap<String, Vec<u8>>, TokenizerError> {
    let folder = directory.path("additional_chat_templates");
    if matches!(directory, Directory::Embedded { .. }) || !folder.is_dir() {
        return Ok(BTreeMap::new());
    }
    let mut templates = BTreeMap::new();
    for file in Directory::Disk(folder).list()? {
        let Some(name) = file.strip_suffix(".jinja") else { continue };
        if let Some(bytes) = directory.read(&format!("additional_chat_templates/{file}"))? {
            templates.insert(name.to_owned(), bytes);
        }
    }
    Ok(templates)
}
