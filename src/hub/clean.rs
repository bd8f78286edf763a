//! Deletes from the cache: a model, one of its revisions, or what nothing refers to. Blobs that another revision needs stay.

use super::blob_id::BlobId;
use super::cache::Repository;
use super::environment::Environment;
use super::lock::Lock;
use super::scan::{CachedRepository, CachedRevision, incomplete, scan};
use super::{HubError, Result};
use crate::checkpoint::ModelName;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What is to be deleted, or was.
#[derive(Debug, Default)]
pub struct Deletion {
    /// In words, a line each: `org/name@commit`, `org/name: 2 incomplete downloads`.
    pub what: Vec<String>,
    /// Bytes that it frees.
    pub bytes: u64,
    /// Files and folders, in an order that leaves no link to nothing: whole repositories, snapshots, references, blobs.
    paths: Vec<PathBuf>,
    /// Held until it is done, so that no pull begins meanwhile.
    locks: Vec<Lock>,
}

impl Deletion {
    /// Deletes.
    ///
    /// # Errors
    /// The first file that can't be deleted.
    pub fn carry_out(&self) -> Result<()> {
        for path in &self.paths {
            let removed = match fs::symlink_metadata(path) {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
                Ok(_) => fs::remove_file(path),
                Err(_) => Ok(()),
            };
            removed.map_err(HubError::io(path))?;
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, bytes: u64) {
        if !self.paths.iter().any(|known| known == path) {
            self.paths.push(path.into());
            self.bytes += bytes;
        }
    }

    /// Adds revisions of a repository, or all of it if none is left.
    fn add_revisions(&mut self, repository: &CachedRepository, commits: &BTreeSet<&str>) {
        let (gone, kept): (Vec<&CachedRevision>, Vec<&CachedRevision>) =
            repository.revisions.iter().partition(|revision| commits.contains(&*revision.commit));
        self.what.extend(gone.iter().map(|revision| format!("{}@{}", repository.id, revision.commit)));
        let blobs = |revisions: &[&CachedRevision]| -> BTreeMap<PathBuf, u64> {
            let files = revisions.iter().flat_map(|revision| &revision.files);
            files.map(|file| (file.blob.clone(), file.size.unwrap_or(0))).collect()
        };
        if kept.is_empty() {
            let bytes = repository.size_on_disk + repository.incomplete_bytes;
            return self.add(&repository.path, bytes);
        }
        let needed = blobs(&kept);
        let mut unneeded = blobs(&gone);
        unneeded.retain(|blob, _| !needed.contains_key(blob));
        for revision in &gone {
            // A file that is no link goes with its folder.
            let own: u64 =
                unneeded.iter().filter(|(b, _)| b.starts_with(&revision.path)).map(|(_, n)| n).sum();
            self.add(&revision.path, own);
            unneeded.retain(|blob, _| !blob.starts_with(&revision.path));
            for reference in &revision.references {
                self.add(&repository.path.join("refs").join(reference), 0);
            }
        }
        unneeded.iter().for_each(|(blob, bytes)| self.add(blob, *bytes));
    }
}

/// What deleting a model, or one of its revisions, deletes: `name` has a revision if one was given.
///
/// # Errors
/// [`HubError::NotCached`], and [`HubError::InUse`] while another process fetches the model.
pub fn remove(environment: &Environment, name: &ModelName, revision: Option<&str>) -> Result<Deletion> {
    let not_cached = |what: String| HubError::NotCached { what, cache: environment.cache.clone() };
    let cache = scan(&environment.cache)?;
    let found = cache.repositories.iter().find(|r| r.kind == "model" && r.id == name.id());
    let found = found.ok_or_else(|| not_cached(name.id()))?;
    let matches = |commit: &CachedRevision| match revision {
        None => true,
        Some(wanted) => {
            commit.references.iter().any(|reference| reference == wanted)
                || commit.commit == wanted
                || wanted.len() >= 7 && commit.commit.starts_with(wanted)
        }
    };
    let commits: BTreeSet<&str> =
        found.revisions.iter().filter(|r| matches(r)).map(|r| r.commit.as_str()).collect();
    if revision.is_some() && commits.len() != 1 {
        return Err(not_cached(format!("{}@{}", name.id(), revision.unwrap_or_default())));
    }
    let mut deletion = Deletion::default();
    // huggingface_hub holds the locks of the blobs that it fetches; a pull of ours holds another one too.
    let lock = Repository::new(&environment.cache, name, false).pull_lock();
    let folder = lock.parent().unwrap_or(&lock);
    let others = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for lock in others.chain([lock.clone()]).collect::<BTreeSet<PathBuf>>() {
        match Lock::try_now(&lock).map_err(HubError::io(&lock))? {
            Some(lock) => deletion.locks.push(lock),
            None => return Err(HubError::InUse { what: name.id() }),
        }
    }
    deletion.add_revisions(found, &commits);
    if commits.is_empty() {
        deletion.what.push(format!("{}, of which no revision is whole", name.id()));
    }
    Ok(deletion)
}

/// What nothing refers to: revisions that no branch or tag is any more, blobs of no revision, downloads that did not come to their end.
/// Models that are being fetched are passed over.
///
/// # Errors
/// If the cache can't be read.
pub fn prune(environment: &Environment) -> Result<Deletion> {
    let cache = scan(&environment.cache)?;
    let mut deletion = Deletion::default();
    for found in cache.repositories.iter().filter(|found| found.kind == "model") {
        let Ok(name) = ModelName::parse(&found.id, None) else { continue };
        let repository = Repository::new(&environment.cache, &name, false);
        let lock = repository.pull_lock();
        let Some(lock) = Lock::try_now(&lock).map_err(HubError::io(&lock))? else { continue };
        let detached = found.revisions.iter().filter(|revision| revision.references.is_empty());
        let detached: BTreeSet<&str> = detached.map(|revision| revision.commit.as_str()).collect();
        if !detached.is_empty() {
            deletion.add_revisions(found, &detached);
        }
        if detached.is_empty() || detached.len() < found.revisions.len() {
            add_loose_files(&mut deletion, found, &repository)?;
        }
        deletion.locks.push(lock);
    }
    Ok(deletion)
}

/// Adds incomplete downloads, and blobs that no revision refers to. Those whose lock another process holds stay.
fn add_loose_files(deletion: &mut Deletion, found: &CachedRepository, repository: &Repository) -> Result<()> {
    let used: BTreeSet<&Path> =
        found.revisions.iter().flat_map(|revision| &revision.files).map(|file| &*file.blob).collect();
    let blobs =
        fs::read_dir(found.path.join("blobs")).into_iter().flatten().flatten().map(|entry| entry.path());
    let unused = blobs.filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        BlobId::of_name(&name).is_some() && !used.contains(&**path)
    });
    for (what, paths) in
        [("incomplete downloads", incomplete(&found.path)), ("blobs of no revision", unused.collect())]
    {
        let mut number = 0;
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // huggingface_hub's own are called BLOB.RANDOM.incomplete.
            let id = BlobId::of_name(name.split('.').next().unwrap_or_default());
            if let Some(id) = id {
                let lock = repository.lock(&id);
                let Some(lock) = Lock::try_now(&lock).map_err(HubError::io(&lock))? else { continue };
                deletion.locks.push(lock);
            }
            let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            deletion.add(&path, bytes);
            number += 1;
        }
        if number > 0 {
            deletion.what.push(format!("{}: {number} {what}", found.id));
        }
    }
    Ok(())
}
