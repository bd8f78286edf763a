//! What the program prints: the shape of its JSON, its files, its traces, and how it behaves in a pipe.

use crate::common::{Checkpoint, Reference, changed, finish, fixture, logits, program, read_tensors, run};
use serde_json::{Value, json};
use stairwell::tensor::HostTensor;
use std::{fs, path::Path, process::Stdio};

fn path(name: &str) -> String {
    fixture(name).to_str().unwrap().into()
}

fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// `generate --json` on a fixture's own prompt.
fn generate(name: &str, flags: &[&str]) -> Value {
    let (model, prompt) = (path(name), list(&Reference::of(name).prompt));
    run(&[&["generate", "--model", &model, "--prompt-ids", &prompt, "--json"], flags].concat()).json()
}

#[test]
fn generate_prints_one_object() {
    let reference = Reference::of("qwen3");
    let flags = ["--temperature", "0", "--max-tokens", "16", "--dtype", "f32", "--attention", "recompute"];
    let object = generate("qwen3", &flags);
    let keys: Vec<&String> = object.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["prompt_ids", "output_ids", "text", "finish_reason", "stats"]);
    assert_eq!(object["prompt_ids"], json!(reference.prompt));
    assert_eq!(object["output_ids"], json!(reference.greedy));
    assert_eq!(
        (&object["text"], &object["finish_reason"]),
        (&Value::Null, &json!("length")),
        "it has no tokenizer"
    );

    let stats = object["stats"].as_object().unwrap();
    assert!(stats.values().all(|v| !v.is_object() && !v.is_array()), "stats are flat");
    for (key, value) in [
        ("device", json!("cpu")),
        ("attention", json!("recompute")),
        ("dtype", json!("f32")),
        ("prompt_tokens", json!(21)),
        ("output_tokens", json!(16)),
        ("tokens_computed", json!((21..37).sum::<u32>())),
        ("temperature", json!("0 (command line)")),
        ("top_p", json!("1 (default)")),
        ("seed", Value::Null),
    ] {
        assert_eq!(stats[key], value, "{key}");
    }
    for key in ["load_seconds", "time_to_first_token_seconds", "total_seconds", "output_tokens_per_second"] {
        assert!(stats[key].as_f64().unwrap() > 0.0, "{key}");
    }
    assert!(
        stats["isa"].is_string() && stats["peak_memory_bytes"].as_u64().is_none_or(|bytes| bytes > 1 << 20)
    );
}

#[test]
fn endings_and_seeds() {
    // The third greedy id as EOS; the fixture's own is 2.
    let checkpoint = Checkpoint::copy("qwen3");
    let reference = Reference::of("qwen3");
    let eos = reference.greedy[2];
    let first = reference.greedy.iter().position(|&id| id == eos).unwrap();
    checkpoint.write("generation_config.json", json!({"eos_token_id": [0, eos]}).to_string());
    let prompt = list(&reference.prompt);
    let args =
        ["generate", "--model", checkpoint.name(), "--prompt-ids", &prompt, "--temperature", "0", "--json"];
    let object = run(&[&args[..], &["--max-tokens", "16"]].concat()).json();
    assert_eq!(object["output_ids"], json!(reference.greedy[..=first]));
    assert_eq!(object["finish_reason"], "stop");
    let object = run(&[&args[..], &["--max-tokens", "16", "--ignore-eos"]].concat()).json();
    assert_eq!(object["output_ids"], json!(reference.greedy));

    let sampled =
        |seed: &str| generate("qwen3", &["--temperature", "2", "--max-tokens", "8", "--seed", seed]);
    assert_eq!(sampled("5")["output_ids"], sampled("5")["output_ids"]);
    assert_ne!(sampled("5")["output_ids"], sampled("6")["output_ids"]);
    assert_eq!(sampled("5")["stats"]["seed"], 5);
}

