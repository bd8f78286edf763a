//! Below step 9 GGUF files are refused.

use super::{CheckpointError, Header, Result};
use std::path::Path;

/// Refuses the file.
pub fn header(_: &[u8], path: &Path) -> Result<Header> {
    Err(CheckpointError::Gguf { path: path.into() })
}

/// Refuses the file.
pub fn small_file(_: &[u8], path: &Path, _: &str) -> Result<Option<Vec<u8>>> {
    Err(CheckpointError::Gguf { path: path.into() })
}
