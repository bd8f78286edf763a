//! `stairwell bench` and `stairwell timeline`: what they print, what they refuse, and that a page shows what ran.

use crate::common::{fixture, run};
use proptest::prelude::*;
use serde_json::{Value, json};
use stairwell::trace::Schedule;
use std::{fs, path::Path};

fn throughput(flags: &[&str]) -> Value {
    let small =
        ["bench", "throughput", "--num-requests", "9", "--input-len", "3..12", "--output-len", "2..6"];
    run(&[&small[..], &["--max-num-seqs", "4", "--json"], flags].concat()).json()
}

#[test]
fn throughput_prints_one_object_whose_sums_agree() {
    let report = throughput(&["--seed", "5"]);
    let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    let expected = [
        "command",
        "version",
        "machine",
        "model",
        "settings",
        "totals",
        "latencies",
        "parallel",
        "outputs_sha256",
        "requests",
    ];
    assert_eq!(keys, expected);
    assert_eq!(
        (&report["command"], &report["model"]["class"]),
        (&json!("bench throughput"), &json!("Qwen3ForCausalLM"))
    );
    for (key, value) in [
        ("policy", json!("continuous")),
        ("max_num_seqs", json!(4)),
        ("max_num_seqs_asked", json!(4)),
        ("max_batched_tokens", json!(256)),
        ("input_len", json!("3..12")),
        ("output_len", json!("2..6")),
        ("kv_dtype", json!("F32")),
        ("seed", json!(5)),
    ] {
        assert_eq!(report["settings"][key], value, "{key}");
    }

    let (totals, requests) = (&report["totals"], report["requests"].as_array().unwrap());
    let sum = |key: &str| requests.iter().map(|r| r[key].as_u64().unwrap()).sum::<u64>();
    let total = |key: &str| totals[key].as_u64().unwrap_or_else(|| panic!("{key} is {}", totals[key]));
    assert_eq!((requests.len(), total("requests")), (9, 9));
    assert_eq!(total("prompt_tokens"), sum("prompt_tokens"));
    assert_eq!(total("output_tokens"), sum("output_tokens"));
    // Every token goes through the model once, but for the last one of each output.
    assert_eq!(total("tokens_computed"), total("prompt_tokens") + total("output_tokens") - 9);
    assert_eq!(total("peak_running"), 4);
    assert!((1..=40).contains(&total("steps")));
    assert!(requests.iter().all(|r| (3..=12).contains(&r["prompt_tokens"].as_u64().unwrap())));
    assert!(requests.iter().all(|r| (2..=6).contains(&r["output_tokens"].as_u64().unwrap())));
    let (rate, seconds) =
        (totals["output_tokens_per_second"].as_f64().unwrap(), totals["seconds"].as_f64().unwrap());
    assert!((rate * seconds / total("output_tokens") as f64 - 1.0).abs() < 1e-9);
    let number = |key: &str| totals[key].as_f64().unwrap_or_else(|| panic!("{key} is {}", totals[key]));
    let utilization = number("kv_utilization");
    assert!(utilization > 0.1 && utilization <= 1.0, "{utilization}");
    let mean = number("mean_running");
    assert!(mean > 1.0 && mean <= 4.0, "{mean}");
    assert!((0.0..100.0).contains(&number("kv_unused_tokens_per_request")));
    assert_eq!((total("preemptions"), total("cached_tokens"), number("cache_hit_rate")), (0, 0, 0.0));
    assert!(requests.iter().all(|r| (&r["cached_tokens"], &r["preemptions"]) == (&json!(0), &json!(0))));

    for name in ["queue_seconds", "ttft_seconds", "tpot_seconds", "itl_seconds"] {
        let spread = &report["latencies"][name];
        let [p50, p90, p99, max] = ["p50", "p90", "p99", "max"].map(|key| spread[key].as_f64().unwrap());
        assert!(0.0 <= p50 && p50 <= p90 && p90 <= p99 && p99 <= max, "{name}: {spread}");
    }
}

