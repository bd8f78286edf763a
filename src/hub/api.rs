//! What the hub says about a repository: the commit that a revision is, and the files of a commit with their sizes and hashes.
//!
//! ```text
//! GET /api/models/ORG/NAME/revision/main          {"sha": "9338f7b6…", …}
//! GET /api/models/ORG/NAME/tree/9338f7b6…         [{"type": "file", "path": "config.json", "size": 726, "oid": "7cb18dc9…"},
//!                                                  {…, "path": "model.safetensors", "lfs": {"oid": "f47f7117…", "size": 1503300328}}, …]
//! GET /ORG/NAME/resolve/9338f7b6…/config.json     the file, or a redirect to a CDN
//! ```
//! A branch moves, a commit does not. So a pull asks once which commit it is about, and everything after that names the commit.

use super::address::{Address, quote};
use super::blob_id::{BlobId, is_hex};
use super::client::{Answer, Client, Failure, Get, Patience, header};
use super::{HubError, ModelName, Result};
use serde::Deserialize;
use std::io::Read;
use std::time::{Duration, Instant};

/// The largest answer in bytes. A page of 1,000 files has about 300,000.
const MOST_ANSWER: u64 = 32 << 20;

/// Pages of a list of files.
const MOST_PAGES: usize = 200;

/// One file of a commit.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteFile {
    /// Its path in the repository, which stays within it.
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub id: BlobId,
}

