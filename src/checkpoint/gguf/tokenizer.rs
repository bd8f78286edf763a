//! The tokenizer.json and tokenizer_config.json that a GGUF file stands for.
//!
//! Two kinds of tokenizers are read. `gpt2` is byte-level BPE: its tokens are written in GPT-2's letters for bytes, its merges are listed,
//! and the split before them has a name (see [`splits`](super::splits)). `llama` is SentencePiece's BPE: its tokens have scores instead of
//! merges, and unknown characters become byte tokens.
//!
//! Where the two tools differ, a text is split as llama.cpp splits it (`llama-vocab.cpp`), except that Qwen's texts are normalised (NFC)
//! as the original tokenizer does.

use super::super::Result;
use super::{Gguf, splits};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use splits::Split;
use std::collections::{HashMap, HashSet};

/// `tokenizer.ggml.token_type`: special tokens, such as BOS and the ends of turns.
const UNKNOWN: i128 = 2;
const CONTROL: i128 = 3;
/// Tokens that are found in a text before it is split, and are not special.
const USER_DEFINED: i128 = 4;
const NORMAL: i128 = 1;

/// The longest token of SentencePiece that is not found as a whole. Its own pieces have at most 16 characters, unless a trainer asks for more.
const LONGEST_PIECE: usize = 256;

/// Texts of control tokens that end an output, whatever the file calls them; llama.cpp knows them by their texts too.
const ENDS: [&str; 7] =
    ["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "</s>"];

/// What both kinds of tokenizers have.
struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    /// As long as `tokens`, or empty: then all are normal.
    types: Vec<i128>,
}

impl<'a> Vocabulary<'a> {
    /// `None` if the file has none.
    fn of(gguf: &Gguf<'a>) -> Result<Option<Vocabulary<'a>>> {
        let Some(tokens) = gguf.metadata.texts("tokenizer.ggml.tokens")? else { return Ok(None) };
        let key = "tokenizer.ggml.token_type";
        let types = match gguf.metadata.list(key)? {
            None => Vec::new(),
            Some(list) if list.count == tokens.len() => {
                let types =
                    list.integers().ok_or_else(|| gguf.bad(format!("'{key}' is no list of integers")))?;
                types.collect()
            }
            Some(list) => {
                return Err(gguf.bad(format!(
                    "'{key}' has {} values for {} tokens",
                    list.count,
                    tokens.len()
                )));
            }
        };
        Ok(Some(Vocabulary { tokens, types }))
    }

    fn kind(&self, id: usize) -> i128 {
        self.types.get(id).copied().unwrap_or(NORMAL)
    }

    /// The tokens that are looked for in a text before anything else.
    fn added(&self) -> Vec<Value> {
        let added = |(id, token): (usize, &&str)| {
            let kind = self.kind(id);
            let special = [UNKNOWN, CONTROL].contains(&kind);
            (special || kind == USER_DEFINED).then(|| {
                json!({"id": id, "content": token, "special": special, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false})
            })
        };
        self.tokens.iter().enumerate().filter(|(_, token)| !token.is_empty()).filter_map(added).collect()
    }
}

/// tokenizer.json as it is written.
#[derive(Serialize)]
struct File<'a> {
    version: &'static str,
    added_tokens: Vec<Value>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Model<'a>,
}

#[derive(Serialize)]
struct Model<'a> {
    r#type: &'static str,
    unk_token: Option<&'a str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(serialize_with = "as_ids")]
    vocab: &'a [&'a str],
    merges: Vec<(&'a str, &'a str)>,
}

/// Tokens and their ids, which are their places.
fn as_ids<S: Serializer>(tokens: &[&str], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(tokens.iter().enumerate().map(|(id, token)| (token, id)))
}

/// tokenizer.json; `None` if the file has no tokenizer.
pub fn file(gguf: &Gguf) -> Result<Option<Vec<u8>>> {
    let kind = gguf.metadata.text("tokenizer.ggml.model")?;
    let vocabulary = Vocabulary::of(gguf)?;
    let (kind, vocabulary) = match (kind, &vocabulary) {
        (Some("none" | "no_vocab") | None, _) => return Ok(None),
        (Some(kind), Some(vocabulary)) => (kind, vocabulary),
        (Some(_), None) => return Err(gguf.bad("there is no 'tokenizer.ggml.tokens'".into())),
    };
    let file = match kind {
        "gpt2" => byte_level(gguf, vocabulary)?,
        "llama" => sentence_piece(gguf, vocabulary)?,
        other => {
            return Err(gguf.bad(format!(
                "its tokenizer is of the kind '{other}' (tokenizer.ggml.model), and gpt2 and llama are read; pass token ids instead of a text"
            )));
        }
    };
    Ok(Some(serde_json::to_vec(&file).expect("JSON")))
}

