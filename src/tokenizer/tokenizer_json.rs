//! `tokenizer.json` to a tokenizer, or one line that says what is wrong with it.
//!
//! The `tokenizers` crate could read the file by itself. But it panics on some broken files (0.23), its messages
//! name Rust types, and it would build steps that a [`Class`] replaces. So the parts are taken out here, and the
//! crate builds each of them.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer,
};

use super::class::{Class, split_alike};
use super::special::{self, SpecialTokens};
use super::{bpe, guard};
use crate::json;

/// The file, with a model of type `M`. `truncation` and `padding` are for training and left out.
#[derive(Deserialize)]
struct File<M> {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<WithId>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Option<M>,
}

#[derive(Deserialize)]
struct WithId {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

/// What surrounds `tokenizer.json`.
pub(super) struct Around<'a> {
    pub class: Class,
    /// `tokenizer_config.json`.
    pub config: &'a Map<String, Value>,
    /// `added_tokens.json`.
    pub added_tokens: &'a Map<String, Value>,
    pub special: &'a SpecialTokens,
    /// Whether the JSON is a file of the checkpoint, and not made of vocab.json and merges.txt.
    pub is_file: bool,
}

const NO_MODEL: &str = "it has no \"model\" (a vocabulary and merges): is it another kind of file?";

/// The tokenizer in `json`, with the steps of a class and the special tokens that the config adds; and whether the file's own steps would
/// split texts differently.
pub(super) fn read(json: &[u8], around: &Around) -> Result<(Tokenizer, bool), String> {
    let (mut tokenizer, in_file, class) = match json::parse::<File<bpe::Model>>(json) {
        Ok(mut file) => {
            let mut model = file.model.take().ok_or(NO_MODEL)?;
            model.options_of(around.class, around.special);
            let in_file = take_tokens(&mut file.added_tokens);
            (file.build(model.build()?.into())?, in_file, around.class)
        }
        Err(error) => {
            let mut file = other_model(json, error)?;
            let model = part(file.model.take().unwrap_or_default(), "model")?.ok_or(NO_MODEL)?;
            let in_file = take_tokens(&mut file.added_tokens);
            (file.build(model)?, in_file, Class::File)
        }
    };
    let said = |error: tokenizers::Error| one_line(&error.to_string());
    let mut steps = Tokenizer::new(BPE::default());
    steps.with_normalizer(tokenizer.get_normalizer().cloned()).map_err(said)?;
    steps.with_pre_tokenizer(tokenizer.get_pre_tokenizer().cloned());
    class.apply(&mut tokenizer, around.config).map_err(said)?;
    let differs = around.is_file && class != Class::File && !split_alike(&steps, &tokenizer);

    // The added tokens come last, because the normalizer has a say in them.
    if class == Class::File {
        tokenizer.add_tokens(in_file.iter().map(|(_, token)| token.clone())).map_err(said)?;
    }
    let listed = special::listed(around.config, around.added_tokens, &in_file, around.special);
    around.special.register(&mut tokenizer, listed, around.config, class).map_err(said)?;
    if let Some(ends) = class.ends(around.config, around.is_file) {
        let ends = template(ends, around.special, &tokenizer);
        tokenizer.with_post_processor(part::<PostProcessorWrapper>(ends, "post_processor")?);
    }
    let splits = around.config.get("split_special_tokens").and_then(Value::as_bool).unwrap_or(false);
    tokenizer.set_encode_special_tokens(splits);
    Ok((tokenizer, differs))
}

fn take_tokens(tokens: &mut Vec<WithId>) -> Vec<(u32, AddedToken)> {
    tokens.drain(..).map(|WithId { id, token }| (id, token)).collect()
}

/// What puts BOS before a text and EOS after it, or neither.
fn template([bos, eos]: [bool; 2], special: &SpecialTokens, tokenizer: &Tokenizer) -> Value {
    let mut tokens = Map::new();
    let mut piece = |name: &str, wanted: bool| {
        let token = special.get(name).filter(|_| wanted)?;
        let id = tokenizer.token_to_id(token)?;
        tokens.insert(token.into(), json!({"id": token, "ids": [id], "tokens": [token]}));
        Some(json!({"SpecialToken": {"id": token, "type_id": 0}}))
    };
    let (before, after) = (piece("bos_token", bos), piece("eos_token", eos));
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let single: Vec<Value> = before.into_iter().chain([text("A")]).chain(after).collect();
    let pair = [&single[..], &[text("B")]].concat();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}

