//! How a byte-level tokenizer splits a text before its merges: what `tokenizer.ggml.pre` names.
//!
//! A GGUF file has the name of the split and not the split itself. Source of the names: `llama-vocab.cpp` in llama.cpp; of the patterns:
//! the tokenizer.json of a model of each name.

use serde_json::{Value, json};

/// The steps of tokenizer.json that a name stands for.
pub struct Split {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    /// Whether a piece that is a token stays whole, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether BOS stands before a text, if the file does not say.
    pub adds_bos: bool,
}

/// Words with up to three digits of a number, as Llama 3 splits.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// The same with numbers digit by digit.
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Mistral's Tekken: words end where small letters are followed by capitals.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The names that are known, for messages.
pub const KNOWN: &str = "gpt-2, smollm, llama-bpe, qwen2, deepseek-r1-qwen and tekken";

impl Split {
    /// The split of this name, if it is known.
    pub fn named(name: &str) -> Option<Split> {
        let plain = |pre_tokenizer| Split {
            normalizer: Value::Null,
            pre_tokenizer,
            ignore_merges: false,
            adds_bos: false,
        };
        Some(match name {
            "gpt-2" => plain(bytes(true)),
            "smollm" => plain(before(json!({"type": "Digits", "individual_digits": true}), bytes(true))),
            "llama3" | "llama-v3" | "llama-bpe" | "smaug-bpe" | "falcon3" | "pixtral" => {
                Split { ignore_merges: true, adds_bos: true, ..plain(words(LLAMA3)) }
            }
            "tekken" => Split { ignore_merges: true, adds_bos: true, ..plain(words(TEKKEN)) },
            "qwen2" | "deepseek-r1-qwen" | "megrez" => {
                Split { normalizer: json!({"type": "NFC"}), ..plain(words(QWEN2)) }
            }
            _ => return None,
        })
    }
}

/// Bytes as letters, which is also how they become text again; with GPT-2's split into words, or after another one.
pub fn bytes(splits: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits})
}

fn before(first: Value, second: Value) -> Value {
    json!({"type": "Sequence", "pretokenizers": [first, second]})
}

fn words(pattern: &str) -> Value {
    let split =
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    before(split, bytes(false))
}
