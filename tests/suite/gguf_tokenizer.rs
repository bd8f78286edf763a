//! Tokenizers in GGUF files: the vocabularies of ../shared as llama.cpp's converter writes them, and ids as the original tokenizers give them.

use crate::{common::shared, gguf_file::GgufFile};
use serde_json::{Value, json};
use stairwell::{
    checkpoint::Directory,
    tokenizer::{ChatOptions, Tokenizer, TokenizerFiles},
};
use std::{collections::BTreeMap, fs, path::Path};

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// A file that has nothing but a tokenizer.
fn tokenizer_of(file: &GgufFile) -> Result<Tokenizer, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, file.bytes()).unwrap();
    let directory = Directory::at(path).map_err(|e| e.to_string())?;
    TokenizerFiles::of(&directory).and_then(Tokenizer::new).map_err(|e| e.to_string())
}

/// What every file of the architecture llama needs.
fn empty() -> GgufFile {
    let mut file = GgufFile::new("llama");
    file.u32("llama.embedding_length", 8).u32("llama.attention.head_count", 1).u32("llama.block_count", 1);
    file.u32("llama.feed_forward_length", 8).u32("llama.context_length", 8);
    file.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    file.tensor("token_embd.weight", 0, &[1, 8], vec![0; 32]);
    file
}

/// The tokenizer.json of a directory as a GGUF file, and its special tokens by name.
fn converted(dir: &Path, pre: Option<&str>) -> GgufFile {
    let read = |name: &str| {
        fs::read(dir.join(name)).ok().map(|bytes| serde_json::from_slice::<Value>(&bytes).unwrap())
    };
    let json = read("tokenizer.json").unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let added = json["added_tokens"].as_array().unwrap();
    let mut tokens: Vec<(u64, &str, i32)> =
        vocab.iter().map(|(token, id)| (id.as_u64().unwrap(), token.as_str(), NORMAL)).collect();
    tokens.iter_mut().filter(|(_, token, _)| token.starts_with("<0x")).for_each(|token| token.2 = BYTE);
    for token in added {
        let id = token["id"].as_u64().unwrap();
        let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
        tokens.retain(|(known, ..)| *known != id);
        tokens.push((id, token["content"].as_str().unwrap(), kind));
    }
    tokens.sort_unstable();
    assert!(tokens.iter().enumerate().all(|(place, (id, ..))| place as u64 == *id), "ids have no gaps");
    let mut file = empty();
    file.texts("tokenizer.ggml.tokens", &tokens.iter().map(|(_, token, _)| *token).collect::<Vec<_>>());
    file.i32s("tokenizer.ggml.token_type", &tokens.iter().map(|(.., kind)| *kind).collect::<Vec<_>>());
    match pre {
        Some(pre) => {
            let merge = |merge: &Value| match merge.as_array() {
                Some(pair) => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
                None => merge.as_str().unwrap().into(),
            };
            let merges: Vec<String> = json["model"]["merges"].as_array().unwrap().iter().map(merge).collect();
            file.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", pre);
            file.texts("tokenizer.ggml.merges", &merges);
        }
        None => {
            // The merges of SentencePiece are its pieces in the order of their scores.
            let mut scores: BTreeMap<String, f32> = BTreeMap::new();
            for (rank, merge) in json["model"]["merges"].as_array().unwrap().iter().enumerate() {
                let piece = merge.as_str().unwrap().replace(' ', "");
                scores.entry(piece).or_insert(-(rank as f32));
            }
            let score = |(_, token, _): &(u64, &str, i32)| scores.get(*token).copied().unwrap_or(-1e9);
            file.text("tokenizer.ggml.model", "llama");
            file.f32s("tokenizer.ggml.scores", &tokens.iter().map(score).collect::<Vec<_>>());
        }
    }
    let config = read("tokenizer_config.json").unwrap_or_default();
    for (name, key) in [("bos_token", "bos_token_id"), ("eos_token", "eos_token_id")] {
        let text = config[name].as_str().or(config[name]["content"].as_str());
        if let Some((id, ..)) = tokens.iter().find(|(_, token, _)| Some(*token) == text) {
            file.u32(&format!("tokenizer.ggml.{key}"), *id as u32);
        }
    }
    file
}

