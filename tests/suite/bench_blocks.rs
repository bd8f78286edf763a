//! What `stairwell bench` tells of step 4: blocks, shared prefixes, preemption.

use crate::common::run;
use serde_json::{Value, json};

/// 12 requests, 6 at a time, of at most 32 + 40 tokens.
fn throughput(flags: &[&str]) -> Value {
    let workload =
        ["bench", "throughput", "--num-requests", "12", "--input-len", "8..32", "--output-len", "20..40"];
    run(&[&workload[..], &["--max-num-seqs", "6", "--json"], flags].concat()).json()
}

fn total(report: &Value, key: &str) -> u64 {
    report["totals"][key].as_u64().unwrap_or_else(|| panic!("{key} is {}", report["totals"][key]))
}

fn block(report: &Value, key: &str) -> u64 {
    let blocks = &report["totals"]["blocks"];
    blocks[key].as_u64().unwrap_or_else(|| panic!("{key} is {blocks}"))
}

#[test]
fn blocks_are_counted_where_there_are_any() {
    let slots = throughput(&["--attention", "contiguous"]);
    assert_eq!(slots["totals"]["blocks"], Value::Null);
    for size in [1, 4, 16] {
        let paged = throughput(&["--block-size", &size.to_string(), "--max-kv-tokens", "480"]);
        assert_eq!(paged["outputs_sha256"], slots["outputs_sha256"], "blocks of {size}");
        let [held, cached, free] = ["held", "cached", "free"].map(|key| block(&paged, key));
        assert_eq!((block(&paged, "block_size"), block(&paged, "total")), (size, 480 / size));
        assert_eq!((held, cached + free), (0, 480 / size), "at the end");
        let unused = paged["totals"]["kv_unused_tokens_per_request"].as_f64().unwrap();
        assert!(unused <= (size - 1) as f64, "blocks of {size}: {unused}");
        assert_eq!(unused == 0.0, size == 1);
    }
    let unused = slots["totals"]["kv_unused_tokens_per_request"].as_f64().unwrap();
    assert!(unused > 16.0, "{unused}");
}

#[test]
fn the_same_memory_holds_more_requests_in_blocks() {
    let memory = ["--max-kv-tokens", "288", "--max-model-len", "144"];
    let slots = throughput(&[&memory[..], &["--attention", "contiguous"]].concat());
    let paged = throughput(&memory);
    assert_eq!(total(&slots, "peak_running"), 2, "288 / 144");
    let mean = |report: &Value| report["totals"]["mean_running"].as_f64().unwrap();
    assert!(mean(&paged) > 2.0 * mean(&slots), "{} and {}", mean(&paged), mean(&slots));
    assert_eq!(paged["outputs_sha256"], slots["outputs_sha256"]);
}

#[test]
fn a_shared_prefix_is_computed_once() {
    let shared = ["--shared-prefix", "100"];
    let with = throughput(&shared);
    let without = throughput(&[&shared[..], &["--no-prefix-cache"]].concat());
    assert_eq!(with["outputs_sha256"], without["outputs_sha256"]);
    assert_eq!(total(&without, "cached_tokens"), 0);
    let cached = total(&with, "cached_tokens");
    assert_eq!(cached, 11 * 96, "six blocks of 16, for all but the first");
    assert_eq!(total(&without, "tokens_computed") - total(&with, "tokens_computed"), cached);
    let each = |report: &Value| -> u64 {
        report["requests"].as_array().unwrap().iter().map(|r| r["cached_tokens"].as_u64().unwrap()).sum()
    };
    assert_eq!(each(&with), cached);
    let rate = with["totals"]["cache_hit_rate"].as_f64().unwrap();
    assert!((rate * total(&with, "prompt_tokens") as f64 - cached as f64).abs() < 1e-6);
}

#[test]
fn who_gives_way_is_counted_and_gets_the_same_tokens() {
    let enough = throughput(&[]);
    assert_eq!((total(&enough, "preemptions"), block(&enough, "swapped_out")), (0, 0));
    let small = ["--max-kv-tokens", "160", "--block-size", "4"];
    let again = throughput(&[&small[..], &["--no-prefix-cache"]].concat());
    let swapped = throughput(&[&small[..], &["--preemption", "swap"]].concat());
    for report in [&again, &swapped] {
        assert_eq!(report["outputs_sha256"], enough["outputs_sha256"]);
        let requests = report["requests"].as_array().unwrap();
        let each = |key: &str| requests.iter().map(|r| r[key].as_u64().unwrap()).sum::<u64>();
        assert!(total(report, "preemptions") > 0);
        assert_eq!(each("preemptions"), total(report, "preemptions"));
    }
    assert!(total(&again, "tokens_computed") > total(&enough, "tokens_computed"), "some are computed again");
    assert_eq!(total(&swapped, "tokens_computed"), total(&enough, "tokens_computed"));
    assert!(block(&swapped, "swapped_out") > 0);
    assert_eq!(block(&swapped, "swapped_out"), block(&swapped, "swapped_in"));
    assert_eq!(block(&again, "swapped_out"), 0);
}

#[test]
fn batches_that_are_timed_share_nothing() {
    let batches = ["bench", "latency", "--batch-size", "2", "--input-len", "64", "--output-len", "2"];
    let report = run(&[&batches[..], &["--iterations", "2", "--warmup", "1", "--json"]].concat()).json();
    assert_eq!((total(&report, "cached_tokens"), total(&report, "tokens_computed")), (0, 2 * 2 * 65));
}

#[test]
fn a_table_tells_of_blocks() {
    let table = run(&["bench", "throughput", "--num-requests", "2", "--output-len", "2"]).good();
    assert!(
        ["prefix cache", "of 16 tokens", "preemption"].iter().all(|part| table.contains(part)),
        "{table}"
    );
    let table =
        ["bench", "throughput", "--num-requests", "2", "--output-len", "2", "--attention", "contiguous"];
    assert!(!run(&table).good().contains("prefix cache"));
    assert_eq!(json!(null), throughput(&["--attention", "contiguous"])["totals"]["blocks"]);
}
