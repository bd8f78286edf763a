//! The lines of `stairwell batch` as the world writes them: null, envelopes, names of any kind, failed requests, echoed prompts; and
//! where results may go.

use crate::common::{Checkpoint, Ran, finish, program};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    thread,
    time::Duration,
};
use tempfile::TempDir;

struct Rig(TempDir);

impl Rig {
    fn new(lines: &str) -> Rig {
        let rig = Rig(tempfile::tempdir().unwrap());
        fs::write(rig.path("in.jsonl"), lines).unwrap();
        rig
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn command(&self, more: &[&str]) -> Command {
        let (input, output) = (self.path("in.jsonl"), self.path("out.jsonl"));
        let mut command = program();
        command.args(["batch", "--input", &input, "--output", &output]).args(more);
        command
    }

    fn batch(&self, more: &[&str]) -> Ran {
        finish(&mut self.command(more))
    }

    /// The result with this id.
    fn result(&self, id: Value) -> Value {
        let text = self.read("out.jsonl");
        let mut results = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        results.find(|result| result["id"] == id).unwrap_or_else(|| panic!("there is no {id} in {text}"))
    }
}

#[test]
fn openais_envelope_and_its_fields() {
    let chat = json!([{"role": "user", "content": "Hi"}]);
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let body =
        json!({"model": "m", "messages": chat, "max_tokens": 4, "temperature": 0, "seed": -1, "stop": null});
    let line = json!({"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": body});
    let with_tools = json!({"id": "t", "messages": chat, "max_tokens": 2, "tools": tools});
    let with_variables = json!({"id": "v", "messages": chat, "max_tokens": 2, "chat_template_kwargs": {"enable_thinking": false}});
    // Two files that Windows' editors have written, one after the other.
    let rig = Rig::new(&format!("\u{feff}{line}\r\n\u{feff}{with_tools}\r\n{with_variables}\n"));
    rig.batch(&[]).good();
    assert_eq!(rig.result(json!("r1"))["custom_id"], "r1");
    assert_eq!(rig.result(json!("t"))["custom_id"], Value::Null);
    rig.result(json!("v"));
    assert_eq!(rig.batch(&["--resume", "--json"]).json()["resumed"], 3);
}

#[test]
fn names_keep_their_text_and_are_known_again() {
    let ids = ["1.0", "1e400", "12345678901234567890123", r#"{"a":[1.50]}"#, r#""\u00e9""#, "1"];
    let line = |id: &&str| format!("{{\"id\": {id}, \"prompt\": \"One\", \"max_tokens\": 1}}\n");
    let rig = Rig::new(&ids.iter().map(line).collect::<String>());
    rig.batch(&[]).good();
    let text = rig.read("out.jsonl");
    for id in ids {
        assert_eq!(text.matches(&format!("{{\"id\":{id},")).count(), 1, "{id} in {text}");
    }
    // Another spelling of the same text is the same name.
    fs::write(rig.path("in.jsonl"), ids.iter().map(line).collect::<String>().replace("\\u00e9", "é"))
        .unwrap();
    let summary = rig.batch(&["--resume", "--json"]).json();
    assert_eq!((&summary["resumed"], &summary["results"]), (&json!(6), &json!(0)));
}

/// Weights whose logits are NaN: every request ends with an error.
fn broken_model() -> Checkpoint {
    let checkpoint = Checkpoint::copy("qwen3");
    checkpoint.edit_tensors(|tensors| {
        let norm = tensors.get_mut("model.norm.weight").unwrap();
        *norm = stairwell::tensor::HostTensor::from_f32(&norm.shape.clone(), &vec![f32::NAN; norm.shape[0]]);
    });
    checkpoint
}

#[test]
fn failed_requests_are_told_and_tried_again() {
    let line =
        |id: &str| format!("{{\"id\": \"{id}\", \"prompt_ids\": [5, 6], \"max_tokens\": 3, \"n\": 2}}\n");
    let rig = Rig::new(&line("good"));
    let (broken, whole) = (broken_model(), Checkpoint::copy("qwen3"));
    rig.batch(&["--model", whole.name()]).good();
    fs::write(rig.path("in.jsonl"), line("good") + &line("a") + &line("b")).unwrap();
    let ran = rig.batch(&["--model", broken.name(), "--resume", "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("error: 2 of 2 requests failed; --resume"), "{ran:?}");
    assert_eq!(serde_json::from_str::<Value>(&ran.stdout).unwrap()["failed"], 2);
    assert_eq!(rig.result(json!("a"))["finish_reason"], "error");

    let summary = rig.batch(&["--model", whole.name(), "--resume", "--json"]).json();
    assert_eq!(
        (&summary["resumed"], &summary["results"], &summary["failed"]),
        (&json!(1), &json!(2), &json!(0))
    );
    assert_eq!(rig.read("out.jsonl").lines().count(), 3, "no line is left of those that had failed");
    assert_eq!(rig.result(json!("a"))["finish_reason"], "length");
    assert!(!fs::exists(rig.path("out.jsonl.1")).unwrap());
}

#[test]
fn an_echoed_prompt_and_its_probabilities() {
    let rig = Rig::new(&[
        r#"{"id": 1, "prompt": "One day", "echo": true, "max_tokens": 0, "logprobs": 2, "n": 2}"#,
        r#"{"id": 2, "prompt": "One day", "echo": true, "max_tokens": 3, "temperature": 0, "logprobs": 1}"#,
        r#"{"id": 3, "prompt": "One day", "max_tokens": 3, "temperature": 0, "logprobs": 1}"#,
        r#"{"id": 4, "prompt": "One day", "max_tokens": 0}"#,
        r#"{"id": 5, "messages": [], "echo": true}"#,
    ].join("\n"));
    let ran = rig.batch(&[]);
    assert!(ran.stderr.contains("line 4: max_tokens is 0") && ran.stderr.contains("line 5: "), "{ran:?}");
    let only = rig.result(json!(1));
    assert_eq!(
        (&only["text"], &only["output_ids"], &only["finish_reason"]),
        (&json!("One day"), &json!([]), &json!("length"))
    );
    assert_eq!(
        (&only["usage"]["completion_tokens"], only["choices"].as_array().unwrap().len()),
        (&json!(0), 2)
    );
    let (echoed, plain) = (rig.result(json!(2)), rig.result(json!(3)));
    assert_eq!(echoed["text"], format!("One day{}", plain["text"].as_str().unwrap()));
    let list = |result: &Value| result["logprobs"].as_array().unwrap().clone();
    let (prompt, all) = (list(&only), list(&echoed));
    let tokens = only["usage"]["prompt_tokens"].as_u64().unwrap() as usize;
    assert_eq!((prompt.len(), all.len()), (tokens, tokens + 3));
    assert_eq!((&all[tokens..], &all[0]["logprob"]), (&list(&plain)[..], &Value::Null));
    assert!(
        prompt[1..]
            .iter()
            .all(|entry| entry["logprob"].as_f64().unwrap() < 0.0
                && entry["top"].as_array().unwrap().len() == 2)
    );
    // The bytes of all tokens are the text.
    let bytes = all
        .iter()
        .flat_map(|entry| entry["bytes"].as_array().unwrap())
        .map(|byte| byte.as_u64().unwrap() as u8);
    assert_eq!(String::from_utf8(bytes.collect()).unwrap(), echoed["text"]);
    assert!(all[2]["top"][0]["bytes"].is_array());
}

#[test]
fn a_length_that_nobody_asked_for_is_clamped() {
    let rig = Rig::new(
        "{\"id\": 1, \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"ignore_eos\": true}\n{\"id\": 2, \"prompt\": \"One\", \"max_tokens\": 256}\n",
    );
    let ran = rig.batch(&["--max-kv-tokens", "48"]);
    assert!(
        ran.code == Some(1) && ran.stderr.contains("line 2: ") && !ran.stderr.contains("line 1"),
        "{ran:?}"
    );
    assert_eq!(rig.result(json!(1))["usage"]["total_tokens"], 49, "the last token needs no K and V");
    let flags = ["generate", "--chat", "Hi", "--ignore-eos", "--max-kv-tokens", "48", "--json"];
    let report = finish(program().args(flags)).json();
    let tokens = ["prompt_ids", "output_ids"].map(|ids| report[ids].as_array().unwrap().len());
    assert_eq!(tokens.iter().sum::<usize>(), 49);
}

#[test]
fn stop_strings_have_bounds() {
    let long = "x".repeat(257);
    let five = r#"["a", "b", "c", "d", "e"]"#;
    let rig = Rig::new(&format!(
        "{{\"prompt\": \"One\", \"stop\": {five}}}\n{{\"prompt\": \"One\", \"stop\": \"{long}\"}}\n{{\"prompt\": \"One\", \"max_tokens\": 1, \"stop\": \"{}\"}}\n",
        &long[1..]
    ));
    let ran = rig.batch(&[]);
    for part in
        ["line 1: stop of 5 strings: give at most 4", "line 2: stop of 257 bytes", "bytes: give at most 256"]
    {
        assert!(ran.stderr.contains(part), "{part}: {ran:?}");
    }
    assert_eq!(rig.result(json!(3))["finish_reason"], "length");
    let flags = ["generate", "--prompt", "One", "--stop", &long];
    finish(program().args(flags)).refused(&["--stop", "257 bytes", "256"]);
}

#[test]
fn no_output_is_an_input_or_another_output() {
    let lines = "{\"prompt\": \"One\", \"max_tokens\": 1}\n";
    let rig = Rig::new(lines);
    let model = Checkpoint::copy("qwen3");
    let config = fs::read(model.file("config.json")).unwrap();
    fs::hard_link(rig.path("in.jsonl"), rig.path("hard.jsonl")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(model.file("config.json"), rig.path("link.jsonl")).unwrap();
    #[cfg(unix)]
    rig.batch(&["--model", model.name(), "--trace", &rig.path("link.jsonl")])
        .refused(&["--trace", "a file of the model"]);
    rig.batch(&["--trace", &rig.path("in.jsonl")]).refused(&["--trace", "the input file"]);
    rig.batch(&["--trace", &rig.path("out.jsonl")]).refused(&["--trace", "the file of --output"]);
    rig.batch(&["--trace", &rig.path("hard.jsonl")]).refused(&["--trace", "the input file"]);
    let shard = model.file("model.safetensors");
    let shard = shard.to_str().unwrap();
    for command in [
        &["logits", "--prompt-ids", "5", "--out", shard][..],
        &["bench", "throughput", "--num-requests", "1", "--out", shard],
        &["bench", "latency", "--trace", shard],
    ] {
        finish(program().args(command).args(["--model", model.name()]))
            .refused(&[shard, "a file of the model"]);
    }
    let trace = rig.path("trace.html");
    rig.batch(&["--trace", &trace]).good();
    finish(program().args(["timeline", &trace, "--out", &trace])).refused(&["--out", "the trace"]);
    assert_eq!(
        (rig.read("in.jsonl"), fs::read(model.file("config.json")).unwrap()),
        (lines.to_owned(), config)
    );
}

#[test]
fn a_second_writer_is_kept_out() {
    let rig = Rig::new("{\"prompt\": \"One\", \"max_tokens\": 2000, \"ignore_eos\": true}\n");
    fs::write(rig.path("out.jsonl"), "{\"id\": \"old\"}\n").unwrap();
    let mut first = rig.command(&[]).stderr(Stdio::null()).spawn().unwrap();
    // It has the file once the old one is out of its way and the new one there.
    let has_both = || ["out.jsonl.1", "out.jsonl"].iter().all(|name| fs::exists(rig.path(name)).unwrap());
    while !has_both() {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(20));
    for flags in [&[][..], &["--resume"]] {
        rig.batch(flags).refused(&["--output", "another process is writing it"]);
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(rig.read("out.jsonl.1"), "{\"id\": \"old\"}\n");
}

#[test]
fn requests_and_results_may_be_streams() {
    let mut child = program()
        .args(["batch", "--input", "-", "--output", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"{\"id\": 7, \"prompt\": \"One\", \"max_tokens\": 2}").unwrap();
    let output = child.wait_with_output().unwrap();
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && result["id"] == 7, "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("\"results\":1"));
    let rig = Rig::new("");
    let args = ["batch", "--input", &rig.path("in.jsonl"), "--output", "-", "--resume"];
    finish(program().args(args)).refused(&["--resume", "--output"]);
}

#[test]
fn a_bad_line_is_told_before_the_cache_is_sized() {
    let rig = Rig::new("{\"prompt\": \"One\"}\n{\"prompt\": 1}\n");
    let ran = rig.batch(&["--kv-memory", "1"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("line 2: prompt: "), "{ran:?}");
}

#[cfg(unix)]
#[test]
fn an_input_that_is_no_regular_file_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let page = dir.path().join("page.html");
    for file in [pipe.to_str().unwrap(), dir.path().to_str().unwrap(), "/dev/zero"] {
        for command in [
            &["timeline", file, "--out", page.to_str().unwrap()][..],
            &["batch", "--output", "/dev/null", "--input", file],
        ] {
            crate::common::run(command).refused(&[file, "no regular file"]);
        }
    }
}
