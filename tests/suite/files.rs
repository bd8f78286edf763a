//! Files that are none, and files that change: nothing waits for a pipe, and weights that were read stay as they were.

use crate::common::{Checkpoint, Reference, accepted, finish, program, run};
use serde_json::json;
use std::{fs, process::Command};

/// Each file that a command reads is a pipe, a folder or a device: refused at once.
#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let folder = dir.path().to_str().unwrap();
    for file in [pipe.to_str().unwrap(), folder, "/dev/zero"] {
        for command in [&["render-chat", "--messages", file][..], &["verify", "--reference", file]] {
            run(command).refused(&[file, "no regular file"]);
        }
    }
    for file in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors",
    ] {
        let checkpoint = Checkpoint::copy("qwen3");
        let _ = fs::remove_file(checkpoint.file(file));
        assert!(Command::new("mkfifo").arg(checkpoint.file(file)).status().unwrap().success());
        let prompt = if file == "model.safetensors" { ["--prompt-ids", "5"] } else { ["--prompt", "a"] };
        run(&[&["generate", "--model", checkpoint.name()][..], &prompt].concat())
            .refused(&[file, "no regular file"]);
    }
}

#[test]
fn weights_are_read_and_not_mapped_on_demand() {
    for name in ["qwen3", "llama3"] {
        let (checkpoint, reference) = (Checkpoint::copy(name), Reference::of(name));
        let ids = accepted(checkpoint.path(), &reference.prompt, &["--no-mmap"]);
        assert_eq!(ids, reference.greedy[..4]);
    }
    let help = run(&["generate", "--help"]).good();
    assert!(help.contains("--no-mmap") && help.contains("SIGBUS"), "{help}");
}

#[test]
fn dummy_weights_beyond_the_memory_are_refused() {
    let checkpoint = Checkpoint::copy("qwen3");
    checkpoint.set_config(json!({"intermediate_size": 1u64 << 31}));
    run(&["generate", "--model", checkpoint.name(), "--load-format", "dummy", "--prompt-ids", "5"])
        .refused(&["no memory for", "bytes of weights"]);
}

#[test]
fn threads_have_a_bound() {
    let args = ["generate", "--prompt", "Once", "--max-tokens", "1", "--json"];
    let report = finish(program().env("RAYON_NUM_THREADS", "100000").args(args)).json();
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    assert_eq!(report["stats"]["threads"].as_u64(), Some(cores.max(256)));
    let report = finish(program().env("RAYON_NUM_THREADS", "3").args(args)).json();
    assert_eq!(report["stats"]["threads"], 3);
}
