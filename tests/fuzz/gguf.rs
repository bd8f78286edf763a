//! GGUF files: their headers, and the configuration and tokenizer that they stand for.

use crate::gguf_file::GgufFile;
use crate::rig::{Budget, MEMORY_FACTOR, alone, fuzz, mutated, peak_of};
use proptest::{collection::vec, prelude::*, sample::select};
use stairwell::{
    checkpoint::Gguf,
    config::ModelConfig,
    model::rope::Frequencies,
    tokenizer::{Tokenizer, TokenizerFiles},
};
use std::path::Path;

/// What a header may take, besides twice the file.
const BASE: usize = 1 << 20;
const HEADER: Budget = Budget { cases: 34_000, base: BASE, factor: 2 };
const FILES: Budget = Budget { cases: 200, base: 2 << 20, factor: MEMORY_FACTOR };

/// A small model with a tokenizer, all of it valid.
fn small(architecture: &str) -> GgufFile {
    let mut file = GgufFile::new(architecture);
    let key = |name: &str| format!("{architecture}.{name}");
    for (name, size) in [
        ("embedding_length", 8),
        ("block_count", 1),
        ("feed_forward_length", 8),
        ("context_length", 64),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        file.u32(&key(name), size);
    }
    file.f32(&key("attention.layer_norm_rms_epsilon"), 1e-5);
    file.f32(&key("rope.freq_base"), 1e4)
        .text(&key("rope.scaling.type"), "yarn")
        .f32(&key("rope.scaling.factor"), 2.0);
    file.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "qwen2");
    file.texts("tokenizer.ggml.tokens", &["a", "b", "ab", "Ġ", "<s>", "é"])
        .i32s("tokenizer.ggml.token_type", &[1, 1, 1, 1, 3, 4]);
    file.texts("tokenizer.ggml.merges", &["a b"])
        .f32s("tokenizer.ggml.scores", &[-1.0, -2.0, -3.0, -4.0, 0.0, 0.0]);
    file.u32("tokenizer.ggml.bos_token_id", 4)
        .u32("tokenizer.ggml.eos_token_id", 4)
        .flag("tokenizer.ggml.add_bos_token", true);
    file.text("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}");
    file.tensor("token_embd.weight", 0, &[6, 8], vec![1; 192]).tensor(
        "blk.0.attn_q.weight",
        1,
        &[8, 8],
        vec![2; 128],
    );
    file.tensor("blk.0.attn_k.bias", 30, &[4], vec![3; 8]).tensor(
        "blk.0.ffn_down.weight",
        8,
        &[2, 32],
        vec![4; 68],
    );
    file.tensor("rope_freqs.weight", 0, &[2], [1f32, 2.0].iter().flat_map(|f| f.to_le_bytes()).collect());
    file
}

/// Takes a header apart, in the memory that it may have.
fn header_is_taken(bytes: &[u8]) -> bool {
    let mut taken = false;
    let peak = peak_of(|| {
        taken = Gguf::parse(bytes, Path::new("x")).is_ok_and(|gguf| every_tensor_is_inside(&gguf, bytes))
    });
    assert!(peak <= BASE + 2 * bytes.len(), "{peak} bytes for a header in a file of {}", bytes.len());
    taken
}

fn every_tensor_is_inside(gguf: &Gguf, bytes: &[u8]) -> bool {
    let mut ends: Vec<_> =
        gguf.header().tensors.values().map(|info| (info.range.start, info.range.end)).collect();
    for info in gguf.header().tensors.values() {
        assert!(info.range.end <= bytes.len() && info.range.start < info.range.end);
        let elements: usize = info.shape.iter().product();
        assert_eq!(info.dtype.bytes_of(elements), Some(info.range.len()));
    }
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "two tensors overlap");
    true
}