fn byte_level<'a>(gguf: &Gguf<'a>, vocabulary: &'a Vocabulary<'a>) -> Result<File<'a>> {
    let key = "tokenizer.ggml.pre";
    // Files from before the key was there; only Qwen's are of one kind.
    let usual = gguf.architecture.starts_with("qwen").then_some("qwen2");
    let name = gguf.metadata.text(key)?.or(usual);
    let split = name.and_then(Split::named).ok_or_else(|| {
        let name = name.map_or("not there".into(), |name| format!("'{name}'"));
        gguf.bad(format!(
            "'{key}', which says how texts are split, is {name}, and {} are known; pass token ids instead of a text",
            splits::KNOWN
        ))
    })?;
    let key = "tokenizer.ggml.merges";
    let merges = gguf.metadata.texts(key)?.ok_or_else(|| gguf.bad(format!("there is no '{key}'")))?;
    let pair = |(i, merge): (usize, &&'a str)| {
        // A token may begin with the letter of a space, but none has a space.
        merge
            .split_once(' ')
            .ok_or_else(|| gguf.bad(format!("merge {i} of '{key}' is {merge:?}, which are not two tokens")))
    };
    let merges = merges.iter().enumerate().map(pair).collect::<Result<Vec<_>>>()?;
    Ok(File {
        version: "1.0",
        added_tokens: vocabulary.added(),
        normalizer: split.normalizer,
        pre_tokenizer: split.pre_tokenizer,
        post_processor: ends(gguf, vocabulary, split.adds_bos)?,
        decoder: splits::bytes(true),
        model: Model {
            r#type: "BPE",
            unk_token: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: split.ignore_merges,
            vocab: &vocabulary.tokens,
            merges,
        },
    })
}

fn sentence_piece<'a>(gguf: &Gguf<'a>, vocabulary: &'a Vocabulary<'a>) -> Result<File<'a>> {
    let prefix = gguf.metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = |from, to| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    // Before a text and after each special token, as llama.cpp does, and not only at the beginning.
    let prepend = prefix.then(|| json!({"type": "Prepend", "prepend": "▁"}));
    let normalizers: Vec<Value> = prepend.into_iter().chain([replace(" ", "▁")]).collect();
    let strip = prefix.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    let decoders = [replace("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    let unknown = named(gguf, vocabulary, "unknown_token_id", Some(0))?;
    Ok(File {
        version: "1.0",
        added_tokens: vocabulary.added(),
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        post_processor: ends(gguf, vocabulary, true)?,
        decoder: json!({"type": "Sequence", "decoders": decoders.into_iter().chain(strip).collect::<Vec<_>>()}),
        model: Model {
            r#type: "BPE",
            unk_token: unknown.map(|(_, token)| token),
            fuse_unk: true,
            byte_fallback: true,
            ignore_merges: false,
            vocab: &vocabulary.tokens,
            merges: merges_of_scores(gguf, vocabulary)?,
        },
    })
}

/// The merges that scores stand for: every way to make a token of two others, the token of the highest score first. SentencePiece joins the
/// two neighbours whose token has the highest score.
fn merges_of_scores<'a>(gguf: &Gguf, vocabulary: &'a Vocabulary<'a>) -> Result<Vec<(&'a str, &'a str)>> {
    let (key, tokens) = ("tokenizer.ggml.scores", &vocabulary.tokens);
    let list = gguf.metadata.list(key)?.filter(|list| list.count == tokens.len());
    let scores = list.and_then(|list| list.floats());
    let scores: Vec<f64> = scores
        .ok_or_else(|| gguf.bad(format!("'{key}' should be a list of a number for each token")))?
        .collect();
    let known: HashSet<&str> = tokens.iter().copied().collect();
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| vocabulary.kind(*id) == NORMAL) {
        if token.len() > LONGEST_PIECE {
            let reason =
                format!("token {id} has {} bytes; pieces of at most {LONGEST_PIECE} are read", token.len());
            return Err(gguf.bad(reason));
        }
        let halves = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let both = halves.filter(|(left, right)| known.contains(left) && known.contains(right));
        merges.extend(both.map(|pair| (scores[id], pair)));
    }
    // Of two ways to make a token, transformers' converter takes the one with the longer left half first.
    let order = |(score, (left, _)): &(f64, (&str, &str))| (*score, left.chars().count());
    merges.sort_by(|a, b| {
        let ((score_a, left_a), (score_b, left_b)) = (order(a), order(b));
        score_b.total_cmp(&score_a).then(left_b.cmp(&left_a))
    });
    Ok(merges.into_iter().map(|(_, pair)| pair).collect())
}

