//! Text to token ids and back: `tokenizer.json`, the chat template, and text as it streams.
//!
//! - [`Tokenizer`] reads what a checkpoint brings and gives the ids that transformers' `AutoTokenizer` gives.
//! - [`ChatTemplate`] turns messages into the one text that the model was trained on.
//! - [`Detokenizer`] gives text token by token and never half a character.
//! - [`StopStrings`] ends a text at a stop string that may lie across tokens, and [`StopMatcher`] tells the engine in the same step.
//!
//! Vocabulary, merges and their algorithm are the `tokenizers` crate's, the same code that transformers runs.

mod bpe;
mod chat;
mod class;
mod decoding;
mod detokenize;
mod error;
mod files;
mod special;
mod stop;
mod stop_matcher;
mod template;
#[cfg(test)]
mod testing;
mod tokenizer_json;

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

pub use crate::json::exact as read_chat;
pub use chat::{ChatOptions, ChatTemplate};
pub use detokenize::Detokenizer;
pub use error::TokenizerError;
pub use files::TokenizerFiles;
pub use stop::{Emit, StopStrings};
pub use stop_matcher::StopMatcher;

use class::Class;
use decoding::Decoding;
use special::SpecialTokens;

/// A checkpoint's tokenizer with its special tokens and chat template. A clone shares everything.
#[derive(Clone)]
pub struct Tokenizer {
    shared: Arc<Shared>,
}

struct Shared {
    files: TokenizerFiles,
    inner: tokenizers::Tokenizer,
    decoding: Decoding,
    special: SpecialTokens,
    /// Read when it is first used, so a template that cannot be read spoils only chats.
    chat: Result<ChatTemplate, TokenizerError>,
}

impl Tokenizer {
    /// Builds the tokenizer from its files.
    pub fn new(mut files: TokenizerFiles) -> Result<Self, TokenizerError> {
        let Some(json) = files.tokenizer_json.take() else {
            let origin = files.origin;
            return Err(if files.has_tokenizer_model {
                TokenizerError::OnlySentencePiece { origin }
            } else {
                TokenizerError::NoTokenizerJson { origin }
            });
        };
        let config = files.config()?;
        let class = Class::choose(&config, files.model_type.as_deref(), &json);
        let special = SpecialTokens::of(&config, class);
        let inner = tokenizer_json::read(&json, class, &config, &special).map_err(|reason| {
            let file = files.origin.join("tokenizer.json");
            TokenizerError::BadTokenizerJson { file, reason }
        })?;
        let chat = ChatTemplate::new(&files);
        let decoding = Decoding::of(&inner);
        Ok(Self { shared: Arc::new(Shared { files, inner, decoding, special, chat }) })
    }

    /// Reads the tokenizer in the directory `dir`.
    pub fn read(dir: &Path) -> Result<Self, TokenizerError> {
        Self::new(TokenizerFiles::read(dir)?)
    }

