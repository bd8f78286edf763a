//! From what `--model` says to a directory, or to a GGUF file: a path, or the id of a model in the local Hugging Face cache.
//!
//! The cache's layout, as huggingface_hub writes it (`constants.py`, `file_download.py`):
//! `$HF_HUB_CACHE/models--ORG--NAME/refs/main` holds a commit id, `snapshots/<commit id>/` the files.
//! `HF_HUB_CACHE`, or `HUGGINGFACE_HUB_CACHE` as it was called before, defaults to `$HF_HOME/hub`, and `HF_HOME` to
//! `$XDG_CACHE_HOME/huggingface` or `~/.cache/huggingface`.

use super::{CheckpointError, Directory, Result};
use crate::files;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The directory that `model` names.
///
/// # Errors
/// [`CheckpointError`], naming the path or the id.
pub fn locate(model: &str, revision: Option<&str>) -> Result<Directory> {
    let path = Path::new(model);
    if path.is_dir() || path.is_file() {
        return Directory::at(path.to_owned());
    }
    in_hub_cache(&hub_cache(|name| env::var_os(name)), model, revision)
}

/// The cache's folder by the rules of huggingface_hub; `var` looks up a variable of the environment.
fn hub_cache(var: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let home = var("HOME").map(PathBuf::from).or_else(env::home_dir).unwrap_or_default();
    let path = |name: &str| Some(expanded(var(name).filter(|v| !v.is_empty())?, &home, &var));
    let hf_home = || {
        let cache_home = path("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
        path("HF_HOME").unwrap_or_else(|| cache_home.join("huggingface"))
    };
    path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| hf_home().join("hub"))
}

/// A path with `~`, `$NAME` and `${NAME}` replaced; what has no value stays as it is, as in Python's `expanduser` and `expandvars`.
fn expanded(path: OsString, home: &Path, var: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let Some(text) = path.to_str() else { return path.into() };
    let value = |name: &str| var(name)?.into_string().ok();
    PathBuf::from(&*shellexpand::full_with_context_no_errors(text, || home.to_str(), value))
}

fn in_hub_cache(cache: &Path, model: &str, revision: Option<&str>) -> Result<Directory> {
    if !is_hub_id(model) {
        return Err(CheckpointError::NoSuchDirectory { model: model.into() });
    }
    let folder = cache.join(format!("models--{}", model.replace('/', "--")));
    if !folder.is_dir() {
        return Err(CheckpointError::NotCached { model: model.into(), cache: cache.into() });
    }
    let revision = revision.unwrap_or("main");
    // A revision is a branch or tag (a file in refs/ that holds the commit) or a commit itself.
    let read = files::read(&folder.join("refs").join(revision), 4096).ok();
    let commit = read.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(|| revision.to_owned());
    let snapshots = folder.join("snapshots");
    let snapshot = snapshots.join(commit.trim());
    if snapshot.is_dir() && !commit.trim().is_empty() {
        return Directory::at(snapshot);
    }
    let known = [names_in(&folder.join("refs")), names_in(&snapshots)].concat().join(", ");
    let (model, revision) = (model.to_owned(), revision.to_owned());
    Err(CheckpointError::NoSuchRevision { model, revision, cache: cache.into(), known })
}

/// `NAME` or `ORG/NAME`, as the hub allows them.
fn is_hub_id(model: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed);
    model.split('/').count() <= 2 && model.split('/').all(part)
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
    fn the_cache_is_where_python_looks_for_it() {
        let cache = |vars: &[(&str, &str)]| {
            let var =
                |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
            hub_cache(var).to_str().unwrap().to_owned()
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
