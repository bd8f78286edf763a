//! Wrong answers to the sixth exercise of chapter 1.

use crate::contracts::{Outcome, SnapshotFinder};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Takes the branch for the name of a folder.
pub struct BranchIsTheFolder;

impl SnapshotFinder for BranchIsTheFolder {
    fn find(&self, cache: &Path, repository: &str, revision: &str) -> Outcome<PathBuf> {
        let model = cache.join(format!("models--{}", repository.replace('/', "--")));
        let snapshot = model.join("snapshots").join(revision);
        if snapshot.is_dir() { Ok(snapshot) } else { Err("it is not in the cache".into()) }
    }
}

/// Takes any snapshot that is there, which is right as long as the cache holds one.
pub struct AnySnapshot;

impl SnapshotFinder for AnySnapshot {
    fn find(&self, cache: &Path, repository: &str, _revision: &str) -> Outcome<PathBuf> {
        let model = cache.join(format!("models--{}", repository.replace('/', "--")));
        let mut snapshots: Vec<_> =
            fs::read_dir(model.join("snapshots"))?.flatten().map(|e| e.path()).collect();
        snapshots.sort();
        snapshots.into_iter().next().ok_or("it is not in the cache".into())
    }
}

/// Believes the reference, and does not look whether the snapshot is there.
pub struct BelievesTheReference;

impl SnapshotFinder for BelievesTheReference {
    fn find(&self, cache: &Path, repository: &str, revision: &str) -> Outcome<PathBuf> {
        let model = cache.join(format!("models--{}", repository.replace('/', "--")));
        let commit = fs::read_to_string(model.join("refs").join(revision)).unwrap_or(revision.into());
        Ok(model.join("snapshots").join(commit))
    }
}
