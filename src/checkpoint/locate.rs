//! From what `--model` says to a directory: a path, or the id of a model in the local Hugging Face cache.
//!
//! The cache's layout, as huggingface_hub writes it (`constants.py`, `file_download.py`):
//! `$HF_HUB_CACHE/models--ORG--NAME/refs/main` holds a commit id, `snapshots/<commit id>/` the files.
//! `HF_HUB_CACHE` defaults to `$HF_HOME/hub`, `HF_HOME` to `$XDG_CACHE_HOME/huggingface` or `~/.cache/huggingface`.

use super::{CheckpointError, Directory};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The directory that `model` names.
///
/// # Errors
/// [`CheckpointError`], naming the path or the id.
pub fn locate(model: &str, revision: Option<&str>) -> Result<Directory, CheckpointError> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(Directory::Disk(path.to_owned()));
    }
    if path.is_file() {
        let gguf = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        let path = path.to_owned();
        return Err(if gguf {
            CheckpointError::Gguf { path }
        } else {
            CheckpointError::NotADirectory { path }
        });
    }
    in_hub_cache(&hub_cache(), model, revision)
}

fn hub_cache() -> PathBuf {
    let var = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || env::home_dir().unwrap_or_default();
    let cache_home = || var("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache"));
    let hf_home = || var("HF_HOME").unwrap_or_else(|| cache_home().join("huggingface"));
    var("HF_HUB_CACHE").unwrap_or_else(|| hf_home().join("hub"))
}

fn in_hub_cache(cache: &Path, model: &str, revision: Option<&str>) -> Result<Directory, CheckpointError> {
    if !is_hub_id(model) {
        return Err(CheckpointError::NoSuchDirectory { model: model.into() });
    }
    let folder = cache.join(format!("models--{}", model.replace('/', "--")));
    if !folder.is_dir() {
        return Err(CheckpointError::NotCached { model: model.into(), cache: cache.into() });
    }
    let revision = revision.unwrap_or("main");
    // A revision is a branch or tag (a file in refs/ that holds the commit) or a commit itself.
    let commit =
        fs::read_to_string(folder.join("refs").join(revision)).unwrap_or_else(|_| revision.to_owned());
    let snapshots = folder.join("snapshots");
    let snapshot = snapshots.join(commit.trim());
    if snapshot.is_dir() && !commit.trim().is_empty() {
        return Ok(Directory::Disk(snapshot));
    }
    let known = [names_in(&folder.join("refs")), names_in(&snapshots)].concat().join(", ");
    let (model, revision) = (model.to_owned(), revision.to_owned());
    Err(CheckpointError::NoSuchRevision { model, revision, cache: cache.into(), known })
}

/// `NAME` or `ORG/NAME`, as the hub allows them.
fn is_hub_id(model: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty()
            && !p.starts_with('.')
            && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    match model.split_once('/') {
        Some((org, name)) => part(org) && part(name),
        None => part(model),
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_through_refs_and_snapshots() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("models--org--tiny-1");
        fs::create_dir_all(folder.join("refs")).unwrap();
        fs::create_dir_all(folder.join("snapshots/abc123")).unwrap();
        fs::write(folder.join("refs/main"), "abc123\n").unwrap();
        let find = |model, revision| in_hub_cache(cache.path(), model, revision);
        for revision in [None, Some("main"), Some("abc123")] {
            assert!(find("org/tiny-1", revision).unwrap().root().ends_with("snapshots/abc123"));
        }
        let e = find("org/tiny-1", Some("v2")).unwrap_err().to_string();
        assert!(e.contains("v2") && e.contains("main") && e.contains("abc123"), "{e}");
        let e = find("org/other", None).unwrap_err().to_string();
        assert!(e.contains("org/other") && e.contains("hf download"), "{e}");
        assert!(find("../org/tiny-1", None).is_err() && find("a/b/c", None).is_err());
    }

    #[test]
    fn files_are_refused_by_kind() {
        let dir = tempfile::tempdir().unwrap();
        for (name, want) in [("m.gguf", "GGUF"), ("model.safetensors", "give the directory")] {
            let path = dir.path().join(name);
            fs::write(&path, b"x").unwrap();
            assert!(locate(path.to_str().unwrap(), None).unwrap_err().to_string().contains(want));
        }
    }
}