/// The hub, asked about one repository.
pub struct Api<'a> {
    pub client: &'a Client,
    pub model: &'a ModelName,
    /// How long an answer may take.
    pub timeout: Duration,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    id: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Api<'_> {
    /// The commit that a revision is now, and the repository's name, which is another one if it was renamed.
    ///
    /// # Errors
    /// [`HubError`], by what the hub answers.
    pub fn commit(&self) -> Result<(String, Option<String>)> {
        let revision = quote(self.model.revision(), false);
        let address = self.repository(&format!("revision/{revision}"));
        let (info, _): (Info, _) = self.json(&address)?;
        if info.sha.len() != 40 || !is_hex(&info.sha) {
            return Err(self.bad_list(format!("the commit '{}' is none", info.sha)));
        }
        Ok((info.sha, info.id))
    }

    /// The files of a commit.
    ///
    /// # Errors
    /// As [`Api::commit`]; and a list with names that leave the folder, or without hashes.
    pub fn files(&self, commit: &str) -> Result<Vec<RemoteFile>> {
        let mut files = Vec::new();
        let mut page = Some(self.repository(&format!("tree/{commit}?recursive=true")));
        for _ in 0..MOST_PAGES {
            let Some(address) = page else { return Ok(files) };
            let (entries, next): (Vec<Entry>, _) = self.json(&address)?;
            for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
                files.push(self.file(entry)?);
            }
            page = next;
        }
        Err(self.bad_list(format!("it has more than {MOST_PAGES} pages")))
    }

    fn file(&self, entry: Entry) -> Result<RemoteFile> {
        if let Some(why) = leaves_the_folder(&entry.path) {
            return Err(HubError::UnsafeName { model: self.model.id(), file: entry.path, why });
        }
        let (id, size) = match entry.lfs {
            Some(lfs) => (BlobId::of_name(&lfs.oid).filter(|id| matches!(id, BlobId::Sha256(_))), lfs.size),
            None => (BlobId::of_name(&entry.oid).filter(|id| matches!(id, BlobId::Git(_))), entry.size),
        };
        let id = id.ok_or_else(|| self.bad_list(format!("{} has no hash", entry.path)))?;
        Ok(RemoteFile { path: entry.path, size, id })
    }

    /// Where a file of a commit is served.
    pub fn resolve(&self, commit: &str, path: &str) -> Address {
        let path = format!("{}/resolve/{commit}/{}", self.model.id(), quote(path, true));
        self.client.endpoint().below(&path)
    }

    /// A small file's bytes, checked against its hash.
    ///
    /// # Errors
    /// As [`Api::commit`], and [`HubError::Damaged`].
    pub fn read(&self, commit: &str, file: &RemoteFile) -> Result<Vec<u8>> {
        let (bytes, _) = self.patiently(&self.resolve(commit, &file.path), &file.path)?;
        let mut hasher = file.id.hasher(bytes.len() as u64);
        hasher.update(&bytes);
        let found = hasher.finish();
        if found != file.id {
            let (model, file, expected) = (self.model.id(), file.path.clone(), file.id.clone());
            return Err(HubError::Damaged { model, file, expected, found: found.to_string() });
        }
        Ok(bytes)
    }

    fn repository(&self, path: &str) -> Address {
        self.client.endpoint().below(&format!("api/models/{}/{path}", self.model.id()))
    }

    fn bad_list(&self, why: String) -> HubError {
        HubError::BadList { model: self.model.id(), why }
    }

    /// An answer in JSON, and the address of its next page.
    fn json<T: serde::de::DeserializeOwned>(&self, address: &Address) -> Result<(T, Option<Address>)> {
        let (bytes, next) = self.patiently(address, "")?;
        let why = |error: serde_json::Error| match looks_like_html(&bytes) {
            true => "it is a page in HTML".into(),
            false => format!("it is not what the API gives: {error}"),
        };
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| HubError::NotTheHub { what: address.for_people(), why: why(error) })?;
        Ok((value, next))
    }

    /// The body of a good answer. A server that is busy and connections that break are tried again; a hub that can't be reached is not, so
    /// that a machine without a network hears of it at once.
    fn patiently(&self, address: &Address, file: &str) -> Result<(Vec<u8>, Option<Address>)> {
        let what = address.for_people();
        let (mut patience, start) = (Patience::default(), Instant::now());
        loop {
            let (why, asked, status) = match self.once(address, file) {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Unreachable(why)) => return Err(self.unreachable(why)),
                Err(Failure::Cut(why)) => (why, None, None),
                Err(Failure::Busy { status, after }) => (String::new(), after, Some(status)),
            };
            let too_long = status.is_none() && start.elapsed() > 2 * self.timeout;
            if too_long || !patience.wait(asked) {
                let (tries, seconds) = (patience.tries(), asked.map_or(60, |asked| asked.as_secs()));
                return Err(match status {
                    Some(status) => HubError::Busy { what, status, tries, seconds },
                    None => self.unreachable(why),
                });
            }
        }
    }

    fn once(&self, address: &Address, file: &str) -> Result<(Vec<u8>, Option<Address>), Failure> {
        let answer = self.client.get(&Get { address, from: 0, timeout: self.timeout })?;
        if answer.status != 200 {
            return Err(Failure::Final(self.refusal(&answer, file)));
        }
        let next = self.next_page(&answer);
        let mut bytes = Vec::new();
        let mut reader = answer.body.into_reader().take(MOST_ANSWER);
        reader.read_to_end(&mut bytes).map_err(|error| Failure::Cut(error.to_string()))?;
        Ok((bytes, next))
    }

    /// The page after this one: `Link: <https://…?cursor=…>; rel="next"`. A mirror may hand on the hub's own address.
    fn next_page(&self, answer: &Answer) -> Option<Address> {
        let link = header(&answer.headers, "Link")?;
        let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
        let url = next.split_once('<')?.1.split_once('>')?.0;
        let next = answer.address.join(url).ok()?;
        let path = next.to_string();
        let query = path.split_once('?').map_or("", |(_, query)| query);
        let same = answer.address.to_string();
        let same = same.split('?').next()?;
        Address::parse(&format!("{same}?{query}")).ok()
    }

    fn unreachable(&self, why: String) -> HubError {
        HubError::Unreachable { model: self.model.id(), endpoint: self.client.endpoint().to_string(), why }
    }

    /// What a status that is no success means. `file` is empty for what is no file.
    pub fn refusal(&self, answer: &Answer, file: &str) -> HubError {
        let (model, endpoint) = (self.model.id(), self.client.endpoint().to_string());
        let token = self.client.has_token();
        let code = header(&answer.headers, "X-Error-Code").unwrap_or_default();
        let message = header(&answer.headers, "X-Error-Message").unwrap_or_default();
        let status = answer.status;
        match (code, status) {
            ("GatedRepo", _) => HubError::Gated { model, endpoint, token },
            ("RevisionNotFound", _) => {
                HubError::NoRevision { model, endpoint, revision: self.model.revision().into() }
            }
            ("EntryNotFound", _) => HubError::NoFile { model, file: file.into(), status },
            (_, 401) if message.contains("Invalid") && message.contains("Authorization") => {
                HubError::Token { model, endpoint, why: message.into() }
            }
            ("RepoNotFound", _) | (_, 401) => HubError::NoModel { model, endpoint, token },
            (_, 404) if file.is_empty() => HubError::NoModel { model, endpoint, token },
            (_, 404 | 410) => HubError::NoFile { model, file: file.into(), status },
            _ => {
                let message: String = message.chars().filter(|c| !c.is_control()).take(300).collect();
                let message = if message.is_empty() { message } else { format!(": {message}") };
                HubError::Status { what: answer.address.for_people(), status, message }
            }
        }
    }
}

/// Whether an answer begins as a page for a browser does.
pub fn looks_like_html(bytes: &[u8]) -> bool {
    bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'<')
}

/// Why a path of a repository can't be a path below a folder, by the rules of any system.
fn leaves_the_folder(path: &str) -> Option<&'static str> {
    let mut parts = path.split('/');
    if parts.any(|part| part == "..") {
        Some("which leaves the folder by '..'")
    } else if path.split('/').any(|part| part.is_empty() || part == ".") {
        Some("which is no path within a folder")
    } else if path.contains(['\\', ':']) || path.contains(char::is_control) {
        Some("which another system reads as a path elsewhere")
    } else if path.len() > 1024 || path.split('/').any(|part| part.len() > 255) {
        Some("which is too long")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for good in ["config.json", "a/b.txt", "..a", "a..b/c", "model-00001-of-00002.safetensors"] {
            assert_eq!(leaves_the_folder(good), None, "{good}");
        }
        let long = "x".repeat(300);
        for bad in
            ["../../evil.txt", "a/../b", "/etc/passwd", "", "a//b", "./a", "C:\\x", "a\\..\\b", "a\0b", &long]
        {
            assert!(leaves_the_folder(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_page_is_known_from_json() {
        assert!(looks_like_html(b"\n <!doctype html>") && !looks_like_html(b"{\"a\": \"<b>\"}"));
    }
}
