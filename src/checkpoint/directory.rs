//! Where a checkpoint's files are: a directory on disk, or the demo checkpoint inside the binary.

use super::CheckpointError;
use crate::tensor::Owner;
use memmap2::Mmap;
use std::{
    fs::{self, File},
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The largest file in bytes that is read and not mapped. The largest tokenizer.json that is known has 34 million.
const MAX_SMALL: u64 = 256 << 20;

/// A place to read a checkpoint's files from.
#[derive(Clone, Debug)]
pub enum Directory {
    /// A directory on disk; large files are memory-mapped.
    Disk(PathBuf),
    /// Files compiled into the binary: their names and bytes.
    Embedded {
        /// What messages call it.
        name: &'static str,
        /// (file name, contents)
        files: &'static [(&'static str, &'static [u8])],
    },
}

impl Directory {
    /// The path of a file here, for messages.
    pub fn path(&self, file: &str) -> PathBuf {
        self.root().join(file)
    }

    /// The directory itself, for messages.
    pub fn root(&self) -> PathBuf {
        match self {
            Directory::Disk(dir) => dir.clone(),
            Directory::Embedded { name, .. } => PathBuf::from(name),
        }
    }

    /// A file of the demo checkpoint.
    fn embedded(&self, file: &str) -> Option<&'static [u8]> {
        let Directory::Embedded { files, .. } = self else { return None };
        files.iter().find(|(name, _)| *name == file).map(|(_, bytes)| *bytes)
    }

    /// Whether there is such a file.
    pub fn has(&self, file: &str) -> bool {
        match self {
            Directory::Disk(dir) => dir.join(file).is_file(),
            Directory::Embedded { .. } => self.embedded(file).is_some(),
        }
    }

    /// File names, sorted.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] if the directory can't be listed.
    pub fn list(&self) -> Result<Vec<String>, CheckpointError> {
        let mut names: Vec<String> = match self {
            Directory::Embedded { files, .. } => files.iter().map(|(name, _)| name.to_string()).collect(),
            Directory::Disk(dir) => {
                let entries = fs::read_dir(dir).map_err(CheckpointError::io(dir))?;
                entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
            }
        };
        names.sort();
        Ok(names)
    }

    /// A small file's bytes, or `None` if it is not there.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], or [`CheckpointError::LfsPointer`] for a file that was never fetched.
    pub fn read(&self, file: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        let Directory::Disk(dir) = self else { return Ok(self.embedded(file).map(<[u8]>::to_vec)) };
        let path = dir.join(file);
        let Some((file, length)) = open(&path)? else { return Ok(None) };
        if length > MAX_SMALL {
            return Err(CheckpointError::TooLarge { path, bytes: length, limit: MAX_SMALL });
        }
        let mut bytes = Vec::with_capacity(length as usize);
        file.take(MAX_SMALL).read_to_end(&mut bytes).map_err(CheckpointError::io(&path))?;
        refuse_lfs_pointer(&bytes, &path)?;
        Ok(Some(bytes))
    }

    /// A large file's bytes, mapped and not read, or `None` if it is not there.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] if it can't be opened or mapped.
    pub fn map(&self, file: &str) -> Result<Option<Owner>, CheckpointError> {
        let Directory::Disk(dir) = self else {
            return Ok(self.embedded(file).map(|bytes| Arc::new(bytes) as Owner));
        };
        let path = dir.join(file);
        let Some((file, length)) = open(&path)? else { return Ok(None) };
        if length == 0 {
            return Ok(Some(Arc::new(Vec::new()))); // an empty file can't be mapped
        }
        // SAFETY: the map is read-only and outlives no file handle that it needs. A file that another process shortens
        // while it is mapped would end this one with SIGBUS; checkpoints are not written while they are served.
        let map = unsafe { Mmap::map(&file) }.map_err(CheckpointError::io(&path))?;
        Ok(Some(Arc::new(map)))
    }
}

/// Opens a regular file, with its length in bytes; `None` if it is absent. Its kind is asked for first, because opening a pipe waits.
fn open(path: &Path) -> Result<Option<(File, u64)>, CheckpointError> {
    let metadata = match fs::metadata(path) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        other => other.map_err(CheckpointError::io(path))?,
    };
    if !metadata.is_file() {
        return Err(CheckpointError::NotAFile { path: path.into() });
    }
    let file = File::open(path).map_err(CheckpointError::io(path))?;
    Ok(Some((file, metadata.len())))
}

/// `git clone` without git-lfs leaves a few lines of text where the weights should be.
pub(super) fn refuse_lfs_pointer(bytes: &[u8], path: &Path) -> Result<(), CheckpointError> {
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
        let huge = File::create(dir.path().join("huge.json")).unwrap();
        huge.set_len(MAX_SMALL + 1).unwrap();
        for (file, want) in [("config.json", "no regular file"), ("huge.json", "268435457 bytes")] {
            let said = directory.read(file).unwrap_err().to_string();
            assert!(said.contains(file) && said.contains(want), "{said}");
        }
        // A large file is for mapping.
        assert!(directory.map("huge.json").unwrap().is_some());
        assert!(matches!(directory.map("config.json"), Err(CheckpointError::NotAFile { .. })));
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
