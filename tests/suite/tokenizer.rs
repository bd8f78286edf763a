//! Tokenizers and chat templates of real checkpoints against transformers and llama.cpp.
//!
//! `tests/fixtures/tokenizer/reference.json` is written by `scripts/dump_tokenizer_reference.py`. The checkpoints'
//! files are not in this repository: they are read from `../shared`, and a test that lacks them says so and passes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};
use stairwell::tokenizer::{
    ChatOptions, ChatTemplate, Detokenizer, Emit, StopStrings, Tokenizer, TokenizerError, TokenizerFiles,
};

/// A path in `../shared`, or `None` after saying that it is not there.
fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if !path.exists() {
        eprintln!("skipped: there is no '{}'", path.display());
        return None;
    }
    Some(path)
}

fn reference() -> Option<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer/reference.json");
    let Ok(bytes) = std::fs::read(&file) else {
        eprintln!("skipped: there is no '{}'", file.display());
        return None;
    };
    Some(serde_json::from_slice(&bytes).expect("the reference is JSON"))
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().expect("an object")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().expect("an array")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn ids(value: &Value) -> Vec<u32> {
    array(value).iter().map(|id| u32::try_from(id.as_u64().expect("an id")).expect("an id")).collect()
}

/// The tokenizer in `../shared`; each is read once for all tests.
fn tokenizer(name: &str) -> Option<Tokenizer> {
    static READ: Mutex<BTreeMap<String, Tokenizer>> = Mutex::new(BTreeMap::new());
    let dir = shared(name)?;
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let tokenizer = read
        .entry(name.into())
        .or_insert_with(|| Tokenizer::read(&dir).unwrap_or_else(|error| panic!("{name}: {error}")));
    Some(tokenizer.clone())
}

/// Calls `check` with each tokenizer that the reference has and `../shared` too.
fn each_tokenizer(check: impl Fn(&Value, &Value, &Tokenizer)) {
    let Some(reference) = reference() else { return };
    for (name, expected) in object(&reference["tokenizers"]) {
        if let Some(tokenizer) = tokenizer(name) {
            check(&reference, expected, &tokenizer);
        }
    }
}

#[test]
fn ids_equal_llama_cpps_vectors() {
    let cases = [("qwen3-1.7b", "qwen2"), ("llama-3.2-3b-instruct", "llama-bpe"), ("gpt2", "gpt-2")];
    for (checkpoint, vectors) in cases {
        let Some(tokenizer) = tokenizer(&format!("hf/{checkpoint}")) else { continue };
        let Some(inp) = shared(&format!("vectors/tokenizers/ggml-vocab-{vectors}.gguf.inp")) else {
            continue;
        };
        let out = inp.with_extension("out");
        let texts = std::fs::read_to_string(&inp).expect("the texts");
        let wanted = std::fs::read_to_string(&out).expect("the ids");
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let wanted: Vec<&str> = wanted.lines().collect();
        // The file ends in a separator, so one empty text is left over.
        assert!(
            texts.len() >= wanted.len() && wanted.len() > 40,
            "{} texts, {} lines",
            texts.len(),
            wanted.len()
        );
        for (text, wanted) in texts.iter().zip(&wanted) {
            let wanted: Vec<u32> = wanted.split_whitespace().map(|id| id.parse().expect("an id")).collect();
            assert_eq!(tokenizer.encode(text, false).expect("ids"), wanted, "{checkpoint}: {text:?}");
        }
    }
}

#[test]
fn ids_equal_transformers() {
    each_tokenizer(|reference, expected, tokenizer| {
        for (input, expected) in array(&reference["texts"]).iter().map(text).zip(array(&expected["encoded"]))
        {
            let expected: Vec<Vec<u32>> = array(expected).iter().map(ids).collect();
            let bare = expected.last().expect("ids");
            assert_eq!(tokenizer.encode(input, true).expect("ids"), expected[0], "{tokenizer:?}: {input:?}");
            assert_eq!(&tokenizer.encode(input, false).expect("ids"), bare, "{tokenizer:?}: {input:?}");
        }
    });
}