    /// The ids of `text`. With `add_special_tokens`, those that the tokenizer puts around a text, such as
    /// BOS, are added; special tokens written in the text become their ids either way.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.shared.inner.encode_fast(text, add_special_tokens);
        encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(|error| TokenizerError::Encode {
            origin: self.shared.files.origin.clone(),
            reason: error.to_string(),
        })
    }

    /// The ids of a prompt as a person writes it: special tokens are added, and a text that already begins
    /// with BOS does not get a second one.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.encode(text, true)?;
        let bos = self.bos_token().map(|(_, id)| id);
        if bos.is_some() && ids.first().copied() == bos && ids.get(1).copied() == bos {
            ids.remove(0);
        }
        Ok(ids)
    }

    /// The text of `ids`. Ids that are no tokens give nothing; bytes that are no UTF-8 give U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        self.shared.inner.decode(ids, skip_special_tokens).unwrap_or_default()
    }

    /// One token as shown to a person: "▁the" and "Ġthe" are " the", and half a character is its bytes, "\<0xE2\>".
    pub fn piece(&self, id: u32) -> Option<String> {
        self.shared.decoding.piece(&self.shared.inner, id)
    }

    /// The number of tokens, added ones included. Ids may have gaps, so the largest id can be larger; the
    /// model's embedding table is often larger too.
    pub fn vocab_size(&self) -> usize {
        self.shared.inner.get_vocab_size(true)
    }

    /// The token that begins a sequence, and its id.
    pub fn bos_token(&self) -> Option<(&str, u32)> {
        self.special_token("bos_token")
    }

    /// The token that ends a sequence, and its id. A checkpoint may have more of them in `generation_config.json`.
    pub fn eos_token(&self) -> Option<(&str, u32)> {
        self.special_token("eos_token")
    }

    /// A special token by its name in the config, such as "pad_token", and its id.
    pub fn special_token(&self, name: &str) -> Option<(&str, u32)> {
        let token = self.shared.special.get(name)?;
        Some((token, self.shared.inner.token_to_id(token)?))
    }

    /// Whether [`decode`](Self::decode) skips this token.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.shared.inner.get_added_vocabulary();
        added.simple_id_to_token(id).is_some_and(|token| added.is_special_token(&token))
    }

    /// The chat template, or why there is none.
    pub fn chat_template(&self) -> Result<&ChatTemplate, &TokenizerError> {
        self.shared.chat.as_ref()
    }

    /// The text of a chat, byte for byte what transformers' `apply_chat_template(tokenize=False)` gives.
    pub fn render_chat(&self, messages: &[Value], options: &ChatOptions) -> Result<String, TokenizerError> {
        match &self.shared.chat {
            Ok(template) => template.render(messages, options),
            // An error cannot be cloned; reading again gives the same one.
            Err(_) => ChatTemplate::new(&self.shared.files)?.render(messages, options),
        }
    }

    /// The ids of a chat. The template writes BOS itself if the model wants one, so none is added.
    pub fn encode_chat(&self, messages: &[Value], options: &ChatOptions) -> Result<Vec<u32>, TokenizerError> {
        self.encode(&self.render_chat(messages, options)?, false)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let origin = &self.shared.files.origin;
        f.debug_struct("Tokenizer").field("origin", origin).field("vocab_size", &self.vocab_size()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{byte_level, sentence_piece};
    use super::*;
    use serde_json::json;

    #[test]
    fn bos_is_never_doubled() {
        for tokenizer in [byte_level(), sentence_piece()] {
            let bos = tokenizer.bos_token().expect("a BOS").1;
            let count = |ids: Vec<u32>| ids.iter().filter(|&&id| id == bos).count();
            assert_eq!(tokenizer.encode("a", true).expect("ids")[0], bos);
            assert_eq!(count(tokenizer.encode("a", false).expect("ids")), 0);
            assert_eq!(count(tokenizer.encode("<s>a", true).expect("ids")), 2, "as transformers does");
            assert_eq!(count(tokenizer.encode_prompt("<s>a").expect("ids")), 1);
            assert_eq!(count(tokenizer.encode_prompt("a").expect("ids")), 1);
            assert_eq!(count(tokenizer.encode_prompt("").expect("ids")), 1);
            let chat = [json!({"role": "user", "content": "a"})];
            let ids = tokenizer.encode_chat(&chat, &ChatOptions::default()).expect("ids");
            assert_eq!((ids[0], count(ids)), (bos, 1));
        }
    }

    #[test]
    fn special_tokens_are_skipped_on_demand() {
        let tokenizer = byte_level();
        let ids = tokenizer.encode("<s>a<tool>", false).expect("ids");
        assert_eq!(tokenizer.decode(&ids, false), "<s>a<tool>");
        assert_eq!(tokenizer.decode(&ids, true), "a<tool>", "an added token need not be special");
        assert!(tokenizer.is_special(ids[0]) && !tokenizer.is_special(ids[1]));
        assert_eq!(tokenizer.eos_token(), None);
        assert_eq!(tokenizer.vocab_size(), 259);
    }

    #[test]
    fn what_is_missing_or_broken() {
        let new = |json: Option<&str>, config: Option<&str>, has_tokenizer_model| {
            let bytes = |text: &str| text.as_bytes().to_vec();
            let files = TokenizerFiles {
                origin: "dir".into(),
                tokenizer_json: json.map(bytes),
                tokenizer_config: config.map(bytes),
                has_tokenizer_model,
                ..Default::default()
            };
            Tokenizer::new(files).expect_err("it is broken")
        };
        assert!(matches!(new(None, None, false), TokenizerError::NoTokenizerJson { .. }));
        let error = new(None, None, true);
        assert!(matches!(error, TokenizerError::OnlySentencePiece { .. }));
        assert!(error.to_string().contains("AutoTokenizer.from_pretrained('dir').save_pretrained('dir')"));
        assert!(matches!(new(Some("{}"), None, false), TokenizerError::BadTokenizerJson { .. }));
        assert!(matches!(new(Some("{}"), Some("["), false), TokenizerError::BadConfig { .. }));
        assert!(matches!(new(Some("{}"), Some("[]"), false), TokenizerError::BadConfig { .. }));
    }

    #[test]
    fn a_directory_that_is_not_there_has_no_tokenizer() {
        let error = Tokenizer::read(Path::new("no/such/directory")).expect_err("nothing there");
        assert!(error.to_string().contains("no/such/directory"), "{error}");
    }

    #[test]
    fn without_a_template_only_chats_fail() {
        let mut files = byte_level().shared.files.clone();
        files.tokenizer_json =
            Some(br#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#.to_vec());
        files.tokenizer_config = None;
        let tokenizer = Tokenizer::new(files).expect("a tokenizer");
        assert_eq!(tokenizer.encode("a", true).expect("ids"), [0]);
        let error = tokenizer.render_chat(&[json!({})], &ChatOptions::default());
        assert!(matches!(error, Err(TokenizerError::NoChatTemplate { .. })));
    }
}
