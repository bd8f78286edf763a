//! Special tokens: which there are, by name, and how they get into the vocabulary.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::class::Class;

/// The names that transformers gives special tokens.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Special tokens by name: "bos_token" → "\<s\>", in transformers' order.
#[derive(Debug, Clone, Default)]
pub(super) struct SpecialTokens {
    named: Vec<(String, AddedToken)>,
}

impl SpecialTokens {
    /// What `tokenizer_config.json` names, and what the class has where it is silent.
    pub(super) fn of(config: &Map<String, Value>, class: Class) -> Self {
        let silent = class.default_tokens().filter(|(name, _)| !config.contains_key(*name));
        let mut named: Vec<(String, AddedToken)> =
            silent.map(|(name, token)| (String::from(name), AddedToken::from(token, true))).collect();
        // Models may name tokens of their own: "image_token", or an object "extra_special_tokens".
        let own = config.get("extra_special_tokens").and_then(Value::as_object);
        let in_config = config.iter().filter(|(name, _)| name.ends_with("_token"));
        for (name, token) in in_config.chain(own.into_iter().flatten()) {
            named.extend(added_token(token, true).map(|token| (name.clone(), token.special(true))));
        }
        let place = |name: &str| NAMES.iter().position(|n| *n == name).unwrap_or(NAMES.len());
        named.sort_by_key(|(name, _)| place(name));
        Self { named }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, token)| token)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().map(|(name, token)| (name.as_str(), token.content.as_str()))
    }

    /// Adds the tokens that are `listed` and those that the config names, in transformers' order: ids follow from it. The flags of a
    /// token that is listed replace those that the tokenizer has.
    pub(super) fn register(
        &self,
        tokenizer: &mut tokenizers::Tokenizer,
        listed: Vec<AddedToken>,
        config: &Map<String, Value>,
        class: Class,
    ) -> tokenizers::Result<()> {
        let present: HashMap<String, AddedToken> =
            tokenizer.get_added_tokens_decoder().into_values().map(|t| (t.content.clone(), t)).collect();
        let names: HashSet<&str> = self.iter().map(|(_, token)| token).collect();
        let mut add: Vec<AddedToken> = Vec::new();
        for token in listed.into_iter().filter(|token| present.get(&token.content) != Some(token)) {
            let special = token.special || names.contains(token.content.as_str());
            add.push(token.special(special));
        }
        let known: HashSet<String> = add.iter().map(|t| &t.content).chain(present.keys()).cloned().collect();
        let special: Vec<AddedToken> =
            self.named.iter().map(|(_, token)| token.clone()).chain(extra(config)).collect();
        add.extend(special.iter().filter(|token| !known.contains(&token.content)).cloned());
        if class == Class::Qwen2 {
            // Its class adds them once more, by their texts alone.
            add.extend(special.into_iter().map(|token| AddedToken::from(token.content, true)));
        }
        tokenizer.add_tokens(add).map(|_| ())
    }
}

/// The added tokens that transformers knows of, in the order of their ids: those of `added_tokens_decoder` in the config,
/// `{"32000": {"content": "<|im_end|>", "special": true, …}}`. Older checkpoints have `added_tokens.json`, `{"<|im_end|>": 32000}`, and
/// those of tokenizer.json, which win.
pub(super) fn listed(
    config: &Map<String, Value>,
    added_tokens: &Map<String, Value>,
    in_file: &[(u32, AddedToken)],
    special: &SpecialTokens,
) -> Vec<AddedToken> {
    let mut by_id: BTreeMap<u32, AddedToken> = BTreeMap::new();
    if let Some(decoder) = config.get("added_tokens_decoder").and_then(Value::as_object) {
        by_id.extend(
            decoder.iter().filter_map(|(id, token)| Some((id.parse().ok()?, added_token(token, false)?))),
        );
        return by_id.into_values().collect();
    }
    let extra: Vec<AddedToken> = extra(config).collect();
    let named = special.iter().map(|(_, token)| token);
    let texts: HashSet<&str> = named.chain(extra.iter().map(|token| token.content.as_str())).collect();
    for (text, id) in added_tokens {
        let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else { continue };
        by_id.insert(id, AddedToken::from(text, texts.contains(text.as_str())));
    }
    by_id.extend(in_file.iter().cloned());
    by_id.into_values().collect()
}

