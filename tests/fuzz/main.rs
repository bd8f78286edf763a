//! Parsers of files and requests that come from anywhere: whatever the bytes, no panic, no more memory than the file justifies, and no
//! more than 2 seconds.
//!
//! Without more words 61,200 inputs, the same in every run: 4,000 of each of three kinds for five parsers, and 200 of each for a
//! tokenizer's two files and a chat template; with feature `quantized` 36,000 more of PyTorch's files, 102,000 of GGUF's headers, and 600 of
//! what is in them. The kinds: random bytes; valid files with a few bytes changed, cut, doubled or replaced by numbers that are hard to
//! hold; and inputs with the structure and the words that the parser knows, and values that it does not expect.
//! Memory is counted by this binary's own allocator.
//!
//! ```console
//! $ FUZZ_SECONDS=60 cargo test --test fuzz -- --nocapture     # other inputs in every run, for a minute in all
//! $ FUZZ_CASES=1000000 cargo test --test fuzz -- --nocapture  # a million in all
//! ```
//!
//! An input that fails is shrunk and kept in tests/fuzz/seeds; the inputs there are tried first, in every run.

#[path = "../suite/common.rs"]
mod common;
#[cfg(feature = "quantized")]
mod gguf;
#[cfg(feature = "quantized")]
#[path = "../suite/gguf_file.rs"]
mod gguf_file;
mod rig;
#[cfg(feature = "serve")]
mod server;
mod template;
#[cfg(feature = "quantized")]
mod torch;

use common::fixture;
use proptest::{collection::vec, prelude::*, sample::select};
use rig::{Budget, MEMORY_FACTOR, alone, any_json, fuzz, mutated, peak_of, replaced};
use serde_json::{Value, json};
use stairwell::{
    checkpoint::{Header, Index},
    config::{
        ModelConfig,
        generation::{GenerationConfig, Knobs, SamplingDefaults},
    },
    demo,
    model::{module_tree, rope::Frequencies},
    request::{Checkpoint, Fields},
    tokenizer::{ChatOptions, Tokenizer, TokenizerFiles},
};
use std::{fs, path::Path};

/// 256 kB hold error messages and up to 4,096 layers of config.json.
const PARSER: Budget = Budget { cases: 4_000, base: 256 << 10, factor: MEMORY_FACTOR };
/// 2 MB hold what a tokenizer keeps of texts that it has split, and error messages.
const REQUEST: Budget = Budget { cases: 4_000, base: 2 << 20, factor: MEMORY_FACTOR };
/// 2 MB hold a tokenizer's regular expressions and a chat template's engine. Making them takes a while, hence fewer cases.
const TOKENIZER: Budget = Budget { cases: 200, base: 2 << 20, factor: MEMORY_FACTOR };

/// A file of every fixture that has it.
fn files(name: &str) -> Vec<Vec<u8>> {
    common::fixtures().iter().filter_map(|f| fs::read(fixture(f).join(name)).ok()).collect()
}

#[test]
fn header() {
    let parse = |bytes: &[u8]| {
        let Ok(header) = Header::parse(bytes, Path::new("x")) else { return false };
        for info in header.tensors.values() {
            assert!(info.range.end <= bytes.len() && info.range.start <= info.range.end);
            let elements: usize = info.shape.iter().product();
            assert_eq!(info.dtype.bytes_of(elements), Some(info.range.len()));
        }
        true
    };
    let small = json!({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}});
    let valid = vec![with_length(&small.to_string(), 32), with_length("{}", 0)];
    // Changes to the text alone, under a length that is right.
    let text = mutated(vec![small.to_string().into_bytes()]);
    let text = text.prop_map(|text| [&(text.len() as u64).to_le_bytes()[..], &text, &[7; 32]].concat());
    fuzz("header", PARSER, parse, valid, prop_oneof![header_of_entries(), text]);
}

/// A file of up to four tensors, one behind the other; now and then a shape, a dtype or offsets are something else.
fn header_of_entries() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: &[&str] =
        &["a", "b", "dtype", "shape", "data_offsets", "__metadata__", "F32", "BF16", "F4", "U8"];
    let other = || prop_oneof![6 => Just(None), 1 => any_json(WORDS).prop_map(Some)];
    let entry = (vec(0usize..5, 0..3), other(), other(), other());
    vec(entry, 0..5).prop_map(|entries| {
        let (mut text, mut end) = (Vec::new(), 0);
        for (i, (shape, dtype, other_shape, offsets)) in entries.into_iter().enumerate() {
            let start = end;
            end += 2 * shape.iter().product::<usize>();
            let shape = other_shape.unwrap_or(format!("{shape:?}"));
            let dtype = dtype.unwrap_or("\"BF16\"".into());
            let offsets = offsets.unwrap_or(format!("[{start},{end}]"));
            text.push(format!(r#""t{i}":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}"#));
        }
        with_length(&format!("{{{}}}", text.join(",")), end)
    })
}

/// A safetensors file of this header and as many data bytes.
fn with_length(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![7; data]].concat()
}

