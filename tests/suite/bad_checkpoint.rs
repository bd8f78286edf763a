//! Checkpoints that can't be used. Each is refused by the program with one line that says what and where, and each has a good
//! neighbour that looks much like it and is accepted.

use crate::common::{Checkpoint, Reference, accepted, changed, finish, fixture, program, run, shared};
use serde_json::{Value, json};
use stairwell::tensor::{DType, HostTensor};
use std::fs;

const INDEX: &str = "model.safetensors.index.json";
const SHARD: &str = "model-00002-of-00004.safetensors";
const SINGLE: &str = "model.safetensors";

/// Loading it is refused with a line that holds these parts and the directory.
fn refused(checkpoint: &Checkpoint, parts: &[&str]) {
    let line = run(&["generate", "--model", checkpoint.name(), "--prompt-ids", "5,17"]).refused(parts);
    assert!(line.contains(checkpoint.name()), "it does not name the directory: {line}");
}

/// It loads, and its ids are those of the fixture that it was copied from.
fn good(checkpoint: &Checkpoint, fixture: &str) {
    let reference = Reference::of(fixture);
    assert_eq!(accepted(checkpoint.path(), &reference.prompt, &[]), reference.greedy[..4]);
}

/// A copy of `fixture` with the config.json fields in `fields`.
fn with_config(fixture: &str, fields: Value) -> Checkpoint {
    let checkpoint = Checkpoint::copy(fixture);
    checkpoint.set_config(fields);
    checkpoint
}

#[test]
fn no_such_directory() {
    for model in ["/no/such/place", "./no-such-place", "no/such/place"] {
        let line = run(&["generate", "--model", model, "--prompt-ids", "5"]).refused(&[
            "--model",
            model,
            "no such directory",
        ]);
        assert!(!line.contains("hf download"), "a path is no hub id: {line}");
    }
}

#[test]
fn a_hub_id_that_is_not_cached() {
    let cache = tempfile::tempdir().unwrap();
    let args = ["generate", "--model", "Qwen/Qwen3-0.6B", "--prompt-ids", "5"];
    let ran = finish(program().env("HF_HUB_CACHE", cache.path()).args(args));
    ran.refused(&[
        "Qwen/Qwen3-0.6B",
        cache.path().to_str().unwrap(),
        "stairwell pull Qwen/Qwen3-0.6B",
        "hf download Qwen/Qwen3-0.6B",
    ]);
}

#[test]
fn a_file_in_place_of_a_directory() {
    let checkpoint = Checkpoint::copy("qwen2");
    let file = checkpoint.file(SINGLE);
    let file = file.to_str().unwrap();
    run(&["inspect", "--model", file]).refused(&[file, "give the directory"]);
}

#[test]
fn no_config_json() {
    let checkpoint = Checkpoint::copy("qwen2");
    checkpoint.remove("config.json");
    refused(&checkpoint, &["no config.json"]);
}

#[test]
fn a_config_that_is_not_json() {
    for text in ["", "{\"hidden_size\": 32,", "not json", "[1, 2]", "\u{feff}{"] {
        let checkpoint = Checkpoint::copy("qwen2");
        checkpoint.write("config.json", text);
        refused(&checkpoint, &["config.json", "JSON"]);
    }
}

#[test]
fn an_unknown_architecture() {
    let checkpoint = with_config("qwen2", json!({"architectures": ["MambaForCausalLM"]}));
    refused(
        &checkpoint,
        &["config.json", "architectures", "MambaForCausalLM", "known: GPT2LMHeadModel", "Qwen3ForCausalLM"],
    );
    good(&with_config("qwen2", json!({"architectures": null})), "qwen2"); // model_type says it
}

/// A config of fewer layers than the file has is another model.
#[test]
fn layers_that_the_model_does_not_have() {
    let checkpoint = with_config("qwen2-deep", json!({"num_hidden_layers": 4}));
    refused(&checkpoint, &["unexpected", "model.layers.4.self_attn.q_proj.bias"]);
}

