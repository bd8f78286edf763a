//! `stairwell plan`: its figures worked out by hand, compared with what the engine reserves, and what it refuses.

use crate::common::{Checkpoint, Ran, changed, fixture, run, shared};
use serde_json::{Value, json};
use std::{fs, path::Path};

fn plan(model: Option<&Path>, flags: &[&str]) -> Ran {
    let model = model.map(|dir| ["--model", dir.to_str().unwrap()]);
    let model: &[&str] = model.as_ref().map_or(&[], |flags| flags);
    run(&[&["plan"], model, flags].concat())
}

fn plan_fixture(name: &str, flags: &[&str]) -> Value {
    plan(Some(&fixture(name)), &[flags, &["--json"]].concat()).json()
}

/// The rows of the KV dtypes f32, bf16, fp8. That of f16 has bf16's figures.
fn rows(report: &Value) -> [&Value; 3] {
    let [f32, bf16, f16, fp8] = &report["kv"].as_array().unwrap()[..] else { panic!("{report}") };
    let mut renamed = f16.clone();
    renamed["dtype"] = "bf16".into();
    assert_eq!((&renamed, &f16["dtype"]), (bf16, &json!("f16")));
    [f32, bf16, fp8]
}

/// A figure of each KV dtype: f32, bf16, fp8.
fn each(report: &Value, key: &str) -> Vec<u64> {
    rows(report).iter().map(|kv| kv[key].as_u64().unwrap()).collect()
}

fn limits(report: &Value) -> Vec<&str> {
    rows(report).iter().map(|kv| kv["limited_by"].as_str().unwrap()).collect()
}

/// Parameters of the fixture `qwen3`: a tied table of 163 rows; in each of two layers q and o of 4 · 12, k and v of 2 · 12, two norms
/// of heads, an MLP of 40, two norms; a last norm.
const QWEN3: u64 = 163 * 32 + 2 * (2 * 48 * 32 + 2 * 24 * 32 + 2 * 12 + 3 * 40 * 32 + 2 * 32) + 32;
/// Its activations: 256 rows of the residual, its norm, and qkv with its parts; 16 rows of logits.
const QWEN3_STEP: u64 = 4 * (256 * (2 * 32 + 2 * (48 + 2 * 24)) + 16 * 163);

#[test]
fn qwen3_by_hand() {
    let report = plan_fixture("qwen3", &["--memory", "10MB"]);
    for (key, value) in [
        ("architecture", json!("Qwen3ForCausalLM")),
        ("memory_bytes", json!(10_000_000)),
        ("weights_bytes", json!(4 * QWEN3)),
        ("weights_bytes_by_dtype", json!({"F32": 4 * QWEN3})),
        ("tied_copy_bytes", json!(0)),
        ("skipped_bytes", json!(0)),
        ("activation_bytes", json!(QWEN3_STEP)),
        ("kv_memory_bytes", json!((10_000_000 - 4 * QWEN3) * 9 / 10)),
        ("block_size", json!(16)),
        ("max_len", json!(128)),
        ("choose_kv_dtype", json!("f32")),
    ] {
        assert_eq!(report[key], value, "{key}");
    }
    // K and V of 2 layers with 2 heads of 12; in fp8 each vector has a scale of 4 bytes.
    assert_eq!(
        each(&report, "bytes_per_token"),
        [2 * 2 * 2 * 12 * 4, 2 * 2 * 2 * 12 * 2, 2 * 2 * 2 * (12 + 4)]
    );
    assert_eq!(each(&report, "blocks"), [1451, 2903, 4355], "8,919,648 bytes of 6,144, 3,072 and 2,048");
    assert_eq!(each(&report, "tokens"), [1451 * 16, 2903 * 16, 4355 * 16]);
    assert_eq!((each(&report, "longest_sequence"), limits(&report)), (vec![128; 3], vec!["context"; 3]));
    assert_eq!(each(&report, "sequences"), [181, 362, 544], "of 8 blocks");
}

