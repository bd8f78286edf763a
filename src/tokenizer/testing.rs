//! Tiny tokenizers for unit tests.

use serde_json::{Map, Value, json};

use super::{Tokenizer, TokenizerFiles};

/// Every byte is a token, and " a" is one.
pub(super) fn byte_level() -> Tokenizer {
    tokenizer(byte_level_file())
}

fn byte_level_file() -> Value {
    let latin = (0x21..=0x7e).chain(0xa1..=0xac).chain(0xae..=0xff).chain(0x100..=0x143);
    let letters = latin.filter_map(char::from_u32).map(String::from);
    let vocab = numbered(letters.chain(["Ġa".into()]));
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let size = vocab.len();
    json!({
        "version": "1.0",
        "added_tokens": [added(size, "<s>", true), added(size + 1, "<tool>", false)],
        "pre_tokenizer": bytes, "decoder": bytes, "post_processor": begin(size),
        "model": {"type": "BPE", "vocab": vocab, "merges": [["Ġ", "a"]]},
    })
}

/// Files of the byte-level tokenizer, whose own steps cut off each "a", with this `tokenizer_config.json`.
pub(super) fn files_with(config: Value) -> TokenizerFiles {
    let mut file = byte_level_file();
    let letters =
        json!({"type": "Split", "pattern": {"String": "a"}, "behavior": "Isolated", "invert": false});
    file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [letters, file["pre_tokenizer"]]});
    TokenizerFiles {
        origin: "tiny".into(),
        tokenizer_json: Some(file.to_string().into_bytes()),
        tokenizer_config: Some(config.to_string().into_bytes()),
        ..Default::default()
    }
}

/// Llama 2's way: "▁" for a space, bytes for what is not in the vocabulary, one space before the text.
pub(super) fn sentence_piece() -> Tokenizer {
    tokenizer(sentence_piece_file())
}

pub(super) fn sentence_piece_file() -> Value {
    let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
    let words = ["▁", "a", "b", "▁a", "é"].map(String::from);
    let vocab = numbered(["<unk>", "<s>", "</s>"].map(String::from).into_iter().chain(bytes).chain(words));
    json!({
        "version": "1.0",
        "added_tokens": [added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "post_processor": begin(1),
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true,
            "vocab": vocab, "merges": ["▁ a"]},
    })
}

/// Words with nothing around them: decoded, they are joined by spaces.
pub(super) fn without_decoder() -> Tokenizer {
    tokenizer(json!({
        "version": "1.0", "added_tokens": [added(3, "<s>", true)],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"one": 0, "two": 1, "?": 2}, "unk_token": "?"},
    }))
}

/// Numbers below a bound, the same in every run (xorshift).
pub(super) fn random() -> impl FnMut(u32) -> u32 {
    let mut state = 0x9e37_79b9_u32;
    move |bound| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % bound
    }
}

fn tokenizer(json: Value) -> Tokenizer {
    let config = json!({"bos_token": "<s>", "chat_template": "<s>{{ messages[0].content }}"});
    let files = TokenizerFiles {
        origin: "tiny".into(),
        tokenizer_json: Some(json.to_string().into_bytes()),
        tokenizer_config: Some(config.to_string().into_bytes()),
        ..Default::default()
    };
    Tokenizer::new(files).expect("a tokenizer")
}

fn numbered(tokens: impl Iterator<Item = String>) -> Map<String, Value> {
    tokens.enumerate().map(|(id, token)| (token, id.into())).collect()
}

fn added(id: usize, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false})
}

/// Puts "\<s\>" before a text.
fn begin(id: usize) -> Value {
    json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [id], "tokens": ["<s>"]}}})
}
