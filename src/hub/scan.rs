//! What is in the cache: models (and what else Hugging Face's tools keep there), revisions, sizes as `hf cache ls` counts them.

use super::{HubError, Result};
use crate::checkpoint::ModelName;
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Folders in the cache, and what they hold.
const KINDS: [(&str, &str); 4] =
    [("models--", "model"), ("datasets--", "dataset"), ("spaces--", "space"), ("kernels--", "kernel")];

/// Files that systems leave in every folder.
const OF_SYSTEMS: [&str; 3] = [".DS_Store", "Thumbs.db", "desktop.ini"];

/// A cache.
#[derive(Debug, Serialize)]
pub struct HubCache {
    pub path: PathBuf,
    /// Bytes of all blobs that a revision refers to, each once.
    pub size_on_disk: u64,
    /// Sorted by kind and name.
    pub repositories: Vec<CachedRepository>,
    /// What is not as it should be.
    pub warnings: Vec<String>,
}

impl HubCache {
    /// Whether a model is there, whole or in part.
    pub fn has_model(&self, name: &ModelName) -> bool {
        self.repositories.iter().any(|r| r.kind == "model" && r.id == name.id())
    }
}

/// A repository in the cache.
#[derive(Debug, Serialize)]
pub struct CachedRepository {
    /// `ORG/NAME`.
    pub id: String,
    /// model, dataset, space or kernel.
    pub kind: &'static str,
    pub path: PathBuf,
    /// Bytes of the blobs that its revisions refer to, each once.
    pub size_on_disk: u64,
    /// Such blobs.
    pub files: usize,
    /// Bytes of downloads that did not come to their end.
    pub incomplete_bytes: u64,
    #[serde(serialize_with = "as_seconds")]
    pub last_used: SystemTime,
    #[serde(serialize_with = "as_seconds")]
    pub last_modified: SystemTime,
    /// Sorted by commit.
    pub revisions: Vec<CachedRevision>,
}

/// One commit of a repository.
#[derive(Debug, Serialize)]
pub struct CachedRevision {
    pub commit: String,
    /// Branches and tags that were this commit when they were last asked for.
    pub references: Vec<String>,
    pub path: PathBuf,
    pub size_on_disk: u64,
    #[serde(skip)]
    pub files: Vec<CachedFile>,
}

/// A file of a revision.
#[derive(Debug)]
pub struct CachedFile {
    /// Its path in the repository.
    pub name: String,
    /// Where it is linked to; the file itself where it is no link.
    pub blob: PathBuf,
    /// `None` if that is missing.
    pub size: Option<u64>,
}

fn as_seconds<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()))
}

/// Reads the whole cache. One that is not there is empty.
///
/// # Errors
/// If it is there and can't be listed.
pub fn scan(cache: &Path) -> Result<HubCache> {
    let mut found =
        HubCache { path: cache.into(), size_on_disk: 0, repositories: Vec::new(), warnings: Vec::new() };
    let entries = match fs::read_dir(cache) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        other => other.map_err(HubError::io(cache))?,
    };
    let mut blobs = BTreeMap::new();
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let kind = KINDS.iter().find_map(|(prefix, kind)| Some((name.strip_prefix(prefix)?, *kind)));
        let Some((id, kind)) = kind.filter(|_| path.is_dir()) else { continue };
        let repository = repository(id.replace("--", "/"), kind, path, &mut found.warnings);
        for file in repository.revisions.iter().flat_map(|revision| &revision.files) {
            // Blobs may be links into a store that all repositories share.
            if let (Some(size), Ok(real)) = (file.size, fs::canonicalize(&file.blob)) {
                blobs.insert(real, size);
            }
        }
        found.repositories.push(repository);
    }
    found.size_on_disk = blobs.values().sum();
    found.repositories.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
    Ok(found)
}

/// Reads one repository of the cache.
pub fn repository(
    id: String,
    kind: &'static str,
    path: PathBuf,
    warnings: &mut Vec<String>,
) -> CachedRepository {
    let mut references = references(&path.join("refs"));
    let mut revisions: Vec<CachedRevision> = Vec::new();
    for snapshot in folders(&path.join("snapshots")) {
        let commit = snapshot.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = files(&snapshot);
        for file in files.iter().filter(|file| file.size.is_none()) {
            warnings.push(format!("{id}@{commit}: {} links to a blob that is not there", file.name));
        }
        let references = references.remove(&commit).unwrap_or_default();
        let size_on_disk = distinct(&files).values().sum();
        revisions.push(CachedRevision { commit, references, path: snapshot, size_on_disk, files });
    }
    revisions.sort_by(|a, b| a.commit.cmp(&b.commit));
    for (commit, names) in references {
        warnings.push(format!("{id}: {} is commit {commit}, which is not there", names.join(", ")));
    }
    let blobs: BTreeMap<&Path, u64> =
        revisions.iter().flat_map(|revision| distinct(&revision.files)).collect();
    let times: Vec<Metadata> = blobs.keys().filter_map(|blob| fs::metadata(blob).ok()).collect();
    let times = if times.is_empty() { fs::metadata(&path).into_iter().collect() } else { times };
    let latest = |time: fn(&Metadata) -> std::io::Result<SystemTime>| {
        times.iter().filter_map(|m| time(m).ok()).max().unwrap_or(UNIX_EPOCH)
    };
    CachedRepository {
        size_on_disk: blobs.values().sum(),
        files: blobs.len(),
        incomplete_bytes: incomplete(&path)
            .iter()
            .filter_map(|file| Some(fs::metadata(file).ok()?.len()))
            .sum(),
        last_used: latest(Metadata::accessed),
        last_modified: latest(Metadata::modified),
        id,
        kind,
        path,
        revisions,
    }
}

/// Blobs that are there, with their sizes.
fn distinct(files: &[CachedFile]) -> BTreeMap<&Path, u64> {
    files.iter().filter_map(|file| Some((&*file.blob, file.size?))).collect()
}

/// Downloads that did not come to their end.
pub fn incomplete(repository: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(repository.join("blobs")).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "incomplete"))
        .collect()
}

/// commit → branches and tags
fn references(refs: &Path) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in walk(refs).into_iter().filter(|path| path.extension().is_none_or(|end| end != "tmp")) {
        let Ok(commit) = fs::read_to_string(&path) else { continue };
        let name = path.strip_prefix(refs).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        found.entry(commit.trim().to_owned()).or_default().push(name);
    }
    found.values_mut().for_each(|names| names.sort());
    found
}

fn files(snapshot: &Path) -> Vec<CachedFile> {
    let file = |path: PathBuf| {
        let blob = match fs::read_link(&path) {
            Ok(target) => normal(&path.parent().unwrap_or(snapshot).join(target)),
            Err(_) => path.clone(),
        };
        let size = fs::metadata(&blob).ok().map(|metadata| metadata.len());
        let name = path.strip_prefix(snapshot).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        CachedFile { name, blob, size }
    };
    walk(snapshot).into_iter().map(file).collect()
}

/// A path without `..`, which is not followed through links.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// All files and links below a folder, sorted.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let of_system = OF_SYSTEMS.iter().any(|name| entry.file_name() == *name);
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) if !of_system => drop(found.insert(entry.path())),
                _ => {}
            }
        }
    }
    found.into_iter().collect()
}