#[test]
fn the_widest_dtype_that_fits_is_chosen() {
    // Beside weights and activations, 38,144 bytes: 6, 12 and 18 blocks.
    let tight = |length| plan_fixture("qwen3", &["--memory", "400000", "--max-len", length]);
    let report = tight("128");
    assert_eq!(report["kv_memory_bytes"], 400_000 - 4 * QWEN3 - QWEN3_STEP);
    assert_eq!(each(&report, "longest_sequence"), [96, 128, 128]);
    assert_eq!(limits(&report), ["memory", "context", "context"]);
    assert_eq!(each(&report, "sequences"), [0, 1, 2]);
    assert_eq!(report["choose_kv_dtype"], "bf16");
    assert_eq!(tight("96")["choose_kv_dtype"], "f32");
    assert_eq!(each(&tight("97"), "sequences"), [0, 1, 2], "97 tokens take 7 blocks");

    // What it says is enough is enough, to a byte or two, for each dtype.
    for (at, least) in each(&report, "memory_for_one_sequence_bytes").into_iter().enumerate() {
        let sequences =
            |memory: u64| each(&plan_fixture("qwen3", &["--memory", &memory.to_string()]), "sequences")[at];
        assert_eq!((sequences(least), sequences(least - 2)), (1, 0));
    }
}

#[test]
fn when_nothing_is_wide_enough_it_says_what_to_reduce() {
    // 8,144 bytes: 1, 2 and 3 blocks. For 128 tokens in fp8, 8 blocks of 2,048.
    let needed = 4 * QWEN3 + QWEN3_STEP + 8 * 2048;
    let model = fixture("qwen3");
    let text = plan(Some(&model), &["--memory", "370000"]).good();
    for part in [
        "no KV dtype has room for 128 tokens",
        "--max-len to 48",
        "--kv-dtype fp8-e4m3",
        &format!("--memory {needed} "),
    ] {
        assert!(text.contains(part), "there is no '{part}' in: {text}");
    }
    let report = |flags: &[&str]| plan_fixture("qwen3", flags);
    assert_eq!(report(&["--memory", "370000"])["choose_kv_dtype"], Value::Null);
    assert_eq!(report(&["--memory", "370000", "--max-len", "48"])["choose_kv_dtype"], "fp8-e4m3");
    assert_eq!(report(&["--memory", &needed.to_string()])["choose_kv_dtype"], "fp8-e4m3");
}

#[test]
fn a_window_in_every_layer_bounds_what_a_sequence_holds() {
    // Weights of 37,880 f16; a step of 16 tokens; K and V of 2 layers with one head of 16: blocks of 4,096, 2,048 and 1,280 bytes.
    let flags = ["--memory", "120000", "--max-batched-tokens", "16"];
    let report = plan_fixture("mistral-f16", &flags);
    let weights = 2 * (2 * 167 * 40 + 2 * (2 * 64 * 40 + 2 * 16 * 40 + 3 * 48 * 40 + 2 * 40) + 40);
    let step = 4 * (16 * (2 * 40 + 2 * (64 + 2 * 16)) + 16 * 167);
    assert_eq!((&report["weights_bytes"], &report["activation_bytes"]), (&json!(weights), &json!(step)));
    assert_eq!(report["blocks_of_a_sequence"], 3, "(7 + 16) / 16, rounded up, and one");
    assert_eq!((each(&report, "blocks"), each(&report, "sequences")), (vec![3, 7, 12], vec![1, 2, 4]));
    assert_eq!(each(&report, "longest_sequence"), [128; 3], "though f32 has room for 48 tokens");
    let text = plan(Some(&fixture("mistral-f16")), &flags).good();
    assert!(
        text.contains("every layer has a sliding window (7)") && text.contains("holds 3 blocks"),
        "{text}"
    );
    // A longer step sees more: 18 blocks, more than 128 tokens take.
    assert_eq!(plan_fixture("mistral-f16", &["--memory", "1MB"])["blocks_of_a_sequence"], 8);

    // Windows in some layers save nothing.
    let text = plan(Some(&fixture("qwen2-window")), &flags).good();
    assert!(text.contains("some layers have a sliding window"), "{text}");
    assert_eq!(plan_fixture("qwen2-window", &flags)["blocks_of_a_sequence"], 8);
}