#[test]
fn a_quantized_checkpoint() {
    // Step 9 reads some methods.
    let methods =
        if cfg!(feature = "quantized") { ["mxfp4", "torchao", "x"] } else { ["gptq", "awq", "fp8"] };
    for method in methods {
        let checkpoint =
            with_config("qwen2", json!({"quantization_config": {"quant_method": method, "bits": 4}}));
        refused(&checkpoint, &["config.json", "quantization_config", method]);
    }
    good(&with_config("qwen2", json!({"quantization_config": null})), "qwen2");
}

#[test]
fn heads_that_do_not_divide() {
    let checkpoint = with_config("qwen2", json!({"num_key_value_heads": 4}));
    refused(&checkpoint, &["config.json", "num_key_value_heads", "num_attention_heads"]);
    let checkpoint = with_config("qwen2", json!({"num_attention_heads": 5}));
    refused(&checkpoint, &["config.json", "hidden_size", "num_attention_heads"]);
    good(&with_config("qwen2", json!({"head_dim": 6})), "qwen2");
}

#[test]
fn values_that_would_change_the_arithmetic() {
    for (field, value) in [
        ("hidden_act", json!("relu")),
        ("rope_scaling", json!({"rope_type": "longrope", "factor": 4.0})),
        ("rope_scaling", json!({"rope_type": "linear"})),
        ("layer_types", json!(["full_attention", "chunked_attention"])),
        ("vocab_size", json!(-1)),
        ("num_hidden_layers", json!(4294967295u32)),
        ("rms_norm_eps", json!("tiny")),
    ] {
        let checkpoint = with_config("qwen2", json!({ field: value }));
        refused(&checkpoint, &["config.json", field]);
    }
    good(
        &with_config("qwen2", json!({"attention_dropout": 0.5, "a_field_of_next_year": {"x": [1]}})),
        "qwen2",
    );
}

/// Each would take gigabytes if it were believed before the weights were looked at.
#[cfg(target_os = "linux")]
#[test]
fn sizes_that_no_checkpoint_has_take_no_memory() {
    for field in ["hidden_size", "intermediate_size", "head_dim", "num_hidden_layers"] {
        let checkpoint = with_config("qwen2", json!({ field: 1u64 << 31, "vocab_size": 1 }));
        let limited = format!("ulimit -v 2000000; exec {} load --model", env!("CARGO_BIN_EXE_stairwell"));
        let script = format!("{limited} {}", checkpoint.name());
        finish(std::process::Command::new("sh").args(["-c", &script])).refused(&[checkpoint.name()]);
    }
}

#[test]
fn a_shard_that_is_not_there() {
    let checkpoint = Checkpoint::copy("qwen3");
    checkpoint.remove(SHARD);
    refused(&checkpoint, &[INDEX, SHARD, "tensor 'model.layers."]);
    // A shard more than the index names is nobody's business.
    let checkpoint = Checkpoint::copy("qwen3");
    checkpoint.write("model-00005-of-00004.safetensors", "not a shard");
    checkpoint.write("notes.txt", "hello");
    good(&checkpoint, "qwen3");
}

#[test]
fn a_git_lfs_pointer() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n";
    for (fixture, file) in [("qwen2", SINGLE), ("qwen3", SHARD), ("qwen3", INDEX), ("qwen3", "config.json")] {
        let checkpoint = Checkpoint::copy(fixture);
        checkpoint.write(file, pointer);
        refused(&checkpoint, &[file, "Git LFS pointer", "git lfs pull"]);
    }
}