#[test]
fn the_seed_decides_the_workload_and_the_policy_changes_no_token() {
    let lengths = |report: &Value| -> Vec<(u64, u64)> {
        let of = |r: &Value, key: &str| r[key].as_u64().unwrap();
        let requests = report["requests"].as_array().unwrap();
        requests.iter().map(|r| (of(r, "prompt_tokens"), of(r, "output_tokens"))).collect()
    };
    for temperature in ["0", "1"] {
        let reference = throughput(&["--temperature", temperature]);
        for policy in ["continuous", "static", "one-at-a-time"] {
            let report = throughput(&["--temperature", temperature, "--policy", policy]);
            assert_eq!(report["outputs_sha256"], reference["outputs_sha256"], "{policy}");
            assert_eq!(lengths(&report), lengths(&reference));
            assert_eq!(report["totals"]["peak_running"] == 1, policy == "one-at-a-time");
        }
        let another = throughput(&["--temperature", temperature, "--seed", "1"]);
        assert_ne!(another["outputs_sha256"], reference["outputs_sha256"]);
    }
}

#[test]
fn requests_that_arrive_over_time_and_a_late_one() {
    let report = throughput(&["--request-rate", "200", "--late-prompt", "40", "--max-batched-tokens", "8"]);
    assert_eq!(report["totals"]["requests"], 10);
    let late = &report["requests"][9];
    assert_eq!((&late["prompt_tokens"], &late["output_tokens"]), (&json!(40), &json!(8)));
    assert!(report["totals"]["peak_batched_tokens"].as_u64().unwrap() <= 8);
}

#[test]
fn prompts_may_begin_the_same_way() {
    let (alone, shared) = (throughput(&[]), throughput(&["--shared-prefix", "50", "--late-prompt", "7"]));
    assert_eq!(
        (&alone["settings"]["shared_prefix"], &shared["settings"]["shared_prefix"]),
        (&json!(0), &json!(50))
    );
    let lengths = |report: &Value| -> Vec<u64> {
        let requests = report["requests"].as_array().unwrap();
        requests.iter().map(|r| r["prompt_tokens"].as_u64().unwrap()).collect()
    };
    let longer: Vec<u64> = lengths(&alone).into_iter().chain([7]).map(|n| n + 50).collect();
    assert_eq!(lengths(&shared), longer);
    let static_batches = throughput(&["--shared-prefix", "50", "--late-prompt", "7", "--policy", "static"]);
    assert_eq!(shared["outputs_sha256"], static_batches["outputs_sha256"]);
}

#[test]
fn latency_times_whole_batches() {
    let report = run(&[
        "bench",
        "latency",
        "--batch-size",
        "3",
        "--input-len",
        "5",
        "--output-len",
        "4",
        "--iterations",
        "2",
        "--warmup",
        "1",
        "--max-num-seqs",
        "1",
        "--json",
    ])
    .json();
    let totals = &report["totals"];
    assert_eq!(
        (&totals["requests"], &totals["output_tokens"], &totals["steps"]),
        (&json!(6), &json!(24), &json!(8))
    );
    assert_eq!((&report["settings"]["max_num_seqs"], &totals["peak_running"]), (&json!(3), &json!(3)));
    let mean = report["latencies"]["batch_seconds"]["mean"].as_f64().unwrap();
    assert!((mean * 2.0 - totals["seconds"].as_f64().unwrap()).abs() < 1e-9);
}

#[test]
fn a_table_for_people_and_a_file_for_programs() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("report.json");
    let args =
        ["bench", "throughput", "--num-requests", "2", "--output-len", "2", "--out", out.to_str().unwrap()];
    let table = run(&args).good();
    assert!(
        ["output tok/s", "requests at a time", "TTFT"].iter().all(|part| table.contains(part)),
        "{table}"
    );
    let report: Value = serde_json::from_slice(&fs::read(out).unwrap()).unwrap();
    assert_eq!(report["totals"]["output_tokens"], 4);
}

