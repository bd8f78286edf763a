//! `tokenizer.json` to a tokenizer, or one line that says what is wrong with it.
//!
//! The `tokenizers` crate could read the file by itself. But it panics on some broken files (0.23), its messages
//! name Rust types, and it would build steps that a [`Class`] replaces. So the parts are taken out here, and the
//! crate builds each of them.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokenizers::models::ModelWrapper;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer,
};

use super::bpe;
use super::class::Class;
use super::special::SpecialTokens;
use crate::json;

/// The file, with a model of type `M`. `truncation` and `padding` are for training and left out.
#[derive(Deserialize)]
struct File<M> {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
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

const NO_MODEL: &str = "it has no \"model\" (a vocabulary and merges): is it another kind of file?";

/// The tokenizer in `json`, with the steps of `class` and the special tokens that the config adds.
pub(super) fn read(
    json: &[u8],
    class: Class,
    config: &Map<String, Value>,
    special: &SpecialTokens,
) -> Result<Tokenizer, String> {
    let mut tokenizer = match json::parse::<File<bpe::Model>>(json) {
        Ok(mut file) => {
            let mut model = file.model.take().ok_or(NO_MODEL)?;
            model.options_of(class);
            file.build(model.build()?.into(), class, config)?
        }
        Err(error) => {
            let mut file = other_model(json, error)?;
            let model = part(file.model.take().unwrap_or_default(), "model")?.ok_or(NO_MODEL)?;
            file.build(model, Class::File, config)?
        }
    };
    special.register(&mut tokenizer, config).map_err(|error| error.to_string())?;
    Ok(tokenizer)
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
    fn build(
        self,
        model: ModelWrapper,
        class: Class,
        config: &Map<String, Value>,
    ) -> Result<Tokenizer, String> {
        if let Some(version) = self.version.filter(|version| version != "1.0") {
            return Err(format!("its version is {version:?}; only \"1.0\" is known"));
        }
        let said = |error: tokenizers::Error| one_line(&error.to_string());
        let mut tokenizer = Tokenizer::new(model);
        let normalizer: Option<NormalizerWrapper> = part(self.normalizer, "normalizer")?;
        let pre_tokenizer: Option<PreTokenizerWrapper> = part(self.pre_tokenizer, "pre_tokenizer")?;
        let post_processor: Option<PostProcessorWrapper> = part(self.post_processor, "post_processor")?;
        let decoder: Option<DecoderWrapper> = part(self.decoder, "decoder")?;
        tokenizer.with_normalizer(normalizer).map_err(said)?;
        tokenizer.with_pre_tokenizer(pre_tokenizer).with_post_processor(post_processor).with_decoder(decoder);
        class.apply(&mut tokenizer, config).map_err(said)?;
        // Last, because the normalizer has a say in them.
        tokenizer.add_tokens(self.added_tokens).map_err(said)?;
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
    use serde_json::json;

    fn try_read(json: &[u8]) -> Result<Tokenizer, String> {
        read(json, Class::File, &Map::new(), &SpecialTokens::default())
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