#[test]
fn only_pickled_weights() {
    let checkpoint = Checkpoint::copy("qwen2");
    checkpoint.remove(SINGLE);
    checkpoint.write("pytorch_model.bin", "PK");
    match cfg!(feature = "quantized") {
        true => refused(&checkpoint, &["pytorch_model.bin", "neither as a zip archive nor"]),
        false => {
            refused(&checkpoint, &["pytorch_model.bin", "--features step9", "python -c", "save_pretrained"])
        }
    }
    // Beside safetensors a pickle is left alone.
    let checkpoint = Checkpoint::copy("qwen2");
    checkpoint.write("pytorch_model.bin", "PK");
    good(&checkpoint, "qwen2");
}

#[test]
fn no_weights_at_all() {
    let checkpoint = Checkpoint::copy("qwen2");
    checkpoint.remove(SINGLE);
    refused(&checkpoint, &[SINGLE, INDEX]);
    let ids = accepted(checkpoint.path(), &[5, 17], &["--load-format", "dummy"]);
    assert_eq!(ids.len(), 4, "dummy weights need none");
}

/// Steps that don't read GGUF files say which does; the others say what is wrong with this one.
#[test]
fn a_gguf_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("qwen3-Q4_K_M.gguf");
    fs::write(&file, b"GGUF\x03\0\0\0").unwrap();
    let name = file.to_str().unwrap();
    let why = if cfg!(feature = "quantized") { "truncated" } else { "--features step9" };
    run(&["generate", "--model", name, "--prompt-ids", "5"]).refused(&[name, why]);
    fs::copy(fixture("qwen2").join("config.json"), dir.path().join("config.json")).unwrap();
    let args = ["generate", "--model", dir.path().to_str().unwrap(), "--prompt-ids", "5"];
    run(&args).refused(&["qwen3-Q4_K_M.gguf", why]);
}

#[test]
fn an_index_that_leaves_the_directory() {
    for shard in ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", ".."] {
        let checkpoint = Checkpoint::copy("qwen3");
        checkpoint.edit_json(INDEX, |index| index["weight_map"]["model.norm.weight"] = shard.into());
        refused(&checkpoint, &[INDEX, "'model.norm.weight'", shard]);
    }
}

#[test]
fn an_index_that_promises_too_much() {
    let checkpoint = Checkpoint::copy("qwen3");
    checkpoint.edit_json(INDEX, |index| index["weight_map"]["model.extra.weight"] = SHARD.into());
    refused(&checkpoint, &[INDEX, "'model.extra.weight'", SHARD]);
}