#[test]
fn workloads_that_can_not_be() {
    let refused =
        |flags: &[&str], parts: &[&str]| run(&[&["bench", "throughput"], flags].concat()).refused(parts);
    refused(&["--num-requests", "0"], &["--num-requests", "0"]);
    refused(&["--num-requests", "-3"], &["--num-requests", "-3"]);
    refused(&["--input-len", "9..3"], &["--input-len", "3..9"]);
    refused(&["--output-len", "0..3"], &["--output-len", "must be 1"]);
    refused(&["--output-len", "-1"], &["--output-len", "-1"]);
    refused(&["--output-len", "8:0"], &["--output-len", "weight"]);
    refused(&["--input-len", "2000", "--output-len", "49"], &["--input-len", "--output-len", "2049", "2048"]);
    refused(&["--late-prompt", "2041"], &["--late-prompt", "2041", "2048"]);
    refused(&["--shared-prefix", "1857"], &["--shared-prefix and --input-len up to 1985", "2049", "2048"]);
    refused(
        &["--shared-prefix", "1000", "--late-prompt", "1041"],
        &["--shared-prefix and --late-prompt up to 2041"],
    );
    refused(&["--shared-prefix", "0"], &["--shared-prefix"]);
    refused(&["--preset", "nano-vllm", "--input-len", "1024..1025"], &["--input-len", "2049", "2048"]);
    refused(&["--request-rate", "0"], &["--request-rate", "above 0"]);
    refused(&["--request-rate", "nan"], &["--request-rate"]);
    refused(&["--temperature", "3"], &["--temperature"]);
    refused(&["--max-model-len", "20"], &["--max-model-len 20", "longest request"]);
    refused(&["--policy", "magic"], &["--policy", "continuous", "static", "one-at-a-time"]);
    refused(&["--attention", "recompute"], &["--attention recompute"]);
    refused(&["--num-requests", "1", "--out", "/no/such/place.json"], &["/no/such/place.json"]);
    run(&["bench", "latency", "--input-len", "2048"]).refused(&["--input-len", "--output-len", "2048"]);
    run(&["bench", "latency", "--iterations", "0"]).refused(&["--iterations"]);
}

#[test]
fn preset_takes_flags() {
    let args = [
        "bench",
        "throughput",
        "--preset",
        "nano-vllm",
        "--num-requests",
        "1",
        "--output-len",
        "1",
        "--json",
    ];
    let report = run(&args).json();
    assert_eq!(
        (&report["settings"]["input_len"], &report["settings"]["num_requests"]),
        (&json!("100..1024"), &json!(1))
    );
}

/// The record of a run with these flags, and the page that draws it.
fn drawn(flags: &[&str], window: &[&str]) -> (String, String) {
    let dir = tempfile::tempdir().unwrap();
    let (trace, out) = (dir.path().join("trace.json"), dir.path().join("timeline.html"));
    throughput(&[flags, &["--trace", trace.to_str().unwrap()]].concat());
    run(&[&["timeline", trace.to_str().unwrap(), "--out", out.to_str().unwrap()], window].concat()).good();
    (fs::read_to_string(trace).unwrap(), fs::read_to_string(out).unwrap())
}

