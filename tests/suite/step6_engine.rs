//! Step 6 in the engine: prompts on the kernels of flash attention give the CPU's tokens, whatever the chunks and the cached prefixes.

use crate::common::{fixture, run};
use serde_json::Value;
use std::fs;

fn generate(prompt: &[u32], more: &[&str]) -> Value {
    let model = fixture("llama3");
    let prompt: Vec<String> = prompt.iter().map(u32::to_string).collect();
    let prompt = prompt.join(",");
    let args = [
        "generate",
        "--model",
        model.to_str().unwrap(),
        "--prompt-ids",
        &prompt,
        "--max-tokens",
        "6",
        "--json",
    ];
    run(&[&args[..], &["--temperature", "0", "--ignore-eos"], more].concat()).json()
}

/// The engine's prompts run on these kernels, whatever the chunks, and give the CPU's tokens.
#[test]
fn the_engine_uses_it() {
    let prompt: Vec<u32> = (0..300).map(|i| 3 + i * 7 % 50).collect();
    let cpu = generate(&prompt, &["--device", "cpu"]);
    assert_eq!(cpu["stats"]["prefill_kernel"], Value::Null);
    for (version, chunk) in [("v0", "64"), ("v1", "512"), ("v1", "17"), ("v2", "64"), ("v3", "100")] {
        let kernel = format!("flash_attention={version}");
        let sim = generate(&prompt, &["--device", "sim", "--kernel", &kernel, "--max-batched-tokens", chunk]);
        assert_eq!(sim["output_ids"], cpu["output_ids"], "{version}, chunks of {chunk}");
        // Heads of 8 numbers: v2 and v3 are compiled for wider ones.
        let ran = if version == "v0" { "flash_attention_v0" } else { "flash_attention_v1" };
        assert_eq!(sim["stats"]["prefill_kernel"], ran);
        assert_eq!(sim["stats"]["attention_kernel"], "paged_attention_v4");
    }
}

/// Heads of 64 numbers, weights, arithmetic, K and V in bf16: v3 where nobody asks, v4 where it is asked for, and the tokens of v1.
#[test]
fn tensor_cores_in_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "torch_dtype": "bfloat16", "vocab_size": 200, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false,
    });
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let prompt = (0..90).map(|i| (3 + i * 7 % 180).to_string()).collect::<Vec<_>>().join(",");
    let ran = |more: &[&str]| {
        let flags = [
            "generate",
            "--model",
            dir.path().to_str().unwrap(),
            "--load-format",
            "dummy",
            "--prompt-ids",
            &prompt,
        ];
        let how = [
            "--max-tokens",
            "8",
            "--temperature",
            "0",
            "--ignore-eos",
            "--json",
            "--device",
            "sim",
            "--dtype",
            "bf16",
        ];
        let said =
            run(&[&flags[..], &how, &["--kv-dtype", "bf16", "--max-batched-tokens", "33"], more].concat())
                .json();
        (said["output_ids"].clone(), said["stats"]["prefill_kernel"].as_str().unwrap().to_owned())
    };
    let plain = ran(&["--kernel", "flash_attention=v1"]);
    assert_eq!(plain.1, "flash_attention_v1");
    let v4: &[&str] = &["--kernel", "flash_attention=v4"];
    for (more, kernel) in [(&[][..], "flash_attention_v3"), (v4, "flash_attention_v4")] {
        assert_eq!(ran(more), (plain.0.clone(), kernel.to_owned()));
    }
}

/// Prompts behind prefixes that earlier requests have left in the cache: the CPU's tokens, in chunks that divide prefix and prompt anywhere.
#[test]
fn cached_prefixes() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
    let requests: Vec<String> = (0..6_usize)
        .map(|i| {
            let ids: Vec<usize> =
                (0..70 + 5 * i).map(|t| if t < 48 { 3 + t % 40 } else { 5 + (t * i) % 60 }).collect();
            serde_json::json!({"id": i, "prompt_ids": ids, "max_tokens": 5, "temperature": 0, "ignore_eos": true}).to_string()
        })
        .collect();
    fs::write(&input, requests.join("\n")).unwrap();
    let model = fixture("llama3");
    let results = |device: &str| -> (Vec<(u64, Value)>, u64) {
        let _ = fs::remove_file(&output);
        let paths = [&model, &input, &output].map(|path| path.to_str().unwrap());
        let flags =
            ["batch", "--model", paths[0], "--input", paths[1], "--output", paths[2], "--device", device];
        // One after the other, so that each finds what those before have left.
        let summary =
            run(&[&flags[..], &["--max-num-seqs", "1", "--max-batched-tokens", "17", "--json"]].concat())
                .json();
        let lines = fs::read_to_string(&output).unwrap();
        let line = |line: &str| -> Value { serde_json::from_str(line).unwrap() };
        let ids = lines
            .lines()
            .map(line)
            .map(|result| (result["id"].as_u64().unwrap(), result["output_ids"].clone()));
        (ids.collect(), summary["cached_tokens"].as_u64().unwrap())
    };
    let (cpu, sim) = (results("cpu"), results("sim"));
    assert_eq!(cpu, sim);
    assert_eq!(sim.1, 5 * 48, "five requests find 48 tokens");
}