#[test]
fn special_tokens_equal_transformers() {
    each_tokenizer(|_, expected, tokenizer| {
        let token = |pair: &Value| Some((pair[0].as_str()?.to_string(), pair[1].as_u64()?));
        let ours = |pair: Option<(&str, u32)>| pair.map(|(token, id)| (token.to_string(), u64::from(id)));
        assert_eq!(ours(tokenizer.bos_token()), token(&expected["bos"]), "{tokenizer:?}");
        assert_eq!(ours(tokenizer.eos_token()), token(&expected["eos"]), "{tokenizer:?}");
        assert_eq!(tokenizer.vocab_size() as u64, expected["vocab_size"].as_u64().expect("a size"));
    });
}

#[test]
fn text_equals_transformers_whole_and_streamed() {
    each_tokenizer(|_, expected, tokenizer| {
        for row in array(&expected["decoded"]) {
            let ids = ids(&row[0]);
            for (skip, expected) in [(false, text(&row[1])), (true, text(&row[2]))] {
                assert_eq!(tokenizer.decode(&ids, skip), expected, "{tokenizer:?}: {ids:?}");
                assert_eq!(streamed(tokenizer, &ids, skip), expected, "streamed, {tokenizer:?}: {ids:?}");
            }
        }
    });
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip: bool) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer, skip);
    let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
    text.push_str(&detokenizer.finish());
    text
}

/// What a user sees: the prompt's text and the streamed answer are the whole text, cut after any token of the
/// prompt that ends a character.
#[test]
fn an_answer_continues_its_prompt() {
    each_tokenizer(|reference, _, tokenizer| {
        for input in array(&reference["texts"]).iter().map(text) {
            let ids = tokenizer.encode(input, true).expect("ids");
            for cut in 0..=ids.len() {
                let (prompt, answer) = ids.split_at(cut);
                let before = tokenizer.decode(prompt, true);
                if before.contains('\u{fffd}') {
                    continue;
                }
                let mut detokenizer = Detokenizer::after_prompt(tokenizer, prompt, true);
                let mut after: String = answer.iter().map(|&id| detokenizer.push(id)).collect();
                after.push_str(&detokenizer.finish());
                assert_eq!(
                    before + &after,
                    tokenizer.decode(&ids, true),
                    "{tokenizer:?}: {ids:?} cut at {cut}"
                );
            }
        }
    });
}

