//! One file, from the hub into a blob: resumed, hashed while it is written, and named only when it is right.

use super::api::{Api, RemoteFile};
use super::blob_id::Hasher;
use super::cache::Repository;
use super::client::{Answer, Failure, Get, Patience, header};
use super::lock::Lock;
use super::{HubError, Result, Watch};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes that are read, hashed and written at a time. A process that is killed loses no more of what came.
const PIECE: usize = 256 << 10;

/// Fewer new bytes than this are no progress, so that a server that sends a byte a try is not asked for ever.
const PROGRESS: u64 = 16 << 10;

/// What a download needs to know.
pub struct Download<'a> {
    pub api: &'a Api<'a>,
    pub repository: &'a Repository,
    pub commit: &'a str,
    /// Fetches also what is there.
    pub force: bool,
    /// How long a download may stand still.
    pub timeout: Duration,
    pub watch: &'a dyn Watch,
    /// Set when another file of the pull failed: this one stops too, and keeps what has come.
    pub stop: &'a AtomicBool,
}

/// What came of a download.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// The blob is new.
    Fetched,
    /// The blob was there, or another process has fetched it meanwhile.
    Found,
    /// The pull was stopped.
    Stopped,
}

impl Download<'_> {
    /// Fetches a file into its blob. Two processes that want the same take turns, and the second finds it there.
    ///
    /// # Errors
    /// [`HubError`]. After [`HubError::Damaged`] and [`HubError::DiskFull`] nothing of the file is left that was not there before; else what
    /// came is kept, and the next pull goes on with it.
    pub fn run(&self, file: &RemoteFile) -> Result<Outcome> {
        let lock = self.repository.lock(&file.id);
        let waiting = || self.watch.note(&format!("waiting for another process that fetches {}", file.path));
        let _lock = Lock::wait(&lock, waiting).map_err(HubError::io(&lock))?;
        if self.repository.has(file) && !self.force {
            self.watch.advance(file.size as i64 - self.repository.come(file) as i64);
            return Ok(Outcome::Found);
        }
        let path = self.repository.incomplete(&file.id);
        let mut part = Part::open(path, file, self.force)?;
        let before = part.length;
        match self.fill(&mut part, file) {
            Ok(true) => {}
            Ok(false) => return Ok(Outcome::Stopped),
            Err(error) => {
                // A full disk gets back what this process took, and an empty file is of use to nobody.
                if matches!(error, HubError::DiskFull { .. }) {
                    part.back_to(before);
                } else if part.length == 0 {
                    part.back_to(0);
                }
                return Err(error);
            }
        }
        let blob = self.repository.blob(&file.id);
        fs::rename(&part.path, &blob).map_err(HubError::io(&blob))?;
        Ok(Outcome::Fetched)
    }

    /// Fetches what is missing and checks the hash; false if the pull was stopped.
    fn fill(&self, part: &mut Part, file: &RemoteFile) -> Result<bool> {
        // Bytes of an earlier process may be damaged, by a crash of the machine for one. Then the whole file is fetched once more.
        let mut inherited = part.length > 0;
        loop {
            if !self.fetch(part, file)? {
                return Ok(false);
            }
            let found = part.finish()?;
            if found == file.id {
                return Ok(true);
            }
            if !inherited {
                self.watch.advance(-(part.length as i64));
                fs::remove_file(&part.path).map_err(HubError::io(&part.path))?;
                let (model, expected) = (self.api.model.id(), file.id.clone());
                return Err(HubError::Damaged {
                    model,
                    file: file.path.clone(),
                    expected,
                    found: found.to_string(),
                });
            }
            inherited = false;
            self.watch
                .note(&format!("{}: what an earlier pull left is damaged; it is fetched anew", file.path));
            self.restart(part)?;
        }
    }

    fn restart(&self, part: &mut Part) -> Result<()> {
        self.watch.advance(-(part.length as i64));
        part.restart()
    }

    /// Tries until all bytes are there; false if the pull was stopped.
    fn fetch(&self, part: &mut Part, file: &RemoteFile) -> Result<bool> {
        let mut patience = Patience::default();
        while part.length < part.size {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let before = part.length;
            let failure = match self.attempt(part, file) {
                Ok(()) => continue,
                Err(failure) => failure,
            };
            if part.length >= before + PROGRESS.min(part.size - before) && part.length > before {
                patience.refresh();
                continue;
            }
            let (why, asked, busy) = match failure {
                Failure::Final(error) => return Err(error),
                Failure::Unreachable(why) | Failure::Cut(why) => (why, None, None),
                Failure::Busy { status, after } => {
                    (format!("the server is busy, status {status}"), after, Some(status))
                }
            };
            if !patience.wait(asked) {
                return Err(self.gave_up(part, file, patience.tries(), why, asked, busy));
            }
        }
        Ok(true)
    }

    fn gave_up(
        &self,
        part: &Part,
        file: &RemoteFile,
        tries: u32,
        why: String,
        asked: Option<Duration>,
        busy: Option<u16>,
    ) -> HubError {
        let model = self.api.model.id();
        match busy {
            Some(status) => {
                let seconds = asked.map_or(60, |asked| asked.as_secs());
                HubError::Busy { what: format!("{model}: {}", file.path), status, tries, seconds }
            }
            None => HubError::Broken {
                model,
                file: file.path.clone(),
                got: part.length,
                size: part.size,
                tries,
                why,
            },
        }
    }

    /// One try: asks for the bytes that are missing, and appends those that come.
    fn attempt(&self, part: &mut Part, file: &RemoteFile) -> Result<(), Failure> {
        // The hub is asked each time, as the addresses that it redirects to expire.
        let address = self.api.resolve(self.commit, &file.path);
        let get = Get { address: &address, from: part.length, timeout: self.timeout };
        let answer = self.api.client.get(&get)?;
        self.check_status(part, file, &answer)?;
        let mut body = answer.body.into_reader();
        let mut piece = vec![0; PIECE];
        while part.length < part.size {
            let n = match body.read(&mut piece) {
                Ok(0) => return Err(Failure::Cut("the body ended early".into())),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Cut(error.to_string())),
            };
            let n = n.min((part.size - part.length) as usize);
            part.append(&piece[..n]).map_err(Failure::Final)?;
            self.watch.advance(n as i64);
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether the body that follows goes on where the file ends. A server that sends the whole file makes the file begin anew.
    fn check_status(&self, part: &mut Part, file: &RemoteFile, answer: &Answer) -> Result<(), Failure> {
        let length = header(&answer.headers, "Content-Length").and_then(|value| value.parse::<u64>().ok());
        match answer.status {
            200 => {
                self.check_page(file, answer, length)?;
                if part.length > 0 {
                    self.restart(part).map_err(Failure::Final)?;
                }
                // A length that is not the list's says that this is another file.
                if let Some(length) = length.filter(|length| *length != part.size) {
                    return Err(Failure::Cut(format!(
                        "the server has {length} bytes of it, the list says {}",
                        part.size
                    )));
                }
                Ok(())
            }
            206 => {
                let range = header(&answer.headers, "Content-Range").unwrap_or_default();
                if range_start(range) == Some(part.length) {
                    return Ok(());
                }
                let why = format!("asked for bytes from {} on, the server sent '{range}'", part.length);
                self.restart(part).map_err(Failure::Final)?;
                Err(Failure::Cut(why))
            }
            416 => {
                let why = format!("the server has no bytes from {} on", part.length);
                self.restart(part).map_err(Failure::Final)?;
                Err(Failure::Cut(why))
            }
            status if !self.api.client.is_hub(&answer.address) => {
                Err(Failure::Cut(format!("{} answers with status {status}", answer.address.for_people())))
            }
            _ => Err(Failure::Final(self.api.refusal(answer, &file.path))),
        }
    }

    /// Refuses a page for a browser in place of a file.
    fn check_page(&self, file: &RemoteFile, answer: &Answer, length: Option<u64>) -> Result<(), Failure> {
        let kind = header(&answer.headers, "Content-Type").unwrap_or_default();
        if kind.starts_with("text/html") && length != Some(file.size) && !file.path.ends_with(".html") {
            let what = format!("{}: {}", self.api.model.id(), file.path);
            return Err(Failure::Final(HubError::NotTheHub { what, why: "it is a page in HTML".into() }));
        }
        Ok(())
    }
}

