//! Where a checkpoint's files are: a directory on disk, or the demo checkpoint inside the binary.

use super::CheckpointError;
use crate::tensor::Owner;
use memmap2::Mmap;
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

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

    /// Whether there is such a file.
    pub fn has(&self, file: &str) -> bool {
        match self {
            Directory::Disk(dir) => dir.join(file).is_file(),
            Directory::Embedded { files, .. } => files.iter().any(|(name, _)| *name == file),
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
        let bytes = match self {
            Directory::Embedded { files, .. } => {
                return Ok(files.iter().find(|(name, _)| *name == file).map(|(_, bytes)| bytes.to_vec()));
            }
            Directory::Disk(dir) => match fs::read(dir.join(file)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other.map_err(CheckpointError::io(dir.join(file)))?,
            },
        };
        refuse_lfs_pointer(&bytes, &self.path(file))?;
        Ok(Some(bytes))
    }

    /// A large file's bytes, mapped and not read, or `None` if it is not there.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] if it can't be opened or mapped.
    pub fn map(&self, file: &str) -> Result<Option<Owner>, CheckpointError> {
        let path = match self {
            Directory::Embedded { files, .. } => {
                return Ok(files
                    .iter()
                    .find(|(name, _)| *name == file)
                    .map(|(_, bytes)| Arc::new(*bytes) as Owner));
            }
            Directory::Disk(dir) => dir.join(file),
        };
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(CheckpointError::io(&path))?,
        };
        let length = file.metadata().map_err(CheckpointError::io(&path))?.len();
        if length == 0 {
            return Ok(Some(Arc::new(Vec::new()))); // an empty file can't be mapped
        }
        // SAFETY: the map is read-only and outlives no file handle that it needs. A file that another process shortens
        // while it is mapped would end this one with SIGBUS; checkpoints are not written while they are served.
        let map = unsafe { Mmap::map(&file) }.map_err(CheckpointError::io(&path))?;
        Ok(Some(Arc::new(map)))
    }
}

/// `git clone` without git-lfs leaves a few lines of text where the weights should be.
pub(super) fn refuse_lfs_pointer(bytes: &[u8], path: &Path) -> Result<(), CheckpointError> {
    if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Err(CheckpointError::LfsPointer { path: path.into() });
    }
    Ok(())
}
