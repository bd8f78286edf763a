//! Where versions are kept: saved, listed, named, taken away. One process at a time changes the store.

use super::{Labels, SavedFile, Source, Version, files, utc};
use crate::checkpoint::{Directory, Variable, hex, hub_path};
use crate::config::Quantization;
use crate::error::Error;
use crate::hub::error::{HubError, Result};
use crate::hub::lock::Lock;
use crate::runner::{LoadFormat, read_config_for};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, fs};

/// The tag that moves with every save.
const LATEST: &str = "latest";

/// All versions of a user.
pub struct Store {
    root: PathBuf,
}

/// What was removed, or would be.
#[derive(Debug)]
pub struct Removed {
    pub versions: Vec<String>,
    /// Bytes of blobs that no other version shares.
    pub bytes: u64,
}

impl Store {
    /// The store of the environment: `$STAIRWELL_HOME/versions`, by default `~/.local/share/stairwell/versions`.
    pub fn of_environment() -> Store {
        Store::of(&|name| env::var_os(name))
    }

    fn of(var: Variable) -> Store {
        let data = || {
            let home = var("HOME").map(PathBuf::from).or_else(env::home_dir).unwrap_or_default();
            hub_path("XDG_DATA_HOME", var).unwrap_or_else(|| home.join(".local/share")).join("stairwell")
        };
        Store { root: hub_path("STAIRWELL_HOME", var).unwrap_or_else(data).join("versions") }
    }

    /// Saves the files of a directory as the next version of a name.
    ///
    /// # Errors
    /// For a directory that is no model, names that can't be, a version that is there already; and those of the system.
    pub fn save(&self, name: &str, directory: &Directory, labels: Labels) -> Result<Version, Error> {
        check_name(name)?;
        let config = read_config_for(directory, LoadFormat::Auto)?;
        let _lock = self.lock()?;
        let version = labels.version.unwrap_or_else(|| self.next(name));
        check_name(&version)?;
        if version == LATEST {
            return Err(HubError::BadVersionName { name: version }.into());
        }
        let place = self.root.join(name).join(&version);
        if place.exists() {
            return Err(HubError::VersionExists { name: name.into(), version }.into());
        }
        let found = files::of(directory);
        if found.is_empty() {
            return Err(HubError::NothingToSave { name: name.into() }.into());
        }
        let blobs = self.root.join("blobs");
        fs::create_dir_all(&blobs).map_err(HubError::io(&blobs))?;
        let store = |(name, path): &(String, PathBuf)| files::store(&blobs, name, path);
        let files: Vec<SavedFile> = found.iter().map(store).collect::<Result<_>>()?;
        let (repository, commit) = files::origin(&directory.root());
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let saved = Version {
            name: name.into(),
            version: version.clone(),
            created,
            created_at: utc(created),
            note: labels.note,
            metadata: labels.metadata,
            source: Source { path: directory.root(), repository, commit },
            architecture: config.architecture.class_name().into(),
            dtype: config.dtype.map(|dtype| dtype.to_string()),
            quantization: config.quantization.as_ref().map(|q| Quantization::method(q).to_owned()),
            bytes: files.iter().map(|file| file.size).sum(),
            digest: digest(&files),
            files,
        };
        self.put(&place, &saved)?;
        self.set_tag(name, LATEST, &version)?;
        Ok(saved)
    }

    /// Writes a version beside its place, and renames it.
    fn put(&self, place: &Path, version: &Version) -> Result<()> {
        let temporary = self.root.join(&version.name).join(".saving");
        let _ = fs::remove_dir_all(&temporary); // of a process that was killed
        for file in &version.files {
            let link = temporary.join("files").join(&file.path);
            let folder = link.parent().expect("it is in files/");
            fs::create_dir_all(folder).map_err(HubError::io(folder))?;
            let up = "../".repeat(file.path.matches('/').count() + 3);
            let target = PathBuf::from(format!("{up}blobs/{}", file.sha256));
            crate::hub::cache::symlink(&target, &link).map_err(HubError::io(&link))?;
        }
        let json = serde_json::to_vec_pretty(version).expect("its keys are strings");
        let path = temporary.join("version.json");
        fs::write(&path, json).map_err(HubError::io(&path))?;
        fs::rename(&temporary, place).map_err(HubError::io(place))
    }

