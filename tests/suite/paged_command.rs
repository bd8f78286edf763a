//! `batch` on a pool of blocks: the flags, what is said of them, and that they change no result.

use crate::common::{Checkpoint, Ran, changed, finish, fixture, program, run};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, process::Stdio, thread, time::Duration};
use tempfile::TempDir;

struct Rig {
    dir: TempDir,
    model: String,
}

impl Rig {
    fn new(model: &str, requests: &[Value]) -> Rig {
        let model = fixture(model).to_str().unwrap().to_owned();
        let rig = Rig { dir: tempfile::tempdir().unwrap(), model };
        let text: String = requests.iter().map(|line| format!("{line}\n")).collect();
        fs::write(rig.path("in.jsonl"), text).unwrap();
        rig
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn args(&self, more: &[&str]) -> Vec<String> {
        let (input, output) = (self.path("in.jsonl"), self.path("out.jsonl"));
        let args = ["batch", "--model", &self.model, "--input", &input, "--output", &output];
        args.iter().chain(more).map(|s| s.to_string()).collect()
    }

    fn batch(&self, more: &[&str]) -> Ran {
        let _ = fs::remove_file(self.path("out.jsonl"));
        finish(program().args(self.args(more)))
    }

    /// The results' field by id.
    fn results(&self, field: &str) -> BTreeMap<String, Value> {
        let text = fs::read_to_string(self.path("out.jsonl")).unwrap();
        let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        text.lines().map(parse).map(|result| (result["id"].to_string(), result[field].clone())).collect()
    }
}

/// Requests of which many begin the same way.
fn sharing(count: u64) -> Vec<Value> {
    let request = |i: u64| {
        let common = (0..10 + i % 4 * 9).map(|t| (t * 13 + i % 4) % 90);
        let prompt: Vec<u64> = common.chain([i % 90, (i * 7) % 90]).collect();
        let temperature = if i.is_multiple_of(2) { 0.0 } else { 1.0 };
        json!({"id": i, "prompt_ids": prompt, "max_tokens": 4 + i * 11 % 30, "seed": i, "temperature": temperature})
    };
    (0..count).map(request).collect()
}

#[test]
fn a_small_pool_changes_no_result() {
    for model in ["qwen3-bf16", "mistral-f16"] {
        let rig = Rig::new(model, &sharing(32));
        rig.batch(&["--attention", "contiguous", "--max-num-seqs", "1"]).good();
        let (want, mut preemptions) = (rig.results("output_ids"), Vec::new());
        for size in ["1", "8", "16", "32"] {
            for more in [&["--preemption", "swap"][..], &["--no-prefix-cache"], &[]] {
                let pool = ["--max-kv-tokens", "160", "--block-size", size, "--json"];
                let summary = rig.batch(&[&pool[..], more].concat()).json();
                assert_eq!(rig.results("output_ids"), want, "{model}, blocks of {size}, {more:?}");
                let blocks = &summary["blocks"];
                assert_eq!(
                    (&blocks["held"], &blocks["block_size"]),
                    (&json!(0), &json!(size.parse::<u64>().unwrap()))
                );
                let free = blocks["free"].as_u64().unwrap() + blocks["cached"].as_u64().unwrap();
                assert_eq!(free, blocks["total"].as_u64().unwrap(), "the pool is wholly free at the end");
                let cached = !more.contains(&"--no-prefix-cache");
                assert!(size == "32" || (summary["cached_tokens"] != 0) == cached, "{summary}");
                preemptions.push(summary["preemptions"].as_u64().unwrap());
            }
        }
        // Mistral's windows give blocks back, and small ones are enough for all.
        let few = preemptions.iter().filter(|count| **count > 0).count();
        assert!(few == 12 || few > 6 && model == "mistral-f16", "{model}: {preemptions:?}");
    }
}

#[test]
fn hits_are_counted_for_each_request_and_tenants_are_kept_apart() {
    let prompt: Vec<u64> = (0..33).collect();
    let request = |id: &str, salt: Value| json!({"id": id, "prompt_ids": prompt, "max_tokens": 2, "temperature": 0, "cache_salt": salt});
    let rig = Rig::new(
        "qwen3",
        &[
            request("a", Value::Null),
            request("b", json!("x")),
            request("c", json!("x")),
            request("d", Value::Null),
        ],
    );
    let summary = rig.batch(&["--max-num-seqs", "1", "--json"]).json();
    assert_eq!(summary["cache_hit_rate"], 64.0 / (4 * 33) as f64);
    // 33 tokens, and one of the two that are written, are two blocks and a part of the third.
    let unused = summary["kv_unused_tokens_per_request"].as_f64().unwrap();
    assert!(unused > 13.0 && unused < 16.0, "{unused} places of a block of 16");
    let cached: Vec<Value> = rig.results("cached_tokens").into_values().collect();
    assert_eq!(cached, [0, 0, 32, 32]);

    // Samples share their prompt, all but its last token.
    let samples =
        json!({"id": "n", "prompt_ids": prompt[..10], "max_tokens": 3, "n": 3, "seed": 1, "temperature": 1});
    let rig = Rig::new("qwen3", &[samples]);
    let summary = rig.batch(&["--json"]).json();
    assert_eq!(summary["tokens_computed"], (10 + 2) + 2 * (1 + 2));
    assert_eq!(summary["blocks"]["copies"], 2);
    let choices = &rig.results("choices")["\"n\""];
    assert_eq!(choices[1]["cached_tokens"], 9);
    for (index, choice) in choices.as_array().unwrap().iter().enumerate() {
        let (seed, ids) = ((1 + index).to_string(), "0,1,2,3,4,5,6,7,8,9");
        let args = ["generate", "--model", &rig.model, "--prompt-ids", ids, "--max-tokens", "3", "--json"];
        let one = run(&[&args[..], &["--temperature", "1", "--seed", &seed]].concat()).json();
        assert_eq!(choice["output_ids"], one["output_ids"]);
    }
}

#[test]
fn what_was_reserved_is_said_and_what_does_not_fit_is_refused() {
    let rig = Rig::new("qwen3", &sharing(4));
    let note = rig.batch(&["--max-kv-tokens", "100"]).stderr;
    assert!(note.contains("KV cache (--max-kv-tokens): 6 blocks of 16 tokens, 96 tokens"), "{note}");
    assert!(note.contains("one sequence of 56 tokens") && note.contains("0 of 6 blocks are held"), "{note}");
    let note = rig.batch(&["--kv-memory", "64KiB", "--block-size", "4"]).stderr;
    assert!(note.contains("blocks of 4 tokens") && note.contains("64.5 kB"), "{note}");

    let ran = rig.batch(&["--max-kv-tokens", "32"]);
    assert_eq!(ran.code, Some(1));
    let refused = ran.stderr.lines().find(|line| line.contains("line 3:")).unwrap();
    for part in ["prompt has 30 tokens", "up to 26 more", "holds 32", "--max-kv-tokens"] {
        assert!(refused.contains(part), "there is no '{part}' in: {refused}");
    }
    assert_eq!(rig.results("id").len(), 1, "the one that fits ran");

    rig.batch(&["--block-size", "12"]).refused(&["--block-size", "power of two"]);
    rig.batch(&["--kv-memory", "lots"]).refused(&["--kv-memory", "'lots' is no size", "2GiB"]);
    rig.batch(&["--kv-memory", "900TB"]).refused(&["--kv-memory", "GB are free", "--kv-dtype bf16"]);
    rig.batch(&["--kv-memory", "10"]).refused(&["--kv-memory", "not one fits"]);
    rig.batch(&["--kv-memory", "1MB", "--max-kv-tokens", "64"]).refused(&["cannot be used with"]);
    rig.batch(&["--attention", "contiguous", "--block-size", "8"]).refused(&["'contiguous' has no blocks"]);
    rig.batch(&["--attention", "contiguous", "--no-prefix-cache"]).refused(&["--no-prefix-cache", "'paged'"]);
    rig.batch(&["--preemption", "swop"]).refused(&["--preemption", "recompute"]);
}

#[test]
fn one_sequence_gives_way_to_the_pool() {
    let dir = fixture("qwen3");
    let args = ["generate", "--model", dir.to_str().unwrap(), "--prompt-ids", "5,17,3", "--temperature", "0"];
    let long = ["--max-tokens", "40", "--ignore-eos", "--json"];
    let json = |more: &[&str]| run(&[&args[..], &long, more].concat()).json();
    let whole = json(&[]);
    assert_eq!(whole["stats"]["attention"], "paged");
    assert_eq!(json(&["--block-size", "1"])["output_ids"], whole["output_ids"]);
    let short = json(&["--max-kv-tokens", "16"]);
    assert_eq!(
        (short["output_ids"].as_array().unwrap().len(), &short["finish_reason"]),
        (14, &json!("length"))
    );
    let [f32, bf16, fp8] = ["f32", "bf16", "fp8-e4m3"]
        .map(|dtype| json(&["--kv-dtype", dtype])["stats"]["kv_bytes_per_token"].as_u64().unwrap());
    // 96 numbers in 8 vectors, each with a scale.
    assert_eq!((f32, bf16, fp8), (384, 192, 96 + 8 * 4));
    let refused = run(&[&args[..], &["--max-model-len", "64", "--max-kv-tokens", "32"]].concat());
    refused.refused(&["--max-model-len 64", "--max-kv-tokens 32", "room for 32 tokens"]);
}

#[test]
fn weights_are_updated_in_a_running_batch() {
    let rig = Rig::new("qwen3", &sharing(12));
    let other = Checkpoint::copy("qwen3");
    other.edit_tensors(|tensors| tensors.values_mut().for_each(|tensor| *tensor = changed(tensor)));
    let ids = |model: &str| {
        let input = rig.path("in.jsonl");
        let output = rig.path("whole.jsonl");
        let _ = fs::remove_file(&output);
        finish(program().args(["batch", "--model", model, "--input", &input, "--output", &output])).good();
        let text = fs::read_to_string(&output).unwrap();
        let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        let ids =
            text.lines().map(parse).map(|result| (result["id"].to_string(), result["output_ids"].clone()));
        ids.collect::<BTreeMap<String, Value>>()
    };
    let (old, new) = (ids(&rig.model), ids(other.name()));
    for on_update in ["drain", "abort"] {
        let update = ["--update-weights", other.name(), "--update-after", "4", "--on-update", on_update];
        let summary = rig.batch(&[&["--max-num-seqs", "3", "--json"], &update[..]].concat()).json();
        assert_eq!((&summary["results"], &summary["weight_version"]), (&json!(12), &json!(1)));
        let (versions, outputs) = (rig.results("weight_version"), rig.results("output_ids"));
        let before = versions.values().filter(|version| **version == 0).count();
        assert!((4..=8).contains(&before), "{on_update}: {before} results with the old weights");
        for (id, reason) in rig.results("finish_reason") {
            let whole = if versions[&id] == 0 { &old[&id] } else { &new[&id] };
            match reason.as_str() {
                Some("abort") => assert!(on_update == "abort" && versions[&id] == 0),
                _ => assert_eq!(&outputs[&id], whole, "request {id}, weights {}", versions[&id]),
            }
        }
    }
    let gpt2 = fixture("gpt2");
    let update = ["--update-weights", gpt2.to_str().unwrap(), "--update-after", "1"];
    let error = rig.batch(&update).refused(&["--update-weights"]);
    assert!(error.contains("gpt2"), "{error}");
    assert_eq!(rig.results("id").len(), 12, "all were running, and drained before the weights were refused");
    rig.batch(&["--update-weights", "no/such/dir", "--update-after", "1"]).refused(&["no/such/dir"]);
    rig.batch(&["--update-after", "1"]).refused(&["--update-weights"]);
}

/// 10,000 short requests: memory does not grow once the first thousand have run.
#[test]
#[cfg(target_os = "linux")]
fn memory_stays_flat() {
    let request = |i: u64| json!({"id": i, "prompt_ids": [i % 7, i % 50, 3, 4, 5, 6, 7, 8, i % 90], "max_tokens": 1 + i % 4, "temperature": 0});
    let rig = Rig::new("qwen3", &(0..10_000).map(request).collect::<Vec<_>>());
    let args = rig.args(&["--max-kv-tokens", "128", "--block-size", "4", "--max-num-seqs", "16"]);
    let mut child = program().args(args).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let (mut warm, mut most) = (None, 0);
    while child.try_wait().unwrap().is_none() {
        thread::sleep(Duration::from_millis(5));
        let lines = fs::read_to_string(rig.path("out.jsonl")).map_or(0, |text| text.lines().count());
        let status = fs::read_to_string(&status).unwrap_or_default();
        let Some(line) = status.lines().find(|line| line.starts_with("VmRSS")) else { continue };
        let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        if lines > 1000 {
            warm.get_or_insert(kilobytes);
            most = most.max(kilobytes);
        }
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(rig.results("id").len(), 10_000);
    let warm = warm.expect("it ran long enough to look");
    assert!(most <= warm + 1024, "{warm} kB after 1,000 requests, {most} kB later");
}