/// Reads the small files that a GGUF file stands for, and uses them.
fn files_are_taken(bytes: &[u8]) -> bool {
    let Ok(gguf) = Gguf::parse(bytes, Path::new("x")) else { return false };
    let config = gguf.file("config.json").ok().flatten();
    if let Some(Ok(config)) = config.map(|json| ModelConfig::parse(&json, Path::new("x")))
        && config.head_dim <= 512
    {
        Frequencies::new(&config, 1000);
    }
    let read = |name: &str| gguf.file(name).ok().flatten();
    let files = TokenizerFiles {
        tokenizer_json: read("tokenizer.json"),
        tokenizer_config: read("tokenizer_config.json"),
        ..TokenizerFiles::default()
    };
    let Ok(tokenizer) = Tokenizer::new(files) else { return false };
    tokenizer.encode_prompt("ab <s>é").is_ok_and(|ids| tokenizer.decode(&ids, true).len() < 1000)
}

/// A valid file in which pairs have other values and tensors other extents, types and sizes.
fn changed() -> impl Strategy<Value = Vec<u8>> {
    let numbers =
        [0u64, 1, 2, 3, 8, 31, 32, 33, 255, 1 << 16, 1 << 31, 1 << 32, 1 << 63, u64::MAX - 31, u64::MAX];
    let pair = (any::<u32>(), 0u32..14, select(numbers.to_vec()), vec(any::<u8>(), 0..40));
    let tensor = (any::<u32>(), 0u32..42, vec(select(numbers.to_vec()), 0..6), 0usize..300);
    let alignment = prop_oneof![4 => Just(32usize), 1 => select(vec![1, 8, 64, 4096])];
    let architecture = select(vec!["llama", "qwen2", "qwen3"]);
    (architecture, vec(pair, 0..4), vec(tensor, 0..3), alignment).prop_map(
        |(architecture, pairs, tensors, alignment)| {
            let mut file = small(architecture);
            for (at, kind, number, tail) in pairs {
                let at = at as usize % file.pairs.len();
                let (key, _) = file.pairs[at].clone();
                file.set(&key, kind, &[&number.to_le_bytes()[..], &tail].concat());
            }
            for (at, kind, extents, length) in tensors {
                let at = at as usize % file.tensors.len();
                let tensor = &mut file.tensors[at];
                (tensor.kind, tensor.extents) = (kind, extents);
                tensor.bytes.resize(length, 7);
            }
            file.alignment = alignment;
            if alignment != 32 {
                file.u32("general.alignment", alignment as u32);
            }
            file.bytes()
        },
    )
}

fn valid() -> Vec<Vec<u8>> {
    let mut pieces = small("llama");
    pieces.text("tokenizer.ggml.model", "llama");
    vec![small("llama").bytes(), small("qwen2").bytes(), pieces.bytes()]
}

#[test]
fn header() {
    fuzz("gguf", HEADER, header_is_taken, valid(), prop_oneof![changed(), mutated(valid())]);
}

#[test]
fn files() {
    fuzz("gguf_files", FILES, files_are_taken, valid(), prop_oneof![changed(), mutated(valid())]);
}

/// The worst that a file can do: many short keys, and many small tensors.
#[test]
fn memory_of_a_header_is_twice_the_file_and_a_megabyte() {
    let _alone = alone();
    let mut keys = small("llama");
    for i in 0..60_000 {
        keys.pairs.push((format!("{i:x}"), [&0u32.to_le_bytes()[..], &[1]].concat()));
    }
    assert!(header_is_taken(&keys.bytes()));
    for (count, taken) in [(1_900, true), (40_000, false)] {
        let mut tensors = small("qwen2");
        for i in 0..count {
            tensors.tensor(&format!("{i:x}"), 24, &[1], vec![0]);
        }
        tensors.alignment = 1;
        assert_eq!(
            header_is_taken(&tensors.u32("general.alignment", 1).clone().bytes()),
            taken,
            "{count} tensors"
        );
    }
    // Tensors with enough bytes to be believed.
    let mut large = small("qwen3");
    for i in 0..10_000 {
        large.tensor(&format!("blk.{i}.attn_output.weight"), 24, &[300], vec![0; 300]);
    }
    assert!(header_is_taken(&large.bytes()));
    // Counts and lengths that the file does not have are not believed.
    let bytes = small("llama").bytes();
    for at in [8, 16, 24] {
        let mut lie = bytes.clone();
        lie[at..at + 8].copy_from_slice(&(u64::MAX >> 1).to_le_bytes());
        assert!(peak_of(|| drop(Gguf::parse(&lie, Path::new("x")))) < 10_000);
    }
}
