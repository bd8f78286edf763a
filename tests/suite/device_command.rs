//! `--device` on the command line: what ran is in the stats, and what is not there is said.

use crate::common::{fixture, run};
use serde_json::Value;
use std::fs;

fn generate(more: &[&str]) -> Value {
    generate_with("qwen3-bf16", more)
}

fn generate_with(name: &str, more: &[&str]) -> Value {
    let model = fixture(name);
    let args = [
        "generate",
        "--model",
        model.to_str().unwrap(),
        "--prompt-ids",
        "3,1,4,1,5",
        "--max-tokens",
        "9",
        "--json",
    ];
    run(&[&args[..], &["--temperature", "0", "--ignore-eos"], more].concat()).json()
}

#[test]
fn the_simulated_device_is_used_and_says_the_same() {
    let (cpu, sim) = (generate(&["--device", "cpu"]), generate(&["--device", "sim"]));
    assert_eq!(cpu["output_ids"], sim["output_ids"]);
    assert_eq!((&cpu["stats"]["device"], &sim["stats"]["device"]), (&"cpu".into(), &"sim".into()));
    assert_eq!(cpu["stats"]["kernel_launches"], Value::Null);
    assert!(sim["stats"]["kernel_launches"].as_u64().unwrap() > 100);
    assert_eq!(sim["stats"]["attention"], "paged");
    // Heads of 8 numbers fit every version; heads of 12 fit the plain one alone.
    let wide = generate_with("llama3", &["--device", "cpu"]);
    for version in ["v0", "v1", "v2", "v3", "v4"] {
        let asked = ["--device", "sim", "--kernel", &format!("paged_attention={version}")];
        let forced = generate_with("llama3", &asked);
        assert_eq!(forced["output_ids"], wide["output_ids"], "{version}");
        assert_eq!(forced["stats"]["attention_kernel"], format!("paged_attention_{version}"));
        assert_eq!(
            generate(&asked)["stats"]["attention_kernel"],
            "paged_attention_v0",
            "{version}: too narrow"
        );
    }
    let default = generate_with("llama3", &["--device", "sim"]);
    assert_eq!(default["stats"]["attention_kernel"], "paged_attention_v4");

    for dtype in ["bf16", "f16", "fp8-e4m3"] {
        let kept = |device: &str| generate_with("llama3", &["--kv-dtype", dtype, "--device", device]);
        let (cpu, sim) = (kept("cpu"), kept("sim"));
        assert_eq!(
            (&cpu["output_ids"], &cpu["stats"]["kv_dtype"]),
            (&sim["output_ids"], &sim["stats"]["kv_dtype"])
        );
    }

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let lines = "{\"id\": 1, \"prompt_ids\": [3, 1, 4, 1, 5], \"max_tokens\": 9, \"temperature\": 0, \"ignore_eos\": true}\n";
    fs::write(path("in.jsonl"), lines).unwrap();
    let model = fixture("qwen3-bf16").to_str().unwrap().to_owned();
    let (input, output) = (path("in.jsonl"), path("out.jsonl"));
    let args =
        ["batch", "--model", &model, "--input", &input, "--output", &output, "--device", "sim", "--json"];
    let summary = run(&args).json();
    assert_eq!(summary["device"], "sim");
    let result: Value = serde_json::from_str(fs::read_to_string(&output).unwrap().trim()).unwrap();
    assert_eq!(result["output_ids"], cpu["output_ids"]);
}

#[test]
fn what_is_not_there_is_said_in_one_line() {
    let refused = |more: &[&str], parts: &[&str]| {
        let prompt = ["generate", "--prompt", "Once", "--max-tokens", "2"];
        run(&[&prompt[..], more].concat()).refused(parts);
    };
    refused(&["--device", "cuda"], &["--device cuda", "--device sim"]);
    refused(
        &["--device", "sim", "--kernel", "paged_attention=v9"],
        &["no version 'v9'", "v0, v1, v2, v3, v4"],
    );
    refused(&["--device", "sim", "--kernel", "matmul"], &["'matmul'", "paged_attention=v1"]);
    refused(&["--device", "tpu"], &["'tpu'", "cpu, cuda, sim"]);
    refused(&["--device", "sim", "--attention", "contiguous"], &["--attention contiguous", "in blocks"]);
}
