//! Locks that huggingface_hub takes too: `.locks/models--ORG--NAME/BLOB.lock`, by flock (`filelock`'s `UnixFileLock`).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// Held until it is dropped, or until the process ends in whatever way.
#[derive(Debug)]
pub struct Lock {
    /// `None` on a file system without locks. There two processes may both download, and each renames a whole file into place.
    _file: Option<File>,
}

impl Lock {
    /// Waits for the lock. `waiting` is called once, if another process holds it.
    ///
    /// # Errors
    /// If the lock's file can't be made.
    pub fn wait(path: &Path, waiting: impl FnOnce()) -> io::Result<Lock> {
        let mut waiting = Some(waiting);
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    waiting.take().into_iter().for_each(|say| say());
                    file.lock()?;
                }
                Err(TryLockError::Error(e)) if has_no_locks(&e) => return Ok(Lock { _file: None }),
                Err(TryLockError::Error(e)) => return Err(e),
            }
            if is_at(&file, path) {
                return Ok(Lock { _file: Some(file) });
            }
        }
    }

    /// The lock together with any number of others that share it: what is downloaded holds it, what deletes wants it alone.
    ///
    /// # Errors
    /// As [`Lock::wait`].
    pub fn shared(path: &Path) -> io::Result<Lock> {
        loop {
            let file = open(path)?;
            match file.lock_shared() {
                Err(e) if has_no_locks(&e) => return Ok(Lock { _file: None }),
                other => other?,
            }
            if is_at(&file, path) {
                return Ok(Lock { _file: Some(file) });
            }
        }
    }

    /// The lock, or `None` if another process holds it.
    ///
    /// # Errors
    /// As [`Lock::wait`].
    pub fn try_now(path: &Path) -> io::Result<Option<Lock>> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: Some(file) })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) if has_no_locks(&e) => Ok(Some(Lock { _file: None })),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn has_no_locks(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
}

/// Whether the locked file is still the one at the path: whoever held it may have removed it.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        file.metadata().ok().zip(fs::metadata(path).ok()).is_some_and(|(a, b)| same(a, b))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{thread, time::Duration};

    #[test]
    fn the_second_waits_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("models--a--b/x.lock");
        let first = Lock::wait(&path, || panic!("nobody holds it")).unwrap();
        assert!(Lock::try_now(&path).unwrap().is_none());
        let (said, heard) = std::sync::mpsc::channel();
        let second = thread::spawn({
            let path = path.clone();
            move || drop(Lock::wait(&path, || said.send(()).unwrap()).unwrap())
        });
        heard.recv_timeout(Duration::from_secs(10)).unwrap();
        drop(first);
        second.join().unwrap();
        assert!(Lock::try_now(&path).unwrap().is_some());
        let (_one, _two) = (Lock::shared(&path).unwrap(), Lock::shared(&path).unwrap());
        assert!(Lock::try_now(&path).unwrap().is_none());
    }
}
