//! How fast memory is read.

use super::{on_all_cores, threads};
use std::hint::black_box;

/// 256 bytes, four cache lines.
type Block = [u64; 32];

/// Blocks that are asked for ahead of the sum.
const AHEAD: usize = 8;

/// Bytes a second, read by all cores, each from a part of its own.
///
/// A core that walks along its part once waits for memory more often than one that walks along several pieces of it in turn: more reads are
/// under way. How many are best differs from machine to machine, so the best counts.
pub fn bandwidth(bytes: usize) -> f64 {
    let memory = vec![[1u64; 32]; bytes / size_of::<Block>()];
    let parts: Vec<&[Block]> = memory.chunks(memory.len().div_ceil(threads())).collect();
    let seconds = [sum::<1>, sum::<2>, sum::<4>, sum::<8>].map(|sum| on_all_cores(|i| sum(parts[i])));
    bytes as f64 / seconds.into_iter().fold(f64::MAX, f64::min)
}

/// Reads all of `part`, in so many pieces side by side.
fn sum<const PIECES: usize>(part: &[Block]) {
    let pieces: Vec<&[Block]> = part.chunks_exact(part.len() / PIECES).collect();
    let mut sums = [0u64; 32];
    for i in 0..pieces[0].len() {
        for piece in &pieces[..PIECES] {
            ask_for(piece.as_ptr().wrapping_add(i + AHEAD));
            for (sum, x) in sums.iter_mut().zip(&piece[i]) {
                *sum = sum.wrapping_add(*x);
            }
        }
    }
    black_box(sums);
}

/// Asks memory for a block, as the kernels do.
#[inline(always)]
fn ask_for(block: *const Block) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..size_of::<Block>() / 64 {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint. It reads nothing, and an address that is not mapped is ignored.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(block.cast::<i8>().wrapping_add(64 * line)) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = block;
}
