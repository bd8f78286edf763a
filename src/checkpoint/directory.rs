//! Where a checkpoint's files are: a directory on disk, one GGUF file, or the demo checkpoint inside the binary.

use super::{CheckpointError, Index, Result, dummy::memory, gguf};
use crate::{files, tensor::Owner};
use memmap2::Mmap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

/// The largest file in bytes that is read and not mapped. The largest tokenizer.json that is known has 34 million.
const MAX_SMALL: u64 = 256 << 20;

/// Files that may be part of any checkpoint.
const FILES: &str = "config.json generation_config.json model.safetensors tokenizer.json \
    tokenizer_config.json tokenizer.model special_tokens_map.json added_tokens.json vocab.json merges.txt chat_template.jinja \
    pytorch_model.bin params.json consolidated.safetensors tekken.json";

/// Files that name shards.
const INDEXES: [&str; 3] =
    ["model.safetensors.index.json", "pytorch_model.bin.index.json", "consolidated.safetensors.index.json"];

/// Files that are made of what a GGUF file says.
const OF_GGUF: [&str; 3] = ["config.json", "tokenizer.json", "tokenizer_config.json"];

/// A place to read a checkpoint's files from.
#[derive(Clone, Debug)]
pub enum Directory {
    /// A directory on disk; large files are memory-mapped.
    Disk(PathBuf),
    /// A directory on disk; large files are read into memory, so that nobody can change them under a run.
    Unmapped(PathBuf),
    /// A GGUF file on disk, which holds all that a directory's files say. Whatever file is asked for, messages name this one.
    Gguf {
        path: PathBuf,
        /// Whether its weights are memory-mapped, or read into memory.
        mapped: bool,
    },
    /// Files compiled into the binary: their names and bytes.
    Embedded {
        /// What messages call it.
        name: &'static str,
        /// (file name, contents)
        files: &'static [(&'static str, &'static [u8])],
    },
}

impl Directory {
    /// What is at a path: a directory of files, or a GGUF file. A directory whose only weights are one GGUF file is that file.
    ///
    /// # Errors
    /// [`CheckpointError::NotADirectory`] for another file, and [`CheckpointError::WhichGguf`] for a directory of nothing but several models.
    pub fn at(path: PathBuf) -> Result<Directory> {
        let gguf = |path| Ok(Directory::Gguf { path, mapped: true });
        if !path.is_dir() {
            return if is_gguf(&path) { gguf(path) } else { Err(CheckpointError::NotADirectory { path }) };
        }
        let names = Directory::Disk(path.clone()).list()?;
        let has = |ends: &[&str]| names.iter().any(|name| ends.iter().any(|end| name.ends_with(end)));
        let others = has(&[".safetensors", ".index.json", ".bin", ".pt", ".pth"]);
        match &ggufs(&names)[..] {
            [file] if !others => gguf(path.join(file)),
            files @ [_, _, ..] if !others && !names.iter().any(|name| name == "config.json") => {
                Err(CheckpointError::WhichGguf { dir: path, files: files.join(", ") })
            }
            _ => Ok(Directory::Disk(path)),
        }
    }

    /// The same directory, of which large files are read and not mapped.
    pub fn unmapped(self) -> Directory {
        match self {
            Directory::Disk(dir) => Directory::Unmapped(dir),
            Directory::Gguf { path, .. } => Directory::Gguf { path, mapped: false },
            other => other,
        }
    }

    /// The path of a file here, for messages.
    pub fn path(&self, file: &str) -> PathBuf {
        match self {
            Directory::Gguf { path, .. } => path.clone(),
            _ => self.root().join(file),
        }
    }

    /// The directory itself, or the GGUF file, for messages.
    pub fn root(&self) -> PathBuf {
        match self {
            Directory::Disk(dir) | Directory::Unmapped(dir) | Directory::Gguf { path: dir, .. } => {
                dir.clone()
            }
            Directory::Embedded { name, .. } => PathBuf::from(name),
        }
    }

