//! The tokenizer and the chat template, by GGUF's keys: [`crate::checkpoint::Gguf`]'s reading of them the other way round.
//!
//! GGUF names the split before the merges instead of holding it, so a tokenizer whose split has no name is refused: texts would become other tokens.

use super::super::Source;
use super::values::Pairs;
use super::vocabulary::{Vocabulary, merges};
use crate::checkpoint::gguf::splits::Split;
use crate::error::{Error, Result};
use crate::json;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Splits that are looked for, by the names that llama.cpp gives them.
const SPLITS: [&str; 5] = ["gpt-2", "smollm", "llama-bpe", "tekken", "qwen2"];

fn refuse<T>(why: &str) -> Result<T> {
    let message = format!("--to gguf: {why}, so a GGUF file can't hold this tokenizer; leave the flag out");
    Err(Error::Usage(message))
}

/// Adds the tokenizer of the source's directory; a model without one is written without.
///
/// # Errors
/// Tokenizers that GGUF does not have.
pub fn add(pairs: &mut Pairs, source: &Source) -> Result<()> {
    let Some(file) = read(source, "tokenizer.json")? else {
        pairs.text("tokenizer.ggml.model", "none");
        return Ok(());
    };
    let (file, config) = (Value::from(file), read(source, "tokenizer_config.json")?.unwrap_or_default());
    let model = &file["model"];
    if model["type"].as_str().is_some_and(|kind| kind != "BPE") || !model["merges"].is_array() {
        return refuse("its kind is not BPE");
    }
    let unknown = model["unk_token"].as_str();
    let vocabulary = Vocabulary::of(&file, source.config.vocab_size, unknown);
    let merges = merges(&file);
    if model["byte_fallback"].as_bool() == Some(true) {
        sentence_piece(pairs, &file)?;
        pairs.floats("tokenizer.ggml.scores", &vocabulary.scores(&merges));
    } else {
        pairs.text("tokenizer.ggml.model", "gpt2");
        pairs.text("tokenizer.ggml.pre", split_of(&file)?);
        let merges: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        pairs.texts("tokenizer.ggml.merges", &merges);
    }
    pairs.texts("tokenizer.ggml.tokens", &vocabulary.tokens);
    pairs.integers("tokenizer.ggml.token_type", &vocabulary.kinds);
    special(pairs, source, &vocabulary, (&file, &config));
    templates(pairs, source, &config)
}

fn read(source: &Source, name: &str) -> Result<Option<Map<String, Value>>> {
    let Some(bytes) = source.directory.read(name)? else { return Ok(None) };
    let bad = |reason| Error::Usage(format!("{}: {reason}", source.directory.path(name).display()));
    json::object(&bytes).map(Some).map_err(bad)
}

/// The steps of a normalizer or a pre-tokenizer, as far as they change tokens.
fn steps(value: &Value) -> Vec<String> {
    let flag = |name: &str, usual: bool| value[name].as_bool().unwrap_or(usual);
    match value["type"].as_str() {
        None => Vec::new(),
        Some("Sequence") => {
            let parts = value["pretokenizers"].as_array().or(value["normalizers"].as_array());
            parts.into_iter().flatten().flat_map(steps).collect()
        }
        Some("Split") => {
            let (pattern, behaviour) = (&value["pattern"], &value["behavior"]);
            vec![format!("split {pattern} {behaviour} {}", flag("invert", false))]
        }
        Some("ByteLevel") => {
            vec![format!("bytes {} {}", flag("add_prefix_space", true), flag("use_regex", true))]
        }
        Some("Digits") => vec![format!("digits {}", flag("individual_digits", false))],
        Some(other) => vec![other.to_owned()],
    }
}

/// The name of a byte-level tokenizer's split.
fn split_of(file: &Value) -> Result<&'static str> {
    let (splits, normalizer) = (steps(&file["pre_tokenizer"]), steps(&file["normalizer"]));
    let ignores = file["model"]["ignore_merges"].as_bool().unwrap_or(false);
    let found = SPLITS.into_iter().find(|name| {
        Split::named(name).is_some_and(|known| {
            // llama.cpp normalises nothing, and Qwen's NFC is lost there.
            let normalised = normalizer.is_empty() || normalizer == steps(&known.normalizer);
            steps(&known.pre_tokenizer) == splits && normalised && known.ignore_merges == ignores
        })
    });
    match found {
        Some(name) => Ok(name),
        None => refuse("its split of texts into words has no name in GGUF"),
    }
}

