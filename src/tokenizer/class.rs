//! Which steps surround the vocabulary: `tokenizer.json`'s own, or those of a transformers class.
//!
//! Since version 5, transformers' `AutoTokenizer` takes only vocabulary, merges and post-processor from
//! `tokenizer.json` when the checkpoint names one of its own classes, and builds the other steps itself.
//! For Llama 2's tokenizer this gives other ids than the file: with the file "\<s\>Hi" gets a space before
//! "Hi" and with the class it does not. Giving the same ids means doing the same.
//!
//! llama.cpp follows the file, and a file can be right where the class is wrong: SmolLM2's splits numbers into digits, and `GPT2Tokenizer`
//! does not. So where the two split a text differently the tokenizer says so, and [`StepsFrom`] decides.
//!
//! Source: transformers 5.23, `models/auto/tokenization_auto.py` (the choice) and `models/*/tokenization_*.py` (the steps); the classes
//! besides Llama, Qwen2 and GPT2 from 5.24.

use super::TokenizerFiles;
use clap::ValueEnum;
use serde_json::{Map, Value, json};
use tokenizers::{
    DecoderWrapper, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper, Result, Tokenizer,
};

/// Where CodeLlama fills in: a text with it is another task, which only its class in Python does.
pub(super) const FILL: &str = "<FILL_ME>";

/// Model types whose checkpoints transformers loads with the file's own steps whatever class they name.
const MISTRAL_TYPES: [&str; 7] =
    ["mistral", "mistral3", "mistral_large4", "mixtral", "ministral", "ministral3", "pixtral"];

/// Qwen2's split into words; numbers digit by digit.
const QWEN2_WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// transformers' classes that build their steps themselves and that are not followed here (5.24: those with an `__init__` of their own).
const NOT_FOLLOWED: &str = "AlbertTokenizer BarthezTokenizer BertTokenizer BigBirdTokenizer BlenderbotTokenizer CLIPTokenizer \
    CamembertTokenizer CodeGenTokenizer DebertaTokenizer DebertaV2Tokenizer EsmcTokenizer FunnelTokenizer GPTSw3Tokenizer \
    HerbertTokenizer LasrTokenizer LayoutLMv2Tokenizer LayoutLMv3Tokenizer LayoutXLMTokenizer LukeTokenizer MBart50Tokenizer \
    MBartTokenizer MLukeTokenizer MPNetTokenizer MarkupLMTokenizer NllbTokenizer NougatTokenizer OpenAIGPTTokenizer PegasusTokenizer \
    Qwen3_5Tokenizer ReformerTokenizer RemBertTokenizer RobertaTokenizer SeamlessM4TTokenizer Siglip2Tokenizer SplinterTokenizer \
    T5Tokenizer Tipsv2Tokenizer UdopTokenizer VideoPrismTokenizer WhisperTokenizer XGLMTokenizer XLMRobertaTokenizer XLNetTokenizer";

/// Whose steps a tokenizer takes (`--tokenizer-from`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StepsFrom {
    /// tokenizer.json as it stands, as llama.cpp follows it
    File,
    /// The class that tokenizer_config.json names, as transformers 5 builds it
    Class,
}

/// Where the steps come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// `tokenizer.json` as it is.
    File,
    /// `LlamaTokenizer`: spaces become "▁", unknown characters become bytes.
    Llama,
    /// `CodeLlamaTokenizer`: the same, with BOS before every text.
    CodeLlama,
    /// `GemmaTokenizer`: the same, with no space before the text.
    Gemma,
    /// `Qwen2Tokenizer`: byte-level, NFC.
    Qwen2,
    /// `GPT2Tokenizer`: byte-level.
    Gpt2,
    /// `GPTNeoXTokenizer`: byte-level, NFC, nothing around a text.
    GptNeoX,
    /// `CohereTokenizer`: byte-level, NFC, numbers digit by digit.
    Cohere,
    /// One of [`NOT_FOLLOWED`].
    NotFollowed,
}