/// One of the page's JSON documents, as a browser reads it.
fn document(page: &str, id: &str) -> Value {
    let text = page.split_once(&format!("id=\"{id}\">")).unwrap().1;
    serde_json::from_str(text.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn a_record_has_a_lane_for_each_request() {
    let (record, page) = drawn(&["--late-prompt", "40", "--max-batched-tokens", "16"], &[]);
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["otherData"]["max_batched_tokens"], 16);
    let events = record["traceEvents"].as_array().unwrap();
    let of = |event: &Value, key: &str| event["args"][key].as_u64().unwrap();
    let is_part = |event: &Value| ["prefill", "decode"].iter().any(|cat| event["cat"] == *cat);
    let lane = |tid: u64| events.iter().filter(move |event| event["tid"] == tid);
    for i in 0..10 {
        let name = lane(i + 1).find(|event| event["name"] == "thread_name").unwrap();
        assert_eq!(name["args"]["name"], format!("request {i}"));
        assert!(lane(i + 1).any(|event| event["name"] == "finished"));
        let spans: Vec<(f64, f64)> = lane(i + 1)
            .filter(|event| is_part(event))
            .map(|event| (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap()))
            .collect();
        assert!(spans.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        assert!(name["args"]["arrival_us"].as_f64().unwrap() <= spans[0].0);
    }
    assert!(
        lane(10).filter(|event| is_part(event)).count() >= 3 + 7,
        "40 tokens in chunks of at most 16, and 7 decode steps"
    );
    let steps: Vec<u64> = lane(0).filter(|e| e["cat"] == "step").map(|step| of(step, "tokens")).collect();
    assert!(steps.iter().all(|tokens| *tokens <= 16));
    let parts = events.iter().filter(|event| is_part(event)).map(|part| of(part, "to") - of(part, "from"));
    assert_eq!(parts.sum::<u64>(), steps.iter().sum::<u64>());
    let counters = events.iter().filter(|event| event["name"] == "KV tokens");
    assert_eq!(counters.map(|kv| of(kv, "used") + of(kv, "reserved, unused")).count(), steps.len());

    let schedule = Schedule::parse(&record.to_string()).unwrap();
    assert_eq!((schedule.requests(), schedule.steps()), (10, steps.len()));
    assert_eq!(document(&page, "record"), record);
    let steps = json!({"start": 0, "end": steps.len()});
    assert_eq!(document(&page, "view"), json!({"tab": "schedule", "steps": steps}));
}

#[test]
fn a_window_of_time() {
    let (_, page) = drawn(&[], &["--from", "0", "--to", "0.001"]);
    let steps = &document(&page, "view")["steps"];
    assert!(steps["start"] == 0 && steps["end"].as_u64() <= Some(1), "{steps}");
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace.json");
    throughput(&["--trace", trace.to_str().unwrap()]);
    for window in [["--from", "1e9"], ["--from", "-1"], ["--to", "0"], ["--from", "nan"]] {
        let out = dir.path().join("x.html");
        run(&[&["timeline", trace.to_str().unwrap(), "--out", out.to_str().unwrap()], &window[..]].concat())
            .refused(&["--from"]);
    }
}

#[test]
fn files_that_are_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("trace.json"), dir.path().join("timeline.html"));
    let (file, out) = (file.to_str().unwrap(), out.to_str().unwrap());
    let refused = |text: &str, parts: &[&str]| {
        fs::write(file, text).unwrap();
        run(&["timeline", file, "--out", out]).refused(&[&[file, "--trace"], parts].concat());
        assert!(!Path::new(out).exists());
    };
    refused("", &["not a trace"]);
    refused("{}", &["traceEvents"]);
    refused(r#"{"traceEvents": []}"#, &["no request"]);
    refused(r#"{"traceEvents": [{"ph": "X", "name": "a"}]}"#, &["no request"]);
    refused(r#"{"traceEvents": [{"ph": "X", "name": "a", "ts": -5}]}"#, &["'a'", "-5"]);
    refused(r#"{"traceEvents": [{"ph": "X", "name": "a", "dur": 1e300}]}"#, &["'a'"]);
    let weights = fixture("gpt2").join("model.safetensors");
    run(&["timeline", weights.to_str().unwrap(), "--out", out])
        .refused(&["model.safetensors", "not a trace"]);
    run(&["timeline", "/no/such.json", "--out", out]).refused(&["/no/such.json"]);
    run(&["timeline", file]).refused(&["--out"]);
    run(&["timeline", file, "--out", "timeline.svg"]).refused(&["--out", "must end in .html"]);
}

fn any_event() -> impl Strategy<Value = Value> {
    let times = (0.0..1e15f64, 0.0..1e15f64, 0..4u64, 0..9usize, any::<u64>(), any::<u64>());
    times.prop_map(|(ts, dur, tid, kind, a, b)| match kind {
        0 => json!({"ph": "M", "tid": tid, "name": "thread_name", "args": {"name": "<&>", "arrival_us": ts}}),
        1 => json!({"ph": "i", "tid": tid, "ts": ts, "name": "finished"}),
        2 => json!({"ph": "C", "ts": ts, "name": "KV tokens", "args": {"used": a, "reserved, unused": b}}),
        3 => json!({"ph": "X", "ts": ts, "dur": dur, "name": "s", "cat": "step"}),
        4..7 => json!({"ph": "X", "tid": tid, "ts": ts, "dur": dur, "name": "p", "cat": "prefill", "args": {"from": 0, "to": a}}),
        _ => json!({"ph": "X", "tid": tid, "ts": ts, "dur": dur, "name": "d", "cat": "decode", "args": {"to": 1}}),
    })
}

proptest! {
    /// Whatever a file says, there is a schedule or an error.
    #[test]
    fn no_file_makes_it_panic(events in prop::collection::vec(any_event(), 0..20)) {
        let text = json!({"traceEvents": events}).to_string();
        if let Ok(schedule) = Schedule::parse(&text) {
            prop_assert!(schedule.between(0.0, schedule.end()).end <= schedule.steps());
        }
    }
}
