//! Asking memory for what will be read soon.

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

/// Bytes of a line of a cache.
pub const LINE: usize = 64;

/// Asks for memory that will be read soon, into the second cache: the first cache has places for some 16 lines on their way, too few
/// for the time that memory takes.
#[inline(always)]
pub fn prefetch(from: *const u8, bytes: Range<usize>) {
    for at in bytes.step_by(LINE) {
        // SAFETY: a prefetch is a hint. It reads nothing, and an address that is not mapped is ignored.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(at).cast()) }
    }
}