#[test]
fn logprobs_are_of_the_raw_logits() {
    let object = generate("qwen3", &["--temperature", "0", "--max-tokens", "3", "--logprobs", "4"]);
    let entries = object["logprobs"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    for (entry, id) in entries.iter().zip(object["output_ids"].as_array().unwrap()) {
        let top = entry["top"].as_array().unwrap();
        assert!(
            entry["id"] == *id
                && top.len() == 4
                && top[0]["id"] == *id
                && top[0]["logprob"] == entry["logprob"]
        );
        let probabilities: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().unwrap().exp()).collect();
        assert!(probabilities.is_sorted_by(|a, b| a >= b) && probabilities.iter().sum::<f64>() <= 1.0 + 1e-6);
    }
}

#[test]
fn streamed_text_is_the_json_text() {
    let flags = [
        "generate",
        "--prompt",
        "Once upon a time",
        "--temperature",
        "0",
        "--max-tokens",
        "20",
        "--ignore-eos",
        "--attention",
        "recompute",
    ];
    let text = run(&[&flags[..], &["--json"]].concat()).json()["text"].as_str().unwrap().to_owned();
    let streamed = run(&flags);
    assert_eq!(streamed.stdout, text.clone() + "\n");
    for part in ["20 output tokens", "tok/s", "peak memory", "recompute"] {
        assert!(streamed.stderr.contains(part), "{}", streamed.stderr);
    }
    // A stop string in the middle, wherever the tokens are cut.
    let stop = text.char_indices().nth(12).map(|(i, _)| &text[i..]).and_then(|rest| rest.get(..5)).unwrap();
    let stopped = run(&[&flags[..], &["--stop", stop, "--json"]].concat()).json();
    assert_eq!(stopped["text"], text[..text.find(stop).unwrap()]);
    assert_eq!(stopped["finish_reason"], "stop");
}

#[test]
fn without_a_tokenizer_ids_are_streamed() {
    let reference = Reference::of("gpt2");
    let (model, prompt) = (path("gpt2"), list(&reference.prompt));
    let args =
        ["generate", "--model", &model, "--prompt-ids", &prompt, "--temperature", "0", "--max-tokens", "5"];
    let ran = run(&args);
    assert!(ran.stderr.contains("note: ") && ran.stderr.contains("token ids"), "{}", ran.stderr);
    let ids: Vec<u32> = ran.good().split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert_eq!(ids, reference.greedy[..5]);
}

#[test]
fn logits_go_to_a_file() {
    let (reference, dir) = (Reference::of("llama3"), tempfile::tempdir().unwrap());
    let (out, model, prompt) = (dir.path().join("l.safetensors"), path("llama3"), list(&reference.prompt));
    let args = ["logits", "--model", &model, "--prompt-ids", &prompt, "--out", out.to_str().unwrap()];
    run(&args).good();
    let tensors = read_tensors(&out);
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["logits"]);
    let ours = logits(&mut crate::common::load(fixture("llama3")), &reference.prompt);
    assert!(tensors["logits"] == HostTensor::from_f32(&[21, 164], &ours));

    run(&[&args[..], &["--layers"]].concat()).good();
    let tensors = read_tensors(&out);
    let names = reference.modules.keys().map(String::as_str).chain(["logits"]);
    assert!(tensors.keys().map(String::as_str).eq(std::collections::BTreeSet::from_iter(names)));
    assert!(reference.modules.iter().all(|(name, theirs)| tensors[name].shape == theirs.shape));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left behind");
}

