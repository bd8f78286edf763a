//! Mistral's own layout: params.json, its names, and the rows of wq and wk in RoPE's order.

use super::common::*;
use serde_json::json;
use stairwell::checkpoint::{Directory, LoadFormat, StateDict, write_safetensors};
use stairwell::tensor::HostTensor;
use std::{collections::BTreeMap, fs};

const FIXTURE: &str = "mistral-bf16";
const SINGLE: &str = "consolidated.safetensors";
const HEAD_DIM: usize = 16;

/// Mistral's name of a tensor.
fn mistrals(name: &str) -> String {
    [
        ("model.embed_tokens", "tok_embeddings"),
        ("model.norm", "norm"),
        ("lm_head", "output"),
        ("model.layers", "layers"),
        ("self_attn", "attention"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp", "feed_forward"),
        ("q_proj", "wq"),
        ("k_proj", "wk"),
        ("v_proj", "wv"),
        ("o_proj", "wo"),
        ("gate_proj", "w1"),
        ("down_proj", "w2"),
        ("up_proj", "w3"),
    ]
    .iter()
    .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// The rows of a head with the two of each RoPE pair side by side.
fn side_by_side(tensor: &HostTensor) -> HostTensor {
    let row = tensor.data.len() / tensor.shape[0];
    let source = |i: usize| i / HEAD_DIM * HEAD_DIM + i % 2 * (HEAD_DIM / 2) + i % HEAD_DIM / 2;
    let rows = (0..tensor.shape[0]).flat_map(|i| tensor.data[source(i) * row..][..row].to_vec());
    HostTensor::from_bytes(tensor.dtype, &tensor.shape, rows.collect())
}

/// The fixture's tensors as Mistral has them.
fn tensors() -> BTreeMap<String, HostTensor> {
    let tensor = |(name, tensor): (String, HostTensor)| {
        let rotated = name.contains("q_proj") || name.contains("k_proj");
        (mistrals(&name), if rotated { side_by_side(&tensor) } else { tensor })
    };
    Checkpoint::copy(FIXTURE).tensors().into_iter().map(tensor).collect()
}

/// The fixture in Mistral's layout.
fn consolidated() -> Checkpoint {
    let checkpoint = Checkpoint::copy(FIXTURE);
    checkpoint.remove("config.json");
    checkpoint.remove("model.safetensors");
    let tensors: Vec<_> = tensors().into_iter().collect();
    write_safetensors(&checkpoint.file(SINGLE), &tensors).unwrap();
    let params = json!({"dim": 40, "n_layers": 2, "head_dim": HEAD_DIM, "hidden_dim": 48, "n_heads": 4, "n_kv_heads": 1,
        "norm_eps": 1e-5, "vocab_size": 167, "rope_theta": 10000.0, "max_seq_len": 128, "sliding_window": 7});
    checkpoint.write("params.json", params.to_string());
    checkpoint
}

fn agrees(checkpoint: &Checkpoint, more: &[&str]) {
    let reference = Reference::of(FIXTURE);
    assert_eq!(accepted(checkpoint.path(), &reference.prompt, more), reference.greedy[..4], "{more:?}");
}

#[test]
fn params_and_consolidated_weights_are_a_checkpoint() {
    let checkpoint = consolidated();
    agrees(&checkpoint, &[]);
    agrees(&checkpoint, &["--load-format", "mistral"]);
    let original = Checkpoint::copy(FIXTURE).tensors();
    let opened = StateDict::open(&Directory::Disk(checkpoint.path().into())).unwrap();
    assert_eq!(opened.tensors().collect::<BTreeMap<_, _>>(), original);
    let copied: Vec<&str> = opened.names().filter(|name| opened.is_copied(name)).collect();
    assert_eq!(copied.len(), 4, "q_proj and k_proj of two layers: {copied:?}");
    // Nothing of other layers is copied.
    let first = |name: &str| name.contains("layers.0.");
    let directory = Directory::Disk(checkpoint.path().into());
    let part = StateDict::open_some(&directory, LoadFormat::Mistral, first).unwrap();
    assert_eq!(
        part.shards()
            .iter()
            .filter(|shard| shard.copied)
            .map(|shard| shard.header.tensors.len())
            .sum::<usize>(),
        2
    );
    let traced = run(&["load", "--trace", "--model", checkpoint.name()]).good();
    assert!(
        traced.contains("params.json: the model's shapes")
            && traced.contains("consolidated.safetensors, copied"),
        "{traced}"
    );
    run(&["inspect", "--model", checkpoint.name()]).good();
}

#[test]
fn shards_have_mistrals_names_in_their_index() {
    let checkpoint = consolidated();
    checkpoint.remove(SINGLE);
    let mut parts = [Vec::new(), Vec::new()];
    let mut map = BTreeMap::new();
    for (i, (name, tensor)) in tensors().into_iter().enumerate() {
        map.insert(name.clone(), format!("consolidated-0000{}-of-00002.safetensors", i % 2 + 1));
        parts[i % 2].push((name, tensor));
    }
    for (i, part) in parts.iter().enumerate() {
        write_safetensors(
            &checkpoint.file(&format!("consolidated-0000{}-of-00002.safetensors", i + 1)),
            part,
        )
        .unwrap();
    }
    checkpoint.write("consolidated.safetensors.index.json", json!({"weight_map": map}).to_string());
    agrees(&checkpoint, &[]);
    // Below step 7 there are no ranks to run it on.
    if run(&["generate", "--help"]).good().contains("--tp") {
        agrees(&checkpoint, &["--tp", "2"]);
        agrees(&checkpoint, &["--pp", "2"]);
    }
}

#[test]
fn beside_hugging_faces_files_they_are_duplicates() {
    let checkpoint = Checkpoint::copy(FIXTURE);
    checkpoint.write(SINGLE, "no safetensors file");
    checkpoint.write("params.json", "{}");
    agrees(&checkpoint, &[]);
    let args = ["generate", "--model", checkpoint.name(), "--prompt-ids", "5", "--load-format", "mistral"];
    run(&args).refused(&["params.json", "'dim'"]);
    // config.json goes with Mistral's weights too.
    let checkpoint = consolidated();
    fs::copy(fixture(FIXTURE).join("config.json"), checkpoint.file("config.json")).unwrap();
    agrees(&checkpoint, &[]);
}

#[test]
fn text_needs_a_tokenizer_json() {
    let checkpoint = consolidated();
    checkpoint.write("tekken.json", "{}");
    let args = ["generate", "--model", checkpoint.name(), "--prompt", "a"];
    run(&args).refused(&["tekken.json", "tokenizer.json", "token ids"]);
    agrees(&checkpoint, &[]);
}

#[test]
fn an_unknown_name_is_unexpected() {
    let checkpoint = consolidated();
    let mut tensors: Vec<_> = tensors().into_iter().collect();
    tensors.push(("layers.0.attention.lora_a".into(), HostTensor::from_f32(&[1], &[0.0])));
    write_safetensors(&checkpoint.file(SINGLE), &tensors).unwrap();
    let args = ["generate", "--model", checkpoint.name(), "--prompt-ids", "5"];
    run(&args).refused(&["1 unexpected", "self_attn.lora_a"]);
}

/// References of the layout as mistral-inference has it.
#[test]
fn mistrals_own_files_give_the_reference_ids() {
    let Some(goldens) = shared("goldens") else { return };
    for golden in ["mistral-consolidated", "mistral-consolidated-beside-hf"] {
        let dir = goldens.join(golden);
        let expected: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.join("ref/expected.json")).unwrap()).unwrap();
        let ids = |key: &str| -> Vec<u32> {
            expected[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let got = accepted(&dir, &ids("prompt_ids"), &["--dtype", "f32", "--ignore-eos"]);
        assert_eq!(got, ids("greedy_ids")[..4], "{golden}");
    }
}
