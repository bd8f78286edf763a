//! Where a checkpoint's files are: a directory on disk, or the demo checkpoint inside the binary.

use super::{CheckpointError, Index, Result, dummy::memory};
use crate::{files, tensor::Owner};
use memmap2::Mmap;
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

/// A place to read a checkpoint's files from.
#[derive(Clone, Debug)]
pub enum Directory {
    /// A directory on disk; large files are memory-mapped.
    Disk(PathBuf),
    /// A directory on disk; large files are read into memory, so that nobody can change them under a run.
    Unmapped(PathBuf),
    /// Files compiled into the binary: their names and bytes.
    Embedded {
        /// What messages call it.
        name: &'static str,
        /// (file name, contents)
        files: &'static [(&'static str, &'static [u8])],
    },
}

impl Directory {
    /// The same directory, of which large files are read and not mapped.
    pub fn unmapped(self) -> Directory {
        match self {
            Directory::Disk(dir) => Directory::Unmapped(dir),
            other => other,
        }
    }

    /// The path of a file here, for messages.
    pub fn path(&self, file: &str) -> PathBuf {
        self.root().join(file)
    }

    /// The directory itself, for messages.
    pub fn root(&self) -> PathBuf {
        match self {
            Directory::Disk(dir) | Directory::Unmapped(dir) => dir.clone(),
            Directory::Embedded { name, .. } => PathBuf::from(name),
        }
    }

    /// The files of the demo checkpoint; `None` on disk.
    fn embedded(&self) -> Option<&'static [(&'static str, &'static [u8])]> {
        match self {
            Directory::Embedded { files, .. } => Some(files),
            Directory::Disk(_) | Directory::Unmapped(_) => None,
        }
    }

    /// Whether there is such a file.
    pub fn has(&self, file: &str) -> bool {
        match self.embedded() {
            Some(files) => find(files, file).is_some(),
            None => self.path(file).is_file(),
        }
    }

    /// File names, sorted.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] if the directory can't be listed.
    pub fn list(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = match self.embedded() {
            Some(files) => files.iter().map(|(name, _)| name.to_string()).collect(),
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
        let bytes = if_there(&path, files::read(&path, MAX_SMALL))?;
        bytes.iter().try_for_each(|bytes| refuse_lfs_pointer(bytes, &path))?;
        Ok(bytes)
    }

    /// A large file's bytes, mapped and not read, or `None` if it is not there.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] if it can't be opened or mapped.
    pub fn map(&self, file: &str) -> Result<Option<Owner>> {
        if let Some(files) = self.embedded() {
            return Ok(find(files, file).map(|bytes| Arc::new(bytes) as Owner));
        }
        let path = self.path(file);
        let Some((mut file, length)) = if_there(&path, files::open(&path))? else { return Ok(None) };
        if length == 0 {
            return Ok(Some(Arc::new(Vec::new()))); // an empty file can't be mapped
        }
        if matches!(self, Directory::Unmapped(_)) {
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