#[test]
fn index() {
    let parse = |bytes: &[u8]| {
        let Ok(index) = Index::parse(bytes, Path::new("x")) else { return false };
        assert!(
            !index.shards().is_empty()
                && index.shards().iter().all(|s| Path::new(s).file_name().unwrap() == *s)
        );
        true
    };
    const WORDS: &[&str] =
        &["weight_map", "metadata", "a.weight", "m.safetensors", "../x", "/etc/passwd", "a\\b", "..", ""];
    let base = json!({"metadata": {"total_size": 3}, "weight_map": {"a.weight": "m.safetensors"}});
    fuzz("index", PARSER, parse, files("model.safetensors.index.json"), replaced(base, WORDS));
}

#[test]
fn config() {
    let parse = |bytes: &[u8]| {
        let Ok(config) = ModelConfig::parse(bytes, Path::new("x")) else { return false };
        assert_eq!(config.num_attention_heads % config.num_key_value_heads, 0);
        assert_eq!(config.sliding_windows.len(), config.num_hidden_layers);
        let _ = config.context();
        if config.head_dim <= 512 {
            module_tree(&config);
            Frequencies::new(&config, 1000);
        }
        true
    };
    const WORDS: &[&str] = &[
        "architectures",
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "head_dim",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "rope_theta",
        "rope_scaling",
        "rope_type",
        "rope_parameters",
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
        "yarn",
        "llama3",
        "dynamic",
        "sliding_window",
        "use_sliding_window",
        "layer_types",
        "full_attention",
        "eos_token_id",
        "n_layer",
        "n_head",
        "n_embd",
        "n_inner",
        "dtype",
        "rms_norm_eps",
        "hidden_act",
        "silu",
        "GPT2LMHeadModel",
        "LlamaForCausalLM",
        "Qwen3ForCausalLM",
        "gpt2",
        "quantization_config",
        "tie_word_embeddings",
        "pad_token_id",
        "attn_pdrop",
        "type",
    ];
    let bases = ["qwen3", "gpt2", "mistral-bf16", "rope-yarn-bf16", "qwen2-layer-types-bf16"];
    let base =
        |name: &str| serde_json::from_slice(&fs::read(fixture(name).join("config.json")).unwrap()).unwrap();
    let structured = select(bases.map(base).to_vec()).prop_flat_map(|base| replaced(base, WORDS));
    fuzz("config", PARSER, parse, files("config.json"), structured);
}

