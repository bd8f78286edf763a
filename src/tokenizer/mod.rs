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
mod guard;
mod special;
mod stop;
mod stop_matcher;
mod stop_scan;
#[cfg(test)]
mod testing;
mod tokenizer_json;

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

pub use crate::json::exact as read_chat;
pub use chat::{ChatOptions, ChatTemplate};
pub use class::StepsFrom;
pub use detokenize::Detokenizer;
pub use error::TokenizerError;
pub use files::TokenizerFiles;
pub use stop::{Emit, StopStrings};
pub use stop_matcher::StopMatcher;

use class::{Class, FILL};
use decoding::Decoding;
use guard::caught;
use special::SpecialTokens;
use tokenizer_json::Around;

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
    class: Class,
    /// Whether the class's steps split texts differently from the file's.
    differs: bool,
}

impl Tokenizer {
    /// Builds the tokenizer from its files.
    ///
    /// # Errors
    /// What is missing or wrong, with the file's name.
    pub fn new(mut files: TokenizerFiles) -> Result<Self, TokenizerError> {
        let config = files.config()?;
        let json = files.tokenizer_json.take();
        let class = match files.from {
            Some(StepsFrom::File) => Class::File,
            _ => Class::choose(&config, &files, json.as_deref().unwrap_or_default()),
        };
        if class == Class::NotFollowed {
            let class = config["tokenizer_class"].as_str().unwrap_or_default().into();
            return Err(TokenizerError::ClassNotFollowed { origin: files.origin, class });
        }
        let name = if json.is_some() { "tokenizer.json" } else { "vocab.json" };
        let file = files.origin.join(name);
        let bad = |reason| TokenizerError::BadTokenizerJson { file: file.clone(), reason };
        let (json, is_file) = match (json, files.vocab_and_merges.take()) {
            (Some(json), _) => (json, true),
            (None, Some((vocab, merges))) if class.reads_vocab_and_merges() => {
                (bpe::file(&vocab, &merges).map_err(bad)?, false)
            }
            _ if files.has_tokenizer_model => {
                return Err(TokenizerError::OnlySentencePiece { origin: files.origin });
            }
            _ => {
                let origin = files.origin;
                return Err(match files.mistral_tokenizer {
                    Some(file) => TokenizerError::OnlyMistralTokenizer { origin, file },
                    None => TokenizerError::NoTokenizerJson { origin },
                });
            }
        };
        let (special, added_tokens) = (SpecialTokens::of(&config, class), files.added_tokens()?);
        let around =
            Around { class, config: &config, added_tokens: &added_tokens, special: &special, is_file };
        let (inner, differs) = caught("tokenizers", || tokenizer_json::read(&json, &around)).map_err(bad)?;
        let differs = differs && files.from.is_none();
        let chat = ChatTemplate::new(&files);
        let decoding = Decoding::of(&inner);
        Ok(Self { shared: Arc::new(Shared { files, inner, decoding, special, chat, class, differs }) })
    }

    /// A sentence for the user where the class that the checkpoint names and its tokenizer.json give different ids, and nobody has chosen.
    pub fn note(&self) -> Option<String> {
        self.shared.differs.then(|| {
            format!(
                "the tokenizer class of '{}' and its tokenizer.json split some texts differently; the class decides, as in transformers 5 \
                 (--tokenizer-from file follows the file, as llama.cpp does)",
                self.shared.files.origin.display()
            )
        })
    }

    /// Reads the tokenizer in the directory `dir`.
    pub fn read(dir: &Path) -> Result<Self, TokenizerError> {
        Self::new(TokenizerFiles::read(dir)?)
    }

    /// The ids of `text`. With `add_special_tokens`, those that the tokenizer puts around a text, such as
    /// BOS, are added; special tokens written in the text become their ids either way.
    ///
    /// # Errors
    /// A text that the tokenizer cannot encode.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let bad = |reason| TokenizerError::Encode { origin: self.shared.files.origin.clone(), reason };
        if self.shared.class == Class::CodeLlama && text.contains(FILL) {
            return Err(bad(format!("CodeLlamaTokenizer's infilling ({FILL}) is not supported")));
        }
        let encode = || self.shared.inner.encode_fast(text, add_special_tokens).map_err(|e| e.to_string());
        caught("tokenizers", encode).map(|encoding| encoding.get_ids().to_vec()).map_err(bad)
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
        decode(&self.shared.inner, ids, skip_special_tokens)
    }

    /// One token as shown to a person: "▁the" and "Ġthe" are " the", and half a character is its bytes, "\<0xE2\>".
    pub fn piece(&self, id: u32) -> Option<String> {
        self.bytes(id).map(|bytes| decoding::show(&bytes))
    }

    /// The bytes of one token's text, which may be a part of a character.
    pub fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        self.shared.decoding.bytes(&self.shared.inner, id)
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