#[test]
fn inspect_shows_the_tree_and_every_tensor() {
    let model = path("qwen3");
    let text = run(&["inspect", "--model", &model]).good();
    assert!(text.starts_with(&fs::read_to_string(fixture("qwen3").join("module_tree.txt")).unwrap()));
    let report = run(&["inspect", "--model", &model, "--max-model-len", "100", "--json"]).json();
    let tensors = Checkpoint::copy("qwen3").tensors();
    let shown = report["tensors"].as_object().unwrap();
    assert_eq!(shown.len(), tensors.len());
    for (name, tensor) in &tensors {
        let entry = &shown[name];
        assert_eq!((&entry["shape"], &entry["dtype"]), (&json!(tensor.shape), &json!("F32")), "{name}");
        assert_eq!(entry["bytes"], tensor.data.len());
        assert!(
            text.contains(&format!("{name} "))
                && entry["shard"].as_str().unwrap().ends_with("of-00004.safetensors")
        );
    }
    let total: usize = tensors.values().map(|t| t.data.len()).sum();
    assert_eq!((&report["total_bytes"], &report["memory"]["length"]), (&json!(total), &json!(100)));
    // K and V of 2 layers with 2 heads of 12, in f32.
    assert_eq!(report["memory"]["kv_bytes_per_token"], 2 * 2 * 2 * 12 * 4);
}

#[test]
fn the_digest_depends_on_the_tensors_and_not_on_the_shards() {
    let digest = |dir: &Path| {
        let report = run(&["inspect", "--verify", "--json", "--model", dir.to_str().unwrap()]).json();
        let digest = report["sha256"].as_str().unwrap().to_owned();
        assert_eq!(digest.len(), 64);
        assert!(
            report["tensors"]
                .as_object()
                .unwrap()
                .values()
                .all(|t| t["sha256"].as_str().unwrap().len() == 64)
        );
        digest
    };
    let single = Checkpoint::copy("qwen3");
    single.edit_tensors(|_| ());
    let sharded = digest(&fixture("qwen3"));
    assert_eq!(digest(single.path()), sharded);
    single.edit_tensors(|tensors| {
        let norm = changed(&tensors["model.norm.weight"]);
        tensors.insert("model.norm.weight".into(), norm);
    });
    assert_ne!(digest(single.path()), sharded);
    assert!(run(&["inspect", "--verify", "--model", &path("qwen3")]).good().contains(&sharded));
}

#[test]
fn tokenize_shows_ids_and_pieces() {
    let text = "Once upon a time, Lily said: “hi”";
    let object = run(&["tokenize", "--json", text]).json();
    let (ids, pieces) = (object["ids"].as_array().unwrap(), object["pieces"].as_array().unwrap());
    assert!(ids.len() == pieces.len() && !ids.is_empty());
    let lines = run(&["tokenize", text]).good();
    assert_eq!(lines.lines().count(), ids.len());
    assert_eq!(run(&["tokenize", "--json", "--text", text]).json(), object);
    // The ids are what generate makes of the prompt.
    let generated = run(&["generate", "--prompt", text, "--max-tokens", "1", "--json"]).json();
    assert_eq!(generated["prompt_ids"], object["ids"]);
}

