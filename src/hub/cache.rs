//! One model in the Hugging Face cache, laid out as huggingface_hub does (`file_download.py`), so that either reads what the other wrote.
//!
//! ```text
//! hub/.locks/models--ORG--NAME/BLOB.lock            who downloads a blob holds it
//! hub/models--ORG--NAME/blobs/BLOB                  a content, called by its hash
//!                       blobs/BLOB.incomplete       what has come of it so far
//!                       snapshots/COMMIT/FILE       a link to ../../blobs/BLOB
//!                       refs/REVISION               the commit that a branch or a tag was, last time
//! ```
//! A blob gets its name when it is whole and its hash is right, links come after all blobs, and the reference comes last. So a process
//! that is killed leaves blobs that nothing refers to yet, and `.incomplete` files that the next pull goes on with.

use super::api::RemoteFile;
use super::blob_id::BlobId;
use super::{HubError, Result};
use crate::checkpoint::ModelName;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Tells backup programs to pass the folder over (<https://bford.info/cachedir/>); the text is huggingface_hub's.
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This file is a cache directory tag created by huggingface_hub.\n\
    # For information about cache directory tags, see:\n#\thttps://bford.info/cachedir/\n";

/// A model's place in a cache.
#[derive(Clone, Debug)]
pub struct Repository {
    /// The cache.
    pub cache: PathBuf,
    /// `models--ORG--NAME`.
    folder: String,
    /// Whether snapshots hold copies instead of links.
    copies: bool,
}

impl Repository {
    pub fn new(cache: &Path, model: &ModelName, copies: bool) -> Repository {
        Repository { cache: cache.into(), folder: model.folder(), copies }
    }

    /// `models--ORG--NAME`.
    pub fn path(&self) -> PathBuf {
        self.cache.join(&self.folder)
    }

    pub fn blob(&self, id: &BlobId) -> PathBuf {
        self.path().join("blobs").join(id.name())
    }

    /// What has come of a blob.
    pub fn incomplete(&self, id: &BlobId) -> PathBuf {
        self.path().join("blobs").join(format!("{}.incomplete", id.name()))
    }

    /// The lock of a blob.
    pub fn lock(&self, id: &BlobId) -> PathBuf {
        self.cache.join(".locks").join(&self.folder).join(format!("{}.lock", id.name()))
    }

    /// The lock that pulls of this model share. Whoever deletes holds it alone, so that no blob goes that a pull has not linked yet.
    pub fn pull_lock(&self) -> PathBuf {
        self.cache.join(".locks").join(&self.folder).join("stairwell-pull.lock")
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.path().join("snapshots").join(commit)
    }

    /// Whether a blob is there whole.
    pub fn has(&self, file: &RemoteFile) -> bool {
        fs::metadata(self.blob(&file.id)).is_ok_and(|m| m.is_file() && m.len() == file.size)
    }

    /// Whether a snapshot has a file, by a link or by itself.
    pub fn has_in_snapshot(&self, commit: &str, file: &RemoteFile) -> bool {
        fs::metadata(self.snapshot(commit).join(&file.path))
            .is_ok_and(|m| m.is_file() && m.len() == file.size)
    }

    /// Bytes that have come of a blob and can be gone on with.
    pub fn come(&self, file: &RemoteFile) -> u64 {
        fs::metadata(self.incomplete(&file.id)).map_or(0, |m| if m.len() > file.size { 0 } else { m.len() })
    }

    /// Makes the folders; returns those that were not there, innermost last.
    ///
    /// # Errors
    /// Those of the system.
    pub fn make_folders(&self) -> Result<Vec<PathBuf>> {
        let mut made = Vec::new();
        for name in ["blobs", "refs", "snapshots"] {
            let folder = self.path().join(name);
            let new: Vec<PathBuf> =
                folder.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
            fs::create_dir_all(&folder).map_err(HubError::io(&folder))?;
            made.extend(new.into_iter().rev());
        }
        let tag = self.cache.join("CACHEDIR.TAG");
        if !tag.exists() {
            let _ = fs::write(tag, CACHEDIR_TAG); // a courtesy
        }
        Ok(made)
    }

    /// Puts a file that is in `blobs/` into a snapshot.
    ///
    /// # Errors
    /// Those of the system.
    pub fn link(&self, commit: &str, file: &RemoteFile) -> Result<()> {
        let (blob, link) = (self.blob(&file.id), self.snapshot(commit).join(&file.path));
        let up = "../".repeat(file.path.matches('/').count() + 2);
        let target = PathBuf::from(format!("{up}blobs/{}", file.id.name()));
        if fs::read_link(&link).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let folder = link.parent().expect("a link stands in a snapshot");
        fs::create_dir_all(folder).map_err(HubError::io(folder))?;
        if fs::symlink_metadata(&link).is_ok() {
            fs::remove_file(&link).map_err(HubError::io(&link))?;
        }
        if !self.copies {
            match symlink(&target, &link) {
                Ok(()) => return Ok(()),
                // Another process was faster.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && link.exists() => return Ok(()),
                // The file system has no links, or the user may not make one.
                Err(_) => {}
            }
        }
        fs::copy(&blob, &link).map_err(HubError::io(&link))?;
        Ok(())
    }

    /// Notes the commit that a branch or a tag is. A commit needs no note.
    ///
    /// # Errors
    /// Those of the system.
    pub fn set_reference(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.path().join("refs").join(revision);
        if revision == commit || fs::read(&path).is_ok_and(|found| found == commit.as_bytes()) {
            return Ok(());
        }
        let folder = path.parent().expect("a reference stands in refs/");
        fs::create_dir_all(folder).map_err(HubError::io(folder))?;
        // A reader sees the old commit or the new one. The name is that of huggingface_hub's own temporary files.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!("{name}.{:08x}.tmp", std::process::id()));
        fs::write(&temporary, commit).map_err(HubError::io(&temporary))?;
        fs::rename(&temporary, &path).map_err(HubError::io(&path))
    }
}

/// Makes a link; the target need not be there.
///
/// # Errors
/// Those of the system.
#[cfg(unix)]
pub fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
pub fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

/// Whether a snapshot holds what a load reads: a configuration, and all weights of one kind.
pub fn has_model(snapshot: &Path) -> bool {
    let has = |name: &str| snapshot.join(name).is_file();
    let names: Vec<String> = fs::read_dir(snapshot)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let ends = |end: &str| names.iter().any(|name| name.ends_with(end));
    let kinds = ["model.safetensors", "consolidated.safetensors", "pytorch_model.bin"];
    let index = kinds.iter().map(|kind| format!("{kind}.index.json")).find(|index| has(index));
    let weights = match index {
        Some(index) => super::select::shards_of_file(&snapshot.join(index))
            .is_ok_and(|shards| shards.iter().all(|s| has(s))),
        None => [".safetensors", ".bin", ".pt", ".pth"].iter().any(|end| ends(end)),
    };
    ends(".gguf") || weights && (has("config.json") || has("params.json"))
}

/// Whether a snapshot has a tokenizer's files too.
pub fn has_tokenizer(snapshot: &Path) -> bool {
    let files = ["tokenizer.json", "vocab.json", "tokenizer.model", "tekken.json"];
    let gguf = || {
        let mut entries = fs::read_dir(snapshot).into_iter().flatten().flatten();
        entries.any(|entry| entry.file_name().to_string_lossy().ends_with(".gguf"))
    };
    files.iter().any(|file| snapshot.join(file).is_file()) || gguf()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn repository() -> (tempfile::TempDir, Repository) {
        let cache = tempfile::tempdir().unwrap();
        let repository = Repository::new(cache.path(), &ModelName::parse("org/tiny", None).unwrap(), false);
        repository.make_folders().unwrap();
        (cache, repository)
    }

    fn file(path: &str, digit: &str) -> RemoteFile {
        RemoteFile { path: path.into(), size: 2, id: BlobId::of_name(&digit.repeat(40)).unwrap() }
    }

    #[test]
    fn links_lead_to_blobs_from_any_depth() {
        let (_cache, repository) = repository();
        for (path, digit) in [("config.json", "a"), ("sub/deep/x.txt", "b")] {
            let file = file(path, digit);
            fs::write(repository.blob(&file.id), digit.repeat(2)).unwrap();
            assert!(!repository.has_in_snapshot("c0", &file));
            repository.link("c0", &file).unwrap();
            repository.link("c0", &file).unwrap();
            assert_eq!(fs::read_to_string(repository.snapshot("c0").join(path)).unwrap(), digit.repeat(2));
            assert!(repository.has_in_snapshot("c0", &file) && repository.has(&file));
        }
        let link = fs::read_link(repository.snapshot("c0").join("config.json")).unwrap();
        assert_eq!(link, Path::new("../../blobs").join("a".repeat(40)));
        // The branch moved, and the file has another content.
        fs::write(repository.blob(&file("", "c").id), "cc").unwrap();
        repository.link("c0", &file("config.json", "c")).unwrap();
        assert_eq!(fs::read_to_string(repository.snapshot("c0").join("config.json")).unwrap(), "cc");
    }

    #[test]
    fn references_are_files() {
        let (_cache, repository) = repository();
        for (revision, commit) in [("main", "1"), ("refs/pr/1", "2"), ("main", "3"), ("4", "4")] {
            repository.set_reference(revision, commit).unwrap();
        }
        let read = |name: &str| fs::read_to_string(repository.path().join("refs").join(name)).ok();
        assert_eq!((read("main"), read("refs/pr/1"), read("4")), (Some("3".into()), Some("2".into()), None));
    }

    #[test]
    fn a_snapshot_in_part_is_no_model() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write(
            "model.safetensors.index.json",
            r#"{"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}"#,
        );
        write("x-1.safetensors", "");
        write("config.json", "{}");
        assert!(!has_model(dir.path()));
        std::os::unix::fs::symlink("nowhere", dir.path().join("x-2.safetensors")).unwrap();
        assert!(!has_model(dir.path()));
        fs::remove_file(dir.path().join("x-2.safetensors")).unwrap();
        write("x-2.safetensors", "");
        assert!(has_model(dir.path()) && !has_tokenizer(dir.path()));
        write("tokenizer.json", "{}");
        assert!(has_tokenizer(dir.path()));
        fs::remove_file(dir.path().join("config.json")).unwrap();
        assert!(!has_model(dir.path()));
    }
}