/// llama.cpp's texts, each also with words around it, with special tokens, and doubled: a few hundred.
fn texts(inp: &Path, special: &str) -> Vec<String> {
    let texts = fs::read_to_string(inp).unwrap();
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let more = [
        "naïve café, 12345.678 and 1,000,000!",
        "fn main() {\n\tprintln!(\"{}\", x[3]);\n}\n\n\n",
        "日本語のテキスト、한국어, русский",
        "I'll we've THEY'RE it's",
        "🦙🦙 e\u{301} \u{200d}x",
    ];
    let all = texts.iter().copied().chain(more);
    all.flat_map(|text| {
        [
            text.to_owned(),
            format!("{text} and {text}"),
            format!("x{text}\n"),
            format!("{text}{special}{text}"),
            format!("{special} {text}"),
        ]
    })
    .collect()
}

fn compare(checkpoint: &str, pre: Option<&str>, special: &str) {
    let (Some(dir), Some(inp)) =
        (shared(&format!("hf/{checkpoint}")), shared("vectors/tokenizers/ggml-vocab-llama-bpe.gguf.inp"))
    else {
        return;
    };
    let ours = tokenizer_of(&converted(&dir, pre)).unwrap();
    let files = TokenizerFiles {
        from: Some(stairwell::tokenizer::StepsFrom::File),
        ..TokenizerFiles::read(&dir).unwrap()
    };
    let theirs = Tokenizer::new(files).unwrap();
    let texts = texts(&inp, special);
    assert!(texts.len() >= 200, "{} texts", texts.len());
    for text in &texts {
        let (ours_ids, ids) = (ours.encode(text, false).unwrap(), theirs.encode(text, false).unwrap());
        assert_eq!(ours_ids, ids, "{checkpoint}: {text:?}");
        assert_eq!(ours.decode(&ids, false), theirs.decode(&ids, false), "{checkpoint}: {text:?}");
        assert_eq!(ours.decode(&ids, true), theirs.decode(&ids, true), "{checkpoint}: {text:?}");
    }
    assert_eq!(ours.eos_token(), theirs.eos_token(), "{checkpoint}");
}

#[test]
fn byte_level_ids_equal_the_original_tokenizers() {
    compare("llama-3.2-3b-instruct", Some("llama-bpe"), "<|eot_id|>");
    compare("qwen3-1.7b", Some("qwen2"), "<|im_end|>");
    compare("gpt2", Some("gpt-2"), "<|endoftext|>");
}

#[test]
fn sentence_piece_ids_equal_the_original_tokenizers() {
    compare("tinyllama-1.1b-chat", None, "</s>");
}

/// Ids as llama.cpp gives them.
#[test]
fn ids_equal_llama_cpps_vectors() {
    for (checkpoint, pre) in
        [("llama-3.2-3b-instruct", "llama-bpe"), ("qwen3-1.7b", "qwen2"), ("gpt2", "gpt-2")]
    {
        let (Some(dir), Some(inp)) = (
            shared(&format!("hf/{checkpoint}")),
            shared(&format!("vectors/tokenizers/ggml-vocab-{pre}.gguf.inp")),
        ) else {
            return;
        };
        let tokenizer = tokenizer_of(&converted(&dir, Some(pre))).unwrap();
        let (texts, wanted) =
            (fs::read_to_string(&inp).unwrap(), fs::read_to_string(inp.with_extension("out")).unwrap());
        for (text, wanted) in texts.split("\n__ggml_vocab_test__\n").zip(wanted.lines()) {
            let wanted: Vec<u32> = wanted.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text, false).unwrap(), wanted, "{checkpoint}: {text:?}");
        }
    }
}

/// Five tokens of bytes, and two special ones.
fn small() -> GgufFile {
    let mut file = empty();
    file.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "gpt-2");
    file.texts("tokenizer.ggml.tokens", &["a", "b", "ab", "Ġ", "Ġa", "<s>", "<|im_end|>", "<tool>"]);
    file.i32s("tokenizer.ggml.token_type", &[1, 1, 1, 1, 1, 3, 3, 4]);
    file.texts("tokenizer.ggml.merges", &["a b", "Ġ a"]);
    file.u32("tokenizer.ggml.bos_token_id", 5).u32("tokenizer.ggml.eos_token_id", 6);
    file
}

