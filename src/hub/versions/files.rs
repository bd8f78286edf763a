//! A version's files: which of a directory's they are, and how a content becomes a blob.

use super::SavedFile;
use crate::checkpoint::{Directory, hex};
use crate::hub::blob_id::BlobId;
use crate::hub::error::{HubError, Result};
use crate::hub::select::SMALL;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The files that a load of this directory reads: names within it, and paths. None for the demo model, which is no directory.
pub fn of(directory: &Directory) -> Vec<(String, PathBuf)> {
    let root = directory.root();
    if let Some(name) = directory.gguf() {
        return vec![(name, root)];
    }
    let small = SMALL.iter().map(|name| directory.path(name));
    let read = directory.files().into_iter();
    let other = directory.list().unwrap_or_default().into_iter();
    // A lone file of weights may have any name.
    let weights = other.filter(|name| name.ends_with(".safetensors")).map(|name| directory.path(&name));
    let has_weights = |path: &Path| path.extension().is_some_and(|end| end == "safetensors" || end == "bin");
    let known: BTreeSet<PathBuf> = small.chain(read).filter(|path| path.is_file()).collect();
    let lone: Vec<PathBuf> =
        if known.iter().any(|path| has_weights(path)) { Vec::new() } else { weights.collect() };
    let name = |path: &Path| Some(path.strip_prefix(&root).ok()?.to_string_lossy().replace('\\', "/"));
    known.into_iter().chain(lone).filter_map(|path| Some((name(&path)?, path))).collect()
}

/// The repository and the commit of a snapshot in the hub's cache: `models--ORG--NAME/snapshots/COMMIT`.
pub fn origin(root: &Path) -> (Option<String>, Option<String>) {
    let mut names = root.ancestors().map(|path| path.file_name().unwrap_or_default().to_string_lossy());
    let (commit, snapshots, folder) = (names.next(), names.next(), names.next());
    match (commit, folder.as_deref().and_then(|name| name.strip_prefix("models--"))) {
        (Some(commit), Some(id)) if snapshots.as_deref() == Some("snapshots") => {
            (Some(id.replace("--", "/")), Some(commit.into_owned()))
        }
        _ => (None, None),
    }
}

/// Makes a file's content a blob, if it is none yet.
///
/// A blob of the hub's cache never changes, so it becomes one of ours by a hard link. Everything else is copied: a file that its owner may
/// edit must not be a version's. (Where the file system can, the copy shares the blocks until then.)
///
/// # Errors
/// Those of the system.
pub fn store(blobs: &Path, name: &str, path: &Path) -> Result<SavedFile> {
    let real = fs::canonicalize(path).map_err(HubError::io(path))?;
    let size = fs::metadata(&real).map_err(HubError::io(&real))?.len();
    let saved = |sha256: String| SavedFile { path: name.into(), size, sha256 };
    let temporary = blobs.join(format!(".{}.tmp", std::process::id()));
    let _ = fs::remove_file(&temporary); // of a process of this number that was killed
    if let Some(sha256) = id_in_the_hubs_cache(&real) {
        let blob = blobs.join(&sha256);
        let linked = || fs::hard_link(&real, &temporary).and_then(|()| fs::rename(&temporary, &blob));
        if blob.is_file() || linked().is_ok() {
            return Ok(saved(sha256));
        }
    }
    fs::copy(&real, &temporary).map_err(HubError::io(&temporary))?;
    let sha256 = hash(&temporary).map_err(HubError::io(&temporary))?;
    let mut permissions = fs::metadata(&temporary).map_err(HubError::io(&temporary))?.permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&temporary, permissions).map_err(HubError::io(&temporary))?;
    let blob = blobs.join(&sha256);
    fs::rename(&temporary, &blob).map_err(HubError::io(&blob))?;
    Ok(saved(sha256))
}

/// The SHA-256 of a blob in the hub's cache, which is its name.
fn id_in_the_hubs_cache(real: &Path) -> Option<String> {
    let folder = real.parent()?;
    let of_model = folder.parent()?.file_name()?.to_string_lossy().starts_with("models--");
    let name = real.file_name()?.to_string_lossy();
    let is_blob = of_model && folder.file_name()? == "blobs";
    match BlobId::of_name(&name)? {
        BlobId::Sha256(id) if is_blob => Some(id),
        _ => None,
    }
}

/// A file's SHA-256, with its bytes on the disk.
pub fn hash(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut sha, mut piece) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            n => sha.update(&piece[..n]),
        }
    }
    file.sync_data()?;
    Ok(hex(sha))
}
