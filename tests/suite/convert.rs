//! `stairwell convert`: what it writes is read again, by this program and tensor by tensor.

use crate::common::{
    Checkpoint, accepted, changed, distance, fixture, load, logits, read_tensors, run, shared,
};
use crate::torch_files::whole;
use crate::torch_writer::{dict, int, torch_zip};
use serde_json::Value;
use stairwell::checkpoint::{Directory, StateDict};
use stairwell::convert::check::Logits;
use stairwell::convert::{Format, Partial, Source, Target};
use stairwell::runner::{LoadOptions, ModelRunner};
use stairwell::tensor::{DType, HostTensor};
use std::{collections::BTreeMap, fs, path::Path};

const PROMPT: [u32; 6] = [1, 7, 20, 33, 54, 12];

/// Converts; returns what it said.
fn convert(model: &Path, out: &Path, flags: &[&str]) -> String {
    let paths = ["--model", model.to_str().unwrap(), "--out", out.to_str().unwrap()];
    run(&[&["convert"], &paths[..], flags].concat()).good()
}

fn tensors(dir: &Path) -> BTreeMap<String, HostTensor> {
    StateDict::open(&Directory::at(dir.into()).unwrap()).unwrap().tensors().collect()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn dense_f32_in_shards_has_the_same_tensors() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["llama2", "qwen3", "gpt2"] {
        let out = dir.path().join(name);
        let said = convert(&fixture(name), &out, &["--shard-size", "40kB"]);
        assert!(said.contains("differ from the source's by 0 at most"), "{said}");
        let index = read_json(&out.join("model.safetensors.index.json"));
        let source = tensors(&fixture(name));
        let written = tensors(&out);
        // GPT-2's masks are no parameters.
        assert!(written.iter().all(|(name, tensor)| source.get(name) == Some(tensor)), "{name}");
        let total: usize = written.values().map(|tensor| tensor.data.len()).sum();
        assert_eq!(index["metadata"]["total_size"], total, "{name}");
        assert_eq!(index["weight_map"].as_object().unwrap().len(), written.len(), "{name}");
        let config = read_json(&out.join("config.json"));
        assert!(config["dtype"] == "float32" || config["torch_dtype"] == "float32", "{config}");
        assert_eq!(accepted(&out, &PROMPT, &[]), accepted(&fixture(name), &PROMPT, &[]), "{name}");
    }
}

#[test]
fn a_tied_weight_is_written_once_and_a_twin_that_differs_twice() {
    let (dir, checkpoint) = (tempfile::tempdir().unwrap(), Checkpoint::copy("qwen3"));
    checkpoint.edit_tensors(|tensors| {
        let embedding = tensors["model.embed_tokens.weight"].clone();
        tensors.insert("lm_head.weight".into(), embedding);
    });
    let once = dir.path().join("once");
    convert(checkpoint.path(), &once, &[]);
    assert!(!tensors(&once).contains_key("lm_head.weight"));
    checkpoint.edit_tensors(|tensors| {
        let head = changed(&tensors["model.embed_tokens.weight"]);
        tensors.insert("lm_head.weight".into(), head);
    });
    let twice = dir.path().join("twice");
    convert(checkpoint.path(), &twice, &[]);
    assert!(tensors(&twice).contains_key("lm_head.weight"));
    assert_eq!(read_json(&twice.join("config.json"))["tie_word_embeddings"], false);
}

#[test]
fn gguf_holds_the_model_and_its_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    for (name, dtype, off) in [("llama3", "f32", 1e-5), ("qwen3", "f32", 0.0), ("llama2", "f16", 0.05)] {
        let out = dir.path().join(format!("{name}-{dtype}"));
        convert(&fixture(name), &out, &["--to", "gguf", "--dtype", dtype]);
        let before = logits(&mut load(fixture(name)), &PROMPT);
        let directory = Directory::at(out.clone()).unwrap();
        let mut runner = ModelRunner::load(&directory, LoadOptions::default()).unwrap();
        let after = logits(&mut runner, &PROMPT);
        assert!(distance(&before, &after) <= off, "{name} {dtype}: {}", distance(&before, &after));
    }
    // The demo has a tokenizer and a template, and 8 bits a number.
    let out = dir.path().join("demo");
    run(&["convert", "--out", out.to_str().unwrap(), "--to", "gguf", "--dtype", "q8_0"]).good();
    let model = out.join("model.gguf");
    let tokens =
        |model: &[&str]| run(&[&["tokenize", "--text", "Once upon a time, 12 cats"], model].concat()).good();
    assert_eq!(tokens(&["--model", model.to_str().unwrap()]), tokens(&[]));
    let back = dir.path().join("back");
    convert(&model, &back, &["--dtype", "f32"]);
    assert_eq!(tokens(&["--model", back.to_str().unwrap()]), tokens(&[]));
    assert!(read_json(&back.join("tokenizer_config.json"))["chat_template"].is_string());
}

#[test]
fn packed_weights_become_the_numbers_that_they_stand_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let packed = path("packed");
    let flags = ["--method", "gptq", "--group-size", "32"];
    run(&[&["quantize", "--out", packed.to_str().unwrap()], &flags[..]].concat()).good();
    fs::write(packed.join("quantize_config.json"), r#"{"bits": 4, "group_size": 32}"#).unwrap();
    let out = path("dense");
    convert(&packed, &out, &["--dtype", "f32"]);
    assert!(read_json(&out.join("config.json")).get("quantization_config").is_none());
    assert!(!out.join("quantize_config.json").exists() && out.join("tokenizer.json").exists());
    let (before, after) = (logits(&mut load(&packed), &PROMPT), logits(&mut load(&out), &PROMPT));
    assert!(distance(&before, &after) < 1e-3, "{}", distance(&before, &after));
}

