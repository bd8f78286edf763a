//! The name of a model on the hub: `ORG/NAME`, and `ORG/NAME@REVISION`.

use super::{CheckpointError, Result};

/// A model's name, and which of its revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    id: String,
    revision: Option<String>,
}

impl ModelName {
    /// A name, with the revision that stands in it or beside it.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchDirectory`] for what the hub allows no model to be called, [`CheckpointError::BadRevision`].
    pub fn parse(model: &str, revision: Option<&str>) -> Result<ModelName> {
        let (id, within) = match model.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (model, None),
        };
        let bad = |revision: &str, why| CheckpointError::BadRevision { revision: revision.into(), why };
        if let (Some(within), Some(revision)) = (within, revision)
            && within != revision
        {
            return Err(bad(revision, "the model's name has another one behind its @"));
        }
        if !is_id(id) {
            return Err(CheckpointError::NoSuchDirectory { model: model.into() });
        }
        let revision = revision.or(within);
        if let Some(revision) = revision.filter(|revision| !is_revision(revision)) {
            return Err(bad(revision, "no branch, tag or commit can be called that"));
        }
        Ok(ModelName { id: id.into(), revision: revision.map(str::to_owned) })
    }

    /// `ORG/NAME`.
    pub fn id(&self) -> String {
        self.id.clone()
    }

    /// A branch, a tag or a commit; `main` if none was given.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// Whether the name has an organisation.
    pub fn has_organisation(&self) -> bool {
        self.id.contains('/')
    }

    /// The folder in the cache: `models--ORG--NAME`.
    pub fn folder(&self) -> String {
        format!("models--{}", self.id.replace('/', "--"))
    }
}

impl std::fmt::Display for ModelName {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.id)?;
        self.revision.iter().try_for_each(|revision| write!(f, "@{revision}"))
    }
}

/// `NAME` or `ORG/NAME`, as the hub allows them. Two hyphens stand for the slash in the cache.
fn is_id(id: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed);
    let apart = !id.contains("--") && !id.contains("..");
    apart && id.len() <= 96 && id.split('/').count() <= 2 && id.split('/').all(part)
}

/// Whether a revision can be the name of a file in `refs/`, and a reference of git.
fn is_revision(revision: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains("..");
    let allowed = |c: char| c.is_alphanumeric() || "-_./+=@#%,!".contains(c);
    revision.len() <= 200 && revision.split('/').all(part) && revision.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_stands_behind_the_name_or_beside_it() {
        let parse = |model: &str, revision| {
            ModelName::parse(model, revision).map(|name| (name.id(), name.revision().to_owned()))
        };
        assert_eq!(parse("Qwen/Qwen3-0.6B", None).unwrap(), ("Qwen/Qwen3-0.6B".into(), "main".into()));
        assert_eq!(parse("a/b@v1.0", None).unwrap(), ("a/b".into(), "v1.0".into()));
        assert_eq!(parse("a/b@v1", Some("v1")).unwrap(), parse("a/b", Some("v1")).unwrap());
        assert_eq!(parse("a/b", Some("refs/pr/1")).unwrap().1, "refs/pr/1");
        for (model, revision) in [
            ("a/b@v1", Some("v2")),
            ("a/b@", None),
            ("a/b", Some("../../x")),
            ("a/b", Some("/etc/passwd")),
            ("../a/b", None),
            ("a/b/c", None),
            ("a--b/c", None),
            ("", None),
        ] {
            assert!(parse(model, revision).is_err(), "{model} {revision:?}");
        }
    }
}
