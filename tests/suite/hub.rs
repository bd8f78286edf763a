//! `stairwell pull`, models by name and `stairwell cache`, against a hub that tells the truth.

use super::common::{Checkpoint, Ran, finish, program};
use super::hub_server::{Answer, COMMIT, Hub, id_of, proxy};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that look like nothing.
pub fn noise(length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// A model of one large file and two small ones, and files that no load reads.
pub fn files(length: usize) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", b"{\"model_type\": \"qwen3\"}".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("model.safetensors", noise(length)),
        ("README.md", b"read me".to_vec()),
        ("sub/x.txt", b"hi".to_vec()),
    ]
}

/// The program with this hub's cache, and with a network.
pub fn client(hub: &Hub, args: &[&str]) -> Command {
    let mut command = program();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HF_TOKEN"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.env_remove("HF_HUB_OFFLINE").env("HF_HOME", hub.home()).env("HF_ENDPOINT", &hub.endpoint);
    command.args(args);
    command
}

pub fn pull(hub: &Hub) -> Ran {
    finish(&mut client(hub, &["pull", "org/tiny"]))
}

/// The weights in the cache are those of the hub.
pub fn assert_whole(hub: &Hub, length: usize) {
    let weights = hub.cached(&format!("snapshots/{COMMIT}/model.safetensors"));
    assert!(fs::read(weights).unwrap() == noise(length), "other bytes");
    assert!(!hub.left().iter().any(|name| name.ends_with(".incomplete")), "{:?}", hub.left());
}

#[test]
fn a_pull_lays_out_what_a_load_reads_and_no_more() {
    let hub = Hub::new(&files(300_000));
    let snapshot = hub.cached(&format!("snapshots/{COMMIT}"));
    assert_eq!(pull(&hub).good().trim(), snapshot.to_str().unwrap());
    assert_whole(&hub, 300_000);
    let mut names: Vec<String> =
        fs::read_dir(&snapshot).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(fs::read_to_string(hub.cached("refs/main")).unwrap(), COMMIT);
    let blob = hub.cached("blobs").join(id_of("config.json", &files(0)[0].1));
    assert!(blob.is_file());
    // What is there is not fetched again; with --force it is, and --include fetches more.
    let before = hub.asked().len();
    pull(&hub).good();
    assert_eq!(hub.asked().len(), before + 2);
    finish(&mut client(&hub, &["pull", "org/tiny@v1", "--include", "*.md", "--include", "sub/"])).good();
    assert_eq!(fs::read_to_string(snapshot.join("sub/x.txt")).unwrap(), "hi");
    assert_eq!(fs::read_to_string(hub.cached("refs/v1")).unwrap(), COMMIT);
    assert_eq!(hub.downloads().len(), 1);
    let report = finish(&mut client(&hub, &["pull", "org/tiny", "--force", "--json"])).json();
    assert_eq!((&report["commit"], &report["fetched"]), (&json!(COMMIT), &json!(3)));
    assert_eq!(hub.downloads().len(), 2);
}

#[test]
fn a_model_by_name_is_fetched_and_then_taken_from_the_cache() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let entries = fs::read_dir(&demo).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<(String, Vec<u8>)> = entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
        .collect();
    let files: Vec<(&str, Vec<u8>)> =
        files.iter().map(|(name, body)| (name.as_str(), body.clone())).collect();
    let hub = Hub::new(&files);
    let args =
        ["generate", "--prompt", "Once upon a time", "--temperature", "0", "--max-tokens", "4", "--json"];
    let ids = |more: &[&str]| finish(&mut client(&hub, &[&args[..], &["--model"], more].concat()));
    let wanted = finish(&mut client(&hub, &args)).json()["output_ids"].clone();
    assert_eq!(ids(&["org/tiny"]).json()["output_ids"], wanted);
    // Shards and their index, and nothing else of the folder.
    assert_eq!(hub.downloads().len(), 2);
    assert!(!hub.cached(&format!("snapshots/{COMMIT}/loss.svg")).exists());
    let asked = hub.asked().len();
    // Neither of these asks the hub.
    assert_eq!(ids(&["org/tiny"]).json()["output_ids"], wanted);
    assert_eq!(ids(&["org/tiny@main", "--offline"]).json()["output_ids"], wanted);
    assert_eq!(hub.asked().len(), asked);
    assert_eq!(ids(&["org/tiny@v1"]).json()["output_ids"], wanted);
    ids(&["org/tiny@v2"]).refused(&["org/tiny", "v2", "no revision"]);
    ids(&["org/other"]).refused(&["org/other", "no such model", "HF_TOKEN"]);
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = ["org/tiny", "--download-dir", folder.path().to_str().unwrap()];
    assert_eq!(ids(&elsewhere).json()["output_ids"], wanted);
    assert!(folder.path().join("models--org--tiny/refs/main").is_file());
}

