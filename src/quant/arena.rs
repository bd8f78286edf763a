//! Memory for rewritten codes. A page of 2 MB needs a mapping of its own size, and a matrix of 4-bit codes is often smaller: with pages of 4 kB a
//! decode step waits for the page tables for a seventh of its time. So matrices share large mappings.
//!
//! Memory that a matrix gives back is kept for the next one of its size: new weights take the place of old ones.

use crate::checkpoint::CheckpointError;
use crate::{error::Result, memory::large_pages, tensor::Keep};
use memmap2::MmapMut;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{collections::BTreeMap, mem};

/// Bytes of a mapping, unless a matrix is larger.
const MAPPING: usize = 32 << 20;
/// Every piece begins at a line of a cache.
const LINE: usize = 64;

struct Arena {
    /// What is left of the last mapping.
    rest: &'static mut [u8],
    /// Pieces that were given back, by their size.
    free: BTreeMap<usize, Vec<&'static mut [u8]>>,
}

static ARENA: Mutex<Arena> = Mutex::new(Arena { rest: &mut [], free: BTreeMap::new() });

fn arena() -> MutexGuard<'static, Arena> {
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Some bytes of a mapping, of any contents.
pub struct Piece(&'static mut [u8]);

impl Piece {
    /// At least `size` bytes.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(size: usize) -> Result<Piece> {
        let size = size.next_multiple_of(LINE);
        let mut arena = arena();
        if let Some(piece) = arena.free.get_mut(&size).and_then(Vec::pop) {
            return Ok(Piece(piece));
        }
        if arena.rest.len() < size {
            // Where there is no memory for a large mapping, there may be for the piece.
            let mapping = large_pages(size.max(MAPPING)).or_else(|_| large_pages(size));
            let mapping = mapping.map_err(|error| CheckpointError::NoMemory { bytes: size, error })?;
            let mapping: &'static mut MmapMut = Box::leak(Box::new(mapping));
            arena.rest = mapping;
        }
        let (piece, rest) = mem::take(&mut arena.rest).split_at_mut(size);
        arena.rest = rest;
        Ok(Piece(piece))
    }

    /// To write to.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.0
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let piece = mem::take(&mut self.0);
        arena().free.entry(piece.len()).or_default().push(piece);
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

impl Keep for Piece {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_is_given_back_is_the_next_of_its_size() {
        let size = 3 * 4096 + 7; // no other test's
        let (mut a, b) = (Piece::new(size).unwrap(), Piece::new(size).unwrap());
        a.bytes().fill(1);
        assert!(b.as_ref().iter().all(|byte| *byte == 0) && b.as_ref().len() >= size);
        assert!(a.as_ref().as_ptr().align_offset(LINE) == 0);
        let at = a.as_ref().as_ptr();
        drop(a);
        assert_eq!(Piece::new(size).unwrap().as_ref().as_ptr(), at);
    }
}
