//! Special tokens: which there are, by name, and how they get into the vocabulary.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::class::Class;

/// The names that transformers gives special tokens.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Special tokens by name: "bos_token" → "\<s\>".
#[derive(Debug, Clone, Default)]
pub(super) struct SpecialTokens {
    by_name: BTreeMap<String, String>,
}

impl SpecialTokens {
    /// What `tokenizer_config.json` names, and what the class has where it is silent.
    pub(super) fn of(config: &Map<String, Value>, class: Class) -> Self {
        let mut by_name = BTreeMap::new();
        for (name, token) in class.default_tokens() {
            if !config.contains_key(*name) {
                by_name.insert(String::from(*name), String::from(*token));
            }
        }
        // Models may name tokens of their own: "image_token", or an object "extra_special_tokens".
        let own = config.get("extra_special_tokens").and_then(Value::as_object);
        let named = config.iter().filter(|(name, _)| name.ends_with("_token"));
        for (name, token) in named.chain(own.into_iter().flatten()) {
            if let Some(token) = content(token) {
                by_name.insert(name.clone(), token.into());
            }
        }
        Self { by_name }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.by_name.get(name).map(String::as_str)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.by_name.iter().map(|(name, token)| (name.as_str(), token.as_str()))
    }

    /// Adds what the config lists and `tokenizer.json` lacks, in transformers' order: ids follow from it.
    pub(super) fn register(
        &self,
        tokenizer: &mut tokenizers::Tokenizer,
        config: &Map<String, Value>,
    ) -> tokenizers::Result<()> {
        let known = tokenizer.get_added_tokens_decoder();
        let mut add = listed(config);
        add.retain(|token| !known.values().any(|k| k == token));
        let named = NAMES.iter().filter_map(|name| self.get(name)).map(String::from);
        let own = self.iter().filter(|(name, _)| !NAMES.contains(name)).map(|(_, token)| token.into());
        for token in named.chain(own).chain(extra(config)) {
            let content = |other: &AddedToken| other.content == token;
            if !known.values().any(content) && !add.iter().any(content) {
                add.push(AddedToken::from(token, true));
            }
        }
        tokenizer.add_tokens(add).map(|_| ())
    }
}

/// `added_tokens_decoder`: `{"32000": {"content": "<|im_end|>", "special": true, …}}`, in the order of ids.
fn listed(config: &Map<String, Value>) -> Vec<AddedToken> {
    let Some(by_id) = config.get("added_tokens_decoder").and_then(Value::as_object) else {
        return Vec::new();
    };
    let with_id = by_id.iter().filter_map(|(id, token)| Some((id.parse::<u32>().ok()?, added_token(token)?)));
    let by_id: BTreeMap<u32, AddedToken> = with_id.collect();
    by_id.into_values().collect()
}

fn added_token(token: &Value) -> Option<AddedToken> {
    let flag = |name: &str| token.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(false);
    let added = AddedToken::from(content(token)?, special)
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .single_word(flag("single_word").unwrap_or(false));
    Some(added.normalized(flag("normalized").unwrap_or(!special)))
}

/// Further special tokens without a name.
fn extra(config: &Map<String, Value>) -> Vec<String> {
    let list = ["extra_special_tokens", "additional_special_tokens"]
        .into_iter()
        .filter_map(|name| config.get(name)?.as_array())
        .find(|list| !list.is_empty());
    list.into_iter().flatten().filter_map(content).map(String::from).collect()
}

/// A token is written as its text or as `{"content": …}`.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn named_in_every_spelling() {
        let config = json!({
            "bos_token": {"__type": "AddedToken", "content": "<s>"}, "eos_token": "</s>", "pad_token": null,
            "image_token": "<image>", "extra_special_tokens": {"audio": "<audio>"}, "add_bos_token": true,
        });
        let special = SpecialTokens::of(config.as_object().expect("an object"), Class::Qwen2);
        let all: Vec<_> = special.iter().collect();
        let want = [
            ("audio", "<audio>"),
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("image_token", "<image>"),
            ("unk_token", "<|endoftext|>"),
        ];
        assert_eq!(all, want, "a null token is none, and only a silent config takes the class's default");
    }

    #[test]
    fn tokens_of_the_config_get_the_next_ids() {
        let json = json!({"version": "1.0", "added_tokens": [],
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}});
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(json.to_string()).expect("a tokenizer");
        let config = json!({"eos_token": "<end>", "additional_special_tokens": ["<x>"],
            "added_tokens_decoder": {"10": {"content": "<b>"}, "9": {"content": "<a>", "special": true}}});
        let config = config.as_object().expect("an object");
        SpecialTokens::of(config, Class::File).register(&mut tokenizer, config).expect("added");
        let ids = ["<a>", "<b>", "<end>", "<x>"].map(|token| tokenizer.token_to_id(token));
        assert_eq!(ids, [Some(2), Some(3), Some(4), Some(5)]);
    }
}
