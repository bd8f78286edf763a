//! Checksums that were written down earlier, to compare a checkpoint with.

use super::blob_id::is_hex;
use super::{HubError, Result};
use crate::checkpoint::Checksums;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Tensors that an error names.
const NAMED: usize = 3;

/// What a checkpoint's tensors should hash to, by [`checksums`](crate::checkpoint::checksums). It does not matter how the tensors are cut into
/// files, or of which kind these are.
#[derive(Debug)]
pub struct KnownSums {
    /// Where it was written down.
    source: String,
    /// Over all tensors.
    digest: String,
    /// Name → hash; empty where only the digest is known.
    tensors: BTreeMap<String, String>,
}

/// What `inspect --verify --json` prints, as far as it is needed.
#[derive(Deserialize)]
struct Inspected {
    sha256: Option<String>,
    #[serde(default)]
    tensors: BTreeMap<String, Hashed>,
}

#[derive(Deserialize)]
struct Hashed {
    sha256: Option<String>,
}

impl KnownSums {
    /// Reads `text`: a digest of 64 hexadecimal digits, or the path of a file that holds a digest or what `inspect --verify --json` printed.
    ///
    /// # Errors
    /// [`HubError::KnownSums`]: a file that can't be read, or has no digest.
    pub fn read(text: &str) -> Result<KnownSums> {
        if let Some(digest) = digest(text) {
            return Ok(KnownSums { source: "--checksum".into(), digest, tensors: BTreeMap::new() });
        }
        let bad = |why: String| HubError::KnownSums { path: text.into(), why };
        let content = fs::read_to_string(Path::new(text)).map_err(|error| bad(error.to_string()))?;
        if let Some(digest) = digest(content.trim()) {
            return Ok(KnownSums { source: text.into(), digest, tensors: BTreeMap::new() });
        }
        let known: Inspected = serde_json::from_str(&content).map_err(|error| bad(error.to_string()))?;
        let found = known.sha256.as_deref().and_then(digest);
        let digest = found.ok_or_else(|| bad("it has no field sha256 of 64 hexadecimal digits".into()))?;
        let hashed = known.tensors.into_iter().filter_map(|(name, hashed)| Some((name, hashed.sha256?)));
        Ok(KnownSums { source: text.into(), digest, tensors: hashed.collect() })
    }

    /// Compares with the checksums of the checkpoint at `model`.
    ///
    /// # Errors
    /// [`HubError::OtherWeights`], which names tensors if the names are known.
    pub fn compare(&self, found: &Checksums, model: &Path) -> Result<()> {
        if found.digest == self.digest {
            return Ok(());
        }
        let mut what = format!("the digest is {}, expected {}", found.digest, self.digest);
        let names: BTreeSet<&String> = self.tensors.keys().chain(found.tensors.keys()).collect();
        let differs = |name: &&&String| self.tensors.get(**name) != found.tensors.get(**name);
        let differing: Vec<&String> = names.iter().filter(differs).copied().collect();
        if !self.tensors.is_empty() && !differing.is_empty() {
            let named: Vec<String> =
                differing.iter().take(NAMED).map(|name| self.difference(name, found)).collect();
            let more = if differing.len() > NAMED { ", …" } else { "" };
            what =
                format!("{} of {} tensors differ: {}{more}", differing.len(), names.len(), named.join(", "));
        }
        Err(HubError::OtherWeights { model: model.into(), source_of_sums: self.source.clone(), what })
    }

    fn difference(&self, name: &str, found: &Checksums) -> String {
        match (self.tensors.contains_key(name), found.tensors.contains_key(name)) {
            (true, true) => format!("{name} has other values, another shape or another dtype"),
            (true, false) => format!("{name} is missing"),
            _ => format!("{name} is not in the list"),
        }
    }
}

/// The digest that a text is, in small letters.
fn digest(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    (text.len() == 64 && is_hex(&text)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(tensors: &[(&str, &str)], digest: char) -> Checksums {
        let tensors = tensors.iter().map(|(name, hash)| ((*name).into(), (*hash).into())).collect();
        Checksums { tensors, digest: digest.to_string().repeat(64) }
    }

    #[test]
    fn a_digest_is_given_or_lies_in_a_file() {
        let (digest, path) = ("A1".repeat(32), Path::new("m"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("digest.txt");
        fs::write(&file, format!("{digest}\n")).unwrap();
        let right = Checksums { tensors: BTreeMap::new(), digest: "a1".repeat(32) };
        for known in [&digest, file.to_str().unwrap()] {
            let known = KnownSums::read(known).unwrap();
            known.compare(&right, path).unwrap();
            let error = known.compare(&sums(&[], 'b'), path).unwrap_err().to_string();
            assert!(error.starts_with("m: ") && error.contains(&"bb".repeat(32)), "{error}");
        }
        fs::write(&file, "{\"tensors\": {}}").unwrap();
        let error = KnownSums::read(file.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("digest.txt") && error.contains("inspect --verify"), "{error}");
        let error = KnownSums::read("abc").unwrap_err().to_string();
        assert!(error.contains("--checksum abc"), "{error}");
    }

    #[test]
    fn tensors_that_differ_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sums.json");
        let digest = "c".repeat(64);
        let tensors = r#"{"a": {"sha256": "1"}, "b": {"sha256": "2"}, "c": {"sha256": "3"}}"#;
        fs::write(&file, format!(r#"{{"sha256": "{digest}", "tensors": {tensors}}}"#)).unwrap();
        let known = KnownSums::read(file.to_str().unwrap()).unwrap();
        known.compare(&sums(&[("a", "1"), ("b", "2"), ("c", "3")], 'c'), Path::new("m")).unwrap();
        let found = sums(&[("a", "1"), ("b", "x"), ("d", "4")], 'd');
        let error = known.compare(&found, Path::new("m")).unwrap_err().to_string();
        assert!(error.contains("3 of 4 tensors differ: b has other values"), "{error}");
        assert!(error.contains("c is missing, d is not in the list"), "{error}");
    }
}
