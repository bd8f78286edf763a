//! From what `--model` says to a directory, or to a GGUF file: a path, or the name of a model in the local Hugging Face cache.
//!
//! The cache's layout, as huggingface_hub writes it (`constants.py`, `file_download.py`):
//! `$HF_HUB_CACHE/models--ORG--NAME/refs/main` holds a commit id, `snapshots/<commit id>/` the files.
//! `HF_HUB_CACHE`, or `HUGGINGFACE_HUB_CACHE` as it was called before, defaults to `$HF_HOME/hub`, and `HF_HOME` to
//! `$XDG_CACHE_HOME/huggingface` or `~/.cache/huggingface`.

use super::{CheckpointError, Directory, ModelName, Result};
use crate::files;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Looks up a variable of the environment.
pub type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The directory that `model` names.
///
/// # Errors
/// [`CheckpointError`], naming the path or the id.
pub fn locate(model: &str, revision: Option<&str>) -> Result<Directory> {
    if let Some(directory) = locate_path(model)? {
        return Ok(directory);
    }
    let cache = hub_cache(&|name| env::var_os(name));
    Directory::at(cached_snapshot(&cache, &ModelName::parse(model, revision)?)?)
}

/// The directory or the GGUF file of this path; `None` if there is no such path, so that `model` may be a name.
///
/// # Errors
/// For a path of something else.
pub fn locate_path(model: &str) -> Result<Option<Directory>> {
    let path = Path::new(model);
    if path.is_dir() || path.is_file() {
        return Directory::at(path.to_owned()).map(Some);
    }
    Ok(None)
}

/// The cache's folder by the rules of huggingface_hub.
pub fn hub_cache(var: Variable) -> PathBuf {
    let path = |name| hub_path(name, var);
    path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| hf_home(var).join("hub"))
}

/// Hugging Face's own folder: the cache and the token are in it.
pub fn hf_home(var: Variable) -> PathBuf {
    let cache_home = || hub_path("XDG_CACHE_HOME", var).unwrap_or_else(|| user_home(var).join(".cache"));
    hub_path("HF_HOME", var).unwrap_or_else(|| cache_home().join("huggingface"))
}

/// A variable's path with `~`, `$NAME` and `${NAME}` replaced; what has no value stays as it is, as in Python's `expanduser` and
/// `expandvars`.
pub fn hub_path(name: &str, var: Variable) -> Option<PathBuf> {
    let path = var(name).filter(|v| !v.is_empty())?;
    let Some(text) = path.to_str() else { return Some(path.into()) };
    let (home, value) = (user_home(var), |name: &str| var(name)?.into_string().ok());
    Some(PathBuf::from(&*shellexpand::full_with_context_no_errors(text, || home.to_str(), value)))
}

fn user_home(var: Variable) -> PathBuf {
    var("HOME").map(PathBuf::from).or_else(env::home_dir).unwrap_or_default()
}

/// The folder of a model's files in the cache. They may be there in part.
///
/// # Errors
/// [`CheckpointError::NotCached`], [`CheckpointError::NoSuchRevision`].
pub fn cached_snapshot(cache: &Path, name: &ModelName) -> Result<PathBuf> {
    let folder = cache.join(name.folder());
    if !folder.is_dir() {
        return Err(CheckpointError::NotCached { model: name.id(), cache: cache.into() });
    }
    let revision = name.revision();
    // A revision is a branch or tag (a file in refs/ that holds the commit) or a commit itself.
    let read = files::read(&folder.join("refs").join(revision), 4096).ok();
    let commit = read.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(|| revision.to_owned());
    let (commit, snapshots) = (commit.trim(), folder.join("snapshots"));
    let snapshot = snapshots.join(commit);
    if snapshot.is_dir() && !commit.is_empty() && !commit.contains(['/', '\\']) && commit != ".." {
        return Ok(snapshot);
    }
    let known = [names_in(&folder.join("refs")), names_in(&snapshots)].concat().join(", ");
    let (model, revision) = (name.id(), revision.to_owned());
    Err(CheckpointError::NoSuchRevision { model, revision, cache: cache.into(), known })
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
        let find = |model, revision| cached_snapshot(cache.path(), &ModelName::parse(model, revision)?);
        for revision in [None, Some("main"), Some("abc123")] {
            assert!(find("org/tiny-1", revision).unwrap().ends_with("snapshots/abc123"));
        }
        let e = find("org/tiny-1", Some("v2")).unwrap_err().to_string();
        assert!(e.contains("v2") && e.contains("main") && e.contains("abc123"), "{e}");
        let e = find("org/other", None).unwrap_err().to_string();
        assert!(e.contains("org/other") && e.contains("hf download"), "{e}");
        fs::write(folder.join("refs/evil"), "../../..").unwrap();
        assert!(find("org/tiny-1", Some("evil")).is_err());
    }

    #[test]
    fn the_cache_is_where_python_looks_for_it() {
        let cache = |vars: &[(&str, &str)]| {
            let var =
                |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
            hub_cache(&var).to_str().unwrap().to_owned()
        };
        let home = ("HOME", "/h");
        for (vars, want) in [
            (&[home][..], "/h/.cache/huggingface/hub"),
            (&[home, ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[home, ("HF_HOME", "~/a b")], "/h/a b/hub"),
            (&[home, ("HF_HOME", "$D/${E}x/$NO"), ("D", "/d"), ("E", "e")], "/d/ex/$NO/hub"),
            (&[home, ("HF_HOME", "/a"), ("HUGGINGFACE_HUB_CACHE", "~/c")], "/h/c"),
            (&[home, ("HF_HUB_CACHE", "~"), ("HUGGINGFACE_HUB_CACHE", "/c")], "/h"),
            (&[home, ("HF_HOME", ""), ("HF_HUB_CACHE", "")], "/h/.cache/huggingface/hub"),
        ] {
            assert_eq!(cache(vars), want, "{vars:?}");
        }
    }

    #[test]
    fn a_file_that_is_no_model_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        fs::write(&path, b"x").unwrap();
        assert!(locate(path.to_str().unwrap(), None).unwrap_err().to_string().contains("give the directory"));
    }
}
