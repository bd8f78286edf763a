//! A hub on loopback for tests: its API and small files on one port, large files on another, as a CDN has them. A test may change any
//! answer.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, thread};
use tempfile::TempDir;

/// A commit.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub on_cdn: bool,
    pub path: String,
    pub range: Option<u64>,
    pub authorization: Option<String>,
    /// How often this path was asked for before.
    pub before: usize,
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The connection closes after so many bytes of the body.
    pub cut: Option<usize>,
    /// The server waits so long before every 64 KiB.
    pub slow: Duration,
    /// Then it waits so long at the end, with the connection open.
    pub stall: Duration,
}

impl Answer {
    pub fn of(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, body: body.into(), ..Answer::default() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }
}

type Change = dyn Fn(&Asked, Answer) -> Answer + Send + Sync;

struct Shared {
    /// path → content, of `org/tiny` at COMMIT
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    commit: Mutex<String>,
    asked: Mutex<Vec<Asked>>,
    change: Box<Change>,
    cdn: String,
}

/// The hub, and a cache for its client.
pub struct Hub {
    shared: Arc<Shared>,
    pub endpoint: String,
    home: TempDir,
}

/// A file's id as the hub calls it.
pub fn id_of(path: &str, body: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
    match is_large(path) {
        true => hex(&Sha256::digest(body)),
        false => {
            hex(&Sha1::new().chain_update(format!("blob {}\0", body.len())).chain_update(body).finalize())
        }
    }
}

fn is_large(path: &str) -> bool {
    path.ends_with(".safetensors") || path.ends_with(".gguf")
}

impl Hub {
    /// A hub with these files, which answers as it should.
    pub fn new(files: &[(&str, Vec<u8>)]) -> Hub {
        Hub::lying(files, |_, answer| answer)
    }

    /// A hub whose answers are changed.
    pub fn lying(
        files: &[(&str, Vec<u8>)],
        change: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static,
    ) -> Hub {
        let (hub, cdn) = (listen(), listen());
        // Another name of the same machine is another origin.
        let address = |l: &TcpListener, host| format!("http://{host}:{}", l.local_addr().unwrap().port());
        let (endpoint, cdn_address) = (address(&hub, "127.0.0.1"), address(&cdn, "localhost"));
        let shared = Arc::new(Shared {
            files: Mutex::new(files.iter().map(|(path, body)| (path.to_string(), body.clone())).collect()),
            commit: Mutex::new(COMMIT.into()),
            asked: Mutex::default(),
            change: Box::new(change),
            cdn: cdn_address,
        });
        for (listener, on_cdn) in [(hub, false), (cdn, true)] {
            let shared = shared.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let shared = shared.clone();
                    thread::spawn(move || shared.serve(stream, on_cdn));
                }
            });
        }
        Hub { shared, endpoint, home: tempfile::tempdir().unwrap() }
    }

    /// Another commit, with this file changed.
    pub fn move_branch(&self, commit: &str, path: &str, body: &[u8]) {
        *self.shared.commit.lock().unwrap() = commit.into();
        self.shared.files.lock().unwrap().insert(path.into(), body.to_vec());
    }

    /// The client's `HF_HOME`.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// `models--org--tiny` in the client's cache.
    pub fn cached(&self, path: &str) -> PathBuf {
        self.home().join("hub/models--org--tiny").join(path)
    }

    /// All that was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// What the CDN was asked.
    pub fn downloads(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.on_cdn).collect()
    }

    /// Names of files in the cache, without locks, sorted.
    pub fn left(&self) -> Vec<String> {
        let cache = self.home().join("hub");
        let (mut found, mut folders) = (Vec::new(), vec![cache.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let name = entry.path().strip_prefix(&cache).unwrap().to_string_lossy().into_owned();
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false if name.starts_with(".locks") || name == "CACHEDIR.TAG" => {}
                    false => found.push(name),
                }
            }
        }
        found.sort();
        found
    }
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