    /// The files of the demo checkpoint; `None` on disk.
    fn embedded(&self) -> Option<&'static [(&'static str, &'static [u8])]> {
        match self {
            Directory::Embedded { files, .. } => Some(files),
            Directory::Disk(_) | Directory::Unmapped(_) | Directory::Gguf { .. } => None,
        }
    }

    /// The name of the GGUF file that this is; `None` for a directory.
    pub fn gguf(&self) -> Option<String> {
        match self {
            Directory::Gguf { path, .. } => {
                Some(path.file_name().unwrap_or_default().to_string_lossy().into_owned())
            }
            _ => None,
        }
    }

    /// Whether there is such a file. A GGUF file is the only one that is there.
    pub fn has(&self, file: &str) -> bool {
        match (self.embedded(), self.gguf()) {
            (Some(files), _) => find(files, file).is_some(),
            (None, Some(name)) => name == file,
            (None, None) => self.path(file).is_file(),
        }
    }

    /// File names, sorted.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] if the directory can't be listed.
    pub fn list(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = match self.embedded() {
            Some(files) => files.iter().map(|(name, _)| name.to_string()).collect(),
            None if self.gguf().is_some() => self.gguf().into_iter().collect(),
            None => {
                let entries = fs::read_dir(self.root()).map_err(CheckpointError::io(self.root()))?;
                entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
            }
        };
        names.sort();
        Ok(names)
    }

    /// The paths of the files that a checkpoint here is read from, or would be if they were there. None for files in the binary.
    pub fn files(&self) -> Vec<PathBuf> {
        if self.embedded().is_some() {
            return Vec::new();
        }
        if self.gguf().is_some() {
            return vec![self.root()];
        }
        let index = |file| Index::parse(&self.read(file).ok()??, &self.root()).ok();
        let shards: Vec<Index> = INDEXES.into_iter().filter_map(index).collect();
        let shards = shards.iter().flat_map(Index::shards);
        // A checkpoint of PyTorch's may have any name.
        let files = self.list().unwrap_or_default();
        let torch =
            files.iter().map(String::as_str).filter(|file| file.ends_with(".pt") || file.ends_with(".pth"));
        let templates = fs::read_dir(self.path("additional_chat_templates")).into_iter().flatten().flatten();
        let named = FILES.split(' ').chain(INDEXES).chain(shards).chain(torch).map(|file| self.path(file));
        named.chain(templates.map(|entry| entry.path())).collect()
    }

    /// A small file's bytes, or `None` if it is not there.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], also for what is no regular file or too large; [`CheckpointError::LfsPointer`] for a file that was never
    /// fetched.
    pub fn read(&self, file: &str) -> Result<Option<Vec<u8>>> {
        if let Some(files) = self.embedded() {
            return Ok(find(files, file).map(<[u8]>::to_vec));
        }
        let path = self.path(file);
        if self.gguf().is_some() {
            return self.read_from_gguf(file);
        }
        let bytes = if_there(&path, files::read(&path, MAX_SMALL))?;
        bytes.iter().try_for_each(|bytes| refuse_lfs_pointer(bytes, &path))?;
        Ok(bytes)
    }

    /// A small file of the checkpoint that a GGUF file stands for. The file is mapped for it, whatever becomes of its weights, because only its
    /// beginning is read.
    fn read_from_gguf(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if !OF_GGUF.contains(&name) {
            return Ok(None);
        }
        let path = self.root();
        let mapped = Directory::Gguf { path: path.clone(), mapped: true };
        let file = mapped.map(&self.gguf().unwrap_or_default())?;
        let file = file.ok_or_else(|| CheckpointError::io(&path)(ErrorKind::NotFound.into()))?;
        gguf::small_file((*file).as_ref(), &path, name)
    }

    /// A large file's bytes, mapped and not read, or `None` if it is not there.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] if it can't be opened or mapped.
    pub fn map(&self, file: &str) -> Result<Option<Owner>> {
        if let Some(files) = self.embedded() {
            return Ok(find(files, file).map(|bytes| Arc::new(bytes) as Owner));
        }
        if self.gguf().is_some_and(|name| name != file) {
            return Ok(None);
        }
        let path = self.path(file);
        let Some((mut file, length)) = if_there(&path, files::open(&path))? else { return Ok(None) };
        if length == 0 {
            return Ok(Some(Arc::new(Vec::new()))); // an empty file can't be mapped
        }
        if matches!(self, Directory::Unmapped(_) | Directory::Gguf { mapped: false, .. }) {
            let mut bytes = memory(length as usize)?;
            file.read_exact(&mut bytes).map_err(CheckpointError::io(&path))?;
            return Ok(Some(Arc::new(bytes)));
        }
        // SAFETY: the map is read-only and outlives no file handle that it needs. A file that another process shortens
        // while it is mapped would end this one with SIGBUS, as the help of --no-mmap says.
        let map = unsafe { Mmap::map(&file) }.map_err(CheckpointError::io(&path))?;
        Ok(Some(Arc::new(map)))
    }
}