#[test]
fn the_engine_runs_a_windowed_sequence_in_the_blocks_that_were_planned() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
    let prompt: Vec<u32> = (3..103).collect();
    fs::write(
        &input,
        json!({"id": "a", "prompt_ids": prompt, "max_tokens": 28, "ignore_eos": true}).to_string(),
    )
    .unwrap();
    let (model, input) = (fixture("mistral-f16"), input.to_str().unwrap().to_owned());
    let batch = |tokens: &str| {
        let (model, output) = (model.to_str().unwrap(), output.to_str().unwrap());
        let args =
            ["batch", "--model", model, "--input", &input, "--output", output, "--max-batched-tokens", "16"];
        run(&[&args[..], &["--max-kv-tokens", tokens]].concat())
    };
    let ran = batch("32");
    assert!(
        ran.code != Some(0)
            && ran.stderr.contains("has 100 tokens")
            && ran.stderr.contains("the KV cache holds 32"),
        "{ran:?}"
    );
    fs::remove_file(&output).unwrap();
    batch("48").good();
    let result: Value = serde_json::from_str(&fs::read_to_string(&output).unwrap()).unwrap();
    assert_eq!((&result["finish_reason"], &result["usage"]["total_tokens"]), (&json!("length"), &json!(128)));
}

#[test]
fn gpt2_by_hand_and_what_the_files_hold_besides() {
    // Tables of 165 and 64 rows of 30; in each of two layers two norms, c_attn, c_proj, an MLP of 52, all with biases; a last norm.
    let layer = 4 * 30 + 31 * 90 + 31 * 30 + 31 * 52 + 53 * 30;
    let report = plan_fixture("gpt2", &["--memory", "1MB"]);
    assert_eq!(report["weights_bytes"], 4 * (165 * 30 + 64 * 30 + 2 * layer + 60));
    assert_eq!(each(&report, "bytes_per_token"), [2 * 2 * 30 * 4, 2 * 2 * 30 * 2, 2 * 2 * (30 + 3 * 4)]);

    // Mask buffers are not used, and a rule of the user's leaves out more.
    let files = |name: &str| Checkpoint::copy(name).tensors();
    let bytes = |masks: bool| -> usize {
        let is_mask = |name: &str| name.ends_with(".attn.bias") || name.ends_with(".masked_bias");
        files("gpt2-hub").iter().filter(|(name, _)| is_mask(name) == masks).map(|(_, t)| t.data.len()).sum()
    };
    let report = plan_fixture("gpt2-hub", &["--memory", "1MB"]);
    assert_eq!(
        (&report["weights_bytes"], &report["skipped_bytes"]),
        (&json!(bytes(false)), &json!(bytes(true)))
    );
    let text = plan(Some(&fixture("gpt2-hub")), &["--memory", "1MB"]).good();
    assert!(text.contains("in the files are not used"), "{text}");
}

#[test]
fn a_tied_tensor_that_is_stored_twice_counts_once_and_is_named() {
    let checkpoint = Checkpoint::copy("qwen3");
    checkpoint.edit_tensors(|tensors| {
        let head = changed(&tensors["model.embed_tokens.weight"]);
        tensors.insert("lm_head.weight".into(), head);
    });
    let report = plan(Some(checkpoint.path()), &["--memory", "10MB", "--json"]).json();
    assert_eq!(
        (&report["weights_bytes"], &report["tied_copy_bytes"]),
        (&json!(4 * QWEN3), &json!(4 * 163 * 32)),
        "only the data tells that the two differ, and nothing is read"
    );
    let text = plan(Some(checkpoint.path()), &["--memory", "10MB"]).good();
    assert!(text.contains("the files hold it twice: 20.9 kB more if the two differ"), "{text}");

    // Only lm_head: it is the embedding.
    checkpoint.edit_tensors(|tensors| drop(tensors.remove("model.embed_tokens.weight")));
    let report = plan(Some(checkpoint.path()), &["--memory", "10MB", "--json"]).json();
    assert_eq!((&report["weights_bytes"], &report["tied_copy_bytes"]), (&json!(4 * QWEN3), &json!(0)));
}

