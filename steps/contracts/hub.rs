//! The contracts of the exercises about names: a model's snapshot in a cache, and a download that is resumed.

use super::{
    Outcome,
    scratch::Scratch,
    story::{check_story, runner_of},
};
use sha2::{Digest, Sha256};
use stairwell::{
    checkpoint::{Directory, StateDict},
    demo,
};
use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
};

/// Finds a model in the cache that Hugging Face's tools share.
pub trait SnapshotFinder {
    /// The folder with the files of `repository` (`ORG/NAME`) at `revision`: a branch, a tag or a commit.
    ///
    /// # Errors
    /// If the cache does not hold that revision.
    fn find(&self, cache: &Path, repository: &str, revision: &str) -> Outcome<PathBuf>;
}

/// A server's answer to a request for the bytes of a file from some byte on.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 206: the body begins at `start`. 200: the server ignores ranges, and the body begins at the file's first byte. Any other status: the
    /// body is no part of the file.
    pub status: u16,
    /// The body's first byte in the file, as the header Content-Range says. With status 206 only.
    pub start: Option<u64>,
    /// The bytes that came before the connection was closed.
    pub body: Vec<u8>,
}

/// Answers requests for one file.
pub trait Server {
    /// Asks for the bytes from `from` to the end of the file.
    fn get(&mut self, from: u64) -> Answer;
}

/// Completes a download.
pub trait Resumer {
    /// Fetches into the file `part`, where an earlier process may have left a beginning, until it has `size` bytes whose SHA-256 is `sha256` (64
    /// hexadecimal digits).
    ///
    /// # Errors
    /// If the server sends nothing new several times in a row; then `part` keeps what came. If a file that was fetched whole has another hash; then
    /// `part` is deleted.
    fn complete(&self, server: &mut dyn Server, part: &Path, size: u64, sha256: &str) -> Outcome<()>;
}

/// The SHA-256 of these bytes, as 64 hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `find` asks refs/ which commit a branch is, takes a commit as it is, and refuses what the cache does not hold.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn snapshot_finder(finder: &impl SnapshotFinder) {
    let [old, new, review] = ["0a", "b1", "c2"].map(|digits| digits.repeat(20));
    let scratch = Scratch::new().expect("a temporary directory");
    let model = scratch.path().join("models--org--tiny");
    for commit in [&old, &new, &review] {
        fs::create_dir_all(model.join("snapshots").join(commit)).expect("a temporary directory");
    }
    fs::create_dir_all(model.join("refs/refs/pr")).expect("a temporary directory");
    // A pull of `half` was killed: the reference is older than the snapshot's deletion.
    let half = "d3".repeat(20);
    for (name, commit) in [("main", &new), ("v1", &old), ("refs/pr/7", &review), ("half", &half)] {
        fs::write(model.join("refs").join(name), commit).expect("a temporary file");
    }
    let cases = [
        ("main", Some(&new), "refs/main says which commit the branch was"),
        ("v1", Some(&old), "a tag is a file in refs/, as a branch is"),
        ("refs/pr/7", Some(&review), "a pull request's name has slashes, and its file lies in folders"),
        (&old, Some(&old), "a commit needs no file in refs/: it is the snapshot's name"),
        ("half", None, "refs/half names a commit whose snapshot is not there"),
        ("v2", None, "neither refs/ nor snapshots/ has that name"),
    ];
    for (revision, commit, rule) in cases {
        let want = commit.map(|commit| model.join("snapshots").join(commit));
        let got = finder.find(scratch.path(), "org/tiny", revision);
        if got.as_ref().ok() != want.as_ref() {
            let got = got.map_or_else(|e| format!("an error: {e}"), |path| path.display().to_string());
            let want = want.map_or("an error".into(), |path| path.display().to_string());
            panic!("org/tiny at '{revision}': {rule}\n  yours:    {got}\n  expected: {want}");
        }
    }
    if let Ok(got) = finder.find(scratch.path(), "org/other", "main") {
        panic!("the cache has no org/other, but it was found in {}: return an error", got.display());
    }
}

/// The demo model, found in a cache by this finder, writes the engine's story.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn snapshot_finder_tells_the_story(finder: &impl SnapshotFinder) {
    let (commit, demo) = ("5a".repeat(20), demo::directory());
    let scratch = Scratch::new().expect("a temporary directory");
    let model = scratch.path().join("models--stairwell--demo");
    let snapshot = model.join("snapshots").join(&commit);
    for folder in ["blobs", "refs", &format!("snapshots/{commit}")] {
        fs::create_dir_all(model.join(folder)).expect("a temporary directory");
    }
    fs::write(model.join("refs/main"), commit).expect("a temporary file");
    for file in demo.list().expect("the demo's files") {
        let bytes = demo.read(&file).expect("a file of the demo").unwrap_or_default();
        fs::write(snapshot.join(file), bytes).expect("a temporary file");
    }
    let found = finder.find(scratch.path(), "stairwell/demo", "main");
    let found = found.unwrap_or_else(|e| panic!("stairwell/demo was not found: {e}"));
    let state_dict = StateDict::open(&Directory::Disk(found)).expect("the demo checkpoint");
    check_story(runner_of(state_dict.tensors()));
}

/// How the server of a test misbehaves, one request after another.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The connection closes after so many bytes.
    CutAfter(usize),
    /// Ranges are ignored: the whole file, with status 200.
    Whole,
    /// A range that nobody asked for: this many bytes later.
    Shifted(u64),
    /// Too busy: status 503, and a page that says so.
    Busy,
}

/// Serves `file`; each request takes the next fault, and after the last one all is well.
struct Liar<'a> {
    file: &'a [u8],
    faults: VecDeque<Fault>,
    /// Where each request wanted to begin.
    asked: Vec<u64>,
}

