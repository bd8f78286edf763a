//! Which steps surround the vocabulary: `tokenizer.json`'s own, or those of a transformers class.
//!
//! Since version 5, transformers' `AutoTokenizer` takes only vocabulary, merges and post-processor from
//! `tokenizer.json` when the checkpoint names one of its own classes, and builds the other steps itself.
//! For Llama 2's tokenizer this gives other ids than the file: with the file "\<s\>Hi" gets a space before
//! "Hi" and with the class it does not. Giving the same ids means doing the same.
//!
//! Source: transformers 5.23, `models/auto/tokenization_auto.py` (the choice) and `tokenization_llama.py`,
//! `tokenization_qwen2.py`, `tokenization_gpt2.py` (the steps).

use serde_json::{Map, Value};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::normalizers::{NFC, Replace};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, Result, SplitDelimiterBehavior, Tokenizer};

/// Model types whose checkpoints transformers loads with the file's own steps whatever class they name.
const MISTRAL_TYPES: [&str; 7] =
    ["mistral", "mistral3", "mistral_large4", "mixtral", "ministral", "ministral3", "pixtral"];

/// Qwen2's split into words; numbers digit by digit.
const QWEN2_WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// Where the steps come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// `tokenizer.json` as it is.
    File,
    /// `LlamaTokenizer`: spaces become "▁", unknown characters become bytes.
    Llama,
    /// `Qwen2Tokenizer`: byte-level, NFC.
    Qwen2,
    /// `GPT2Tokenizer`: byte-level.
    Gpt2,
}

impl Class {
    /// The class that `AutoTokenizer` takes.
    pub(super) fn choose(
        config: &Map<String, Value>,
        model_type: Option<&str>,
        tokenizer_json: &[u8],
    ) -> Self {
        let named = config.get("tokenizer_class").and_then(Value::as_str).map(Self::named);
        let mistral = model_type.is_some_and(|t| MISTRAL_TYPES.contains(&t));
        let of_model = match model_type {
            Some("gpt2") => Some(Self::Gpt2),
            Some("qwen2" | "qwen2_moe" | "qwen3" | "qwen3_moe") => Some(Self::Qwen2),
            _ => None,
        };
        match (named, of_model) {
            _ if mistral => Self::File,
            (Some(_), Some(Self::Qwen2)) if model_type == Some("qwen2") => Self::Qwen2,
            (Some(Self::Llama), _) if mentions_byte_level(tokenizer_json) => Self::File,
            (Some(named), _) => named,
            (None, of_model) => of_model.unwrap_or(Self::File),
        }
    }

    fn named(name: &str) -> Self {
        match name.strip_suffix("Fast").unwrap_or(name) {
            "LlamaTokenizer" => Self::Llama,
            "Qwen2Tokenizer" => Self::Qwen2,
            "GPT2Tokenizer" => Self::Gpt2,
            _ => Self::File,
        }
    }

    /// The special tokens that the class has when the config does not name them.
    pub(super) fn default_tokens(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::File => &[],
            Self::Llama => &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")],
            Self::Qwen2 => &[
                ("unk_token", "<|endoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("pad_token", "<|endoftext|>"),
            ],
            Self::Gpt2 => &[
                ("unk_token", "<|endoftext|>"),
                ("bos_token", "<|endoftext|>"),
                ("eos_token", "<|endoftext|>"),
            ],
        }
    }

    /// Replaces the steps of `tokenizer` by those of the class.
    pub(super) fn apply(self, tokenizer: &mut Tokenizer, config: &Map<String, Value>) -> Result<()> {
        let prefix_space = config.get("add_prefix_space").and_then(Value::as_bool);
        match self {
            Self::File => Ok(()),
            Self::Llama => llama(tokenizer, prefix_space.unwrap_or(true), config),
            Self::Qwen2 => qwen2(tokenizer, prefix_space.unwrap_or(false)),
            Self::Gpt2 => gpt2(tokenizer, prefix_space.unwrap_or(false)),
        }
    }
}

/// Whether the file declares a byte-level step; transformers looks for the same text.
fn mentions_byte_level(tokenizer_json: &[u8]) -> bool {
    let name = b"\"ByteLevel\"";
    tokenizer_json.windows(name.len()).any(|window| window == name)
}

