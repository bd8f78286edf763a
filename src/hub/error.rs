//! What can go wrong between a name and its files, one variant per cause. Every message is one line that says what to do.

use super::blob_id::BlobId;
use std::{io, path::PathBuf};

/// Results of this room.
pub type Result<T, E = HubError> = std::result::Result<T, E>;

/// See the module's documentation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A variable of the environment that can't be used.
    #[error("{name}: {why}")]
    Variable { name: String, why: String },
    /// `--model` or an argument that is no name on the hub.
    #[error("'{name}' is no name of a model on the hub: write ORG/NAME, or ORG/NAME@REVISION")]
    NoName { name: String },
    /// A revision that can't be one.
    #[error("revision '{revision}': a branch, a tag or a commit has no such name")]
    NoSuchName { revision: String },
    /// The network may not be used, and the cache lacks something.
    #[error(
        "{model}: {what} in the cache at {cache}, and --offline (or HF_HUB_OFFLINE) forbids to fetch it. Where there is a network: \
         stairwell pull {model} (or: hf download {model})"
    )]
    Offline { model: String, what: String, cache: PathBuf },
    /// No connection.
    #[error(
        "{model}: the hub at {endpoint} can't be reached ({why}), and the cache does not hold this model whole. Check the network, \
         HF_ENDPOINT and HTTPS_PROXY"
    )]
    Unreachable { model: String, endpoint: String, why: String },
    /// A server whose certificate is not trusted.
    #[error(
        "{address}: its certificate is not trusted ({why}). If a proxy of your network signs certificates, give its CA by \
         SSL_CERT_FILE=FILE.pem"
    )]
    Certificate { address: String, why: String },
    /// The repository is missing or private.
    #[error(
        "{model}: the hub at {endpoint} has no such model, or it is private. {}",
        token_hint(*token, "a token that may read it")
    )]
    NoModel { model: String, endpoint: String, token: bool },
    /// The repository wants its terms accepted.
    #[error(
        "{model}: the model is gated. Ask for access at {endpoint}/{model}. {}",
        token_hint(*token, "the token of the account that has it")
    )]
    Gated { model: String, endpoint: String, token: bool },
    /// The hub does not take the token.
    #[error(
        "{model}: the hub at {endpoint} refuses the token ({why}). Log in again with: hf auth login, or set HF_TOKEN"
    )]
    Token { model: String, endpoint: String, why: String },
    /// The repository has no such branch, tag or commit.
    #[error(
        "{model}: there is no revision '{revision}'; the revisions are listed at {endpoint}/{model}/tree/main"
    )]
    NoRevision { model: String, revision: String, endpoint: String },
    /// A file of the list is not served.
    #[error("{model}: the hub lists {file} and does not serve it (status {status}). Try again later")]
    NoFile { model: String, file: String, status: u16 },
    /// Any other status.
    #[error("{what}: the server answers with status {status}{message}")]
    Status { what: String, status: u16, message: String },
    /// A server that stays busy.
    #[error(
        "{what}: the server is busy (status {status}) and stayed so over {tries} tries. Try again in {seconds} s; what was \
         fetched is kept"
    )]
    Busy { what: String, status: u16, tries: u32, seconds: u64 },
    /// An answer that the hub does not give: a captive portal's page, a proxy's.
    #[error(
        "{what}: the answer is not the hub's ({why}). Does this network want a login in a browser, or is there a proxy in between?"
    )]
    NotTheHub { what: String, why: String },
    /// A redirect that is not followed.
    #[error("{from}: it redirects to {to}, which is refused: {why}")]
    Redirect { from: String, to: String, why: String },
    /// A file name that leaves the folder.
    #[error("{model}: the hub's list of files names '{file}', {why}; nothing was fetched")]
    UnsafeName { model: String, file: String, why: &'static str },
    /// A list that makes no sense.
    #[error("{model}: the hub's list of files can't be used: {why}")]
    BadList { model: String, why: String },
    /// A body with other bytes than the hub promises.
    #[error(
        "{model}: {file} is damaged: it should be {expected}, and what came is {found}. It was deleted. Pull again; if it comes \
         damaged again, something between you and the hub changes it"
    )]
    Damaged { model: String, file: String, expected: BlobId, found: String },
    /// Connections that end early, again and again.
    #[error(
        "{model}: {file} came to {got} of {size} bytes, and {tries} tries in a row brought nothing more ({why}). Pull again: it goes on \
         from there"
    )]
    Broken { model: String, file: String, got: u64, size: u64, tries: u32, why: String },
    /// Too little space, found before anything was written.
    #[error(
        "{cache}: {needed} bytes are to be written and {free} are free. Free some, or give another folder by --download-dir"
    )]
    NoSpace { cache: PathBuf, needed: u64, free: u64 },
    /// The disk ran full on the way.
    #[error(
        "{path}: the disk is full ({error}); what this pull had written was deleted. Free some space, or give another folder by \
         --download-dir"
    )]
    DiskFull { path: PathBuf, error: io::Error },
    /// No weights of a kind that this build reads.
    #[error("{model}: there are no weights that this build reads{hint}. Its files: {files}")]
    NoWeights { model: String, hint: &'static str, files: String },
    /// Several GGUF files, of which each is a model.
    #[error(
        "{model}: its weights are GGUF files, and each is a model. Choose one: stairwell pull {model} --include '{example}'. There are: {files}"
    )]
    WhichGguf { model: String, example: String, files: String },
    /// A pattern that can't be parsed, or that matches nothing.
    #[error("--include '{pattern}': {why}")]
    Include { pattern: String, why: String },
    /// Something that is not in the cache.
    #[error("{what} is not in the cache at {cache}; `stairwell cache ls` lists what is")]
    NotCached { what: String, cache: PathBuf },
    /// Something that another process downloads.
    #[error("{what}: another process downloads it just now; wait until it is done")]
    InUse { what: String },
    /// The operating system refused.
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    /// A version that is not in the store.
    #[error("{name}@{version}: there is no such version in {store}; of {name} there are: {}", or_none(known))]
    NoVersion { name: String, version: String, known: String, store: PathBuf },
    /// A version that is there already, or a tag of its name.
    #[error(
        "{name}@{version}: this version is there already, and versions never change; choose another name"
    )]
    VersionExists { name: String, version: String },
    /// A name that no version, tag or model of the store can have.
    #[error("'{name}': a name here has letters, digits, '-', '_' and '.', and is not one that is in use")]
    BadVersionName { name: String },
    /// The demo model, which is no folder.
    #[error("{name}: there are no files to save; give a model by --model")]
    NothingToSave { name: String },
    /// A file of checksums that can't be used.
    #[error(
        "--checksum {path}: {why}. Give the digest that `stairwell inspect --verify` prints (64 hexadecimal digits), or a file with what \
         `stairwell inspect --verify --json` prints"
    )]
    KnownSums { path: PathBuf, why: String },
    /// A checkpoint whose tensors hash to something else.
    #[error("{model}: these are not the weights that {source_of_sums} speaks of: {what}")]
    OtherWeights { model: PathBuf, source_of_sums: String, what: String },
    /// Files that are in the cache and can't be a model.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::CheckpointError),
}

/// What to do about a token, by whether one was sent.
fn token_hint(sent: bool, which: &str) -> String {
    let what = if sent { "The token that was sent does not open it" } else { "No token was sent" };
    format!("{what}: set HF_TOKEN to {which}, or log in with: hf auth login")
}

fn or_none(known: &str) -> &str {
    if known.is_empty() { "none" } else { known }
}

impl HubError {
    /// An error of the file system; a full disk is one of its own.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> HubError {
        let path = path.into();
        move |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => HubError::DiskFull { path, error },
            _ => HubError::Io { path, error },
        }
    }
}

impl From<HubError> for crate::error::Error {
    fn from(error: HubError) -> Self {
        match error {
            HubError::Checkpoint(error) => error.into(),
            error => crate::error::Error::Hub(Box::new(error)),
        }
    }
}