impl Class {
    /// The class that `AutoTokenizer` takes.
    pub(super) fn choose(config: &Map<String, Value>, files: &TokenizerFiles, tokenizer_json: &[u8]) -> Self {
        let model_type = files.model_type.as_deref();
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
            "CodeLlamaTokenizer" => Self::CodeLlama,
            "GemmaTokenizer" => Self::Gemma,
            "Qwen2Tokenizer" => Self::Qwen2,
            "GPT2Tokenizer" => Self::Gpt2,
            "GPTNeoXTokenizer" => Self::GptNeoX,
            "CohereTokenizer" => Self::Cohere,
            name if NOT_FOLLOWED.split_whitespace().any(|known| known == name) => Self::NotFollowed,
            _ => Self::File,
        }
    }

    /// Whether transformers builds it from vocab.json and merges.txt where there is no tokenizer.json.
    pub(super) fn reads_vocab_and_merges(self) -> bool {
        matches!(self, Self::Gpt2 | Self::Qwen2 | Self::GptNeoX)
    }

    /// The special tokens that the class has when the config does not name them: names and texts.
    pub(super) fn default_tokens(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let tokens = match self {
            Self::File | Self::NotFollowed => "",
            Self::Llama => "bos_token <s> eos_token </s> unk_token <unk>",
            Self::CodeLlama => {
                "bos_token <s> eos_token </s> unk_token <unk> prefix_token ▁<PRE> middle_token ▁<MID> suffix_token ▁<SUF> \
                 eot_token ▁<EOT> fill_token <FILL_ME>"
            }
            Self::Gemma => {
                "bos_token <bos> eos_token <eos> unk_token <unk> pad_token <pad> mask_token <mask>"
            }
            Self::Qwen2 => "eos_token <|endoftext|> unk_token <|endoftext|> pad_token <|endoftext|>",
            Self::Gpt2 => "bos_token <|endoftext|> eos_token <|endoftext|> unk_token <|endoftext|>",
            Self::GptNeoX => {
                "bos_token <|endoftext|> eos_token <|endoftext|> unk_token <|endoftext|> pad_token <|padding|>"
            }
            Self::Cohere => {
                "bos_token <BOS_TOKEN> eos_token <|END_OF_TURN_TOKEN|> unk_token <UNK> sep_token <SEP> pad_token <PAD> \
                 cls_token <CLS> mask_token <MASK_TOKEN>"
            }
        };
        tokens.split_whitespace().zip(tokens.split_whitespace().skip(1)).step_by(2)
    }

    /// Whether a vocabulary has pieces of SentencePiece, with bytes for what is in no piece.
    pub(super) fn is_sentence_piece(self) -> bool {
        matches!(self, Self::Llama | Self::CodeLlama | Self::Gemma)
    }

    /// Whether its BPE gives `unk_token` for what is in no piece and no byte.
    pub(super) fn has_unknown(self) -> bool {
        matches!(self, Self::CodeLlama | Self::Gemma)
    }

    /// Whether BOS and EOS stand around a text; `None` if the file's post-processor says it. transformers does not look at
    /// `add_bos_token` where there is a tokenizer.json.
    pub(super) fn ends(self, config: &Map<String, Value>, has_file: bool) -> Option<[bool; 2]> {
        let flag = |name: &str| config.get(name).and_then(Value::as_bool).unwrap_or(false);
        match self {
            _ if !has_file => Some([flag("add_bos_token"), flag("add_eos_token")]),
            Self::CodeLlama => Some([true, false]),
            Self::GptNeoX => Some([false, false]),
            _ => None,
        }
    }

    /// Replaces the steps of `tokenizer` by those of the class.
    pub(super) fn apply(self, tokenizer: &mut Tokenizer, config: &Map<String, Value>) -> Result<()> {
        let flag = |name: &str| config.get(name).and_then(Value::as_bool);
        let sentence_piece = flag("add_prefix_space").unwrap_or(true);
        let scheme = match (sentence_piece, self == Self::Llama && flag("legacy") == Some(true)) {
            (false, _) => "never",
            (true, true) => "always",
            (true, false) => "first",
        };
        let prefix = flag("add_prefix_space").unwrap_or(false);
        let bytes = |regex| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex});
        let replace = |from, to| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let split = |pattern, behavior| json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": false});
        let before = |step, bytes| json!({"type": "Sequence", "pretokenizers": [step, bytes]});
        let spaces =
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        let nfc = json!({"type": "NFC"});
        let (normalizer, pre_tokenizer) = match self {
            Self::File | Self::NotFollowed => return Ok(()),
            Self::Llama | Self::CodeLlama => (Value::Null, spaces),
            Self::Gemma => (replace(" ", "▁"), split(json!({"String": " "}), "MergedWithPrevious")),
            Self::Qwen2 => (nfc, before(split(json!({"Regex": QWEN2_WORDS}), "Isolated"), bytes(false))),
            Self::Gpt2 => (Value::Null, bytes(true)),
            Self::GptNeoX => (nfc, bytes(true)),
            Self::Cohere => (nfc, before(json!({"type": "Digits", "individual_digits": true}), bytes(true))),
        };
        let strips = self == Self::CodeLlama || self == Self::Llama && sentence_piece;
        let strip = strips.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        let steps = [replace("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        let pieces =
            json!({"type": "Sequence", "decoders": steps.into_iter().chain(strip).collect::<Vec<_>>()});
        let letters =
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        let decoder = if self.is_sentence_piece() { pieces } else { letters };
        tokenizer.with_normalizer(serde_json::from_value::<Option<NormalizerWrapper>>(normalizer)?)?;
        tokenizer.with_pre_tokenizer(serde_json::from_value::<Option<PreTokenizerWrapper>>(pre_tokenizer)?);
        tokenizer.with_decoder(serde_json::from_value::<Option<DecoderWrapper>>(decoder)?);
        Ok(())
    }
}