#[test]
fn the_table_has_the_figures_of_the_json() {
    let flags = ["--memory", "8MiB", "--max-len", "1000"];
    let report = plan(None, &[&flags[..], &["--json"]].concat()).json();
    let text = plan(None, &flags).good();
    for (what, key) in
        [("weights", "weights_bytes"), ("activations", "activation_bytes"), ("K and V", "kv_memory_bytes")]
    {
        let line = text.lines().find(|l| l.starts_with(what)).unwrap();
        let megabytes = format!(" {:.1} MB ", report[key].as_f64().unwrap() / 1e6);
        assert!(line.contains(&megabytes), "{what}: {megabytes}: {line}");
    }
    for kv in report["kv"].as_array().unwrap() {
        let dtype = kv["dtype"].as_str().unwrap();
        let line = text.lines().find(|l| l.starts_with(dtype)).unwrap();
        let keys = ["bytes_per_token", "tokens", "longest_sequence", "limited_by", "sequences"];
        let figure = |key| kv[key].to_string().trim_matches('"').to_owned();
        assert_eq!(line.split_whitespace().skip(1).collect::<Vec<_>>(), keys.map(figure), "{dtype}");
    }
    let choice = format!("choose --kv-dtype {}:", report["choose_kv_dtype"].as_str().unwrap());
    assert!(text.contains(&choice) && text.contains("of 1000 tokens (--max-len)"), "{text}");
}

#[test]
fn the_engine_reserves_what_was_planned() {
    let report = plan(None, &["--memory", "8MiB", "--json"]).json();
    assert_eq!(report["max_len"], 2048, "the context, which is less than 4096");
    let room = report["kv_memory_bytes"].to_string();
    for kv in report["kv"].as_array().unwrap() {
        let dtype = kv["dtype"].as_str().unwrap();
        let args = [
            "generate",
            "--prompt",
            "Once",
            "--max-tokens",
            "2",
            "--json",
            "--kv-memory",
            &room,
            "--kv-dtype",
            dtype,
        ];
        let stats = &run(&args).json()["stats"];
        assert_eq!(stats["kv_bytes_per_token"], kv["bytes_per_token"], "{dtype}");
        let reserved = kv["tokens"].as_u64().unwrap() * kv["bytes_per_token"].as_u64().unwrap();
        assert_eq!(stats["kv_reserved_bytes"], reserved, "{dtype}");
        assert_eq!(stats["max_model_len"], kv["longest_sequence"], "{dtype}");
    }
    // A step with one token reads all weights of a tied model.
    let stats = &run(&["generate", "--prompt", "Once", "--max-tokens", "1", "--json"]).json()["stats"];
    assert_eq!(stats["weight_bytes_per_step"], report["weights_bytes"]);
}

#[test]
fn a_config_without_weights_is_enough() {
    // The fixture's config says f32, so dummy weights take what the stored ones do.
    let report = plan_fixture("qwen3", &["--memory", "10MB", "--load-format", "dummy"]);
    assert_eq!(report["weights_bytes"], 4 * QWEN3);
    let report = plan_fixture("gpt2", &["--memory", "1MB", "--load-format", "dummy"]);
    assert_eq!(report["weights_bytes"], plan_fixture("gpt2", &["--memory", "1MB"])["weights_bytes"]);

    let Some(model) = shared("hf/qwen3-0.6b") else { return };
    let flags = ["--memory", "8GiB", "--load-format", "dummy", "--json"];
    let report = plan(Some(&model), &flags).json();
    // As for the fixture: a table, 28 layers, a norm. 596,049,920 parameters in bf16.
    let layer = 2 * 2048 * 1024 + 2 * 1024 * 1024 + 2 * 128 + 3 * 3072 * 1024 + 2 * 1024;
    let weights: u64 = 2 * (151_936 * 1024 + 28 * layer + 1024);
    assert_eq!((&report["weights_bytes"], weights), (&json!(weights), 2 * 596_049_920));
    assert_eq!(
        each(&report, "bytes_per_token"),
        [2 * 28 * 8 * 128 * 4, 2 * 28 * 8 * 128 * 2, 2 * 28 * 8 * (128 + 4)]
    );
    let room = ((8 << 30) - weights) * 9 / 10;
    assert_eq!(each(&report, "tokens"), [229_376, 114_688, 59_136].map(|token| room / (16 * token) * 16));
    assert_eq!(each(&report, "longest_sequence"), [29_024, 40_960, 40_960]);
    assert_eq!((&report["context"], &report["max_len"]), (&json!(40_960), &json!(4096)));
    assert_eq!(each(&report, "sequences"), [7, 14, 27]);
    plan(Some(&model), &["--memory", "8GiB"]).refused(&["qwen3-0.6b", "--load-format dummy"]);
}

