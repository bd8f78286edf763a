//! Files on disk: read so that nothing waits for ever, and checked before they are written so that nothing is lost.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::{fs, io};
use std::{fs::File, io::Read};

/// Opens a regular file, with its length in bytes. Its kind is asked for first, because opening a pipe waits for a writer.
///
/// # Errors
/// Those of the system; and a folder, a pipe or a device.
pub fn open(path: &Path) -> io::Result<(File, u64)> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("this is no regular file; give the name of one"));
    }
    Ok((File::open(path)?, metadata.len()))
}

/// The bytes of a regular file.
///
/// # Errors
/// As [`open`], and a file of more than `limit` bytes, or more than there is memory for.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let (file, length) = open(path)?;
    if length > limit {
        let message = format!("it has {length} bytes, and no such file needs more than {limit}");
        return Err(io::Error::other(message));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length as usize)?;
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The bytes of a file that the user names; `-` is standard input.
///
/// # Errors
/// As [`read`], with the name.
pub fn read_input(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => io::stdin().read_to_end(&mut bytes).map(|_| bytes),
        false => read(path, u64::MAX),
    };
    read.map_err(|error| Error::Io { path: path.into(), error })
}

/// Checks, before anything is written, that no file to write is one that is read, or another one to write. Files to write come with their
/// flags, files that are read with what they are.
///
/// # Errors
/// [`Error::Usage`] with the flag.
pub fn check_outputs(outputs: &[(&str, &Path)], inputs: &[(&str, PathBuf)]) -> Result<()> {
    for (at, (flag, path)) in outputs.iter().enumerate() {
        let input = inputs.iter().find(|(_, input)| same(path, input)).map(|(what, _)| (*what).to_owned());
        let other = outputs[..at].iter().find(|(_, other)| same(path, other));
        let other = other.map(|(flag, _)| format!("the file of {flag}"));
        if let Some(what) = input.or(other) {
            let path = path.display();
            return Err(Error::Usage(format!("{flag} {path}: it is {what}; give another one")));
        }
    }
    Ok(())
}

/// Whether two paths lead to one file, there or not, also through links. Many may write to a device.
fn same(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(a), Ok(b)) = (fs::metadata(a), fs::metadata(b)) {
        use std::os::unix::fs::MetadataExt;
        return a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino());
    }
    target(a) == target(b)
}

/// Where a path leads. Links are followed by hand, since the last one may lead to a file that is not there yet.
fn target(path: &Path) -> PathBuf {
    let folder = |path: &Path| match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut path = path.to_owned();
    for _ in 0..40 {
        let Ok(link) = fs::read_link(&path) else { break };
        path = folder(&path).join(link);
    }
    let folder = fs::canonicalize(folder(&path)).unwrap_or_else(|_| folder(&path));
    folder.join(path.file_name().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_by_many_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("sub")).unwrap();
        fs::write(path("in"), "x").unwrap();
        fs::hard_link(path("in"), path("hard")).unwrap();
        assert!(same(&path("in"), &path("hard")) && same(&path("in"), &path("sub/../in")));
        assert!(same(&path("new"), &path("sub/../new")) && !same(&path("new"), &path("in")));
        let outputs = [("--out", &*path("new")), ("--trace", &*path("./new"))];
        let said = check_outputs(&outputs, &[]).unwrap_err().to_string();
        assert!(said.contains("--trace") && said.contains("the file of --out"), "{said}");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_to_files_that_are_not_there() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        symlink("later", path("link")).unwrap();
        symlink("link", path("link2")).unwrap();
        symlink("loop", path("loop")).unwrap();
        assert!(same(&path("link2"), &path("later")) && !same(&path("loop"), &path("later")));
        assert!(!same(Path::new("/dev/null"), Path::new("/dev/null")));
    }
}