/// Whether two tokenizers split these texts in the same way, before their vocabularies see them.
pub(super) fn split_alike(one: &Tokenizer, other: &Tokenizer) -> bool {
    const TEXTS: [&str; 5] = [" Hello world", "  9", "in 2025, 123456.7", "It's\n\n a  b", "e\u{301}…é 日本"];
    let pieces = |tokenizer: &Tokenizer, text: &str| -> Option<Vec<String>> {
        let mut normalized = NormalizedString::from(text);
        tokenizer.get_normalizer().map_or(Ok(()), |step| step.normalize(&mut normalized)).ok()?;
        let mut split = PreTokenizedString::from(normalized);
        tokenizer.get_pre_tokenizer().map_or(Ok(()), |step| step.pre_tokenize(&mut split)).ok()?;
        let pieces = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Some(pieces.into_iter().map(|(piece, ..)| piece.to_owned()).collect())
    };
    TEXTS.iter().all(|text| pieces(one, text) == pieces(other, text))
}

/// Whether the file declares a byte-level step; transformers looks for the same text.
fn mentions_byte_level(tokenizer_json: &[u8]) -> bool {
    let name = b"\"ByteLevel\"";
    tokenizer_json.windows(name.len()).any(|window| window == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn choose(config: Value, model_type: Option<&str>, tokenizer_json: &str) -> Class {
        let config = config.as_object().expect("an object").clone();
        let files = TokenizerFiles { model_type: model_type.map(String::from), ..TokenizerFiles::default() };
        Class::choose(&config, &files, tokenizer_json.as_bytes())
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
    fn classes_that_are_rebuilt_are_followed_or_known_as_not() {
        for (name, class) in [
            ("CodeLlamaTokenizerFast", Class::CodeLlama),
            ("GPTNeoXTokenizer", Class::GptNeoX),
            ("CohereTokenizerFast", Class::Cohere),
            ("GemmaTokenizer", Class::Gemma),
            ("T5TokenizerFast", Class::NotFollowed),
            ("XLMRobertaTokenizer", Class::NotFollowed),
            ("BloomTokenizerFast", Class::File),
            ("AClassOfNextYear", Class::File),
        ] {
            assert_eq!(choose(json!({"tokenizer_class": name}), Some("llama"), "{}"), class, "{name}");
        }
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
        let [normalizer, bytes, _] = steps(Class::GptNeoX, json!({}));
        assert!(normalizer["type"] == "NFC" && bytes["use_regex"] == true);
        let [normalizer, digits, _] = steps(Class::Cohere, json!({}));
        assert!(normalizer["type"] == "NFC" && digits["pretokenizers"][0]["individual_digits"] == true);
        assert!(steps(Class::File, json!({})).iter().all(Value::is_null));
    }

    #[test]
    fn steps_of_the_other_sentence_pieces() {
        let [normalizer, spaces, decoder] = steps(Class::CodeLlama, json!({"add_prefix_space": false}));
        assert!(normalizer.is_null() && spaces["prepend_scheme"] == "never");
        assert_eq!(decoder["decoders"][3]["type"], "Strip", "whatever the prefix");
        let [normalizer, spaces, decoder] = steps(Class::Gemma, json!({}));
        assert_eq!([&normalizer["content"], &spaces["behavior"]], ["▁", "MergedWithPrevious"]);
        assert!(decoder["decoders"][3].is_null());
    }
}