/// The first byte of `bytes 5-9/10`.
fn range_start(range: &str) -> Option<u64> {
    range.trim().strip_prefix("bytes")?.trim_start_matches([' ', '=']).split('-').next()?.parse().ok()
}

/// A file of which a part has come, with the hash of that part.
struct Part {
    path: PathBuf,
    file: File,
    /// `None` between the end and the next beginning.
    hasher: Option<Hasher>,
    remote: RemoteFile,
    /// Bytes that are in the file, and in the hash.
    length: u64,
    /// Bytes that there will be.
    size: u64,
}

impl Part {
    /// Opens what an earlier process left, and hashes it; with `anew`, nothing of it is kept.
    fn open(path: PathBuf, remote: &RemoteFile, anew: bool) -> Result<Part> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let file = file.map_err(HubError::io(&path))?;
        let hasher = Some(remote.id.hasher(remote.size));
        let mut part = Part { path, file, hasher, remote: remote.clone(), length: 0, size: remote.size };
        let there = part.file.metadata().map_err(HubError::io(&part.path))?.len();
        if anew || there > part.size {
            part.restart()?;
            return Ok(part);
        }
        let mut piece = vec![0; PIECE];
        while part.length < there {
            let n = part.file.read(&mut piece).map_err(HubError::io(&part.path))?;
            if n == 0 {
                break;
            }
            part.hash(&piece[..n]);
        }
        Ok(part)
    }

    fn hash(&mut self, bytes: &[u8]) {
        self.hasher.as_mut().expect("it is taken at the end only").update(bytes);
        self.length += bytes.len() as u64;
    }

    /// Writes at once: what is in the file survives the process.
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(HubError::io(&self.path))?;
        self.hash(bytes);
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(HubError::io(&self.path))?;
        self.hasher = Some(self.remote.id.hasher(self.size));
        self.length = 0;
        Ok(())
    }

    /// The hash of all bytes, which are on the disk when this returns.
    fn finish(&mut self) -> Result<super::blob_id::BlobId> {
        self.file.sync_data().map_err(HubError::io(&self.path))?;
        Ok(self.hasher.take().expect("it is taken at the end only").finish())
    }

    /// Gives back the space that this process took.
    fn back_to(&mut self, length: u64) {
        let kept = if length > 0 { self.file.set_len(length) } else { fs::remove_file(&self.path) };
        let _ = kept; // an error is being reported already
    }
}