/// A token that is written as its text or as `{"content": …, "lstrip": …}`. What it does not say of itself has transformers' defaults.
fn added_token(token: &Value, special: bool) -> Option<AddedToken> {
    let flag = |name: &str, default| token.get(name).and_then(Value::as_bool).unwrap_or(default);
    let content = token.as_str().or_else(|| token.get("content")?.as_str())?;
    let special = flag("special", special);
    let added =
        AddedToken::from(content, special).lstrip(flag("lstrip", false)).rstrip(flag("rstrip", false));
    Some(added.single_word(flag("single_word", false)).normalized(flag("normalized", !special)))
}

/// Further special tokens without a name.
fn extra(config: &Map<String, Value>) -> impl Iterator<Item = AddedToken> {
    let names = ["extra_special_tokens", "additional_special_tokens"].into_iter();
    let list = names.filter_map(|name| config.get(name)?.as_array()).find(|list| !list.is_empty());
    list.into_iter().flatten().filter_map(|token| Some(added_token(token, true)?.special(true)))
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
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("unk_token", "<|endoftext|>"),
            ("image_token", "<image>"),
            ("audio", "<audio>"),
        ];
        assert_eq!(all, want, "a null token is none, and only a silent config takes the class's default");
    }

    fn small() -> tokenizers::Tokenizer {
        let json = json!({"version": "1.0", "added_tokens": [],
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}});
        tokenizers::Tokenizer::from_bytes(json.to_string()).expect("a tokenizer")
    }

    /// The added tokens by id, with these files.
    fn added(config: Value, added_tokens: Value, in_file: &[(u32, AddedToken)]) -> Vec<AddedToken> {
        let (mut tokenizer, config) = (small(), config.as_object().expect("an object"));
        let special = SpecialTokens::of(config, Class::File);
        let tokens = listed(config, added_tokens.as_object().expect("an object"), in_file, &special);
        special.register(&mut tokenizer, tokens, config, Class::File).expect("added");
        let by_id: BTreeMap<u32, AddedToken> = tokenizer.get_added_tokens_decoder().into_iter().collect();
        assert!(by_id.keys().copied().eq(2..2 + by_id.len() as u32), "{by_id:?}");
        by_id.into_values().collect()
    }

    #[test]
    fn tokens_of_the_config_get_the_next_ids() {
        let config = json!({"eos_token": "<end>", "additional_special_tokens": ["<x>"], "z_token": "<z>", "y_token": "<y>",
            "added_tokens_decoder": {"10": {"content": "<b>"}, "9": {"content": "<a>", "special": true}}});
        let texts: Vec<String> =
            added(config, json!({"<no>": 5}), &[]).into_iter().map(|t| t.content).collect();
        assert_eq!(texts, ["<a>", "<b>", "<end>", "<z>", "<y>", "<x>"]);
    }

    #[test]
    fn flags_of_named_and_listed_tokens_count() {
        let config = json!({"eos_token": {"content": "<end>", "lstrip": true, "normalized": true}, "pad_token": "<pad>",
            "added_tokens_decoder": {"9": {"content": "<pad>", "rstrip": true, "single_word": true, "normalized": false}}});
        let pad = AddedToken::from("<pad>", true).rstrip(true).single_word(true);
        let end = AddedToken::from("<end>", true).lstrip(true).normalized(true);
        assert_eq!(added(config, json!({}), &[]), [pad, end], "a token that is named is special");
    }

    #[test]
    fn added_tokens_json_is_read_and_the_tokenizers_file_wins() {
        let config = json!({"eos_token": "<end>"});
        let in_file = [(11, AddedToken::from("<c>", true).lstrip(true))];
        let tokens = added(config, json!({"<c>": 11, "<end>": 12, "<a>": 10}), &in_file);
        let want = [
            AddedToken::from("<a>", false),
            AddedToken::from("<c>", true).lstrip(true),
            AddedToken::from("<end>", true),
        ];
        assert_eq!(tokens, want);
    }
}
