//! A few rows of x against rows of W as they are stored: a decode step.
//!
//! With one row of x, each weight is used once, so the time is that of reading W from memory. Widening a row of W into a
//! buffer first, as `matmul` does for many rows, would write and read it twice more. Here a weight is widened in a register
//! and used at once. Every product and every sum is made in the same order as there, so the bits are the same.

use super::isa::{Shape, Tile};
use crate::tensor::DType;
use std::ops::Range;

/// Rows of W that a group of outputs takes from memory together.
pub const STREAMS: usize = 4;

/// A stored number of B bytes.
trait Element<const B: usize> {
    fn widen(bytes: [u8; B]) -> f32;
}

struct F32;
impl Element<4> for F32 {
    #[inline(always)]
    fn widen(bytes: [u8; 4]) -> f32 {
        f32::from_le_bytes(bytes)
    }
}

struct Bf16;
impl Element<2> for Bf16 {
    #[inline(always)]
    fn widen(bytes: [u8; 2]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
    }
}

/// Whether [`dots`] can read this dtype. (f16 takes more instructions to widen than it saves.)
pub fn reads(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::BF16)
}

/// Which of several passes over the same rows of W this is: each asks for its share of the rows to come.
#[derive(Clone, Copy)]
pub struct Pass {
    pub index: usize,
    pub count: usize,
}

/// out[m][n] = x_m · w_n; the rows of W are the bytes of `x[0].len()` numbers. M × STREAMS sums live in registers.
#[inline(always)]
pub fn dots<S: Shape, const L: usize, const M: usize>(
    dtype: DType,
    x: [&[f32]; M],
    w: [&[u8]; STREAMS],
    pass: Pass,
) -> [[f32; STREAMS]; M] {
    match dtype {
        DType::F32 => stored_dots::<S, L, M, 4, F32>(x, w, pass),
        _ => stored_dots::<S, L, M, 2, Bf16>(x, w, pass),
    }
}

#[inline(always)]
fn stored_dots<S: Shape, const L: usize, const M: usize, const B: usize, E: Element<B>>(
    x: [&[f32]; M],
    w: [&[u8]; STREAMS],
    pass: Pass,
) -> [[f32; STREAMS]; M] {
    let x_chunks = x.map(|x| x.as_chunks::<L>());
    let w_chunks = w.map(|w| w.as_chunks::<B>().0.as_chunks::<L>());
    let count = x_chunks[0].0.len();
    let (x_full, w_full) = (x_chunks.map(|c| &c.0[..count]), w_chunks.map(|c| &c.0[..count]));
    // Row n of the tile is that of w_n, so that each weight is widened just before its use.
    let mut tile = Tile::<STREAMS, M, L>::ZERO;
    let share = STREAMS * B * L / pass.count; // bytes to ask for at each turn
    for i in 0..count {
        let at = (pass.index * count + i) * share;
        prefetch(w[0], at..at + share);
        let widened = |n: usize| w_full[n][i].map(E::widen);
        tile.multiply_add::<S>(widened, x_full.map(|x| &x[i]));
    }
    let sums = tile.rows();
    let mut out = [[0.0; STREAMS]; M];
    for n in 0..STREAMS {
        let mut rest = [0.0; L];
        let stored = w_chunks[n].1;
        rest.iter_mut().zip(stored).for_each(|(rest, w)| *rest = E::widen(*w));
        for m in 0..M {
            out[m][n] = sums[n][m].multiply_add_rest::<S>(x_chunks[m].1, &rest[..stored.len()]).sum();
        }
    }
    out
}

/// Asks for memory that will be read soon: these bytes, counted from two groups of STREAMS rows behind the first row of this one.
/// They are asked for in the order of their addresses, as memory likes it; the rows themselves are read side by side. They are asked into the
/// second cache: the first has places for some 16 lines on their way, too few for the time that memory takes (a tenth faster at 0.6B shapes).
#[inline(always)]
fn prefetch(first_row: &[u8], bytes: Range<usize>) {
    #[cfg(target_arch = "x86_64")]
    for at in bytes.step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let address = first_row.as_ptr().wrapping_add(2 * STREAMS * first_row.len() + at);
        // SAFETY: a prefetch is a hint. It reads nothing, and an address that is not mapped is ignored.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (first_row, bytes);
}