#[test]
fn a_training_checkpoint_needs_a_config_and_nothing_else() {
    let Some(golden) = shared("goldens/bin-zip-f16-llama") else { return };
    let dir = tempfile::tempdir().unwrap();
    fs::copy(golden.join("pytorch_model.bin"), dir.path().join("last.pt")).unwrap();
    // Other files of the run are nobody's business.
    fs::write(dir.path().join("best.pt"), "no pickle").unwrap();
    let (model, config) = (dir.path().join("last.pt"), golden.join("config.json"));
    let out = dir.path().join("out");
    convert(&model, &out, &["--config", config.to_str().unwrap()]);
    assert_eq!(read_json(&out.join("config.json"))["model_type"], "llama");
    assert_eq!(accepted(&out, &PROMPT, &[]), accepted(&golden, &PROMPT, &[]));
    let missing = dir.path().join("no");
    run(&["convert", "--model", model.to_str().unwrap(), "--out", missing.to_str().unwrap()])
        .refused(&["config.json"]);
    assert!(!missing.exists());
}

#[test]
fn what_can_not_be_written_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let used = dir.path().join("used");
    fs::create_dir(&used).unwrap();
    fs::write(used.join("x"), "").unwrap();
    let (used, out) = (used.to_str().unwrap().to_owned(), dir.path().join("out"));
    let out_name = out.to_str().unwrap();
    run(&["convert", "--out", &used]).refused(&["--out", "not empty"]);
    run(&["convert", "--out", out_name, "--dtype", "q8_0"]).refused(&["--dtype q8_0", "--to gguf"]);
    run(&["convert", "--out", &format!("{out_name}.gguf"), "--to", "gguf"]).refused(&["model.gguf"]);
    let gpt2 = fixture("gpt2");
    run(&["convert", "--model", gpt2.to_str().unwrap(), "--out", out_name, "--to", "gguf"])
        .refused(&["GPT-2"]);
    // A number that f16 does not hold.
    let checkpoint = Checkpoint::copy("llama2");
    checkpoint.edit_tensors(|tensors| {
        let norm = tensors.get_mut("model.norm.weight").unwrap();
        *norm = HostTensor::from_f32(&[norm.len()], &vec![7e4; norm.len()]);
    });
    run(&["convert", "--model", checkpoint.name(), "--out", out_name, "--dtype", "f16"]).refused(&[
        "model.norm.weight",
        "70000",
        "--dtype bf16",
    ]);
    // A tensor that is not there is missed before anything has its name.
    checkpoint.edit_tensors(|tensors| drop(tensors.remove("model.layers.1.mlp.up_proj.weight")));
    run(&["convert", "--model", checkpoint.name(), "--out", out_name])
        .refused(&["model.layers.1.mlp.up_proj.weight"]);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["used"], "{left:?}");
}

/// The comparison sees a single wrong number: a fault is planted in what was written.
#[test]
fn a_wrong_number_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = Source::open(Directory::Disk(fixture("llama2")), None, None).unwrap();
    let partial = Partial::beside(&dir.path().join("out")).unwrap();
    let target = Target { format: Format::Safetensors, dtype: DType::F32, shard_size: u64::MAX };
    target.write(&mut source, partial.path(), &|_, _| ()).unwrap();
    let written = Directory::Disk(partial.path().into());
    let before = Logits::of_source(&source).unwrap();
    assert_eq!(before.compare(&Logits::of_written(&written).unwrap()).unwrap().difference, 0.0);
    let file = partial.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let norm = read_tensors(&file)["model.norm.weight"].to_f32();
    let end = bytes.len();
    // The last tensor is lm_head or the final norm: either changes every logit.
    bytes[end - 4..].copy_from_slice(&(norm[0] + 3.0).to_le_bytes());
    fs::write(&file, bytes).unwrap();
    assert!(before.compare(&Logits::of_written(&written).unwrap()).unwrap().difference > 0.0);
}

/// A training script's checkpoint: the state dict is below a key, and data parallelism has put a prefix before its names.
#[test]
fn a_state_dict_below_a_key_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let source = tensors(&fixture("llama2"));
    let keys: Vec<String> = (0..source.len()).map(|i| i.to_string()).collect();
    let names: Vec<String> = source.keys().map(|name| format!("module.{name}")).collect();
    let views = source.values().zip(&keys).map(|(tensor, key)| whole(key, tensor).pickle());
    let inner = dict(names.iter().map(String::as_str).zip(views));
    // Without the head and the end of a pickle.
    let inner = inner[2..inner.len() - 1].to_vec();
    let storages: Vec<_> =
        source.values().zip(&keys).map(|(tensor, key)| (&key[..], tensor.data.to_vec())).collect();
    let file = torch_zip(dict([("model", inner), ("epoch", int(3))]), &storages);
    fs::write(dir.path().join("last.pt"), file).unwrap();
    let (model, config) = (dir.path().join("last.pt"), fixture("llama2").join("config.json"));
    let out = dir.path().join("out");
    convert(&model, &out, &["--config", config.to_str().unwrap()]);
    assert_eq!(tensors(&out), source);
}
