//! `stairwell batch`: every result is what `generate` gives, bad lines stop nobody, and a killed run can be resumed.

use crate::common::{Ran, finish, fixture, program, run};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    thread,
    time::Duration,
};
use tempfile::TempDir;

struct Rig {
    dir: TempDir,
}

impl Rig {
    fn new(lines: &[Value]) -> Rig {
        let rig = Rig { dir: tempfile::tempdir().unwrap() };
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        rig.write("in.jsonl", text.as_bytes());
        rig
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn args(&self, more: &[&str]) -> Vec<String> {
        let (input, output) = (self.path("in.jsonl"), self.path("out.jsonl"));
        let args = ["batch", "--input", &input, "--output", &output];
        args.iter().chain(more).map(|s| s.to_string()).collect()
    }

    fn batch(&self, more: &[&str]) -> Ran {
        finish(program().args(self.args(more)))
    }

    /// The results by id, each there once.
    fn results(&self) -> BTreeMap<String, Value> {
        let text = fs::read_to_string(self.path("out.jsonl")).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        let mut results = BTreeMap::new();
        for line in text.lines() {
            let result: Value = serde_json::from_str(line).unwrap();
            let id = result["id"].to_string();
            assert!(results.insert(id.clone(), result).is_none(), "{id} is there twice");
        }
        results
    }
}

fn mixed(count: u64, vocab: u64) -> Vec<Value> {
    let request = |i: u64| {
        let prompt: Vec<u64> = (0..1 + i * 7 % 30).map(|t| (t * 13 + i * 5) % vocab).collect();
        let mut request =
            json!({"id": format!("r{i}"), "prompt_ids": prompt, "max_tokens": 1 + i * 11 % 20, "seed": i});
        match i % 3 {
            0 => request["temperature"] = json!(0),
            1 => request["top_p"] = json!(0.9),
            _ => request["ignore_eos"] = json!(true),
        }
        request
    };
    (0..count).map(request).collect()
}

/// The same request by `generate`.
fn alone(model: &str, request: &Value) -> Value {
    let ids: Vec<String> = request["prompt_ids"].as_array().unwrap().iter().map(Value::to_string).collect();
    let mut args = vec!["generate".into(), "--json".into(), "--model".into(), model.to_owned()];
    args.extend(["--prompt-ids".into(), ids.join(",")]);
    for (field, flag) in [
        ("max_tokens", "--max-tokens"),
        ("seed", "--seed"),
        ("temperature", "--temperature"),
        ("top_p", "--top-p"),
    ] {
        if !request[field].is_null() {
            args.extend([flag.into(), request[field].to_string()]);
        }
    }
    if request["ignore_eos"] == true {
        args.push("--ignore-eos".into());
    }
    run(&args.iter().map(String::as_str).collect::<Vec<_>>()).json()
}

#[test]
fn every_result_is_what_the_request_gives_alone() {
    for name in ["qwen3-bf16", "mistral-f16"] {
        let (model, requests) = (fixture(name), mixed(24, 90));
        let model = model.to_str().unwrap();
        let want: Vec<Value> = requests.iter().map(|request| alone(model, request)).collect();
        for (seqs, tokens) in [("1", "16"), ("7", "100"), ("64", "16"), ("64", "4096")] {
            let rig = Rig::new(&requests);
            rig.batch(&["--model", model, "--max-num-seqs", seqs, "--max-batched-tokens", tokens]).good();
            let results = rig.results();
            assert_eq!(results.len(), requests.len());
            for (request, want) in requests.iter().zip(&want) {
                let got = &results[&request["id"].to_string()];
                for field in ["output_ids", "finish_reason", "text"] {
                    assert_eq!(
                        got[field], want[field],
                        "{name}: {seqs} at a time, {tokens} a step: {request}"
                    );
                }
                let (prompt, output) = (request["prompt_ids"].as_array().unwrap().len(), &got["output_ids"]);
                let output = output.as_array().unwrap().len();
                let usage = json!({"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output});
                assert_eq!(got["usage"], usage);
                assert!(got["ttft"].as_f64().unwrap() > 0.0);
            }
        }
    }
}

#[test]
fn text_chats_samples_and_stops() {
    let rig = Rig::new(&[
        json!({"id": 1, "prompt": "Once upon a time", "max_tokens": 20, "temperature": 0}),
        json!({"id": 2, "messages": [{"role": "user", "content": "a fox"}], "max_tokens": 8, "temperature": 0}),
        json!({"id": 3, "prompt": "One day", "max_tokens": 30, "temperature": 0, "stop": ["."]}),
        json!({"id": 4, "prompt": "One day", "max_tokens": 6, "seed": 5, "n": 3}),
        json!({"prompt": "One day", "max_tokens": 2, "logprobs": 2}),
    ]);
    rig.batch(&[]).good();
    let results = rig.results();
    let generated = |args: &[&str]| run(&[&["generate", "--json"], args].concat()).json();
    let story = generated(&["--prompt", "Once upon a time", "--max-tokens", "20", "--temperature", "0"]);
    assert_eq!(results["1"]["text"], story["text"]);
    let chat = generated(&["--chat", "a fox", "--max-tokens", "8", "--temperature", "0"]);
    assert_eq!(results["2"]["text"], chat["text"]);
    let stopped = results["3"]["text"].as_str().unwrap();
    assert!(!stopped.contains('.') && results["3"]["finish_reason"] == "stop", "{stopped}");

    let choices = results["4"]["choices"].as_array().unwrap();
    for (index, choice) in choices.iter().enumerate() {
        let seed = (5 + index).to_string();
        let one = generated(&["--prompt", "One day", "--max-tokens", "6", "--seed", &seed]);
        assert_eq!((&choice["text"], &choice["index"]), (&one["text"], &json!(index)));
    }
    assert_eq!((choices.len(), &results["4"]["text"]), (3, &choices[0]["text"]));
    assert_eq!(results["4"]["usage"]["completion_tokens"], 18);
    assert_eq!(
        results["5"]["logprobs"][1]["top"].as_array().unwrap().len(),
        2,
        "the id is the line's number"
    );
}

#[test]
fn bad_lines_are_reported_by_number_and_stop_nobody() {
    let rig = Rig::new(&[]);
    let good = r#"{"id": "a", "prompt_ids": [1], "max_tokens": 2}"#;
    let cases = [
        (r#"{"id": "b", "prompt_ids": [1]"#, "ends too early"),
        (r#"{"id": "c", "prompt_ids": [1], "temprature": 0}"#, "unknown field `temprature`"),
        (r#"{"id": "d"}"#, "exactly one of prompt, messages and prompt_ids"),
        (r#"{"id": "e", "prompt_ids": []}"#, "the prompt is empty"),
        (r#"{"id": "f", "prompt_ids": [99999]}"#, "vocabulary of 2048"),
        (r#"{"id": "g", "prompt_ids": [1], "top_p": 2}"#, "top_p is 2; it must be above 0"),
        (r#"{"id": "a", "prompt_ids": [1]}"#, "already that of line 1"),
        (r#"{"id": "h", "prompt_ids": [1], "max_tokens": 0}"#, "max_tokens is 0"),
        (r#"{"id": "i", "prompt_ids": [1], "n": 0}"#, "n is 0"),
        (r#"[1, 2]"#, "invalid"),
    ];
    let mut text = format!("{good}\n\n");
    text.extend(cases.iter().map(|(line, _)| format!("{line}\n")));
    text += r#"{"id": "last", "prompt": "One day", "max_tokens": 3}"#; // without an end of line
    rig.write("in.jsonl", text.as_bytes());
    let ran = rig.batch(&[]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for (number, (_, message)) in (3..).zip(cases) {
        let line = ran.stderr.lines().find(|l| l.contains(&format!("line {number}:"))).unwrap_or_default();
        assert!(line.starts_with("error: ") && line.contains(message), "line {number}: {line}");
    }
    assert_eq!(rig.results().keys().collect::<Vec<_>>(), ["\"a\"", "\"last\""]);
}

#[test]
fn nothing_is_overwritten() {
    let rig = Rig::new(&mixed(2, 90));
    rig.batch(&[]).good();
    let first = fs::read(rig.path("out.jsonl")).unwrap();
    let ran = rig.batch(&[]);
    assert!(ran.stderr.contains("is now") && ran.stderr.contains("out.jsonl.1"), "{ran:?}");
    assert_eq!(fs::read(rig.path("out.jsonl.1")).unwrap(), first);
    assert_eq!(rig.results().len(), 2);

    let same = rig.path("in.jsonl");
    finish(program().args(["batch", "--input", &same, "--output", &same]))
        .refused(&["--output", "the input file"]);
    assert!(fs::metadata(&same).unwrap().len() > 0);
    rig.write("out.jsonl", b"no result\n");
    rig.batch(&["--resume"]).refused(&["out.jsonl", "line 1", "--resume"]);
    let nowhere = rig.path("no/out.jsonl");
    finish(program().args(["batch", "--input", &same, "--output", &nowhere])).refused(&["no/out.jsonl"]);
    let absent = rig.path("absent.jsonl");
    finish(program().args(["batch", "--input", &absent, "--output", &nowhere])).refused(&["absent.jsonl"]);
}

/// Killed again and again, and in the end every request has its result, once.
#[test]
#[cfg(unix)]
fn a_killed_run_is_resumed() {
    let requests: Vec<Value> =
        (0..40).map(|i| json!({"id": i, "prompt_ids": [1, i], "max_tokens": 40 + i * 2, "temperature": 0, "ignore_eos": true})).collect();
    let rig = Rig::new(&requests);
    for kill in 0..4 {
        let mut child = program()
            .args(rig.args(&["--resume", "--max-num-seqs", "3"]))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for_lines(Path::new(&rig.path("out.jsonl")), 4 * (kill + 1));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        let count = rig.results().len();
        assert!(count >= 4 * (kill + 1), "{count} whole lines");
    }
    // A line that the kill cut in two.
    let mut text = fs::read(rig.path("out.jsonl")).unwrap();
    let before = rig.results().len();
    text.extend(b"{\"id\": 39, \"text\": \"Once");
    rig.write("out.jsonl", &text);

    let ran = rig.batch(&["--resume", "--json"]);
    assert!(ran.stderr.contains("cut off"), "{ran:?}");
    let summary = ran.json();
    assert_eq!((&summary["resumed"], &summary["results"]), (&json!(before), &json!(40 - before)));
    let results = rig.results();
    assert_eq!(results.len(), 40);
    let whole = Rig::new(&requests);
    whole.batch(&[]).good();
    for (id, result) in whole.results() {
        assert_eq!(results[&id]["output_ids"], result["output_ids"]);
    }
    assert_eq!(rig.batch(&["--resume", "--json"]).json()["results"], 0, "nothing is left to do");
}

fn wait_for_lines(path: &Path, count: usize) {
    for _ in 0..3000 {
        let lines = fs::File::open(path).map_or(0, |file| BufReader::new(file).lines().count());
        if lines >= count {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
    panic!("{} never had {count} lines", path.display());
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    let rig = Rig::new(&mixed(2, 90));
    rig.batch(&["--attention", "recompute"]).refused(&["--attention recompute", "keeps no K and V"]);
    rig.batch(&["--max-num-seqs", "0"]).refused(&["--max-num-seqs"]);
    let ran = rig.batch(&["--max-num-seqs", "8", "--max-batched-tokens", "4"]);
    assert!(ran.stderr.contains("4 requests run at a time, not 8"), "{ran:?}");
    let ran = rig.batch(&["--max-model-len", "5"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("line 2: the prompt has 8 tokens"), "{ran:?}");
    assert_eq!(rig.results().len(), 1, "the other one ran");

    // A limit that no number of tokens reaches is no limit but the context's.
    let rig = Rig::new(&[
        json!({"id": 1, "prompt_ids": [1], "max_tokens": u64::MAX, "stop": ["."], "temperature": 0}),
    ]);
    rig.batch(&["--max-model-len", "64"]).good();
    assert_eq!(rig.results().len(), 1);
}

#[test]
fn a_trace_has_a_lane_for_every_request() {
    let rig = Rig::new(&mixed(5, 90));
    let trace = rig.path("trace.json");
    rig.batch(&["--trace", &trace, "--max-num-seqs", "2", "--max-batched-tokens", "8"]).good();
    let trace: Value = serde_json::from_slice(&fs::read(trace).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    for lane in 1..=5 {
        let of = |cat: &str| events.iter().filter(|e| e["tid"] == lane && e["cat"] == cat).count();
        let outputs = 1 + (lane - 1) * 11 % 20;
        assert_eq!((of("queued"), of("decode")), (1, outputs - 1), "request {lane}");
        assert!(of("prefill") >= 1);
    }
    let step = events.iter().filter(|e| e["cat"] == "step");
    assert!(step.clone().count() > 10 && step.clone().all(|e| e["args"]["tokens"].as_u64().unwrap() <= 8));
}
