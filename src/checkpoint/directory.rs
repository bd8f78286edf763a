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
        let Some(bytes) = if_present(fs::read(&path), &path)? else { return Ok(None) };
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
        let Some(file) = if_present(File::open(&path), &path)? else { return Ok(None) };
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

/// A file that is absent is no error.
fn if_present<T>(result: io::Result<T>, path: &Path) -> Result<Option<T>, CheckpointError> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(CheckpointError::io(path)),
    }
}

/// `git clone` without git-lfs leaves a few lines of text where the weights should be.
pub(super) fn refuse_lfs_pointer(bytes: &[u8], path: &Path) -> Result<(), CheckpointError> {
    if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Err(CheckpointError::LfsPointer { path: path.into() });
    }
    Ok(())
}
