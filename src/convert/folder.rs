//! The folder that is written: under another name until all of it is there.

use crate::checkpoint::CheckpointError;
use crate::error::{Error, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::{io, process};

/// A folder beside the wanted one. It is removed when it is dropped, unless it was published.
pub struct Partial {
    path: PathBuf,
    out: PathBuf,
    published: bool,
}

/// Refuses a directory that holds something, and a file.
///
/// # Errors
/// [`Error::Usage`] with the flag.
pub fn refuse_used(out: &Path) -> Result<()> {
    let used = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    let refuse = |why: &str| Err(Error::Usage(format!("--out {}: {why}", out.display())));
    match () {
        () if used => refuse("it exists and is not empty; give the name of a new directory"),
        () if out.exists() && !out.is_dir() => refuse("it is a file; give the name of a new directory"),
        () if out.file_name().is_none() && !out.is_dir() => refuse("it names no directory"),
        () => Ok(()),
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> Error {
    move |error| CheckpointError::Io { path: path.into(), error }.into()
}

impl Partial {
    /// Makes the folder `.NAME.partial-PID` beside `out`, which is refused if it is used.
    ///
    /// # Errors
    /// Those of the system.
    pub fn beside(out: &Path) -> Result<Partial> {
        refuse_used(out)?;
        // An empty directory that is there may be reached through a link, or be called `.`.
        let out = if out.is_dir() { out.canonicalize().map_err(io_error(out))? } else { out.to_owned() };
        let parent = match out.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        fs::create_dir_all(&parent).map_err(io_error(&parent))?;
        let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = parent.join(format!(".{name}.partial-{}", process::id()));
        fs::create_dir(&path).map_err(io_error(&path))?;
        Ok(Partial { path, out, published: false })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// If somebody wrote into the wanted directory meanwhile, and those of the system.
    pub fn publish(mut self) -> Result<()> {
        sync_folder(&self.path).map_err(io_error(&self.path))?;
        if self.out.is_dir() {
            // Only an empty one goes away.
            fs::remove_dir(&self.out).map_err(io_error(&self.out))?;
        }
        fs::rename(&self.path, &self.out).map_err(io_error(&self.out))?;
        self.published = true;
        let parent = self.out.parent().filter(|parent| *parent != Path::new(""));
        let _ = sync_folder(parent.unwrap_or(Path::new(".")));
        Ok(())
    }
}

/// Makes the names in a folder last. Only Unix opens folders.
fn sync_folder(path: &Path) -> io::Result<()> {
    match cfg!(unix) {
        true => File::open(path)?.sync_all(),
        false => Ok(()),
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Writes a small file and makes it last.
///
/// # Errors
/// Those of the system, with the path.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = File::create(path).and_then(|mut file| {
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    });
    written.map_err(io_error(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_its_name_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/out");
        let partial = Partial::beside(&out).unwrap();
        write_file(&partial.path().join("x"), b"1").unwrap();
        assert!(!out.exists());
        drop(partial);
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 0);
        let partial = Partial::beside(&out).unwrap();
        write_file(&partial.path().join("x"), b"1").unwrap();
        partial.publish().unwrap();
        assert_eq!(fs::read(out.join("x")).unwrap(), b"1");
        let said = Partial::beside(&out).err().unwrap().to_string();
        assert!(said.contains("not empty"), "{said}");
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        Partial::beside(&empty).unwrap().publish().unwrap();
        assert!(empty.is_dir());
    }
}