/// What puts BOS before a text and EOS behind it, if the file asks for them.
fn ends(gguf: &Gguf, vocabulary: &Vocabulary, adds_bos: bool) -> Result<Value> {
    let asked = |name: &str| gguf.metadata.flag(&format!("tokenizer.ggml.{name}"));
    let mut tokens = Map::new();
    let mut piece = |key: &str, usual, wanted: bool| -> Result<Option<Value>> {
        let Some((id, token)) = named(gguf, vocabulary, key, usual)?.filter(|_| wanted) else {
            return Ok(None);
        };
        tokens.insert(token.into(), json!({"id": token, "ids": [id], "tokens": [token]}));
        Ok(Some(json!({"SpecialToken": {"id": token, "type_id": 0}})))
    };
    let before = piece("bos_token_id", usual_bos(gguf)?, asked("add_bos_token")?.unwrap_or(adds_bos))?;
    let after = piece("eos_token_id", usual_eos(gguf)?, asked("add_eos_token")?.unwrap_or(false))?;
    if before.is_none() && after.is_none() {
        return Ok(Value::Null);
    }
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let single: Vec<Value> = before.into_iter().chain([text("A")]).chain(after).collect();
    let pair = [&single[..], &[text("B")]].concat();
    Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}))
}

/// A special token by its key, `tokenizer.ggml.KEY`, and its id. `usual` is what a file that lacks the key means.
fn named<'a>(
    gguf: &Gguf<'a>,
    vocabulary: &Vocabulary<'a>,
    key: &str,
    usual: Option<usize>,
) -> Result<Option<(usize, &'a str)>> {
    let key = format!("tokenizer.ggml.{key}");
    let asked = gguf.metadata.size(&key)?;
    let Some(id) = asked.or(usual) else { return Ok(None) };
    match (vocabulary.tokens.get(id), asked) {
        (Some(token), _) => Ok(Some((id, token))),
        (None, None) => Ok(None),
        (None, Some(_)) => {
            Err(gguf.bad(format!("'{key}' is {id}, and there are {} tokens", vocabulary.tokens.len())))
        }
    }
}

fn is_sentence_piece(gguf: &Gguf) -> Result<bool> {
    Ok(gguf.metadata.text("tokenizer.ggml.model")? == Some("llama"))
}

fn usual_bos(gguf: &Gguf) -> Result<Option<usize>> {
    Ok(is_sentence_piece(gguf)?.then_some(1))
}

fn usual_eos(gguf: &Gguf) -> Result<Option<usize>> {
    Ok(is_sentence_piece(gguf)?.then_some(2))
}

/// tokenizer_config.json: the special tokens and the chat template. Its class is the one that takes the file's steps as they are.
pub fn config(gguf: &Gguf) -> Result<Vec<u8>> {
    let mut config = Map::from_iter([("tokenizer_class".into(), "PreTrainedTokenizerFast".into())]);
    if let Some(vocabulary) = Vocabulary::of(gguf)? {
        let names = [
            ("bos_token", "bos_token_id", usual_bos(gguf)?),
            ("eos_token", "eos_token_id", usual_eos(gguf)?),
            ("unk_token", "unknown_token_id", None),
            ("pad_token", "padding_token_id", None),
        ];
        for (name, key, usual) in names {
            if let Some((_, token)) = named(gguf, &vocabulary, key, usual)? {
                config.insert(name.into(), token.into());
            }
        }
    }
    if let Some(template) = chat_template(gguf)? {
        config.insert("chat_template".into(), template);
    }
    Ok(Value::from(config).to_string().into_bytes())
}

/// The template, or a list of several with their names.
fn chat_template(gguf: &Gguf) -> Result<Option<Value>> {
    let key = "tokenizer.chat_template";
    let default = gguf.metadata.text(key)?;
    let names = gguf.metadata.texts("tokenizer.chat_templates")?.unwrap_or_default();
    if names.is_empty() {
        return Ok(default.map(Value::from));
    }
    let mut templates = Vec::new();
    for (name, source) in default.into_iter().map(|source| ("default", source)) {
        templates.push(json!({"name": name, "template": source}));
    }
    for name in names {
        if let Some(source) = gguf.metadata.text(&format!("{key}.{name}"))? {
            templates.push(json!({"name": name, "template": source}));
        }
    }
    Ok(Some(templates.into()))
}

/// The ids that end an output: EOS, the ends of a turn and of a message, and control tokens whose texts are known to be such.
pub fn ends_of_text(gguf: &Gguf) -> Result<Vec<usize>> {
    let Some(vocabulary) = Vocabulary::of(gguf)? else { return Ok(Vec::new()) };
    let mut ids = Vec::new();
    let keys = [("eos_token_id", usual_eos(gguf)?), ("eot_token_id", None), ("eom_token_id", None)];
    for (key, usual) in keys {
        ids.extend(named(gguf, &vocabulary, key, usual)?.map(|(id, _)| id));
    }
    let control = vocabulary.tokens.iter().enumerate().filter(|(id, _)| vocabulary.kind(*id) == CONTROL);
    let control: HashMap<&str, usize> = control.map(|(id, token)| (*token, id)).collect();
    ids.extend(ENDS.iter().filter_map(|text| control.get(text).copied()));
    let mut seen = HashSet::new();
    ids.retain(|id| seen.insert(*id));
    Ok(ids)
}
