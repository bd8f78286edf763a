//! The results file of `stairwell batch`: whole lines only, and nothing lost.

use super::super::terminal::{json_line, print_note};
use serde::Serialize;
use serde_json::Value;
use stairwell::error::{Error, Result};
use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The file, open at its end.
pub struct Results {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines; `None` for what is no regular file, such as a pipe.
    length: Option<u64>,
}

impl Results {
    /// Opens the file, and gives the ids of the results that it keeps, as JSON. Without `resume`, an earlier file is put aside.
    ///
    /// # Errors
    /// If the file can't be read or written, or, with `resume`, holds something else than results.
    pub fn open(path: &Path, resume: bool) -> Result<(Results, HashSet<String>)> {
        let failed = |error| Error::Io { path: path.into(), error };
        let regular = fs::metadata(path).is_ok_and(|meta| meta.is_file());
        let (mut done, mut length) = (HashSet::new(), 0);
        if regular && resume {
            let bytes = fs::read(path).map_err(failed)?;
            length = whole_lines(&bytes);
            done = ids(&bytes[..length], path)?;
            if length < bytes.len() {
                print_note(&format!("{}: its last line was cut off and is computed again", path.display()));
            }
        } else if regular && fs::metadata(path).map_err(failed)?.len() > 0 {
            let aside = put_aside(path).map_err(failed)?;
            print_note(&format!(
                "{} was there already and is now {} (--resume goes on with it)",
                path.display(),
                aside.display()
            ));
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        let length = match file.metadata().map_err(failed)?.is_file() {
            true => {
                file.set_len(length as u64).map_err(failed)?;
                Some(length as u64)
            }
            false => None,
        };
        Ok((Results { path: path.into(), file, length }, done))
    }

    /// Writes one result: a line, in one write.
    ///
    /// # Errors
    /// If it can't be written, such as on a full disk. The part that was written is taken back.
    pub fn write(&mut self, result: &impl Serialize) -> Result<()> {
        let line = json_line(result);
        match (self.file.write_all(line.as_bytes()), &mut self.length) {
            (Ok(()), length) => {
                length.iter_mut().for_each(|length| *length += line.len() as u64);
                Ok(())
            }
            (Err(error), length) => {
                let _ = length.map(|length| self.file.set_len(length));
                let message =
                    format!("{error}; the results so far are whole, and --resume goes on from there");
                Err(Error::Io { path: self.path.clone(), error: io::Error::new(error.kind(), message) })
            }
        }
    }
}

/// The length of what ends with a line's end.
fn whole_lines(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1)
}

fn ids(bytes: &[u8], path: &Path) -> Result<HashSet<String>> {
    let mut ids = HashSet::new();
    for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        if line.is_empty() {
            continue;
        }
        let result: Option<Value> = serde_json::from_slice(line).ok();
        let id = result.as_ref().and_then(|result| result.get("id"));
        let id = id.ok_or_else(|| {
            let path = path.display();
            Error::Usage(format!(
                "--output {path}: line {number} is no result of `batch`, so --resume can't go on with this file"
            ))
        })?;
        ids.insert(id.to_string());
    }
    Ok(ids)
}

/// Renames a file to the first free of NAME.1, NAME.2, …
fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let numbered = (1..).map(|n| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    });
    let aside = numbered.into_iter().find(|path| !path.exists()).unwrap_or_default();
    fs::rename(path, &aside)?;
    Ok(aside)
}