#[test]
fn tokens_around_a_text_are_those_that_the_file_asks_for() {
    let ids = |bos: Option<bool>, eos: Option<bool>| {
        let mut file = small();
        bos.into_iter().for_each(|flag| {
            file.flag("tokenizer.ggml.add_bos_token", flag);
        });
        eos.into_iter().for_each(|flag| {
            file.flag("tokenizer.ggml.add_eos_token", flag);
        });
        tokenizer_of(&file).unwrap().encode("ab a", true).unwrap()
    };
    assert_eq!(ids(None, None), [2, 4]);
    assert_eq!(ids(Some(true), Some(false)), [5, 2, 4]);
    assert_eq!(ids(Some(false), Some(true)), [2, 4, 6]);
    assert_eq!(ids(Some(true), Some(true)), [5, 2, 4, 6]);
}

#[test]
fn special_tokens_and_chats() {
    let mut file = small();
    file.text(
        "tokenizer.chat_template",
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
    );
    let tokenizer = tokenizer_of(&file).unwrap();
    assert_eq!((tokenizer.bos_token(), tokenizer.eos_token()), (Some(("<s>", 5)), Some(("<|im_end|>", 6))));
    assert!(tokenizer.is_special(5) && !tokenizer.is_special(7), "an added token need not be special");
    let chat = [json!({"role": "user", "content": "ab<tool>"})];
    assert_eq!(tokenizer.encode_chat(&chat, &ChatOptions::default()).unwrap(), [5, 2, 7, 6]);
    assert_eq!(tokenizer.decode(&[5, 2, 4, 7, 6], true), "ab a<tool>");
    // A template with a name is chosen as in tokenizer_config.json.
    file.texts("tokenizer.chat_templates", &["tool_use"]).text("tokenizer.chat_template.tool_use", "tools!");
    let options = ChatOptions { tools: Some(vec![json!({"name": "f"})]), ..ChatOptions::default() };
    assert_eq!(tokenizer_of(&file).unwrap().render_chat(&chat, &options).unwrap(), "tools!");
}

#[test]
fn spaces_before_sentence_pieces_are_as_the_file_says() {
    let pieces = |prefix: Option<bool>| {
        let mut file = empty();
        let tokens = ["<unk>", "<s>", "</s>", "▁", "a", "▁a", "<0x0A>", "b"];
        file.text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", &tokens);
        file.i32s("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1, 1, 6, 1]);
        file.f32s("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, -2.0, -3.0, -1.0, 0.0, -4.0]);
        prefix.into_iter().for_each(|flag| {
            file.flag("tokenizer.ggml.add_space_prefix", flag);
        });
        tokenizer_of(&file).unwrap().encode("a\na</s>b", true).unwrap()
    };
    assert_eq!(pieces(None), [1, 5, 6, 4, 2, 3, 7]);
    assert_eq!(pieces(Some(false)), [1, 4, 6, 4, 2, 7]);
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    type Damage = fn(&mut GgufFile);
    let cases: [(Damage, &str); 8] = [
        (
            |f| {
                f.text("tokenizer.ggml.model", "t5");
            },
            "'t5'",
        ),
        (
            |f| {
                f.text("tokenizer.ggml.pre", "deepseek-v3");
            },
            "'deepseek-v3'",
        ),
        (|f| f.pairs.retain(|(key, _)| key != "tokenizer.ggml.pre"), "is not there"),
        (|f| f.pairs.retain(|(key, _)| key != "tokenizer.ggml.merges"), "tokenizer.ggml.merges"),
        (
            |f| {
                f.texts("tokenizer.ggml.merges", &["ab"]);
            },
            "merge 0",
        ),
        (
            |f| {
                f.i32s("tokenizer.ggml.token_type", &[1]);
            },
            "1 values for 8 tokens",
        ),
        (
            |f| {
                f.u32("tokenizer.ggml.eos_token_id", 8);
            },
            "there are 8 tokens",
        ),
        (
            |f| {
                f.text("tokenizer.ggml.model", "llama");
            },
            "tokenizer.ggml.scores",
        ),
    ];
    for (damage, want) in cases {
        let mut file = small();
        damage(&mut file);
        let said = tokenizer_of(&file).expect_err(want);
        assert!(said.contains("m.gguf") && said.contains(want), "{want}: {said}");
    }
}
