//! `generate`, `batch` and `bench` on several ranks: the results of one worker, and clear refusals.

use crate::common::{Checkpoint, changed, fixture, run};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs};
use tempfile::TempDir;

const CUTS: [&[&str]; 4] = [
    &["--tp", "2"],
    &["--pp", "2"],
    &["--tp", "2", "--pp", "3"],
    &["--pp-layers", "1,4", "--micro-batches", "3"],
];

fn deep() -> String {
    fixture("qwen2-deep").to_str().unwrap().to_owned()
}

/// The output ids of each request, by its id, and the summary.
fn batch(requests: &str, more: &[&str]) -> (BTreeMap<String, Value>, Value) {
    let dir: TempDir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("in.jsonl"), requests).unwrap();
    let (model, input, output) = (deep(), path("in.jsonl"), path("out.jsonl"));
    let args = ["batch", "--model", &model, "--input", &input, "--output", &output, "--json"];
    let summary = run(&[&args[..], more].concat()).json();
    let results = fs::read_to_string(&output).unwrap();
    let of = |line: &str| -> (String, Value) {
        let mut result: Value = serde_json::from_str(line).unwrap();
        let versioned = json!([result["output_ids"].take(), result["weight_version"].take()]);
        (result["id"].to_string(), versioned)
    };
    (results.lines().map(of).collect(), summary)
}

/// Prompts with a common beginning, several samples, drawn and greedy.
fn requests() -> String {
    let request = |i: u32| {
        let prompt: Vec<u32> = (5..40).chain([50 + i]).collect();
        json!({"id": i, "prompt_ids": prompt, "max_tokens": 12, "temperature": f64::from(i % 2), "seed": i, "n": 1 + i % 3, "ignore_eos": true})
    };
    (0..8).map(|i| format!("{}\n", request(i))).collect()
}

/// Scheduling is rank 0's alone: chunks, shared blocks and preemptions go to all ranks.
#[test]
fn a_batch_gives_the_results_of_one_worker() {
    let tight =
        ["--max-num-seqs", "6", "--max-batched-tokens", "16", "--max-kv-tokens", "84", "--block-size", "4"];
    for more in [&[][..], &tight, &[&tight[..], &["--preemption", "swap"]].concat()] {
        let (want, alone) = batch(&requests(), more);
        assert_eq!((want.len(), &alone["world_size"]), (8, &json!(1)));
        for cut in CUTS {
            let (got, together) = batch(&requests(), &[more, cut].concat());
            assert_eq!(got, want, "{cut:?} {more:?}");
            for counter in ["preemptions", "cached_tokens", "steps"] {
                assert_eq!(together[counter], alone[counter], "{counter}, {cut:?} {more:?}");
            }
            let ranks = together["ranks"].as_array().unwrap();
            assert_eq!(together["world_size"], ranks.len());
            assert!(more.is_empty() || together["preemptions"].as_u64() > Some(0), "{together}");
        }
    }
}

/// All ranks get new weights between two steps.
#[test]
fn weights_are_updated_on_all_ranks() {
    let other = Checkpoint::copy("qwen2-deep");
    other.edit_tensors(|tensors| {
        let names = [
            "model.layers.0.mlp.down_proj.weight",
            "model.layers.4.self_attn.q_proj.bias",
            "model.norm.weight",
        ];
        names.iter().for_each(|name| *tensors.get_mut(*name).unwrap() = changed(&tensors[*name]));
    });
    let update =
        ["--update-weights", other.path().to_str().unwrap(), "--update-after", "3", "--max-num-seqs", "3"];
    let (want, summary) = batch(&requests(), &update);
    assert_eq!(summary["weight_version"], 1);
    for cut in CUTS {
        assert_eq!(batch(&requests(), &[&update[..], cut].concat()).0, want, "{cut:?}");
    }
    // What does not fit is refused by all of them.
    let wrong = fixture("qwen2");
    let update =
        ["--update-weights", wrong.to_str().unwrap(), "--update-after", "1", "--tp", "2", "--pp", "2"];
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (model, input, output) = (deep(), path("in.jsonl"), path("out.jsonl"));
    fs::write(&input, requests()).unwrap();
    let args = ["batch", "--model", &model, "--input", &input, "--output", &output];
    run(&[&args[..], &update].concat()).refused(&["--update-weights"]);
}

/// Each stage skips the other stages' layers, and refuses those that no stage has.
#[test]
fn layers_that_no_stage_has_are_refused() {
    let checkpoint = Checkpoint::copy("qwen2-deep");
    checkpoint.set_config(json!({"num_hidden_layers": 4}));
    for cut in CUTS {
        let args = ["generate", "--model", checkpoint.name(), "--prompt-ids", "5,17"];
        let cut: Vec<&str> = cut.iter().map(|part| if *part == "1,4" { "1,3" } else { part }).collect();
        run(&[&args[..], &cut].concat()).refused(&["unexpected", "model.layers.4."]);
    }
}

