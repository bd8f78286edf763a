//! `stairwell versions`: what was saved stays as it was, whatever becomes of the folder that it came from.

use super::common::{Checkpoint, Ran, Reference, changed, finish, program};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

struct Home(TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    fn run(&self, args: &[&str]) -> Ran {
        finish(program().env("STAIRWELL_HOME", self.0.path()).args(args))
    }

    fn versions(&self, args: &[&str]) -> Ran {
        self.run(&[&["versions"], args].concat())
    }

    /// The ids that a model generates.
    fn ids(&self, model: &str, prompt: &[u32]) -> Value {
        let prompt = prompt.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let flags = ["--temperature", "0", "--max-tokens", "4", "--json", "--ignore-eos"];
        let args = [&["generate", "--model", model, "--prompt-ids", &prompt], &flags[..]].concat();
        self.run(&args).json()["output_ids"].clone()
    }

    fn blobs(&self) -> u64 {
        let entries = fs::read_dir(self.0.path().join("versions/blobs")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }
}

/// Changes the weights of a checkpoint.
fn train(checkpoint: &Checkpoint) {
    checkpoint.edit_tensors(|tensors| tensors.values_mut().for_each(|tensor| *tensor = changed(tensor)));
}

#[test]
fn a_version_stays_as_it_was_saved() {
    let (home, checkpoint, reference) = (Home::new(), Checkpoint::copy("llama3"), Reference::of("llama3"));
    let prompt = &reference.prompt;
    let save = ["save", "assistant", "--model", checkpoint.name(), "--note", "first"];
    assert_eq!(home.versions(&save).good(), "assistant@v1\n");
    let first = home.ids("assistant@v1", prompt);
    assert_eq!(first, json!(reference.greedy[..4]));
    train(&checkpoint);
    let more = ["--as", "trained", "--metadata", "loss=1.5", "--metadata", "by=me"];
    home.versions(&[&save[..4], &more].concat()).good();
    let second = home.ids(checkpoint.name(), prompt);
    assert!(second != first);
    for (model, want) in
        [("assistant@v1", &first), ("assistant@trained", &second), ("assistant@latest", &second)]
    {
        assert_eq!(home.ids(model, prompt), *want, "{model}");
    }
    // A rollback moves the tag and nothing else; a tag is another name.
    home.versions(&["rollback", "assistant", "v1"]).good();
    home.versions(&["tag", "assistant", "trained", "best"]).good();
    assert_eq!(home.ids("assistant@latest", prompt), first);
    assert_eq!(home.ids("assistant@best", prompt), second);
    let shown = home.versions(&["show", "assistant@best", "--json"]).json();
    assert_eq!(
        (&shown["version"], &shown["metadata"]),
        (&json!("trained"), &json!({"by": "me", "loss": "1.5"}))
    );
    assert_eq!(shown["architecture"], "LlamaForCausalLM");
    let text = home.versions(&["ls"]).good();
    assert!(text.contains("assistant@v1") && text.contains("first") && text.contains("best"), "{text}");
    assert!(home.versions(&["show", "assistant"]).good().contains("model.safetensors"));

    home.versions(&[&save[..4], &["--as", "v1"]].concat()).refused(&["assistant@v1", "never change"]);
    home.versions(&[&save[..4], &["--as", "../x"]].concat()).refused(&["../x"]);
    home.versions(&["save", "x", "--model", "/no/such/place"]).refused(&["/no/such/place"]);
    home.versions(&["show", "assistant@v9"]).refused(&["assistant@v9", "trained", "v1"]);
    home.run(&["generate", "--model", "assistant@v9", "--prompt-ids", "5"]).refused(&["assistant@v9", "v1"]);
}

#[test]
fn what_versions_share_is_kept_once_and_goes_last() {
    let (home, checkpoint) = (Home::new(), Checkpoint::copy("qwen2"));
    let save = |version: &str| {
        home.versions(&["save", "a", "--as", version, "--model", checkpoint.name()]).good();
    };
    save("one");
    let once = home.blobs();
    save("two");
    assert_eq!(home.blobs(), once);
    checkpoint.set_config(json!({"note": "another config"}));
    save("three");
    let config = fs::metadata(checkpoint.file("config.json")).unwrap().len();
    assert_eq!(home.blobs(), once + config);

    let dry = home.versions(&["rm", "a@three", "--dry-run"]).good();
    assert!(dry.contains("would free") && dry.contains(&format!("({config} bytes)")), "{dry}");
    assert!(home.versions(&["rm", "a@one"]).good().contains("(0 bytes)"));
    assert!(home.versions(&["rm", "a@three"]).good().contains(&format!("({config} bytes)")));
    // The newest that is left is the latest.
    let latest = home.versions(&["show", "a", "--json"]).json();
    assert_eq!((latest["version"].as_str(), home.blobs()), (Some("two"), once));
    home.versions(&["rm", "a"]).good();
    assert_eq!((home.blobs(), home.versions(&["ls", "--json"]).json()), (0, json!([])));
}

/// Links lead into the hub's cache for what never changes there.
#[cfg(unix)]
#[test]
fn blobs_of_the_hub_are_linked_and_others_copied() {
    use std::os::unix::fs::{MetadataExt, symlink};
    let (home, checkpoint) = (Home::new(), Checkpoint::copy("qwen2"));
    let cache = home.0.path().join("hub/models--org--tiny");
    let snapshot = cache.join("snapshots").join("a".repeat(40));
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(cache.join("blobs")).unwrap();
    for entry in fs::read_dir(checkpoint.path()).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap();
        let body = fs::read(&entry).unwrap();
        let id = super::hub_server::id_of(name, &body);
        fs::write(cache.join("blobs").join(&id), body).unwrap();
        symlink(format!("../../blobs/{id}"), snapshot.join(name)).unwrap();
    }
    let saved = home.versions(&["save", "a", "--json", "--model", snapshot.to_str().unwrap()]).json();
    assert_eq!(
        (&saved["source"]["repository"], &saved["source"]["commit"]),
        (&json!("org/tiny"), &json!("a".repeat(40)))
    );
    for file in saved["files"].as_array().unwrap() {
        let blob = home.0.path().join("versions/blobs").join(file["sha256"].as_str().unwrap());
        let is_linked = fs::metadata(&blob).unwrap().nlink() > 1;
        assert_eq!(is_linked, file["path"].as_str().unwrap().ends_with(".safetensors"), "{file}");
    }
}