    /// Versions of a name, or of all, oldest first.
    ///
    /// # Errors
    /// If a version.json can't be read.
    pub fn list(&self, name: Option<&str>) -> Result<Vec<Version>> {
        let names: Vec<String> = match name {
            Some(name) => vec![name.into()],
            None => folders(&self.root).into_iter().filter(|name| name != "blobs").collect(),
        };
        let mut found = Vec::new();
        for name in names {
            for version in folders(&self.root.join(&name)) {
                found.push(self.read(&name, &version)?);
            }
        }
        found.sort_by(|a, b| (&a.name, a.created, &a.version).cmp(&(&b.name, b.created, &b.version)));
        Ok(found)
    }

    fn read(&self, name: &str, version: &str) -> Result<Version> {
        let path = self.root.join(name).join(version).join("version.json");
        let bytes = fs::read(&path).map_err(HubError::io(&path))?;
        serde_json::from_slice(&bytes).map_err(|error| HubError::io(&path)(error.into()))
    }

    /// Tags of a name with the versions that they are.
    pub fn tags(&self, name: &str) -> Vec<(String, String)> {
        let entries = fs::read_dir(self.root.join(name).join(".tags")).into_iter().flatten().flatten();
        let mut tags: Vec<(String, String)> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|tag| !tag.starts_with('.'))
            .filter_map(|tag| Some((tag.clone(), self.tag(name, &tag)?)))
            .collect();
        tags.sort();
        tags
    }

    fn tag(&self, name: &str, tag: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join(name).join(".tags").join(tag)).ok()?;
        Some(text.trim().to_owned()).filter(|version| self.root.join(name).join(version).is_dir())
    }

    fn set_tag(&self, name: &str, tag: &str, version: &str) -> Result<()> {
        let folder = self.root.join(name).join(".tags");
        fs::create_dir_all(&folder).map_err(HubError::io(&folder))?;
        let (temporary, path) = (folder.join(".tmp"), folder.join(tag));
        fs::write(&temporary, version).map_err(HubError::io(&temporary))?;
        fs::rename(&temporary, &path).map_err(HubError::io(&path))
    }

    /// The version that `NAME@V` is; V is a version or a tag.
    ///
    /// # Errors
    /// [`HubError::NoVersion`].
    pub fn find(&self, name: &str, version: &str) -> Result<Version> {
        let is_name = |text: &str| check_name(text).is_ok();
        if is_name(name) && is_name(version) {
            let tagged = self.tag(name, version);
            let version = tagged.as_deref().unwrap_or(version);
            if self.root.join(name).join(version).is_dir() {
                return self.read(name, version);
            }
        }
        let known = folders(&self.root.join(name)).join(", ");
        Err(HubError::NoVersion {
            name: name.into(),
            version: version.into(),
            known,
            store: self.root.clone(),
        })
    }

    /// The files of a version.
    pub fn directory(&self, version: &Version) -> PathBuf {
        self.root.join(&version.name).join(&version.version).join("files")
    }

    /// Whether there is any version of a name.
    pub fn has(&self, name: &str) -> bool {
        check_name(name).is_ok() && !folders(&self.root.join(name)).is_empty()
    }

    /// Gives a version another name; `latest` is the one that a rollback moves.
    ///
    /// # Errors
    /// As [`Store::find`]; and for a tag that can't be one, or that is the name of a version.
    pub fn set(&self, name: &str, version: &str, tag: Option<&str>) -> Result<Version> {
        let _lock = self.lock()?;
        let version = self.find(name, version)?;
        let tag = tag.unwrap_or(LATEST);
        if tag != LATEST {
            check_name(tag)?;
        }
        if self.root.join(name).join(tag).exists() {
            return Err(HubError::VersionExists { name: name.into(), version: tag.into() });
        }
        self.set_tag(name, tag, &version.version)?;
        Ok(version)
    }

    /// Removes a version, or all of a name, and the blobs that no other version shares.
    ///
    /// # Errors
    /// As [`Store::find`].
    pub fn remove(&self, name: &str, version: Option<&str>, dry_run: bool) -> Result<Removed> {
        let _lock = self.lock()?;
        let gone = match version {
            Some(version) => vec![self.find(name, version)?],
            None if self.has(name) => self.list(Some(name))?,
            None => vec![self.find(name, LATEST)?],
        };
        let is_gone = |v: &Version| v.name == name && gone.iter().any(|gone| gone.version == v.version);
        let kept: Vec<Version> = self.list(None)?.into_iter().filter(|v| !is_gone(v)).collect();
        let needed: BTreeSet<&str> =
            kept.iter().flat_map(|v| &v.files).map(|file| file.sha256.as_str()).collect();
        // Those of a save that was killed are among them.
        let blobs = fs::read_dir(self.root.join("blobs")).into_iter().flatten().flatten();
        let loose: Vec<(PathBuf, u64)> = blobs
            .filter(|blob| !needed.contains(&*blob.file_name().to_string_lossy()))
            .map(|blob| (blob.path(), blob.metadata().map_or(0, |metadata| metadata.len())))
            .collect();
        if !dry_run {
            // A version is no more by one rename; what a kill leaves then is removed by the next one.
            for version in &gone {
                let place = self.root.join(name).join(&version.version);
                let removing = self.root.join(name).join(".removing");
                let _ = fs::remove_dir_all(&removing);
                fs::rename(&place, &removing).map_err(HubError::io(&place))?;
                fs::remove_dir_all(&removing).map_err(HubError::io(&removing))?;
            }
            self.mend_tags(name, &kept)?;
            for (blob, _) in &loose {
                fs::remove_file(blob).map_err(HubError::io(blob))?;
            }
        }
        let versions = gone.iter().map(|v| format!("{}@{}", v.name, v.version)).collect();
        Ok(Removed { versions, bytes: loose.iter().map(|(_, size)| size).sum() })
    }

    /// Takes tags away whose version is gone. `latest` becomes the newest that is left.
    fn mend_tags(&self, name: &str, kept: &[Version]) -> Result<()> {
        let newest = kept.iter().rfind(|v| v.name == name);
        let Some(newest) = newest else {
            let folder = self.root.join(name);
            return fs::remove_dir_all(&folder).map_err(HubError::io(&folder));
        };
        if self.tag(name, LATEST).is_none() {
            self.set_tag(name, LATEST, &newest.version)?;
        }
        for entry in fs::read_dir(self.root.join(name).join(".tags")).into_iter().flatten().flatten() {
            if self.tag(name, &entry.file_name().to_string_lossy()).is_none() {
                fs::remove_file(entry.path()).map_err(HubError::io(entry.path()))?;
            }
        }
        Ok(())
    }

    /// v1, v2, …: one more than the largest that there is.
    fn next(&self, name: &str) -> String {
        let number = |version: String| version.strip_prefix('v')?.parse::<u64>().ok();
        let largest = folders(&self.root.join(name)).into_iter().filter_map(number).max();
        format!("v{}", largest.unwrap_or(0) + 1)
    }

    fn lock(&self) -> Result<Lock> {
        let path = self.root.join(".lock");
        Lock::wait(&path, || {}).map_err(HubError::io(path))
    }
}

/// Names of folders that are no temporary ones, sorted.
fn folders(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

fn digest(files: &[SavedFile]) -> String {
    let mut lines: Vec<String> =
        files.iter().map(|file| format!("{}  {}\n", file.sha256, file.path)).collect();
    lines.sort();
    hex(Sha256::new().chain_update(lines.concat()))
}

/// A name of a model or of a version: letters, digits, `-`, `_` and `.`.
fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let good = !name.is_empty() && name.len() <= 100 && !name.starts_with('.') && name.chars().all(allowed);
    if good && name != "blobs" { Ok(()) } else { Err(HubError::BadVersionName { name: name.into() }) }
}
