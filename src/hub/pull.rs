//! A pull: which commit, which files, what is missing, then all of it at once, links and the reference last.

use super::api::{Api, RemoteFile};
use super::cache::Repository;
use super::client::Client;
use super::download::{Download, Outcome, take_back};
use super::environment::Environment;
use super::lock::Lock;
use super::select::select;
use super::{HubError, Result, Watch};
use crate::checkpoint::{CheckpointError, ModelName, cached_snapshot};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::{fs, thread};

/// Files that are fetched at a time.
const AT_A_TIME: usize = 4;

/// What to fetch beyond, or again.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Patterns of further files, as `*.md`.
    pub include: Vec<String>,
    /// Fetches also what is there.
    pub force: bool,
}

/// What a pull brought.
#[derive(Debug)]
pub struct Pulled {
    /// The commit.
    pub commit: String,
    /// The folder of its files.
    pub snapshot: PathBuf,
    /// Files, and bytes of them, that the model has there.
    pub files: usize,
    pub bytes: u64,
    /// Files that this pull has fetched.
    pub fetched: usize,
}

/// Brings a model into the cache, or up to date.
///
/// # Errors
/// [`HubError`]. What was fetched whole stays in the cache, and a file that came in part is gone on with next time; after
/// [`HubError::DiskFull`] the cache is as it was before.
pub fn pull(
    environment: &Environment,
    model: &ModelName,
    options: &PullOptions,
    watch: &dyn Watch,
) -> Result<Pulled> {
    if environment.offline {
        return offline(environment, model);
    }
    let client = Client::new(environment)?;
    let api = Api { client: &client, model, timeout: environment.etag_timeout };
    let (commit, id) = api.commit()?;
    if let Some(id) = id.filter(|id| !id.eq_ignore_ascii_case(&model.id()) && model.has_organisation()) {
        watch.note(&format!("{} is called {id} now", model.id()));
    }
    let files = api.files(&commit)?;
    let files = select(&model.id(), &files, &options.include, &|file| api.read(&commit, file))?;
    let repository = Repository::new(&environment.cache, model, environment.no_symlinks);
    let find_missing = || missing(&repository, &commit, &files, options.force);
    let missing = find_missing();
    // A model that is there whole takes no lock, so that it is found in a cache that may not be written.
    let is_whole = missing.is_empty() && files.iter().all(|file| repository.has_in_snapshot(&commit, file));
    let fetched = match is_whole {
        true => 0,
        false => {
            check_space(&repository, &missing, options.force)?;
            let lock = repository.pull_lock();
            let _in_use = Lock::shared(&lock).map_err(HubError::io(&lock))?;
            // From here on nothing is deleted by others; until here it may have been.
            let missing = find_missing();
            let download = Download {
                api: &api,
                repository: &repository,
                commit: &commit,
                force: options.force,
                timeout: environment.download_timeout,
                watch,
                stop: &AtomicBool::new(false),
            };
            let fetched = fetch_or_take_back(&download, &missing)?;
            link_all(&repository, &commit, &files)?;
            fetched
        }
    };
    repository.set_reference(model.revision(), &commit)?;
    let bytes = files.iter().map(|file| file.size).sum();
    let snapshot = repository.snapshot(&commit);
    Ok(Pulled { commit, snapshot, files: files.len(), bytes, fetched })
}

/// Fetches what is missing, and says how many files that were. A full disk gets back all that this pull took.
fn fetch_or_take_back(download: &Download, missing: &[RemoteFile]) -> Result<usize> {
    let Download { repository, watch, force, .. } = *download;
    let made = repository.make_folders()?;
    let total = missing.iter().map(|file| file.size).sum();
    let done = if force { 0 } else { missing.iter().map(|file| repository.come(file)).sum() };
    watch.begin(total, done);
    let (fetched, failed) = fetch_all(download, missing);
    let Some(error) = failed else { return Ok(fetched.len()) };
    if matches!(error, HubError::DiskFull { .. }) {
        fetched.iter().for_each(|file| take_back(repository, file));
        // Folders that hold something by now stay.
        made.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
    }
    Err(error)
}