impl Liar<'_> {
    fn new<'a>(file: &'a [u8], faults: &[Fault]) -> Liar<'a> {
        Liar { file, faults: faults.iter().copied().collect(), asked: Vec::new() }
    }
}

impl Server for Liar<'_> {
    fn get(&mut self, from: u64) -> Answer {
        self.asked.push(from);
        assert!(
            self.asked.len() <= 100,
            "you asked 100 times: count the tries that bring nothing, and give up"
        );
        let after = |start: u64| self.file.get(start as usize..).unwrap_or_default();
        let part =
            |start: u64, bytes: &[u8]| Answer { status: 206, start: Some(start), body: bytes.to_vec() };
        match self.faults.pop_front() {
            Some(Fault::Busy) => Answer { status: 503, start: None, body: b"<html>busy</html>".to_vec() },
            Some(Fault::Whole) => Answer { status: 200, start: None, body: self.file.to_vec() },
            Some(Fault::Shifted(by)) => part(from + by, after(from + by)),
            Some(Fault::CutAfter(n)) => part(from, &after(from)[..n.min(after(from).len())]),
            None if from > self.file.len() as u64 => Answer { status: 416, start: None, body: Vec::new() },
            None => part(from, after(from)),
        }
    }
}

/// What happens, what an earlier process left, the server's faults, and where each request must begin.
type Case<'a> = (&'a str, &'a [u8], &'a [Fault], &'a [u64]);

/// `complete` goes on where the file ends, adds no byte that is not the next one, checks the hash, and gives up in the end.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn resumer(resumer: &impl Resumer) {
    use Fault::{Busy, CutAfter, Shifted, Whole};
    let file: Vec<u8> = (0..1000u32).map(|i| (i * 37 + i / 256) as u8).collect();
    let damaged: Vec<u8> = file.iter().map(|byte| byte ^ 1).collect();
    let scratch = Scratch::new().expect("a temporary directory");
    let part = scratch.path().join("model.incomplete");
    let run = |left: &[u8], served: &[u8], faults: &[Fault]| {
        fs::write(&part, left).expect("a temporary file");
        let mut server = Liar::new(served, faults);
        let ended = resumer.complete(&mut server, &part, file.len() as u64, &sha256(&file));
        (ended.map_err(|e| e.to_string()), fs::read(&part).ok(), server.asked)
    };
    let cases: [Case; 8] = [
        ("nothing was there", &[], &[], &[0]),
        ("400 bytes were there", &file[..400], &[], &[400]),
        ("the connection was cut twice", &[], &[CutAfter(300), CutAfter(200)], &[0, 300, 500]),
        ("the server ignored the range and sent the whole file (200)", &file[..400], &[Whole], &[400]),
        ("the server sent another range than was asked for", &file[..400], &[Shifted(100)], &[400, 400]),
        ("the server was busy (503) and sent a page", &file[..400], &[Busy, Busy], &[400, 400, 400]),
        ("what was there was damaged", &damaged[..400], &[], &[400, 0]),
        ("more was there than the file has", &[7; 1200], &[], &[0]),
    ];
    for (what, left, faults, want) in cases {
        let (ended, got, asked) = run(left, &file, faults);
        if let Err(e) = ended {
            panic!("{what}, and you gave up: {e}\n  you asked for bytes from {asked:?}, expected {want:?}");
        }
        assert!(got.as_ref() == Some(&file), "{what}: {}", difference(got.as_deref(), &file));
        assert!(asked == want, "{what}: you asked for bytes from {asked:?}, expected {want:?}");
    }
    let (ended, got, _) = run(&[], &damaged, &[]);
    assert!(
        ended.is_err(),
        "the server's file has another hash, and you returned Ok: check the hash at the end"
    );
    assert!(
        got.is_none(),
        "the server's file has another hash: delete the part, or the next try goes on with it"
    );
    let (ended, got, _) = run(&file[..400], &file, &[Busy; 200]);
    assert!(ended.is_err(), "the server was busy 100 times: return an error");
    assert!(got.as_deref() == Some(&file[..400]), "you gave up: keep the 400 bytes for the next try");
}

/// What is wrong with a file that was fetched.
fn difference(got: Option<&[u8]>, want: &[u8]) -> String {
    let Some(got) = got else { return "there is no file".into() };
    match got.iter().zip(want).position(|(got, want)| got != want) {
        Some(at) => format!(
            "byte {at} of {} is wrong; did you append bytes without asking where they begin (status and Content-Range)?",
            got.len()
        ),
        None => format!("the file has {} bytes, expected {}", got.len(), want.len()),
    }
}

/// The demo model, its shards fetched by this resumer from a server that lies, writes the engine's story.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn resumer_tells_the_story(resumer: &impl Resumer) {
    let scratch = Scratch::demo().expect("a temporary copy of the demo checkpoint");
    let demo = demo::directory();
    let shards = demo.list().expect("the demo's files").into_iter().filter(|f| f.ends_with(".safetensors"));
    for shard in shards {
        let bytes = demo.read(&shard).expect("a file of the demo").unwrap_or_default();
        let path = scratch.path().join(&shard);
        fs::write(&path, &bytes[..1000]).expect("a temporary file");
        let mut server = Liar::new(&bytes, &[Fault::CutAfter(20_000), Fault::Whole]);
        resumer
            .complete(&mut server, &path, bytes.len() as u64, &sha256(&bytes))
            .unwrap_or_else(|e| panic!("{shard} was not fetched: {e}"));
    }
    let state_dict = StateDict::open(&scratch.directory()).expect("the shards that you fetched");
    check_story(runner_of(state_dict.tensors()));
}