fn llama(tokenizer: &mut Tokenizer, prefix_space: bool, config: &Map<String, Value>) -> Result<()> {
    let legacy = config.get("legacy").and_then(Value::as_bool).unwrap_or(false);
    let scheme = match (prefix_space, legacy) {
        (false, _) => PrependScheme::Never,
        (true, true) => PrependScheme::Always,
        (true, false) => PrependScheme::First,
    };
    let mut decoders = vec![Replace::new("▁", " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefix_space {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_normalizer(None::<NormalizerWrapper>)?;
    tokenizer.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, false)));
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    Ok(())
}

fn qwen2(tokenizer: &mut Tokenizer, prefix_space: bool) -> Result<()> {
    let words = Split::new(SplitPattern::Regex(QWEN2_WORDS.into()), SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::new(prefix_space, true, false);
    tokenizer.with_normalizer(Some(NFC))?;
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), bytes.into()])));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(())
}

fn gpt2(tokenizer: &mut Tokenizer, prefix_space: bool) -> Result<()> {
    tokenizer.with_normalizer(None::<NormalizerWrapper>)?;
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(prefix_space, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn choose(config: Value, model_type: Option<&str>, tokenizer_json: &str) -> Class {
        let config = config.as_object().expect("an object").clone();
        Class::choose(&config, model_type, tokenizer_json.as_bytes())
    }

    #[test]
    fn the_named_class_decides() {
        let llama = json!({"tokenizer_class": "LlamaTokenizerFast"});
        assert_eq!(choose(llama.clone(), Some("llama"), "{}"), Class::Llama);
        assert_eq!(choose(llama.clone(), None, "{}"), Class::Llama);
        assert_eq!(choose(llama, Some("qwen3"), "{}"), Class::Llama);
        assert_eq!(
            choose(json!({"tokenizer_class": "PreTrainedTokenizerFast"}), Some("qwen3"), "{}"),
            Class::File
        );
        assert_eq!(choose(json!({"tokenizer_class": "TokenizersBackend"}), Some("gpt2"), "{}"), Class::File);
    }

    #[test]
    fn the_exceptions() {
        let llama = json!({"tokenizer_class": "LlamaTokenizer"});
        assert_eq!(choose(llama.clone(), Some("llama"), r#"{"type": "ByteLevel"}"#), Class::File);
        assert_eq!(choose(llama.clone(), Some("mistral"), "{}"), Class::File);
        assert_eq!(choose(llama, Some("qwen2"), r#"{"type": "ByteLevel"}"#), Class::Qwen2);
    }

    #[test]
    fn with_no_name_the_model_decides() {
        assert_eq!(choose(json!({}), Some("gpt2"), "{}"), Class::Gpt2);
        assert_eq!(choose(json!({}), Some("qwen3"), "{}"), Class::Qwen2);
        assert_eq!(choose(json!({}), Some("llama"), "{}"), Class::File);
        assert_eq!(choose(json!({}), None, "{}"), Class::File);
    }

    /// The steps that a class puts around a vocabulary, as the crate writes them to JSON.
    fn steps(class: Class, config: Value) -> [Value; 3] {
        let mut tokenizer = Tokenizer::new(tokenizers::models::bpe::BPE::default());
        class.apply(&mut tokenizer, config.as_object().expect("an object")).expect("the steps");
        let json = serde_json::to_value(&tokenizer).expect("JSON");
        ["normalizer", "pre_tokenizer", "decoder"].map(|part| json[part].clone())
    }

    #[test]
    fn steps_of_llama() {
        let scheme = |config| steps(Class::Llama, config)[1]["prepend_scheme"].clone();
        assert_eq!(scheme(json!({})), "first");
        assert_eq!(scheme(json!({"legacy": true})), "always");
        assert_eq!(scheme(json!({"add_prefix_space": false})), "never");
        let [normalizer, _, decoder] = steps(Class::Llama, json!({}));
        assert!(normalizer.is_null());
        assert_eq!(decoder["decoders"][3]["type"], "Strip");
        assert!(steps(Class::Llama, json!({"add_prefix_space": false}))[2]["decoders"][3].is_null());
    }

    #[test]
    fn steps_of_byte_level_classes() {
        let [normalizer, words, decoder] = steps(Class::Qwen2, json!({}));
        assert_eq!(
            [&normalizer["type"], &words["pretokenizers"][0]["type"], &decoder["type"]],
            ["NFC", "Split", "ByteLevel"]
        );
        let [normalizer, bytes, decoder] = steps(Class::Gpt2, json!({"add_prefix_space": true}));
        assert!(normalizer.is_null() && bytes["use_regex"] == true && bytes["add_prefix_space"] == true);
        assert_eq!(decoder["type"], "ByteLevel");
        assert!(steps(Class::File, json!({})).iter().all(Value::is_null));
    }
}