#[test]
fn an_index_that_is_none() {
    for (text, part) in [("{", "JSON"), ("{}", "weight_map"), (r#"{"weight_map": {"a": 3}}"#, "'a'")] {
        let checkpoint = Checkpoint::copy("qwen3");
        checkpoint.write(INDEX, text);
        refused(&checkpoint, &[INDEX, part]);
    }
    // transformers writes metadata, other tools more, and some none.
    let checkpoint = Checkpoint::copy("qwen3");
    checkpoint.edit_json(INDEX, |index| {
        index["metadata"] = json!({"total_size": 1, "total_parameters": 2});
        index["something"] = json!([1]);
    });
    good(&checkpoint, "qwen3");
}

#[test]
fn missing_and_extra_tensors_are_all_listed() {
    let checkpoint = Checkpoint::copy("qwen2");
    checkpoint.edit_tensors(|tensors| {
        let norm = tensors.remove("model.norm.weight").unwrap();
        tensors.remove("model.layers.1.self_attn.k_proj.bias").unwrap();
        tensors.insert("model.nrom.weight".into(), norm.clone());
        tensors.insert("zzz".into(), norm);
    });
    let parts = [
        "2 unexpected",
        "'model.nrom.weight' (nearest: 'model.norm.weight')",
        "'zzz'",
        "2 missing",
        "--skip-substr",
    ];
    refused(
        &checkpoint,
        &[&parts[..], &["'model.layers.1.self_attn.k_proj.bias'", "Qwen2ForCausalLM"]].concat(),
    );
}

#[test]
fn a_wrong_shape() {
    let checkpoint = Checkpoint::copy("qwen2");
    checkpoint.edit_tensors(|tensors| {
        tensors.insert("model.norm.weight".into(), HostTensor::from_f32(&[35], &[1.0; 35]));
    });
    refused(&checkpoint, &[SINGLE, "'model.norm.weight'", "[35]", "[36]", "config.json"]);
    // The same number of elements is not the same shape.
    let checkpoint = Checkpoint::copy("qwen2");
    checkpoint.edit_tensors(|tensors| {
        let up = tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap();
        up.shape.reverse();
    });
    refused(&checkpoint, &[SINGLE, "'model.layers.0.mlp.up_proj.weight'", "[36, 44]", "[44, 36]"]);
}

#[test]
fn a_wrong_dtype() {
    let checkpoint = Checkpoint::copy("qwen2");
    checkpoint.edit_tensors(|tensors| {
        tensors.insert("model.norm.weight".into(), HostTensor::from_bytes(DType::F64, &[36], vec![0; 288]));
    });
    refused(&checkpoint, &[SINGLE, "'model.norm.weight'", "F64", "BF16", "dtype=torch.bfloat16"]);
}

#[test]
fn extra_tensors_are_left_out_on_demand() {
    let checkpoint = Checkpoint::copy("qwen2");
    checkpoint.edit_tensors(|tensors| {
        let norm = changed(&tensors["model.norm.weight"]);
        tensors.insert("model.norm_mean".into(), norm.clone());
        tensors.insert("model.norm_std".into(), norm);
        tensors.insert("empty".into(), HostTensor::from_f32(&[0, 7], &[]));
    });
    refused(
        &checkpoint,
        &["3 unexpected", "'model.norm_mean'", "'model.norm_std'", "'empty'", "--skip-substr"],
    );
    let reference = Reference::of("qwen2");
    for flags in [
        &["--skip-substr", "norm_mean,norm_std,empty"][..],
        &["--skip-substr", "norm_", "--skip-substr", "empty"],
    ] {
        assert_eq!(accepted(checkpoint.path(), &reference.prompt, flags), reference.greedy[..4]);
    }
}

#[test]
fn a_corrupt_tokenizer() {
    let refuse = |bytes: &[u8], parts: &[&str]| {
        let checkpoint = Checkpoint::copy("qwen2");
        checkpoint.write("tokenizer.json", bytes);
        let line =
            run(&["generate", "--model", checkpoint.name(), "--prompt", "Hi"]).refused(&["tokenizer.json"]);
        parts.iter().for_each(|part| assert!(line.contains(part), "there is no '{part}' in: {line}"));
        good(&checkpoint, "qwen2"); // ids need no tokenizer
    };
    refuse(b"{\"version\": \"1.0\", ", &["JSON"]);
    refuse(b"{}", &[]);
    refuse(b"", &["empty"]);
    refuse(b"version https://git-lfs.github.com/spec/v1\n", &["Git LFS pointer", "git lfs pull"]);
    if let Some(file) = shared("hf/tinyllama-1.1b-chat/tokenizer.corrupt-nbsp.json") {
        refuse(&fs::read(file).unwrap(), &[]);
    }
}

#[test]
fn only_a_sentencepiece_tokenizer() {
    let checkpoint = Checkpoint::copy("llama2");
    checkpoint.write("tokenizer.model", "\n\u{e}");
    let args = ["generate", "--model", checkpoint.name(), "--prompt", "Hi"];
    run(&args).refused(&[checkpoint.name(), "tokenizer.model", "AutoTokenizer", "save_pretrained"]);
    good(&checkpoint, "llama2");
}

#[test]
fn no_tokenizer() {
    let checkpoint = Checkpoint::copy("llama2");
    run(&["tokenize", "--model", checkpoint.name(), "Hi"]).refused(&[checkpoint.name(), "no tokenizer.json"]);
}
