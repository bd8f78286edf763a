//! Checks what is in the cache against the hub's own hashes, which are the names of the blobs.

use super::blob_id::BlobId;
use super::scan::{CachedRepository, HubCache};
use crate::checkpoint::ModelName;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Verified {
    /// Files that have the hash that the hub gave.
    pub good: usize,
    /// Bytes that were read.
    pub bytes: u64,
    /// `org/name: file: what is wrong`.
    pub bad: Vec<String>,
    /// Files that have no hash to compare with, as they are no links to a blob.
    pub unchecked: usize,
}

/// A blob with the name of a file that it is.
struct Blob<'a> {
    repository: &'a str,
    file: &'a str,
    path: &'a Path,
    id: Option<BlobId>,
}

/// Reads every file of one model, or of all, and hashes it. `done` is told bytes, and how many there are.
pub fn verify(cache: &HubCache, name: Option<&ModelName>, done: &(dyn Fn(u64, u64) + Sync)) -> Verified {
    let wanted = |r: &&CachedRepository| name.is_none_or(|name| r.kind == "model" && r.id == name.id());
    let mut blobs: BTreeMap<PathBuf, Blob> = BTreeMap::new();
    let mut verified = Verified::default();
    let mut total = 0;
    for repository in cache.repositories.iter().filter(wanted) {
        for file in repository.revisions.iter().flat_map(|revision| &revision.files) {
            let Some(size) = file.size else {
                let (id, name) = (&repository.id, &file.name);
                verified.bad.push(format!("{id}: {name}: the blob that it links to is not there"));
                continue;
            };
            let id = BlobId::of_name(&file.blob.file_name().unwrap_or_default().to_string_lossy());
            let blob = Blob { repository: &repository.id, file: &file.name, path: &file.blob, id };
            if blobs.insert(file.blob.clone(), blob).is_none() {
                total += size;
            }
        }
    }
    let blobs: Vec<Blob> = blobs.into_values().collect();
    let checked: Vec<_> = blobs.par_iter().map(|blob| check(blob, &|bytes| done(bytes, total))).collect();
    for (blob, checked) in blobs.iter().zip(checked) {
        match checked {
            Ok(Some(bytes)) => {
                verified.good += 1;
                verified.bytes += bytes;
            }
            Ok(None) => verified.unchecked += 1,
            Err(why) => verified.bad.push(format!("{}: {}: {why}", blob.repository, blob.file)),
        }
    }
    verified
}

/// The bytes of a blob that is right; `None` if it has no hash.
fn check(blob: &Blob, done: &dyn Fn(u64)) -> Result<Option<u64>, String> {
    let Some(id) = &blob.id else { return Ok(None) };
    let (found, bytes) = hash(blob.path, id, done).map_err(|error| error.to_string())?;
    if found != *id {
        return Err(format!("it should be {id}, and is {}", found.name()));
    }
    Ok(Some(bytes))
}

fn hash(path: &Path, id: &BlobId, done: &dyn Fn(u64)) -> io::Result<(BlobId, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = id.hasher(file.metadata()?.len());
    let (mut piece, mut bytes) = (vec![0; 256 << 10], 0);
    loop {
        let n = file.read(&mut piece)?;
        if n == 0 {
            return Ok((hasher.finish(), bytes));
        }
        hasher.update(&piece[..n]);
        bytes += n as u64;
        done(n as u64);
    }
}