#[test]
fn a_branch_that_moves_shares_what_stayed() {
    let hub = Hub::new(&files(100_000));
    pull(&hub).good();
    let next = "f".repeat(40);
    hub.move_branch(&next, "config.json", b"{}");
    pull(&hub).good();
    assert_eq!(fs::read_to_string(hub.cached("refs/main")).unwrap(), next);
    assert_eq!(fs::read_to_string(hub.cached(&format!("snapshots/{next}/config.json"))).unwrap(), "{}");
    assert!(hub.cached(&format!("snapshots/{COMMIT}/config.json")).is_file());
    assert_eq!(hub.downloads().len(), 1);
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let hub = Hub::new(&files(100_000));
    finish(client(&hub, &["pull", "org/tiny"]).env("HF_TOKEN", "hf_secret")).good();
    for asked in hub.asked() {
        assert_eq!(asked.authorization.is_some(), !asked.on_cdn, "{asked:?}");
    }
    // A hub that redirects its API elsewhere does not carry the token there.
    let other = Hub::new(&files(100_000));
    let to = other.endpoint.replace("127.0.0.1", "localhost");
    let hub =
        Hub::lying(&[], move |asked, _| Answer::of(307, "").with("Location", format!("{to}{}", asked.path)));
    finish(client(&hub, &["pull", "org/tiny"]).env("HF_TOKEN", "hf_secret")).good();
    assert!(other.asked().len() > 2 && other.asked().iter().all(|asked| asked.authorization.is_none()));
    assert!(hub.asked().iter().all(|asked| asked.authorization.as_deref() == Some("Bearer hf_secret")));
}

#[test]
fn a_renamed_model_is_followed() {
    let hub = Hub::lying(&files(50_000), |asked, answer| match asked.path.contains("org/old") {
        true => Answer::of(301, "").with("Location", asked.path.replace("org/old", "org/tiny")),
        false => answer,
    });
    let ran = finish(&mut client(&hub, &["pull", "org/old"]));
    assert!(ran.stderr.contains("org/old is called org/tiny now"), "{ran:?}");
    assert!(ran.good().contains("models--org--old"));
}