#[test]
fn render_chat_prints_what_chat_encodes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("chat.json");
    fs::write(&file, r#"[{"role": "user", "content": "Who is Lily?"}]"#).unwrap();
    let args = ["render-chat", "--messages", file.to_str().unwrap(), "--add-generation-prompt"];
    let text = run(&args).good();
    assert!(text.contains("Who is Lily?"));
    fs::write(&file, r#"{"messages": [{"role": "user", "content": "Who is Lily?"}]}"#).unwrap();
    assert_eq!(run(&args).good(), text);
    let ids = run(&["tokenize", "--json", "--no-special-tokens", &text]).json()["ids"].clone();
    let chat = run(&["generate", "--chat", "Who is Lily?", "--max-tokens", "1", "--json"]).json();
    assert_eq!(chat["prompt_ids"], ids);
}

#[test]
fn load_traces_every_step() {
    let (model, tensors) = (path("qwen3"), Checkpoint::copy("qwen3").tensors());
    let trace = run(&["load", "--trace", "--model", &model]).good();
    let lines = |kind: &str| trace.lines().filter(|line| line.starts_with(kind)).count();
    assert_eq!(
        (lines("config"), lines("index"), lines("shard"), lines("tensor")),
        (1, 1, 4, tensors.len()),
        "{trace}"
    );
    assert!(tensors.keys().all(|name| trace.contains(&format!("{name}:"))));
    assert!(trace.lines().last().unwrap().starts_with("Qwen3ForCausalLM loaded: "));
    // GPT-2 as on the hub: bare names become parameters, mask buffers are skipped.
    let trace = run(&["load", "--trace", "--model", &path("gpt2-hub")]).good();
    for part in
        ["wte.weight → transformer.wte.weight", "skipped  h.1.attn.masked_bias", "skipped  h.0.attn.bias"]
    {
        assert!(trace.contains(part), "there is no '{part}' in:\n{trace}");
    }
    assert_eq!(run(&["load", "--model", &model]).good().lines().count(), 1);
}

#[test]
fn nothing_is_coloured_in_a_pipe() {
    let model = path("gpt2");
    let commands: [&[&str]; 4] = [
        &["inspect", "--model", &model],
        &["generate", "--prompt", "Once", "--max-tokens", "2"],
        &["generate", "--model", &model, "--prompt-ids", "5", "--max-tokens", "2"],
        &["generate", "--model", "/no/such", "--prompt-ids", "5"],
    ];
    for command in commands {
        for ran in [run(command), finish(program().env("NO_COLOR", "1").args(command))] {
            assert!(!ran.stdout.contains('\x1b') && !ran.stderr.contains('\x1b'), "{ran:?}");
        }
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let args = ["generate", "--prompt", "Once upon a time", "--max-tokens", "12", "--ignore-eos"];
    for args in [&args[..], &["inspect"]] {
        let mut child = program().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take()); // as `| head -0` does
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(!String::from_utf8(output.stderr).unwrap().contains("error"));
    }
}

#[test]
fn a_model_of_the_hugging_face_cache() {
    // As huggingface_hub lays it out: snapshots hold links into blobs.
    let (home, checkpoint) = (tempfile::tempdir().unwrap(), Checkpoint::copy("llama3"));
    let repository = home.path().join("hub/models--some-org--tiny.v1");
    let snapshot = repository.join("snapshots/0123abcd");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "0123abcd").unwrap();
    fs::write(repository.join("refs/v1"), "0123abcd").unwrap();
    for entry in fs::read_dir(checkpoint.path()).unwrap().map(|e| e.unwrap()) {
        #[cfg(unix)]
        std::os::unix::fs::symlink(entry.path(), snapshot.join(entry.file_name())).unwrap();
        #[cfg(not(unix))]
        fs::copy(entry.path(), snapshot.join(entry.file_name())).unwrap();
    }
    let reference = Reference::of("llama3");
    let prompt = list(&reference.prompt);
    let args =
        ["generate", "--model", "some-org/tiny.v1", "--prompt-ids", &prompt, "--temperature", "0", "--json"];
    let ids = |variable: &str, value: &Path, flags: &[&str]| {
        let args = [&args[..], &["--max-tokens", "4"], flags].concat();
        finish(program().env(variable, value).args(args))
    };
    let (hub, wanted) = (home.path().join("hub"), json!(reference.greedy[..4]));
    assert_eq!(ids("HF_HOME", home.path(), &[]).json()["output_ids"], wanted);
    assert_eq!(ids("HF_HUB_CACHE", &hub, &[]).json()["output_ids"], wanted);
    for revision in ["main", "v1", "0123abcd"] {
        assert_eq!(ids("HF_HOME", home.path(), &["--revision", revision]).json()["output_ids"], wanted);
    }
    ids("HF_HOME", home.path(), &["--revision", "v2"]).refused(&[
        "--revision v2",
        "some-org/tiny.v1",
        "main",
        "v1",
    ]);
    ids("HF_HOME", &hub, &[]).refused(&["some-org/tiny.v1", "hf download"]);
}