fn sentence_piece(pairs: &mut Pairs, file: &Value) -> Result<()> {
    let (normalizer, splits) = (&file["normalizer"], &file["pre_tokenizer"]);
    let all = steps(normalizer).into_iter().chain(steps(splits)).collect::<Vec<_>>();
    let known = ["Prepend", "Replace", "Metaspace"];
    if let Some(other) = all.iter().find(|step| !known.contains(&step.as_str())) {
        return refuse(&format!("its step '{other}' is not SentencePiece's"));
    }
    let metaspace = splits["type"] == "Metaspace" && splits["prepend_scheme"] != "never";
    pairs.text("tokenizer.ggml.model", "llama");
    pairs.text("tokenizer.ggml.pre", "default");
    pairs.flag("tokenizer.ggml.add_space_prefix", metaspace || all.iter().any(|step| step == "Prepend"));
    Ok(())
}

/// The ids of special tokens, and whether texts begin and end with them.
fn special(
    pairs: &mut Pairs,
    source: &Source,
    vocabulary: &Vocabulary,
    (file, config): (&Value, &Map<String, Value>),
) {
    let text = |name: &str| match config.get(name)? {
        Value::String(text) => Some(text.as_str()),
        Value::Object(token) => token.get("content")?.as_str(),
        _ => None,
    };
    let (before, after) = around(file);
    let said = |field: &str| source.json.get(field).and_then(Value::as_u64).map(|id| id as usize);
    let id = |named: Option<&str>| named.and_then(|token| vocabulary.id(token));
    let bos = id(before.as_deref().or(text("bos_token"))).or_else(|| said("bos_token_id"));
    let eos = id(after.as_deref().or(text("eos_token")))
        .or_else(|| source.config.eos_token_id.first().map(|id| *id as usize));
    let unknown = id(file["model"]["unk_token"].as_str().or(text("unk_token")));
    let pad = id(text("pad_token")).or_else(|| said("pad_token_id"));
    for (key, id) in [("bos", bos), ("eos", eos), ("unknown", unknown), ("padding", pad)] {
        let id = id.filter(|id| *id < vocabulary.tokens.len());
        id.into_iter().for_each(|id| pairs.size(&format!("tokenizer.ggml.{key}_token_id"), id));
    }
    // A turn may end otherwise than a text.
    let turn = source.config.eos_token_id.iter().map(|id| *id as usize).find(|id| Some(*id) != eos);
    turn.into_iter().for_each(|id| pairs.size("tokenizer.ggml.eot_token_id", id));
    pairs.flag("tokenizer.ggml.add_bos_token", before.is_some());
    pairs.flag("tokenizer.ggml.add_eos_token", after.is_some());
}

/// The special tokens that tokenizer.json puts before and behind a text.
fn around(file: &Value) -> (Option<String>, Option<String>) {
    let processor = &file["post_processor"];
    let parts = processor["processors"].as_array();
    let all = parts.into_iter().flatten().chain([processor]);
    let template = all.into_iter().find(|step| step["type"] == "TemplateProcessing");
    let pieces = template.and_then(|step| step["single"].as_array()).cloned().unwrap_or_default();
    let name = |piece: &Value| piece["SpecialToken"]["id"].as_str().map(str::to_owned);
    let at = pieces.iter().position(|piece| piece["Sequence"].is_object()).unwrap_or(pieces.len());
    (pieces[..at].iter().find_map(name), pieces[at..].iter().find_map(name))
}

/// The chat templates: the one without a name, and others by name.
fn templates(pairs: &mut Pairs, source: &Source, config: &Map<String, Value>) -> Result<()> {
    let mut named = BTreeMap::new();
    match config.get("chat_template") {
        Some(Value::String(template)) => _ = named.insert("default".to_owned(), template.clone()),
        Some(Value::Array(list)) => {
            let entry = |entry: &Value| {
                Some((entry["name"].as_str()?.to_owned(), entry["template"].as_str()?.to_owned()))
            };
            named.extend(list.iter().filter_map(entry));
        }
        _ => {}
    }
    if let Some(bytes) = source.directory.read("chat_template.jinja")? {
        named.insert("default".into(), String::from_utf8_lossy(&bytes).into_owned());
    }
    if let Some(template) = named.remove("default") {
        pairs.text("tokenizer.chat_template", &template);
    }
    if !named.is_empty() {
        pairs.texts("tokenizer.chat_templates", &named.keys().collect::<Vec<_>>());
        named.iter().for_each(|(name, text)| pairs.text(&format!("tokenizer.chat_template.{name}"), text));
    }
    Ok(())
}