#[test]
fn a_killed_pull_goes_on_where_it_was() {
    let size = 6_000_000;
    let hub = Hub::lying(&files(size), |asked, answer| Answer {
        slow: Duration::from_millis(if asked.on_cdn && asked.before == 0 { 20 } else { 0 }),
        ..answer
    });
    let id = id_of("model.safetensors", &noise(size));
    let incomplete = hub.cached(&format!("blobs/{id}.incomplete"));
    let mut child = client(&hub, &["pull", "org/tiny"]).stderr(Stdio::null()).spawn().unwrap();
    let length = || fs::metadata(&incomplete).map_or(0, |m| m.len());
    while length() < 1_000_000 {
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let length = length();
    assert!(length < size as u64);
    finish(&mut client(&hub, &["inspect", "--model", "org/tiny", "--offline"]))
        .refused(&["org/tiny", "--offline"]);
    pull(&hub).good();
    assert_whole(&hub, size);
    assert_eq!(hub.downloads().last().unwrap().range, Some(length));

    // What an earlier pull left may be damaged. Then all of it is fetched, once.
    fs::remove_dir_all(hub.cached("")).unwrap();
    fs::create_dir_all(hub.cached("blobs")).unwrap();
    fs::write(&incomplete, vec![0; 1_000_000]).unwrap();
    let ran = pull(&hub);
    assert!(ran.stderr.contains("fetched anew"), "{ran:?}");
    ran.good();
    assert_whole(&hub, size);
}

#[test]
fn three_at_once_download_once() {
    let size = 2_000_000;
    let hub = Hub::lying(&files(size), |asked, answer| Answer {
        slow: Duration::from_millis(if asked.on_cdn { 20 } else { 0 }),
        ..answer
    });
    let start =
        || client(&hub, &["pull", "org/tiny"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let children: Vec<_> = (0..3).map(|_| start()).collect();
    let outputs: Vec<_> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    assert!(outputs.iter().all(|output| output.status.success()), "{outputs:?}");
    assert_eq!(hub.downloads().len(), 1);
    assert_whole(&hub, size);
    let waited =
        |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).contains("waiting for");
    assert_eq!(outputs.iter().filter(|output| waited(output)).count(), 2);
}

#[test]
fn no_network_is_said_at_once() {
    let hub = Hub::new(&files(1000));
    let start = Instant::now();
    let args = ["generate", "--model", "org/tiny", "--prompt-ids", "5"];
    finish(client(&hub, &args).env("HF_ENDPOINT", "http://127.0.0.1:9"))
        .refused(&["org/tiny", "can't be reached"]);
    finish(client(&hub, &args).env("HF_ENDPOINT", "http://no-such-host.invalid"))
        .refused(&["can't be reached"]);
    finish(client(&hub, &args).arg("--offline")).refused(&["org/tiny", "--offline", "HF_HUB_OFFLINE"]);
    finish(client(&hub, &["pull", "org/tiny"]).env("HF_HUB_OFFLINE", "1")).refused(&["HF_HUB_OFFLINE"]);
    finish(client(&hub, &["pull", "org/tiny"]).env("HF_ENDPOINT", "hub"))
        .refused(&["HF_ENDPOINT", "https://"]);
    finish(client(&hub, &["pull", "org"]).env("HF_HUB_ETAG_TIMEOUT", "x")).refused(&["HF_HUB_ETAG_TIMEOUT"]);
    assert!(start.elapsed() < Duration::from_secs(20) && hub.asked().is_empty());
    // A hub that takes a connection and says nothing.
    let silent = Hub::lying(&[], |_, answer| Answer { slow: Duration::from_secs(9), ..answer });
    let start = Instant::now();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    finish(client(&silent, &args).env("HF_ENDPOINT", endpoint).env("HF_HUB_ETAG_TIMEOUT", "1"))
        .refused(&["can't be reached"]);
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn proxies_are_used_and_passed_by() {
    let hub = Hub::new(&files(1000));
    let (address, tunnels) = proxy();
    finish(client(&hub, &["pull", "org/tiny"]).env("http_proxy", &address)).good();
    assert!(tunnels.lock().unwrap().iter().any(|host| host.starts_with("localhost:")), "{tunnels:?}");
    tunnels.lock().unwrap().clear();
    let direct = [("http_proxy", &*address), ("NO_PROXY", "localhost,127.0.0.1")];
    finish(client(&hub, &["pull", "org/tiny", "--force"]).envs(direct)).good();
    assert!(tunnels.lock().unwrap().is_empty());
    finish(client(&hub, &["pull", "org/tiny"]).env("http_proxy", "http://127.0.0.1:9")).refused(&["reached"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_cache_as_it_was() {
    let hub = Hub::new(&files(300_000));
    let id = id_of("model.safetensors", &noise(300_000));
    fs::create_dir_all(hub.cached("blobs")).unwrap();
    // Every write to this device fails as on a full disk.
    std::os::unix::fs::symlink("/dev/full", hub.cached(&format!("blobs/{id}.incomplete"))).unwrap();
    pull(&hub).refused(&["the disk is full", "--download-dir"]);
    assert_eq!(hub.left(), [""; 0]);
    assert!(!hub.cached("refs").exists() && !hub.cached("snapshots").exists());
    pull(&hub).good();
    assert_whole(&hub, 300_000);
}

#[test]
fn the_cache_is_listed_checked_and_cleaned() {
    let hub = Hub::new(&files(100_000));
    pull(&hub).good();
    let next = "f".repeat(40);
    hub.move_branch(&next, "config.json", b"{ }");
    pull(&hub).good();
    finish(&mut client(&hub, &["pull", "org/tiny", "--revision", &next])).good();
    fs::write(hub.cached(&format!("blobs/{}.incomplete", "a".repeat(64))), "xyz").unwrap();
    let cache = |args: &[&str]| finish(&mut client(&hub, &[&["cache"], args].concat()));
    let listed = cache(&["ls", "--json"]).json();
    let repository = &listed["repositories"][0];
    let size = 100_000 + "{\"model_type\": \"qwen3\"}".len() + 3 + 2;
    assert_eq!((&repository["id"], &repository["size_on_disk"]), (&json!("org/tiny"), &json!(size)));
    assert_eq!((&repository["files"], &repository["incomplete_bytes"]), (&json!(4), &json!(3)));
    assert_eq!(repository["revisions"][1]["references"], json!(["main"]));
    let text = cache(&["ls"]).good();
    assert!(text.contains("org/tiny") && text.contains("100.0 kB") && text.contains(COMMIT), "{text}");
    assert!(cache(&["verify"]).good().contains("4 files are right"));

    // The old commit goes, and what the new one shares stays.
    let dry = cache(&["rm", &format!("org/tiny@{COMMIT}"), "--dry-run"]).good();
    assert!(dry.contains("would free 23 B") && hub.cached(&format!("snapshots/{COMMIT}")).exists(), "{dry}");
    let pruned = cache(&["prune"]).good();
    assert!(
        pruned.contains(COMMIT) && pruned.contains("1 incomplete") && pruned.contains("26 bytes"),
        "{pruned}"
    );
    assert!(!hub.cached(&format!("snapshots/{COMMIT}")).exists());
    assert!(cache(&["verify", "org/tiny"]).good().contains("3 files are right"));
    let weights = hub.cached(&format!("blobs/{}", id_of("model.safetensors", &noise(100_000))));
    fs::write(&weights, vec![1; 100_000]).unwrap();
    let verified = cache(&["verify"]);
    assert!(
        verified.code == Some(1) && verified.stdout.contains("model.safetensors: it should be sha256"),
        "{verified:?}"
    );
    cache(&["rm", "org/other"]).refused(&["org/other", "cache ls"]);
    cache(&["rm", "org/tiny@v9"]).refused(&["org/tiny@v9"]);
    cache(&["rm", "org/tiny@main"]).good();
    assert_eq!(hub.left(), [""; 0]);
    assert!(cache(&["ls"]).good().contains("is empty"));
}

#[test]
fn other_weights_than_the_known_ones_are_refused() {
    let checkpoint = Checkpoint::copy("qwen3");
    let model = checkpoint.path().to_str().unwrap();
    let run = |args: &[&str]| finish(program().args(args).args(["--model", model]));
    let sums = checkpoint.file("sums.json");
    let printed = run(&["inspect", "--verify", "--json"]).json();
    fs::write(&sums, printed.to_string()).unwrap();
    let (sums, digest) = (sums.to_str().unwrap(), printed["sha256"].as_str().unwrap());
    for known in [sums, digest] {
        assert!(run(&["load", "--checksum", known]).good().contains("loaded"));
        run(&["inspect", "--verify", "--against", known]).good();
    }
    checkpoint.edit("model-00003-of-00004.safetensors", |bytes| *bytes.last_mut().unwrap() ^= 1);
    run(&["load", "--checksum", sums]).refused(&[model, "1 of", "has other values", "sums.json"]);
    run(&["inspect", "--verify", "--against", digest]).refused(&["the digest is", digest]);
    run(&["load", "--checksum", "no-such-file"]).refused(&["--checksum no-such-file", "inspect --verify"]);
}