/// What the cache has, for who may not use the network.
fn offline(environment: &Environment, model: &ModelName) -> Result<Pulled> {
    let missing = |what: &str| HubError::Offline {
        model: model.to_string(),
        what: what.into(),
        cache: environment.cache.clone(),
    };
    let snapshot = cached_snapshot(&environment.cache, model).map_err(|error| match error {
        // This one says which revisions there are.
        CheckpointError::NoSuchRevision { ref known, .. } if !known.is_empty() => error.into(),
        CheckpointError::NoSuchRevision { .. } => missing("it is only in part"),
        _ => missing("it is not"),
    })?;
    if !super::cache::has_model(&snapshot) {
        return Err(missing("it is only in part"));
    }
    let commit = snapshot.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let entries = fs::read_dir(&snapshot).map_err(HubError::io(&snapshot))?.flatten();
    let sizes: Vec<u64> = entries.filter_map(|entry| Some(fs::metadata(entry.path()).ok()?.len())).collect();
    Ok(Pulled { commit, snapshot, files: sizes.len(), bytes: sizes.iter().sum(), fetched: 0 })
}

/// The files whose blobs are not there, small ones first; of several with one content, the first.
fn missing(repository: &Repository, commit: &str, files: &[RemoteFile], force: bool) -> Vec<RemoteFile> {
    let is_missing =
        |file: &&RemoteFile| force || !repository.has(file) && !repository.has_in_snapshot(commit, file);
    let missing = files.iter().filter(is_missing);
    let by_content: BTreeMap<_, _> = missing.rev().map(|file| (&file.id, file)).collect();
    let mut missing: Vec<RemoteFile> = by_content.into_values().cloned().collect();
    missing.sort_by(|a, b| (a.size, &a.path).cmp(&(b.size, &b.path)));
    missing
}

/// Checks that the disk has space for what is to come, before anything is written.
fn check_space(repository: &Repository, missing: &[RemoteFile], force: bool) -> Result<()> {
    let come = |file| if force { 0 } else { repository.come(file) };
    let needed = missing.iter().fold(0u64, |sum, file| sum.saturating_add(file.size - come(file)));
    let there = repository.cache.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    // A file system that does not say how much is free is not asked again.
    let free = fs4::available_space(there).unwrap_or(u64::MAX);
    if needed > free {
        return Err(HubError::NoSpace { cache: repository.cache.clone(), needed, free });
    }
    Ok(())
}

/// Fetches files, a few at a time, until all are there or one fails. Returns those that were fetched, and the failure.
fn fetch_all(download: &Download, files: &[RemoteFile]) -> (Vec<RemoteFile>, Option<HubError>) {
    let next = AtomicUsize::new(0);
    let (fetched, failed) = (Mutex::new(Vec::new()), Mutex::new(None::<HubError>));
    let work = || {
        while !download.stop.load(Ordering::Relaxed) {
            let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            match download.run(file) {
                Ok(Outcome::Fetched) => fetched.lock().expect("no thread panics").push(file.clone()),
                Ok(Outcome::Found | Outcome::Stopped) => {}
                Err(error) => {
                    download.stop.store(true, Ordering::Relaxed);
                    let mut failed = failed.lock().expect("no thread panics");
                    // A full disk counts more than what follows from it, or comes beside it.
                    if failed.is_none() || matches!(error, HubError::DiskFull { .. }) {
                        *failed = Some(error);
                    }
                }
            }
        }
    };
    thread::scope(|scope| {
        (0..AT_A_TIME.min(files.len())).for_each(|_| drop(scope.spawn(work)));
    });
    (fetched.into_inner().expect("no thread panics"), failed.into_inner().expect("no thread panics"))
}

/// Links all files into the snapshot. The configuration comes last, so that a snapshot in part is none that loads.
fn link_all(repository: &Repository, commit: &str, files: &[RemoteFile]) -> Result<()> {
    let is_last = |file: &&RemoteFile| ["config.json", "params.json"].contains(&&*file.path);
    let (last, first): (Vec<&RemoteFile>, Vec<&RemoteFile>) = files.iter().partition(is_last);
    for file in first.into_iter().chain(last) {
        // Where there are no links, a snapshot has the file itself, and there may be no blob.
        if repository.has(file) || !repository.has_in_snapshot(commit, file) {
            repository.link(commit, file)?;
        }
    }
    Ok(())
}
