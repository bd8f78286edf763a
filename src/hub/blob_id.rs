//! What the hub calls a file's content: the hash that its blob is named by, in the cache too.
//!
//! A small file lies in git, and its id is git's: SHA-1 of `blob SIZE\0` and the content. A large one lies in LFS, and its id is the
//! content's SHA-256. (huggingface_hub takes either from the `ETag`.)

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fmt;

/// The id of a blob, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlobId {
    /// A git blob: 40 digits.
    Git(String),
    /// A file in LFS: 64 digits.
    Sha256(String),
}

impl BlobId {
    /// The id that a blob's file name is, by its length; `None` for another name.
    pub fn of_name(name: &str) -> Option<BlobId> {
        match name.len() {
            40 if is_hex(name) => Some(BlobId::Git(name.into())),
            64 if is_hex(name) => Some(BlobId::Sha256(name.into())),
            _ => None,
        }
    }

    /// The blob's file name.
    pub fn name(&self) -> &str {
        let (BlobId::Git(name) | BlobId::Sha256(name)) = self;
        name
    }

    /// Hashes a content of `size` bytes as this id was made.
    pub fn hasher(&self, size: u64) -> Hasher {
        match self {
            BlobId::Git(_) => Hasher::Git(Sha1::new().chain_update(format!("blob {size}\0"))),
            BlobId::Sha256(_) => Hasher::Sha256(Sha256::new()),
        }
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            BlobId::Git(id) => write!(f, "git blob {id}"),
            BlobId::Sha256(id) => write!(f, "sha256 {id}"),
        }
    }
}

/// The hash of what has been seen so far.
pub enum Hasher {
    Git(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Git(sha) => sha.update(bytes),
            Hasher::Sha256(sha) => sha.update(bytes),
        }
    }

    /// The id of everything that was seen.
    pub fn finish(self) -> BlobId {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Hasher::Git(sha) => BlobId::Git(hex(&sha.finalize())),
            Hasher::Sha256(sha) => BlobId::Sha256(hex(&sha.finalize())),
        }
    }
}

/// Whether a text is lower-case hexadecimal.
pub fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_git_and_sha256sum() {
        let id = |name: &str| {
            let mut hasher = BlobId::of_name(name).unwrap().hasher(6);
            hasher.update(b"hel");
            hasher.update(b"lo\n");
            hasher.finish()
        };
        // `printf 'hello\n' | git hash-object --stdin`, and `| sha256sum`.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!((id(git).name(), id(sha256).name()), (git, sha256));
        for bad in ["", "../../../../../../../../../../../etc/passwd", &"A".repeat(40), &"0".repeat(41)] {
            assert_eq!(BlobId::of_name(bad), None, "{bad}");
        }
    }
}
