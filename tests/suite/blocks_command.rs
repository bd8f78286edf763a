//! `stairwell blocks`: its picture shows what ran, and what is no record of blocks is refused.

use crate::common::{finish, program, run};
use serde_json::{Value, json};
use stairwell::engine::{BlockHistory, Owner};
use std::{collections::BTreeSet, env, fs, path::Path};
use tempfile::TempDir;

/// Chapter 4's requests: a common beginning, two samples of one of them, and a pool in which somebody has to give way.
const STORIES: &str = "steps/step4-paged-kv/stories.jsonl";
const FIGURE: &str = "steps/step4-paged-kv/figures/blocks.svg";

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

    fn history(&self) -> BlockHistory {
        BlockHistory::parse(self.trace.to_string().as_bytes(), Path::new("trace.json")).unwrap()
    }
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
            let owners = state.owners(history.total);
            let count = |of: fn(&Owner) -> bool| owners.iter().filter(|owner| of(owner)).count();
            let held = count(|owner| matches!(owner, Owner::One(_) | Owner::Shared(_)));
            let (cached, free) =
                (count(|owner| *owner == Owner::Cached), count(|owner| *owner == Owner::Free));
            assert_eq!(*counter, json!({"held": held, "cached": cached, "free": free}), "{more:?}");
        }
        let preempted: usize = history.steps.iter().map(|state| state.preempted.len()).sum();
        assert!(preempted > 0, "{more:?}: the pool is that small");
        assert_eq!(run.summary["preemptions"], preempted, "{more:?}");
        assert!(history.steps.last().unwrap().tables.is_empty(), "{more:?}: all are given back");
        let shares = |state: &stairwell::engine::PoolState| {
            state.owners(history.total).iter().any(|owner| matches!(owner, Owner::Shared(_)))
        };
        let forked = history.steps.iter().any(shares);
        assert!(forked, "{more:?}: two samples share their prompt");
        let cached = history.steps.iter().any(|state| !state.cached.is_empty());
        assert_eq!(cached, more != ["--no-prefix-cache"], "{more:?}");
    }
}

#[test]
fn the_picture_shows_whose_each_block_is() {
    let run = Recorded::stories(&[]);
    let svg = run.draw("all.svg", &[]);
    let labels: BTreeSet<&str> =
        svg.split(r#"<text class="n""#).skip(1).filter_map(|t| t.split(['>', '<']).nth(1)).collect();
    assert_eq!(labels, BTreeSet::from(["0", "1", "2", "3", "4", "5"]), "the requests");
    assert!(svg.contains(">×4</text>"), "the common beginning");
    assert_eq!(svg.matches(r#"class="gone""#).count(), 2, "one preemption, and the legend");
    assert!(svg.contains("Who has which block in steps 0 to 68: 13 of 13 blocks of 16 tokens"));

    let window = run.draw("window.svg", &["--from", "30", "--to", "40", "--rows", "3"]);
    assert!(window.contains("Who has which block in steps 30 to 39: 3 of 13 blocks of 16 tokens"));
    assert_eq!(window.matches(r#"class="gone""#).count(), 1, "nobody is preempted in it");

    let page = run.draw("all.html", &[]);
    assert!(page.contains(&svg), "the page has the same picture");
    let data = page.split("const data = ").nth(1).unwrap().split(";\n").next().unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["changes"].as_array().unwrap().len(), 69);
    for outside in ["http:", "https:", "src=", "@import", "url("] {
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(outside), "the page is self-contained: {outside}");
    }
}

/// `UPDATE_BOOK=1` draws it anew.
#[test]
fn the_chapters_figure_is_what_the_command_draws() {
    let svg = Recorded::stories(&[]).draw("blocks.svg", &[]);
    if env::var_os("UPDATE_BOOK").is_some() {
        fs::write(root().join(FIGURE), &svg).unwrap();
    }
    let figure = fs::read_to_string(root().join(FIGURE)).unwrap_or_default();
    assert!(figure == svg, "{FIGURE} is not what `stairwell blocks` draws; to mend it: UPDATE_BOOK=1");
}

#[test]
fn what_is_no_record_of_blocks_is_refused() {
    let recorded = Recorded::stories(&[]);
    let refused = |name: &str, text: &str, parts: &[&str]| {
        let (file, out) = (recorded.path(name), recorded.path("never.svg"));
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
    refused("h.json", &blocks(json!("none"), json!([]), 4), &["event 0 of 'traceEvents' (blocks)"]);

    let trace = recorded.path("trace.json");
    run(&["blocks", &trace, "--out", "blocks.png"]).refused(&["must end in .svg or .html"]);
    let out = recorded.path("never.svg");
    for window in [["--from", "69"], ["--to", "0"], ["--rows", "0"]] {
        let args = ["blocks", &trace, "--out", &out, window[0], window[1]];
        run(&args).refused(&["there is nothing to draw", "has steps 0 to 68"]);
    }
    run(&["blocks", "nowhere.json", "--out", &out]).refused(&["nowhere.json"]);
}
