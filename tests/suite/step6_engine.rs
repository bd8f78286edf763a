//! Step 6 in the engine: prompts on the kernels of flash attention give the CPU's tokens, whatever the chunks and the cached prefixes.

use crate::{
    common::{fixture, run},
    random::Random,
};
use serde_json::{Value, json};
use stairwell::{checkpoint::write_safetensors, tensor::HostTensor};
use std::{fs, path::Path};

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

/// A model with heads of 64 numbers and random weights, large enough that every token of a prompt shows in the logits.
fn wide_heads(dir: &Path) {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "torch_dtype": "bfloat16", "vocab_size": 200, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false,
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut random = Random(7);
    let mut tensors = Vec::new();
    let mut add = |name: &str, shape: &[usize], scale: f32| {
        let values = random.numbers(shape.iter().product());
        // A norm's weights are around 1.
        let around = if shape.len() == 1 { 1.0 } else { 0.0 };
        let values: Vec<f32> = values.iter().map(|x| around + scale * x).collect();
        tensors.push((format!("{name}.weight"), HostTensor::from_f32(shape, &values)));
    };
    add("model.embed_tokens", &[200, 64], 0.4);
    add("lm_head", &[200, 64], 0.2);
    add("model.norm", &[64], 0.2);
    for layer in 0..2 {
        for (name, shape) in [
            ("self_attn.q_proj", &[256, 64][..]),
            ("self_attn.k_proj", &[128, 64]),
            ("self_attn.v_proj", &[128, 64]),
            ("self_attn.o_proj", &[64, 256]),
            ("self_attn.q_norm", &[64]),
            ("self_attn.k_norm", &[64]),
            ("mlp.gate_proj", &[96, 64]),
            ("mlp.up_proj", &[96, 64]),
            ("mlp.down_proj", &[64, 96]),
            ("input_layernorm", &[64]),
            ("post_attention_layernorm", &[64]),
        ] {
            add(&format!("model.layers.{layer}.{name}"), shape, 0.2);
        }
    }
    write_safetensors(&dir.join("model.safetensors"), &tensors).unwrap();
}

/// Heads of 64 numbers, weights, arithmetic, K and V in bf16: v3 where nobody asks, v4 where it is asked for. The log-probabilities are
/// those of the CPU in f32, as near as v1's are.
#[test]
fn tensor_cores_in_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    wide_heads(dir.path());
    let model = dir.path().to_str().unwrap();
    let prompt: Vec<u32> = (0..90).map(|i| 3 + i * 7 % 180).collect();
    let ran = |prompt: &[u32], more: &[&str]| {
        let prompt = prompt.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let flags = ["generate", "--model", model, "--prompt-ids", &prompt, "--max-tokens", "1", "--json"];
        // All tokens' log-probabilities, by their ids.
        let how = ["--temperature", "0", "--ignore-eos", "--logprobs", "200", "--max-batched-tokens", "33"];
        let said = run(&[&flags[..], &how, more].concat()).json();
        let mut top: Vec<(u64, f64)> = said["logprobs"][0]["top"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| (entry["id"].as_u64().unwrap(), entry["logprob"].as_f64().unwrap()))
            .collect();
        top.sort_by_key(|(id, _)| *id);
        let logprobs: Vec<f64> = top.into_iter().map(|(_, logprob)| logprob).collect();
        assert_eq!(logprobs.len(), 200);
        (logprobs, said["stats"]["prefill_kernel"].as_str().map(String::from))
    };
    let apart = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let exact = ran(&prompt, &["--device", "cpu", "--dtype", "f32"]).0;
    // One token in the middle of the prompt counts for much more than the dtype.
    let other: Vec<u32> = prompt.iter().enumerate().map(|(i, id)| if i == 40 { 199 } else { *id }).collect();
    let shows = apart(&exact, &ran(&other, &["--device", "cpu", "--dtype", "f32"]).0);
    let sim = ["--device", "sim", "--dtype", "bf16", "--kv-dtype", "bf16"];
    let v1 = ran(&prompt, &[&sim[..], &["--kernel", "flash_attention=v1"]].concat());
    assert_eq!(v1.1.as_deref(), Some("flash_attention_v1"));
    let rounding = apart(&exact, &v1.0);
    assert!(shows > 3.0 * rounding, "a token moves them by {shows}, and bf16 by {rounding}");
    let v4: &[&str] = &["--kernel", "flash_attention=v4"];
    for (more, kernel) in [(&[][..], "flash_attention_v3"), (v4, "flash_attention_v4")] {
        let (logprobs, ran) = ran(&prompt, &[&sim[..], more].concat());
        assert_eq!(ran.as_deref(), Some(kernel));
        let error = apart(&exact, &logprobs);
        assert!(error < 1.5 * rounding, "{kernel}: {error} from f32, and v1 {rounding}");
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
            json!({"id": i, "prompt_ids": ids, "max_tokens": 5, "temperature": 0, "ignore_eos": true})
                .to_string()
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
