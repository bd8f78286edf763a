//! Models by name: from `ORG/NAME` to files that are certainly those of the hub.
//!
//! ```text
//! --model ORG/NAME ─ locate ─▶ in the cache? ─ yes ─▶ snapshots/COMMIT/
//!                                   │ no
//!                                   ▼
//!                 pull: api (which commit, which files) ─ select ─ download (ranges, hashes, locks) ─ cache (blobs, links, reference)
//! ```
//! # Layout
//! - [`environment`](Environment): the variables of huggingface_hub.
//! - `address`, `connect`, `client`: HTTP, with the rules about tokens and https.
//! - `api`, `select`: what a repository holds, and what of it is fetched.
//! - `blob_id`, `lock`, `cache`, `download`, `pull`: bytes into blobs, blobs into a snapshot.
//! - `scan`, `clean`, `verify`: what is in the cache, and how it is deleted and checked.
//! - [`KnownSums`]: whether weights are those that somebody wrote down.
//! - [`versions`]: models that a user keeps under names of his own.

mod address;
mod api;
mod blob_id;
mod cache;
mod clean;
mod client;
mod connect;
mod download;
mod environment;
mod error;
mod known_sums;
mod lock;
mod pull;
mod scan;
mod select;
mod verify;
pub mod versions;

pub use blob_id::BlobId;
pub use clean::{Deletion, prune, remove};
pub use environment::{Environment, Token};
pub use error::HubError;
use error::Result;
pub use known_sums::KnownSums;
pub use pull::{PullOptions, Pulled, pull};
pub use scan::{CachedFile, CachedRepository, CachedRevision, HubCache, scan};
pub use verify::{Verified, verify};

use crate::checkpoint::{Directory, ModelName, cached_snapshot, locate_path};

/// Hears how a pull goes. Called from several threads.
pub trait Watch: Sync {
    /// So many bytes are to come, of which so many came earlier.
    fn begin(&self, total: u64, done: u64);
    /// So many more came; fewer than none where bytes had to be thrown away.
    fn advance(&self, bytes: i64);
    /// A remark for the user.
    fn note(&self, text: &str);
}

/// The directory that `model` names: a path, or a version that was saved (`NAME@V`), or a model in the cache, or one that is fetched into
/// it.
///
/// A model that the cache holds whole is taken as it is, and the hub is not asked whether its branch has moved: [`pull()`] does that.
///
/// # Errors
/// [`HubError`].
pub fn locate(
    environment: &Environment,
    model: &str,
    revision: Option<&str>,
    watch: &dyn Watch,
) -> Result<Directory> {
    if let Some(directory) = locate_path(model)? {
        return Ok(directory);
    }
    if let Some((name, version)) = model.split_once('@').filter(|_| revision.is_none()) {
        let store = versions::Store::of_environment();
        if store.has(name) {
            return Ok(Directory::at(store.directory(&store.find(name, version)?))?);
        }
    }
    let name = ModelName::parse(model, revision)?;
    let (found, not_cached) = match cached_snapshot(&environment.cache, &name) {
        Ok(snapshot) => (Some(snapshot).filter(|snapshot| cache::has_model(snapshot)), None),
        Err(error) => (None, Some(error)),
    };
    if let Some(snapshot) = &found
        && (environment.offline || cache::has_tokenizer(snapshot))
    {
        return Ok(Directory::at(snapshot.clone())?);
    }
    // A name without an organisation is more often a folder that is misspelt than one of the hub's few old models.
    if let Some(error) = not_cached.filter(|_| !name.has_organisation() && !environment.offline) {
        return Err(error.into());
    }
    match pull(environment, &name, &PullOptions::default(), watch) {
        Ok(pulled) => Ok(Directory::at(pulled.snapshot)?),
        Err(error) => match (error, found) {
            (HubError::Unreachable { why, .. }, Some(snapshot)) => {
                watch.note(&format!("{name}: the hub can't be reached ({why}); what the cache has is taken"));
                Ok(Directory::at(snapshot)?)
            }
            (error, _) => Err(error),
        },
    }
}