/// The file if its model is of another kind than BPE; `error` is why it was not read as BPE.
fn other_model(json: &[u8], error: String) -> Result<File<Value>, String> {
    let value: Value = json::parse(json)?;
    let model = &value["model"];
    if !model.is_object() {
        return Err(NO_MODEL.into());
    }
    let bpe = model["type"] == "BPE" || (model["type"].is_null() && model["merges"].is_array());
    if bpe {
        return Err(one_line(&error));
    }
    File::deserialize(value).map_err(|error| one_line(&error.to_string()))
}

impl<M> File<M> {
    /// The tokenizer around a model that was taken out of the file.
    fn build(self, model: ModelWrapper) -> Result<Tokenizer, String> {
        if let Some(version) = self.version.filter(|version| version != "1.0") {
            return Err(format!("its version is {version:?}; only \"1.0\" is known"));
        }
        let said = |error: tokenizers::Error| one_line(&error.to_string());
        let mut tokenizer = Tokenizer::new(model);
        guard::check_growth(&self.normalizer, "normalizer")?;
        guard::check_growth(&self.decoder, "decoder")?;
        let normalizer: Option<NormalizerWrapper> = part(self.normalizer, "normalizer")?;
        let pre_tokenizer: Option<PreTokenizerWrapper> = part(self.pre_tokenizer, "pre_tokenizer")?;
        let post_processor: Option<PostProcessorWrapper> = part(self.post_processor, "post_processor")?;
        let decoder: Option<DecoderWrapper> = part(self.decoder, "decoder")?;
        tokenizer.with_normalizer(normalizer).map_err(said)?;
        tokenizer.with_pre_tokenizer(pre_tokenizer).with_post_processor(post_processor).with_decoder(decoder);
        Ok(tokenizer)
    }
}

/// One part of the file, which may be null.
fn part<T: DeserializeOwned>(value: Value, name: &str) -> Result<Option<T>, String> {
    let kind = value["type"].as_str().unwrap_or("?").to_string();
    serde_json::from_value(value).map_err(|error| {
        let error = one_line(&error.to_string());
        format!("its {name} of type {kind:?} is not one that stairwell knows, or lacks something: {error}")
    })
}

fn one_line(error: &str) -> String {
    error.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_read(json: &[u8]) -> Result<Tokenizer, String> {
        let (config, special) = (Map::new(), SpecialTokens::default());
        let around = Around {
            class: Class::File,
            config: &config,
            added_tokens: &config,
            special: &special,
            is_file: true,
        };
        read(json, &around).map(|(tokenizer, _)| tokenizer)
    }

    fn why(json: &[u8]) -> String {
        let said = try_read(json).expect_err("it is broken");
        assert!(!said.contains('\n'), "{said}");
        said
    }

    fn bpe(name: &str, part: Value) -> Vec<u8> {
        let mut file = json!({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}});
        file[name] = part;
        file.to_string().into_bytes()
    }

    #[test]
    fn no_json() {
        assert!(why(b"").contains("empty"));
        assert!(why(b"{\"model\": ").contains("line 1 column"));
        assert!(why(b"{}").contains("no \"model\""));
        assert!(why(b"[]").contains("no \"model\""));
        // The crate panics on a decoder that is no JSON.
        assert!(
            why(
                b"{\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}, \"decoder\": {\"a\n\": 1}}"
            )
            .contains("not JSON")
        );
    }

    #[test]
    fn parts_of_unknown_kinds() {
        for name in ["normalizer", "pre_tokenizer", "post_processor", "decoder"] {
            let said = why(&bpe(name, json!({"type": "Crystal"})));
            assert!(said.contains(name) && said.contains("Crystal"), "{said}");
            assert!(why(&bpe(name, json!(7))).contains(name));
            assert!(try_read(&bpe(name, Value::Null)).is_ok());
        }
        assert!(why(&bpe("version", json!("2.0"))).contains("\"2.0\""));
        assert!(why(&bpe("model", json!({"type": "Crystal"}))).contains("Crystal"));
        assert!(why(&bpe("model", json!({"type": "BPE", "vocab": {"a": -1}, "merges": []}))).contains("-1"));
        assert!(why(&bpe("added_tokens", json!([{"content": 7}]))).contains('7'));
    }

    #[test]
    fn other_models_are_the_crates() {
        let model = json!({"type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?"});
        let tokenizer = try_read(&bpe("model", model)).expect("a tokenizer");
        assert_eq!(tokenizer.encode("a", false).expect("ids").get_ids(), [0]);
    }
}