/// Removes a blob that this pull has fetched and that nothing refers to yet.
pub fn take_back(repository: &Repository, file: &RemoteFile) {
    if let Ok(Some(_lock)) = Lock::try_now(&repository.lock(&file.id)) {
        let _ = fs::remove_file(repository.blob(&file.id)); // that the disk is full is being reported already
    }
}

#[cfg(test)]
mod tests {
    use super::super::blob_id::BlobId;
    use super::*;

    #[test]
    fn a_part_goes_on_with_the_hash_of_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.incomplete");
        let id = BlobId::of_name("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03").unwrap();
        let remote = RemoteFile { path: "x".into(), size: 6, id: id.clone() };
        fs::write(&path, "hel").unwrap();
        let mut part = Part::open(path.clone(), &remote, false).unwrap();
        assert_eq!(part.length, 3);
        part.append(b"lo\n").unwrap();
        assert_eq!(part.finish().unwrap(), id);
        // Longer than it can be, or not wanted: nothing is kept.
        fs::write(&path, "hello\n\n").unwrap();
        assert_eq!(Part::open(path.clone(), &remote, false).unwrap().length, 0);
        fs::write(&path, "hel").unwrap();
        assert_eq!(Part::open(path, &remote, true).unwrap().length, 0);
    }

    #[test]
    fn ranges_say_where_they_begin() {
        assert_eq!(range_start("bytes 5-9/10"), Some(5));
        assert_eq!((range_start("bytes */10"), range_start("")), (None, None));
    }
}