#[test]
fn a_save_that_is_killed_leaves_no_version() {
    let (home, checkpoint) = (Home::new(), Checkpoint::copy("qwen2"));
    // A large file makes the save take its time.
    let large = Path::new(checkpoint.name()).join("tokenizer.model");
    fs::write(&large, vec![7; 100_000_000]).unwrap();
    for wait in [20, 60, 120] {
        let mut save = program();
        save.env("STAIRWELL_HOME", home.0.path());
        save.args(["versions", "save", "a", "--model", checkpoint.name()]).stdout(Stdio::null());
        let mut child = save.spawn().unwrap();
        thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        let was_done = child.wait().unwrap().success();
        let listed = home.versions(&["ls", "--json"]).json();
        for version in listed.as_array().unwrap() {
            assert!(version["files"].as_array().unwrap().len() > 2 || was_done, "{listed}");
            home.run(&["inspect", "--model", &format!("a@{}", version["version"].as_str().unwrap())]).good();
        }
    }
    fs::remove_file(large).unwrap();
    home.versions(&["save", "a", "--as", "whole", "--model", checkpoint.name()]).good();
    home.versions(&["rm", "a@whole"]).good();
    // What a kill left is gone when the next removal has swept.
    let left = home.blobs();
    assert!(left == 0 || !home.versions(&["ls", "--json"]).json().as_array().unwrap().is_empty(), "{left}");
}
