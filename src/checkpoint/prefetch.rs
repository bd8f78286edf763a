//! Bringing mapped weights into memory ahead of their first use, several shards at a time.
//!
//! A mapped tensor is read from disk page by page when it is first touched, in the middle of the first forward pass and on one
//! thread at a time. Touching the pages first, shard by shard on all cores, reads at the disk's speed and can show progress.

use crate::tensor::Bytes;
use rayon::prelude::*;
use std::hint::black_box;

/// Bytes between two touches; no system has smaller pages.
const PAGE: usize = 4096;
/// Bytes of one task.
const CHUNK: usize = 16 << 20;

/// Touches every page of these parts of mapped files. `done` is told the bytes after each chunk.
pub fn prefetch(parts: &[Bytes], done: impl Fn(u64) + Sync) {
    parts.par_iter().flat_map(|part| part.par_chunks(CHUNK)).for_each(|chunk| {
        for byte in chunk.iter().step_by(PAGE) {
            black_box(*byte);
        }
        done(chunk.len() as u64);
    });
}
