//! `stairwell blocks`: its page shows what ran, and what is no record of blocks is refused.

use crate::common::{finish, program, run};
use serde_json::{Value, json};
use stairwell::{
    kv::GONE,
    trace::{PoolHistory, PoolState},
};
use std::{collections::BTreeSet, fs, path::Path};
use tempfile::TempDir;

/// Chapter 4's requests: a common beginning, two samples of one of them, and a pool in which somebody has to give way.
const STORIES: &str = "steps/step4-paged-kv/stories.jsonl";
/// What scripts/figures draws the chapter's picture from.
const RECORD: &str = "notebooks/data/step4_trace.json";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

struct Recorded {
    dir: TempDir,
    summary: Value,
    trace: Value,
}

impl Recorded {
    /// Chapter 4's run, as the chapter has it.
    fn stories(more: &[&str]) -> Recorded {
        let dir = tempfile::tempdir().unwrap();
        let (out, trace) = (dir.path().join("out.jsonl"), dir.path().join("trace.json"));
        let mut batch = program();
        batch.current_dir(root()).args(["batch", "--input", STORIES, "--json"]);
        batch.args(["--max-kv-tokens", "208", "--max-num-seqs", "4"]).args(more);
        batch.arg("--output").arg(out).arg("--trace").arg(&trace);
        let summary = finish(&mut batch).json();
        let trace = serde_json::from_slice(&fs::read(trace).unwrap()).unwrap();
        Recorded { dir, summary, trace }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn draw(&self, name: &str, more: &[&str]) -> String {
        let (trace, out) = (self.path("trace.json"), self.path(name));
        run(&[&["blocks", &trace, "--out", &out], more].concat()).good();
        fs::read_to_string(out).unwrap()
    }

    fn history(&self) -> PoolHistory {
        PoolHistory::parse(&self.trace.to_string()).unwrap()
    }
}

/// Who has a block.
#[derive(Clone, Copy, PartialEq)]
enum Owner {
    Free,
    Cached,
    One,
    Several,
}

/// Who has each of the pool's blocks.
fn owners(state: &PoolState, total: usize) -> Vec<Owner> {
    let mut owners = vec![Owner::Free; total];
    state.cached.iter().for_each(|block| owners[*block as usize] = Owner::Cached);
    for block in state.tables.values().flatten().filter(|block| **block != GONE) {
        let owner = &mut owners[*block as usize];
        *owner = match *owner {
            Owner::Free | Owner::Cached => Owner::One,
            Owner::One | Owner::Several => Owner::Several,
        };
    }
    owners
}

/// How often a request lost its blocks before it had finished.
fn preemptions(history: &PoolHistory, trace: &Value) -> usize {
    let (mut before, mut states) = (&PoolState::default(), history.steps.iter());
    let (mut finished, mut count) = (BTreeSet::new(), 0);
    for event in trace["traceEvents"].as_array().unwrap() {
        if event["name"] == "finished" {
            finished.insert(event["tid"].as_u64().unwrap() - 1);
        } else if event["cat"] == "blocks" {
            let now = states.next().unwrap();
            let lost =
                before.tables.keys().filter(|id| !now.tables.contains_key(id) && !finished.contains(*id));
            count += lost.count();
            before = now;
        }
    }
    count
}

#[test]
fn the_history_is_that_of_the_run() {
    for more in [&[][..], &["--preemption", "swap"], &["--no-prefix-cache"]] {
        let run = Recorded::stories(more);
        let history = run.history();
        assert_eq!((history.block_size, history.total), (16, 13));
        let counters: Vec<&Value> = run.trace["traceEvents"].as_array().unwrap().iter().collect();
        let counters = counters.into_iter().filter(|event| event["name"] == "KV blocks");
        let counters: Vec<&Value> = counters.map(|event| &event["args"]).collect();
        assert_eq!(counters.len(), history.steps.len());
        for (state, counter) in history.steps.iter().zip(counters) {
            let owners = owners(state, history.total);
            let count = |owner: Owner| owners.iter().filter(|of| **of == owner).count();
            let held = count(Owner::One) + count(Owner::Several);
            let (cached, free) = (count(Owner::Cached), count(Owner::Free));
            assert_eq!(*counter, json!({"held": held, "cached": cached, "free": free}), "{more:?}");
        }
        let preempted = preemptions(&history, &run.trace);
        assert!(preempted > 0, "{more:?}: the pool is that small");
        assert_eq!(run.summary["preemptions"], preempted, "{more:?}");
        assert!(history.steps.last().unwrap().tables.is_empty(), "{more:?}: all are given back");
        let shares = |state: &PoolState| owners(state, history.total).contains(&Owner::Several);
        let forked = history.steps.iter().any(shares);
        assert!(forked, "{more:?}: two samples share their prompt");
        let cached = history.steps.iter().any(|state| !state.cached.is_empty());
        assert_eq!(cached, more != ["--no-prefix-cache"], "{more:?}");
    }
}

#[test]
fn the_page_opens_on_the_pool() {
    let run = Recorded::stories(&[]);
    let document = |page: &str, id: &str| -> Value {
        let text = page.split_once(&format!("id=\"{id}\">")).unwrap().1;
        serde_json::from_str(text.split_once("</script>").unwrap().0).unwrap()
    };
    let page = run.draw("all.html", &[]);
    assert_eq!(document(&page, "record"), run.trace);
    assert_eq!(document(&page, "view"), json!({"tab": "pool", "steps": {"start": 0, "end": 69}}));
    let window = run.draw("window.html", &["--from", "30", "--to", "40"]);
    assert_eq!(document(&window, "view")["steps"], json!({"start": 30, "end": 40}));
}

#[test]
fn the_chapters_record_is_what_runs_today() {
    let record = fs::read_to_string(root().join(RECORD)).unwrap();
    let recorded = PoolHistory::parse(&record).unwrap();
    assert_eq!(Recorded::stories(&[]).history(), recorded, "record {RECORD} anew, as chapter 4 says");
}

#[test]
fn what_is_no_record_of_blocks_is_refused() {
    let recorded = Recorded::stories(&[]);
    let refused = |name: &str, text: &str, parts: &[&str]| {
        let (file, out) = (recorded.path(name), recorded.path("never.html"));
        fs::write(&file, text).unwrap();
        run(&["blocks", &file, "--out", &out]).refused(&[parts, &[name]].concat());
        assert!(!Path::new(&out).exists(), "nothing is written");
    };
    refused("a.json", "{", &["not a trace"]);
    refused("b.json", "{\"traceEvents\": []}", &["there are no blocks in this trace", "--attention paged"]);
    let blocks = |tables: Value, cached: Value, total: u64| {
        let args =
            json!({"block_size": 16, "total": total, "tables": tables, "cached": cached, "uncached": []});
        json!({"traceEvents": [{"name": "blocks", "cat": "blocks", "args": args}]}).to_string()
    };
    refused("c.json", &blocks(json!([[0, 0, 0, [4]]]), json!([]), 4), &["event 0", "block 4 of 4"]);
    refused("d.json", &blocks(json!([[7, 1, 0, [0]]]), json!([]), 4), &["request 7: its table has 0 blocks"]);
    refused("e.json", &blocks(json!([]), json!([9]), 4), &["block 9 of 4"]);
    refused("f.json", &blocks(json!([]), json!([]), 1 << 40), &["1099511627776 blocks of 16 tokens"]);
    refused("g.json", &blocks(json!([[0, u64::MAX, 2, []]]), json!([]), 4), &["its table has 0 blocks"]);
    refused("h.json", &blocks(json!("none"), json!([]), 4), &["event 0 of 'traceEvents' ('blocks')"]);

    let trace = recorded.path("trace.json");
    run(&["blocks", &trace, "--out", "blocks.png"]).refused(&["must end in .html"]);
    let out = recorded.path("never.html");
    for window in [["--from", "69"], ["--to", "0"]] {
        let args = ["blocks", &trace, "--out", &out, window[0], window[1]];
        run(&args).refused(&["there is nothing to draw", "has steps 0 to 68"]);
    }
    run(&["blocks", "nowhere.json", "--out", &out]).refused(&["nowhere.json"]);
}
