//! The results file of `stairwell batch`: whole lines only, and nothing lost.

use super::{
    super::terminal::{json_line, print, print_note},
    request::key,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use stairwell::{
    error::{Error, Result},
    files,
};
use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Where results go: a file, open at its end, or standard output.
pub struct Results(Option<Output>);

struct Output {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines; `None` for what is no regular file, such as a pipe.
    length: Option<u64>,
}

impl Results {
    /// Opens the file, and gives the [keys](key) of the results that it keeps: those of requests that were served. Without `resume`, an
    /// earlier file is put aside. `-` is standard output.
    ///
    /// # Errors
    /// If the file can't be read or written, is being written by another process, or, with `resume`, holds something else than results.
    pub fn open(path: &Path, resume: bool) -> Result<(Results, HashSet<String>)> {
        let mut done = HashSet::new();
        if is_stdout(path) {
            let message = "--resume: standard output keeps no results; give --output a file's name";
            return if resume { Err(Error::Usage(message.into())) } else { Ok((Results(None), done)) };
        }
        let failed = |error| Error::Io { path: path.into(), error };
        let mut file = append(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Ok((Results(Some(Output { path: path.into(), file, length: None })), done));
        }
        lock(&file, path)?;
        // Until the new file is locked, the old one stays so.
        let _old = file.try_clone().map_err(failed)?;
        let mut length = 0;
        if resume {
            let bytes = files::read(path, u64::MAX).map_err(failed)?;
            let whole = &bytes[..whole_lines(&bytes)];
            let kept = served(whole, &mut done, path)?;
            if whole.len() < bytes.len() {
                print_note(&format!("{}: its last line was cut off and is computed again", path.display()));
            }
            if kept.len() < whole.len() {
                file = replace(path, &kept).map_err(failed)?;
            }
            length = kept.len() as u64;
            file.set_len(length).map_err(failed)?;
        } else if metadata.len() > 0 {
            let aside = aside(path);
            fs::rename(path, &aside).map_err(failed)?;
            file = append(path).map_err(failed)?;
            print_note(&format!(
                "{} was there already and is now {} (--resume goes on with it)",
                path.display(),
                aside.display()
            ));
        }
        lock(&file, path)?;
        Ok((Results(Some(Output { path: path.into(), file, length: Some(length) })), done))
    }

    /// Writes one result: a line, in one write.
    ///
    /// # Errors
    /// If it can't be written, such as on a full disk. The part that was written is taken back.
    pub fn write(&mut self, result: &impl Serialize) -> Result<()> {
        let line = json_line(result);
        let Some(Output { path, file, length }) = &mut self.0 else { return print(&line) };
        match file.write_all(line.as_bytes()) {
            Ok(()) => {
                length.iter_mut().for_each(|length| *length += line.len() as u64);
                Ok(())
            }
            Err(error) => {
                let _ = length.map(|length| file.set_len(length));
                let message =
                    format!("{error}; the results so far are whole, and --resume goes on from there");
                Err(Error::Io { path: path.clone(), error: io::Error::new(error.kind(), message) })
            }
        }
    }
}

/// Whether results go to standard output.
pub fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Keeps other processes from writing the file while it is open here. Where a file system has no locks, they are not kept out.
fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::Usage(format!(
            "--output {}: another process is writing it; wait for its end, or give another file",
            path.display()
        ))),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// The length of what ends with a line's end.
fn whole_lines(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1)
}

/// What matters here of a line.
#[derive(Deserialize)]
struct Line {
    id: Box<RawValue>,
    finish_reason: Option<String>,
    #[serde(default)]
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    finish_reason: Option<String>,
}

/// The lines of requests that were served, and their keys in `done`. Those that failed are tried again.
fn served(bytes: &[u8], done: &mut HashSet<String>, path: &Path) -> Result<Vec<u8>> {
    let mut kept = Vec::with_capacity(bytes.len());
    for (number, line) in (1..).zip(bytes.split_inclusive(|&byte| byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            kept.extend(line);
            continue;
        }
        let Line { id, finish_reason, choices } = serde_json::from_slice(line).map_err(|_| {
            let path = path.display();
            Error::Usage(format!(
                "--output {path}: line {number} is no result of `batch`, so --resume can't go on with this file"
            ))
        })?;
        let mut reasons = choices.into_iter().map(|choice| choice.finish_reason).chain([finish_reason]);
        if !reasons.any(|reason| reason.as_deref() == Some("error")) {
            done.insert(key(&id));
            kept.extend(line);
        }
    }
    Ok(kept)
}

/// Puts a file with other content in a file's place: whoever looks sees the one or the other.
fn replace(path: &Path, content: &[u8]) -> io::Result<File> {
    let path = fs::canonicalize(path)?;
    let fresh = aside(&path);
    let mut file = append(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    Ok(file)
}

/// The first free of NAME.1, NAME.2, …
pub fn aside(path: &Path) -> PathBuf {
    let numbered = (1..).map(|n| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    });
    numbered.into_iter().find(|path| fs::symlink_metadata(path).is_err()).unwrap_or_default()
}