/// The text of ids; nothing if the tokenizer fails.
fn decode(tokenizer: &tokenizers::Tokenizer, ids: &[u32], skip_special_tokens: bool) -> String {
    caught("tokenizers", || tokenizer.decode(ids, skip_special_tokens).map_err(|e| e.to_string()))
        .unwrap_or_default()
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let origin = &self.shared.files.origin;
        f.debug_struct("Tokenizer").field("origin", origin).field("vocab_size", &self.vocab_size()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{byte_level, files_with, sentence_piece, sentence_piece_file};
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

    /// The class makes one piece of " a", and the file two.
    #[test]
    fn a_class_against_its_file() {
        let files = || files_with(json!({"tokenizer_class": "GPT2Tokenizer"}));
        let from = |from| Tokenizer::new(TokenizerFiles { from, ..files() }).expect("a tokenizer");
        let count = |tokenizer: &Tokenizer| tokenizer.encode(" a", false).expect("ids").len();
        let [unsaid, class, file] = [None, Some(StepsFrom::Class), Some(StepsFrom::File)].map(from);
        assert_eq!([&unsaid, &class, &file].map(count), [1, 1, 2]);
        assert!(unsaid.note().expect("a note").contains("--tokenizer-from file"));
        assert_eq!((class.note(), file.note()), (None, None), "somebody has chosen");
        assert_eq!(byte_level().note(), None);
    }

    #[test]
    fn a_class_that_is_not_followed_is_refused_by_name() {
        let files = || files_with(json!({"tokenizer_class": "T5TokenizerFast"}));
        let said = Tokenizer::new(files()).expect_err("it is refused").to_string();
        assert!(said.contains("T5TokenizerFast") && said.contains("--tokenizer-from file"), "{said}");
        assert!(Tokenizer::new(TokenizerFiles { from: Some(StepsFrom::File), ..files() }).is_ok());
        // config.json may name it, too.
        let named = |config| {
            let files = files_with(config);
            Tokenizer::new(TokenizerFiles { tokenizer_class: Some("BertTokenizer".into()), ..files })
        };
        assert!(named(json!({"tokenizer_class": null})).unwrap_err().to_string().contains("BertTokenizer"));
        assert!(named(json!({"tokenizer_class": "PreTrainedTokenizerFast"})).is_ok());
    }

    /// Ids as CodeLlamaTokenizer gives them: no space before a text that has one, BOS whatever the file says.
    #[test]
    fn code_llama() {
        let mut file = sentence_piece_file();
        file["post_processor"] = Value::Null;
        let files = TokenizerFiles {
            tokenizer_json: Some(file.to_string().into_bytes()),
            ..files_with(json!({"tokenizer_class": "CodeLlamaTokenizer"}))
        };
        let tokenizer = Tokenizer::new(files).expect("a tokenizer");
        let pieces = |text: &str| -> Vec<String> {
            let ids = tokenizer.encode(text, true).expect("ids");
            ids.into_iter().filter_map(|id| tokenizer.piece(id)).collect()
        };
        assert_eq!(pieces("a"), ["<s>", " a"]);
        assert_eq!(pieces(" a"), ["<s>", " a"]);
        assert_eq!(pieces("<s>a"), ["<s>", "<s>", "a"]);
        assert!(
            tokenizer.encode("a<FILL_ME>b", true).unwrap_err().to_string().contains("CodeLlamaTokenizer")
        );
    }

    #[test]
    fn old_checkpoints_have_a_vocabulary_and_merges() {
        let vocab = br#"{"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}"#.to_vec();
        let new = |model_type: &str, config: Value| {
            Tokenizer::new(TokenizerFiles {
                tokenizer_config: Some(config.to_string().into_bytes()),
                vocab_and_merges: Some((vocab.clone(), b"#version: 0.2\na b\n".to_vec())),
                model_type: Some(model_type.into()),
                ..TokenizerFiles::default()
            })
        };
        let ids = |config| new("gpt2", config).expect("a tokenizer").encode("abb", true).expect("ids");
        assert_eq!(ids(json!({})), [3, 2]);
        assert_eq!(ids(json!({"add_bos_token": true})), [0, 3, 2]);
        assert!(matches!(new("llama", json!({})), Err(TokenizerError::NoTokenizerJson { .. })));
    }

    #[test]
    fn special_tokens_may_be_split() {
        let count = |config| {
            let tokenizer = Tokenizer::new(files_with(config)).expect("a tokenizer");
            tokenizer.encode("<s><tool>", false).expect("ids").len()
        };
        assert_eq!(count(json!({})), 2);
        assert_eq!(count(json!({"split_special_tokens": true})), 4, "<tool> is added and not special");
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