/// 64-bit FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>).
fn fnv1a(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn chat_options(reference: &Value, options: &Value) -> ChatOptions {
    let mut extra = object(options).clone();
    let tools = extra.remove("tools").map(|name| array(&reference["tools"][text(&name)]).to_vec());
    let add_generation_prompt = extra.remove("add_generation_prompt").is_some();
    extra.entry("date_string").or_insert_with(|| "26 Jul 2024".into());
    ChatOptions { tools, add_generation_prompt, extra }
}

#[test]
fn chats_equal_transformers_byte_for_byte() {
    let Some(reference) = reference() else { return };
    for (name, chats) in object(&reference["rendered"]) {
        let Some(dir) = shared(name) else { continue };
        let template =
            TokenizerFiles::read(&dir).and_then(|files| ChatTemplate::new(&files)).expect("a template");
        for (chat, rendered) in object(chats) {
            let messages = array(&reference["chats"][chat]);
            for (options, expected) in array(&reference["options"]).iter().zip(array(rendered)) {
                let ours = template.render(messages, &chat_options(&reference, options));
                let what = format!("{name}, chat {chat}, options {options}");
                match (ours, expected) {
                    (
                        Err(TokenizerError::ChatRefused { .. } | TokenizerError::ChatFailed { .. }),
                        Value::Null,
                    ) => {}
                    (Ok(ours), expected) => {
                        let theirs = expected[0] == ours.len() as u64 && expected[1] == fnv1a(&ours);
                        // Where a template expects a text, transformers fails or prints the list as Python writes it; here it gets the text.
                        let text = [json!({"role": "user", "content": "Hi"})];
                        let of_text = || template.render(&text, &chat_options(&reference, options)).unwrap();
                        let flattened = chat == "content_list" && of_text() == ours;
                        assert!(theirs || flattened, "{what}: {ours:?} where transformers gives {expected}");
                    }
                    (ours, expected) => panic!("{what}: {ours:?} where transformers gives {expected}"),
                }
            }
        }
    }
}

#[test]
fn a_chat_has_one_bos_at_most() {
    each_tokenizer(|_, _, tokenizer| {
        let (Ok(_), Some((_, bos))) = (tokenizer.chat_template(), tokenizer.bos_token()) else { return };
        let chat = [json!({"role": "user", "content": "Hi"})];
        let ids = tokenizer.encode_chat(&chat, &ChatOptions::default()).expect("ids");
        assert!(ids.iter().filter(|&&id| id == bos).count() <= 1, "{tokenizer:?}: {ids:?}");
        let prompt = tokenizer.render_chat(&chat, &ChatOptions::default()).expect("a text");
        let ids = tokenizer.encode_prompt(&prompt).expect("ids");
        assert!(ids.iter().filter(|&&id| id == bos).count() <= 1, "{tokenizer:?}: {ids:?}");
    });
}

/// A real file in which an editor turned no-break spaces into plain ones.
#[test]
fn a_damaged_file_is_explained() {
    let Some(file) = shared("hf/tinyllama-1.1b-chat/tokenizer.corrupt-nbsp.json") else { return };
    let files = TokenizerFiles {
        origin: "some/model".into(),
        tokenizer_json: Some(std::fs::read(file).expect("the file")),
        ..Default::default()
    };
    let message = Tokenizer::new(files).expect_err("it is damaged").to_string();
    for part in ["some/model/tokenizer.json", "merge 18918", "U+00A0", "download it again"] {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// Whatever one byte is changed to, there is an error or a tokenizer, never a panic.
#[test]
fn damaged_bytes_do_not_panic() {
    let Some(dir) = shared("models/story-656k-hf") else { return };
    let files = TokenizerFiles::read(&dir).expect("the files");
    let original = files.tokenizer_json.clone().expect("tokenizer.json");
    let mut state = 1_u64;
    for _ in 0..300 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut bytes = original.clone();
        // The part before the vocabulary has most of the structure: half of the changes fall there.
        let range = if state & 1 == 0 { bytes.len() } else { 3000.min(bytes.len()) };
        let at = (state >> 33) as usize % range;
        bytes[at] = (state >> 16) as u8;
        if let Ok(tokenizer) = Tokenizer::new(TokenizerFiles { tokenizer_json: Some(bytes), ..files.clone() })
        {
            let ids = tokenizer.encode("Once upon a time é", true).unwrap_or_default();
            let _ = tokenizer.decode(&ids, false);
        }
    }
}

#[test]
fn a_stop_string_across_tokens() {
    let Some(tokenizer) = tokenizer("hf/qwen3-1.7b") else { return };
    let ids = tokenizer.encode("The end.\n\nUser: 你好, and more", false).expect("ids");
    let mut detokenizer = Detokenizer::new(&tokenizer, true);
    let mut stops = StopStrings::new(&["User: 你"]);
    let mut out = String::new();
    for id in ids {
        match stops.push(&detokenizer.push(id)) {
            Emit::Text(text) => out.push_str(&text),
            Emit::Stopped { text, stop } => {
                assert_eq!((out + &text, stop.as_str()), ("The end.\n\n".into(), "User: 你"));
                return;
            }
        }
    }
    panic!("the stop string was not found in {out:?}");
}