#[test]
fn refusals_name_the_flag_and_the_way_out() {
    let model = fixture("qwen3");
    let refused = |flags: &[&str], parts: &[&str]| plan(Some(&model), flags).refused(parts);
    // The least: weights, activations, and a block of 16 tokens in fp8.
    let (weights, least) = (4 * QWEN3, 4 * QWEN3 + QWEN3_STEP + 2048);
    let enough = format!("give at least {least} ");
    refused(
        &["--memory", "80kB"],
        &["--memory 80000", &format!("the weights alone take {weights} bytes"), &enough],
    );
    refused(
        &["--memory", &(least - 1).to_string()],
        &["--memory", "no room for K and V", &enough, "--max-batched-tokens"],
    );
    plan(Some(&model), &["--memory", &least.to_string()]).good();

    refused(&[], &["--memory"]);
    refused(&["--memory", "8XB"], &["--memory", "'8XB' is no size", "write 2GiB"]);
    refused(&["--memory", "1GB", "--max-len", "129"], &["--max-len 129", "context is 128", "at most that"]);
    for length in ["0", "-3", "many"] {
        refused(&["--memory", "1GB", "--max-len", length], &["--max-len", length]);
    }
    refused(&["--memory", "1GB", "--dtype", "f16"], &["--dtype f16", "--dtype f32"]);

    // What would not load is not planned for.
    let checkpoint = Checkpoint::copy("qwen3");
    checkpoint.edit_tensors(|tensors| drop(tensors.remove("model.norm.weight")));
    plan(Some(checkpoint.path()), &["--memory", "1GB"]).refused(&["1 missing", "model.norm.weight"]);
    checkpoint.set_config(json!({"hidden_size": 36}));
    plan(Some(checkpoint.path()), &["--memory", "1GB"]).refused(&["embed_tokens.weight", "[163, 36]"]);
}

#[test]
fn packed_forms_are_worked_out_from_the_shapes() {
    let report = plan_fixture("qwen3", &["--memory", "10MB"]);
    let packed = report["packed"].as_array().unwrap();
    let bytes =
        |form: &str| packed.iter().find(|row| row["weights"] == form).unwrap()["weights_bytes"].as_u64();
    // What is in no layer, and norms, stay f32. int8: a byte a weight, and 4 bytes an output.
    let matrices = 2 * (2 * 48 * 32 + 2 * 24 * 32 + 3 * 40 * 32);
    let outputs = 2 * (48 + 32 + 2 * 24 + 2 * 40 + 32);
    let others = QWEN3 - matrices;
    assert_eq!(bytes("int8"), Some(4 * others + matrices + 4 * outputs));
    let text = plan(Some(&fixture("qwen3")), &["--memory", "10MB"]).good();
    assert!(text.contains("q4_k_m") && text.contains("int4 g128"), "{text}");
    // Weights that do not fit as they are may fit packed.
    let flags = ["--memory", "85000", "--max-batched-tokens", "1"];
    let little = plan(Some(&fixture("qwen3")), &flags).refused(&["the weights alone", "as int8"]);
    assert!(little.contains("it fits"), "{little}");
}

#[test]
fn auto_takes_the_plans_choice_and_says_so() {
    let flags = ["--prompt", "Once", "--max-tokens", "2", "--temperature", "0"];
    let ran = run(&[&["generate", "--auto"], &flags[..]].concat());
    assert!(ran.stderr.contains("--auto: ") && ran.stderr.contains("--kv-dtype f32"), "{}", ran.stderr);
    ran.good();
    for (flag, value) in [("--kv-dtype", "fp8"), ("--max-model-len", "64"), ("--kv-memory", "1MiB")] {
        run(&[&["generate", "--auto", flag, value], &flags[..]].concat()).refused(&["--auto", flag]);
    }
    run(&[&["generate", "--auto", "--attention", "contiguous"], &flags[..]].concat())
        .refused(&["--auto", "contiguous"]);
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
    fs::write(&input, "{\"id\": \"a\", \"prompt\": \"Once\", \"max_tokens\": 2}\n").unwrap();
    let files = ["--input", input.to_str().unwrap(), "--output", output.to_str().unwrap()];
    run(&[&["batch", "--auto", "--max-num-seqs", "4"], &files[..]].concat())
        .refused(&["--auto", "--max-num-seqs"]);
    let ran = run(&[&["batch", "--auto"], &files[..]].concat());
    assert!(ran.stderr.contains("--max-num-seqs 256"), "{}", ran.stderr);
    ran.good();
}