#[test]
fn generation_config() {
    let parse = |bytes: &[u8]| {
        let Ok(config) = GenerationConfig::parse(bytes, Path::new("x")) else { return false };
        if let Ok(defaults) = SamplingDefaults::resolve(&Knobs::default(), Some(&config)) {
            assert!(defaults.params().check_ranges().is_ok());
        }
        true
    };
    const WORDS: &[&str] = &[
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "max_new_tokens",
        "do_sample",
        "eos_token_id",
        "bos_token_id",
        "pad_token_id",
    ];
    let base =
        json!({"temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [9, 7], "do_sample": true});
    fuzz("generation_config", PARSER, parse, files("generation_config.json"), replaced(base, WORDS));
}

/// A tokenizer of four tokens.
fn small_tokenizer() -> Value {
    json!({"version": "1.0", "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true}, "post_processor": null, "truncation": null, "padding": null,
        "added_tokens": [{"id": 3, "content": "<s>", "special": true, "normalized": false, "single_word": false,
            "lstrip": false, "rstrip": false}],
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}})
}

/// Builds a tokenizer and uses it: text, ids and a chat.
fn use_tokenizer(json: Vec<u8>, config: Vec<u8>) -> bool {
    let files = TokenizerFiles {
        tokenizer_json: Some(json),
        tokenizer_config: Some(config),
        ..TokenizerFiles::default()
    };
    let Ok(tokenizer) = Tokenizer::new(files) else { return false };
    if let Ok(ids) = tokenizer.encode_prompt("ab <s>é") {
        tokenizer.decode(&ids, true);
        ids.iter().for_each(|id| drop(tokenizer.piece(*id)));
    }
    let _ = tokenizer.render_chat(&[json!({"role": "user", "content": "a"})], &ChatOptions::default());
    true
}

const TOKENIZER_WORDS: &[&str] = &[
    "bos_token",
    "eos_token",
    "chat_template",
    "tokenizer_class",
    "added_tokens_decoder",
    "content",
    "special",
    "<s>",
    "add_bos_token",
    "LlamaTokenizer",
    "PreTrainedTokenizerFast",
    "GPT2Tokenizer",
    "{{ messages[0].content }}",
    "{% for %}",
    "model",
    "vocab",
    "merges",
    "type",
    "BPE",
    "ab",
    "added_tokens",
    "id",
    "normalizer",
    "pre_tokenizer",
    "decoder",
    "post_processor",
    "ByteLevel",
    "Sequence",
    "Split",
    "pattern",
    "Regex",
    "(a",
    "name",
    "3",
];

#[test]
fn tokenizer_config() {
    let json = small_tokenizer().to_string().into_bytes();
    let parse = |bytes: &[u8]| use_tokenizer(json.clone(), bytes.to_vec());
    let base = json!({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": {"content": "<s>"},
        "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}", "add_bos_token": true,
        "added_tokens_decoder": {"3": {"content": "<s>", "special": true}}});
    let valid = vec![base.to_string().into_bytes(), demo::tokenizer_files().tokenizer_config.unwrap()];
    fuzz("tokenizer_config", TOKENIZER, parse, valid, replaced(base, TOKENIZER_WORDS));
}

#[test]
fn tokenizer_json() {
    let parse = |bytes: &[u8]| use_tokenizer(bytes.to_vec(), b"{}".to_vec());
    fuzz(
        "tokenizer_json",
        TOKENIZER,
        parse,
        vec![small_tokenizer().to_string().into_bytes()],
        replaced(small_tokenizer(), TOKENIZER_WORDS),
    );
}

/// The lines of a file of requests, for a model that is there.
#[test]
fn jsonl() {
    let checkpoint = Checkpoint::open(demo::directory()).unwrap();
    checkpoint.tokenizer().unwrap(); // read once, and not for the first line
    let line = |line: &[u8]| {
        let fields: Result<Fields, _> = serde_json::from_slice(line);
        fields.is_ok_and(|fields| checkpoint.resolve(fields).is_ok())
    };
    let parse =
        |bytes: &[u8]| bytes.split(|byte| *byte == b'\n').map(line).fold(false, |any, good| any | good);
    let base = json!({"id": "a", "prompt": "Once upon", "max_tokens": 5, "temperature": 0.5, "stop": ["x"], "seed": 3});
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "n": 2, "logit_bias": {"5": 1.5}, "logprobs": true});
    let ids =
        json!({"prompt_ids": [5, 6, 7], "top_k": -1, "ignore_eos": true, "cache_salt": "s", "stop": "x"});
    let lines = [&base, &chat, &ids].map(|line| line.to_string().into_bytes());
    let valid = [lines.to_vec(), vec![lines.join(&b'\n')]].concat();
    let structured = select(vec![base, chat, ids]).prop_flat_map(|base| replaced(base, REQUEST_WORDS));
    fuzz("jsonl", REQUEST, parse, valid, structured);
}

const REQUEST_WORDS: &[&str] = &[
    "id",
    "prompt",
    "messages",
    "prompt_ids",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "logprobs",
    "top_logprobs",
    "stop",
    "ignore_eos",
    "cache_salt",
    "role",
    "content",
    "user",
    "custom_id",
    "body",
    "tools",
    "chat_template_kwargs",
    "echo",
    "text",
    "type",
    "é",
    "",
];

/// The worst that JSON can do: long lists of short numbers, and names of one letter.
#[test]
fn memory_grows_with_the_file_and_not_faster() {
    let _alone = alone();
    let numbers =
        format!(r#"{{"a":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(200_000));
    let names: String = (0..40_000).map(|i| format!(r#""{i:x}":{{}},"#)).collect();
    for header in [numbers, format!("{{{names}\"z\":0}}")] {
        let file = with_length(&header, 4);
        let peak = peak_of(|| drop(Header::parse(&file, Path::new("x"))));
        assert!(peak <= PARSER.base + MEMORY_FACTOR * file.len(), "{} bytes for each", peak / file.len());
        assert!(peak > file.len(), "the counter counts");
    }
    // A length that the file does not have is not believed.
    let lie = [&99_999_999u64.to_le_bytes()[..], b"{}"].concat();
    assert!(peak_of(|| drop(Header::parse(&lie, Path::new("x")))) < 10_000);
}
