//! What can be wrong with a tokenizer, one variant for each cause.

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;

/// Why a tokenizer could not be loaded, or a text not be encoded or rendered.
///
/// `origin` is the tokenizer's directory, `file` the file that is at fault, `reason` what is wrong there, and where. The message has all of it,
/// and the way out where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file is there and cannot be read.
    #[error(transparent)]
    File(#[from] CheckpointError),

    /// The directory has no `tokenizer.json` (and no `tokenizer.model` to convert).
    #[error("there is no tokenizer.json in '{}'; copy it from the model's repository, or pass token ids", origin.display())]
    NoTokenizerJson { origin: PathBuf },

    /// Only SentencePiece's `tokenizer.model` is there, which stairwell does not read.
    #[error(
        "'{dir}' has only a SentencePiece tokenizer.model; convert it to tokenizer.json once with Python: \
         from transformers import AutoTokenizer; AutoTokenizer.from_pretrained('{dir}').save_pretrained('{dir}')",
        dir = origin.display()
    )]
    OnlySentencePiece { origin: PathBuf },

    /// Only a tokenizer of Mistral's own is there, which stairwell does not read.
    #[error(
        "'{}' has only Mistral's own tokenizer {file}, which is not read; add the tokenizer.json of the model's Hugging Face version, or pass \
         token ids",
        origin.display()
    )]
    OnlyMistralTokenizer { origin: PathBuf, file: &'static str },

    /// The checkpoint names a class of transformers that builds its own steps, and that is not followed here.
    #[error(
        "'{}' names the tokenizer class {class}, which transformers builds in a way of its own that is not supported; to take the steps of \
         tokenizer.json instead, use --tokenizer-from file",
        origin.display()
    )]
    ClassNotFollowed { origin: PathBuf, class: String },

    /// `tokenizer.json` does not describe a tokenizer.
    #[error("'{}' is not a readable tokenizer: {reason}", file.display())]
    BadTokenizerJson { file: PathBuf, reason: String },

    /// `tokenizer_config.json` or `special_tokens_map.json` is not the JSON it should be.
    #[error("'{}' is not valid: {reason}", file.display())]
    BadConfig { file: PathBuf, reason: String },

    /// The tokenizer could not turn a text into ids.
    #[error("the tokenizer of '{}' cannot encode this text: {reason}", origin.display())]
    Encode { origin: PathBuf, reason: String },

    /// A chat was given and the directory has no chat template.
    #[error(
        "'{}' has no chat template (neither chat_template.jinja nor \"chat_template\" in tokenizer_config.json): \
         it is probably a base model; give it a plain prompt",
        origin.display()
    )]
    NoChatTemplate { origin: PathBuf },

    /// There are several chat templates, and none is called `default`.
    #[error("'{}' has several chat templates and none named \"default\": {}", file.display(), names.join(", "))]
    NoDefaultChatTemplate { file: PathBuf, names: Vec<String> },

    /// The chat template is not a Jinja template that stairwell can read.
    #[error("the chat template in '{}' cannot be read: {reason}", file.display())]
    BadChatTemplate { file: PathBuf, reason: String },

    /// The messages, tools or options are not what a chat is made of.
    #[error("bad chat: {reason}")]
    BadChat { reason: String },

    /// The template refused the chat: it called `raise_exception` with this text.
    #[error("the chat template in '{}' refuses this chat: {message}", file.display())]
    ChatRefused { file: PathBuf, message: String },

    /// The template failed while it was rendered.
    #[error("the chat template in '{}' failed: {reason}", file.display())]
    ChatFailed { file: PathBuf, reason: String },
}