#[test]
fn a_bench_says_what_each_rank_has_done() {
    let model = deep();
    let workload = ["--num-requests", "3", "--input-len", "20", "--output-len", "8", "--seed", "3", "--json"];
    let args = [&["bench", "throughput", "--model", &model][..], &workload].concat();
    let alone = run(&args).json();
    for cut in CUTS {
        let report = run(&[&args[..], cut].concat()).json();
        assert_eq!(report["outputs_sha256"], alone["outputs_sha256"], "{cut:?}");
        let parallel = &report["parallel"];
        assert_eq!(
            parallel["ranks"].as_array().unwrap().len(),
            parallel["world_size"].as_u64().unwrap() as usize
        );
        let bubble = parallel["pipeline_bubble_formula"].as_f64().unwrap();
        assert_eq!(bubble > 0.0, parallel["pipeline_parallel"] != 1, "{parallel}");
    }
    assert_eq!(alone["parallel"]["world_size"], 1);
    // The prompt arrives while ranks have nothing to do.
    let late = ["--request-rate", "20", "--tp", "2"];
    assert_eq!(run(&[&args[..], &late].concat()).json()["totals"]["requests"], 3);
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let model = deep();
    let refused = |more: &[&str], parts: &[&str]| {
        let args = ["generate", "--model", &model, "--prompt-ids", "5,6,7", "--max-tokens", "2"];
        run(&[&args[..], more].concat()).refused(parts)
    };
    refused(&["--tp", "3"], &["--tp 3", "8 query heads on 4 of K and V", "give 1, 2, 4, 8"]);
    refused(&["--pp", "6"], &["--pp 6", "the model has 5", "give 1 to 5"]);
    refused(&["--pp", "3", "--pp-layers", "2,3"], &["--pp-layers 2,3", "2 numbers for 3 stages"]);
    refused(&["--pp-layers", "2,2"], &["--pp-layers 2,2", "the model has 5 layers"]);
    refused(&["--pp-layers", "18446744073709551615,6"], &["--pp-layers", "the model has 5 layers"]);
    refused(&["--tp", "0"], &["--tp"]);
    refused(&["--comm-timeout", "0"], &["--comm-timeout"]);
    refused(&["--tp", "2", "--attention", "none"], &["--attention"]);
    #[cfg(not(feature = "mpi"))]
    refused(&["--tp", "2", "--comm", "mpi"], &["--comm mpi", "--features full,mpi"]);
}

/// The kernels of the simulator, on devices of their own.
#[test]
fn ranks_run_on_simulated_devices() {
    let reference = crate::common::Reference::of("gpt2-deep");
    let model = fixture("gpt2-deep");
    let prompt = reference.prompt.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let args =
        ["generate", "--model", model.to_str().unwrap(), "--prompt-ids", &prompt, "--max-tokens", "16"];
    let more = ["--temperature", "0", "--ignore-eos", "--json", "--device", "sim", "--tp", "2", "--pp", "3"];
    let object = run(&[&args[..], &more].concat()).json();
    assert_eq!(object["output_ids"], json!(reference.greedy));
    assert_eq!((&object["stats"]["device"], &object["stats"]["world_size"]), (&json!("sim"), &json!(6)));
}

/// Stages with fewer layers have room for more blocks; the scheduler gives out as many as the one with the least.
#[test]
fn the_rank_with_the_least_room_decides() {
    let model = deep();
    let cut = ["--pp-layers", "1,4", "--kv-memory", "65536", "--block-size", "4", "--max-num-seqs", "4"];
    let (want, _) = batch(&requests(), &[]);
    let (got, summary) = batch(&requests(), &cut);
    assert_eq!(got, want);
    let ranks = summary["ranks"].as_array().unwrap();
    let reserved: Vec<u64> = ranks.iter().map(|rank| rank["kv_reserved_bytes"].as_u64().unwrap()).collect();
    // A block of 4 tokens takes 4 · 2 · layers · 4 heads · 8 numbers · 4 bytes.
    let blocks = summary["blocks"]["total"].as_u64().unwrap();
    assert_eq!((blocks, reserved), (16, vec![16 * 1024, 16 * 4096]));
    let swap = ["--preemption", "swap", "--swap-memory", "65536"];
    assert_eq!(batch(&requests(), &[&cut[..], &swap].concat()).0, want);
    let args = ["generate", "--model", &model, "--prompt-ids", "5,6,7", "--max-tokens", "100"];
    let contiguous = ["--attention", "contiguous", "--tp", "2", "--pp", "2", "--json"];
    run(&[&args[..], &contiguous].concat()).good();
}