impl Shared {
    fn serve(&self, mut stream: TcpStream, on_cdn: bool) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        while let Some(first) = lines.next() {
            let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            let header = |name: &str| {
                let mut pairs = head.iter().filter_map(|line| line.split_once(": "));
                Some(pairs.find(|(n, _)| n.eq_ignore_ascii_case(name))?.1.to_owned())
            };
            let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
            let range =
                header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
            let asked = {
                let mut all = self.asked.lock().unwrap();
                let before = all.iter().filter(|asked| asked.path == path && asked.on_cdn == on_cdn).count();
                let asked = Asked { on_cdn, path, range, authorization: header("authorization"), before };
                all.push(asked.clone());
                asked
            };
            let answer = (self.change)(&asked, self.answer(&asked));
            if send(&mut stream, &answer).is_err() || answer.cut.is_some() || !answer.stall.is_zero() {
                return;
            }
        }
    }

    /// What a hub answers.
    fn answer(&self, asked: &Asked) -> Answer {
        let (files, commit) = (self.files.lock().unwrap(), self.commit.lock().unwrap());
        let path = asked.path.split('?').next().unwrap();
        if asked.on_cdn {
            return match files.get(path.trim_start_matches('/')) {
                Some(body) => ranged(body, asked.range.unwrap_or(0) as usize),
                None => Answer::of(404, ""),
            };
        }
        let not_found = |code: &str| Answer::of(404, "no").with("X-Error-Code", code);
        if let Some(rest) = path.strip_prefix("/api/models/org/tiny/") {
            let (what, revision) = rest.split_once('/').unwrap_or((rest, "main"));
            if revision != "main" && revision != "v1" && revision != *commit {
                return not_found("RevisionNotFound");
            }
            let list: Vec<String> = files.iter().map(|(path, body)| entry(path, body)).collect();
            let body = match what {
                "tree" => format!("[{}]", list.join(",")),
                _ => format!("{{\"id\": \"org/tiny\", \"sha\": \"{commit}\", \"siblings\": []}}"),
            };
            return Answer::of(200, body).with("Content-Type", "application/json");
        }
        let Some(name) = path.strip_prefix(&format!("/org/tiny/resolve/{commit}/")) else {
            return not_found("RepoNotFound");
        };
        match files.get(name) {
            None => not_found("EntryNotFound"),
            Some(_) if is_large(name) => {
                Answer::of(302, "").with("Location", format!("{}/{name}?signature=x", self.cdn))
            }
            Some(body) => Answer::of(200, body.clone()).with("ETag", format!("\"{}\"", id_of(name, body))),
        }
    }
}

/// A file in the list of a commit.
fn entry(path: &str, body: &[u8]) -> String {
    let (id, size) = (id_of(path, body), body.len());
    match is_large(path) {
        true => format!(
            r#"{{"type": "file", "path": "{path}", "size": {size}, "oid": "{}", "lfs": {{"oid": "{id}", "size": {size}}}}}"#,
            "0".repeat(40)
        ),
        false => format!(r#"{{"type": "file", "path": "{path}", "size": {size}, "oid": "{id}"}}"#),
    }
}

/// A file from a byte on.
pub fn ranged(body: &[u8], from: usize) -> Answer {
    let size = body.len();
    match from {
        0 => Answer::of(200, body),
        from if from >= size => Answer::of(416, "").with("Content-Range", format!("bytes */{size}")),
        from => {
            Answer::of(206, &body[from..]).with("Content-Range", format!("bytes {from}-{}/{size}", size - 1))
        }
    }
}

fn send(stream: &mut TcpStream, answer: &Answer) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} x\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
    answer.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    let end = answer.cut.unwrap_or(answer.body.len()).min(answer.body.len());
    for piece in answer.body[..end].chunks(64 << 10) {
        thread::sleep(answer.slow);
        stream.write_all(piece)?;
    }
    stream.flush()?;
    thread::sleep(answer.stall);
    Ok(())
}

/// A proxy that makes tunnels (`CONNECT`), and the hosts that it was asked for.
pub fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let (listener, asked) = (listen(), Arc::new(Mutex::new(Vec::new())));
    let (address, log) = (format!("http://{}", listener.local_addr().unwrap()), asked.clone());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let host = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
            lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
            drop(lines);
            let Ok(mut there) = TcpStream::connect(&host) else { continue };
            log.lock().unwrap().push(host);
            stream.write_all(b"HTTP/1.1 200 x\r\n\r\n").unwrap();
            let (mut from, mut to) = (stream.try_clone().unwrap(), there.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut from, &mut to));
            thread::spawn(move || std::io::copy(&mut there, &mut stream));
        }
    });
    (address, asked)
}
