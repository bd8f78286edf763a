//! Reading little-endian values one after the other. Whatever a count or a length says, nothing beyond the file is touched.

use super::super::{CheckpointError, Result};
use std::path::Path;

/// A place in the file.
#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    file: &'a [u8],
    path: &'a Path,
    /// Bytes from the beginning of the file.
    pub at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(file: &'a [u8], path: &'a Path, at: usize) -> Cursor<'a> {
        Cursor { file, path, at }
    }

    /// Bytes from here to the end of the file.
    pub fn left(&self) -> usize {
        self.file.len() - self.at
    }

    /// The next `length` bytes, which hold `what`.
    pub fn take(&mut self, length: usize, what: &str) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.file.len());
        let end = end.ok_or_else(|| CheckpointError::Truncated {
            path: self.path.into(),
            what: what.into(),
            needed: (self.at as u64).saturating_add(length as u64),
            actual: self.file.len() as u64,
        })?;
        let bytes = &self.file[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    /// The next N bytes.
    pub fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        Ok(*self.take(N, what)?.first_chunk().expect("N bytes"))
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// A count, a length or an offset: u64 in the file. One that is larger than an address is larger than the file, too.
    pub fn size(&mut self, what: &str) -> Result<usize> {
        Ok(usize::try_from(u64::from_le_bytes(self.array(what)?)).unwrap_or(usize::MAX))
    }

    /// A string's bytes: its length as u64, and that many bytes.
    pub fn string(&mut self, what: &str) -> Result<&'a [u8]> {
        let length = self.size(what)?;
        self.take(length, what)
    }

    /// A string that is UTF-8.
    pub fn text(&mut self, what: &str) -> Result<&'a str> {
        str::from_utf8(self.string(what)?).map_err(|_| self.bad(format!("{what} is not UTF-8")))
    }

    /// The error that the file is wrong.
    pub fn bad(&self, reason: String) -> CheckpointError {
        CheckpointError::BadGguf { path: self.path.into(), reason }
    }
}