/// The GGUF files among these.
pub(super) fn ggufs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).filter(|name| name.ends_with(".gguf")).collect()
}

/// Whether a file is GGUF, by its name or by what it begins with.
fn is_gguf(path: &Path) -> bool {
    let named = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
    let mut begin = [0; 4];
    named
        || File::open(path).and_then(|mut file| file.read_exact(&mut begin)).is_ok_and(|()| &begin == b"GGUF")
}

/// A file in the binary.
fn find(files: &[(&'static str, &'static [u8])], file: &str) -> Option<&'static [u8]> {
    files.iter().find(|(name, _)| *name == file).map(|(_, bytes)| *bytes)
}

/// What was opened or read; `None` if there is no such file.
fn if_there<T>(path: &Path, result: io::Result<T>) -> Result<Option<T>> {
    match result {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        other => other.map(Some).map_err(CheckpointError::io(path)),
    }
}

/// `git clone` without git-lfs leaves a few lines of text where the weights should be.
pub(super) fn refuse_lfs_pointer(bytes: &[u8], path: &Path) -> Result<()> {
    if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Err(CheckpointError::LfsPointer { path: path.into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_small_regular_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::Disk(dir.path().into());
        assert!(directory.read("absent.json").unwrap().is_none());
        fs::create_dir(dir.path().join("config.json")).unwrap();
        let huge = fs::File::create(dir.path().join("huge.json")).unwrap();
        huge.set_len(MAX_SMALL + 1).unwrap();
        for (file, want) in [("config.json", "no regular file"), ("huge.json", "268435457 bytes")] {
            let said = directory.read(file).unwrap_err().to_string();
            assert!(said.contains(file) && said.contains(want), "{said}");
        }
        // A large file is for mapping.
        assert!(directory.map("huge.json").unwrap().is_some());
        assert!(directory.map("config.json").map(drop).unwrap_err().to_string().contains("no regular file"));
    }

    #[test]
    fn an_unmapped_file_stays_as_it_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("model.safetensors");
        fs::write(&shard, [7; 100_000]).unwrap();
        let read = Directory::Disk(dir.path().into()).unmapped().map("model.safetensors").unwrap().unwrap();
        fs::write(&shard, "").unwrap();
        assert_eq!((*read).as_ref(), [7; 100_000]);
    }

    #[test]
    fn a_checkpoints_files_are_those_that_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let index = r#"{"weight_map": {"a": "part-1.safetensors"}}"#;
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        fs::write(dir.path().join("out.jsonl"), "").unwrap();
        let files = Directory::Disk(dir.path().into()).files();
        let has = |name: &str| files.contains(&dir.path().join(name));
        assert!(has("part-1.safetensors") && has("config.json") && !has("out.jsonl"));
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_or_a_device_is_not_waited_for() {
        let directory = Directory::Disk("/dev".into());
        assert!(directory.read("zero").unwrap_err().to_string().contains("no regular file"));
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("config.json");
        if std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()) {
            let directory = Directory::Disk(dir.path().into());
            assert!(directory.read("config.json").is_err() && directory.map("config.json").is_err());
        }
    }
}
