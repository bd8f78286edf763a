//! Attention on x86-64: the numbers of the plain attention, with registers of 8 or 16 lanes; and, in bf16, AMX's tiles.

mod amx;
mod lanes;
mod registers;

use super::vectors::{Kept, PIECE, Queries, Segment};
use super::weigh::weigh;
use crate::backend::simd::amx::{Amx, Line, SIDE};
use crate::backend::simd::{Avx512, Isa, dispatch, prefetch};
use crate::{backend::cpu::Cpu, tensor::DType};
use registers::{add_weighted, score};
use std::{iter::repeat, ops::Range};

/// Query heads that attend together where many do it side by side.
const HEADS: usize = 64;

/// Working space.
#[derive(Default)]
pub struct Scratch {
    /// [rows · group, keys]
    scores: Vec<f32>,
    /// A piece of K or V, widened.
    wide: Vec<f32>,
    /// Queries side by side: [panel][d][16].
    panels: Vec<Line>,
    amx: amx::Scratch,
}

/// AMX, if attention multiplies bf16 by its tiles.
fn tiles(cpu: &Cpu) -> Option<Amx> {
    (cpu.isa() == Isa::Amx && cpu.dtype() == DType::BF16).then(Amx::new).flatten()
}

/// AVX-512, if there are queries for all of its lanes.
fn side_by_side(cpu: &Cpu, queries: usize) -> Option<Avx512> {
    (cpu.isa().lanes() == SIDE && queries >= SIDE).then(Avx512::new).flatten()
}

/// How many rows attend together on this CPU, if a head of K and V serves so many query heads.
pub fn rows_together(cpu: &Cpu, group: usize) -> Option<usize> {
    if tiles(cpu).is_some() {
        return Some(amx::ROWS);
    }
    side_by_side(cpu, HEADS).map(|_| (HEADS / group).max(1))
}

/// Whether a faster attention than the plain one was computed; the arguments are those of `attend_group`.
pub fn attend<'a>(
    cpu: &Cpu,
    queries: &Queries,
    segments: impl Iterator<Item = Segment<'a>> + Clone,
    scratch: &mut Scratch,
    out: &mut [f32],
) -> bool {
    let Scratch { scores, wide, panels, amx: of_tiles } = scratch;
    if let Some(amx) = tiles(cpu) {
        // SAFETY: the token proves that the CPU has these features.
        unsafe { amx::attend(amx, queries, segments, of_tiles, out) }
        return true;
    }
    let (isa, Queries { q, head_dim: d, rows, keys, scale }) = (cpu.isa(), *queries);
    if isa == Isa::Portable {
        return false;
    }
    scores.resize(q.len() / d * keys, 0.0);
    wide.resize(PIECE * d, 0.0);
    let mut at = 0;
    if let Some(simd) = side_by_side(cpu, q.len() / d).filter(|_| d.is_multiple_of(SIDE)) {
        at = lanes::score(simd, queries, segments.clone(), panels, wide, scores);
    } else {
        for (segment, next) in with_next(segments.clone(), rows) {
            let (scores, wide) = (&mut scores[at..], &mut wide[..]);
            dispatch!(isa, score(queries: &Queries<'_>, segment: Segment<'_>, next: Option<Segment<'_>>, wide: &mut [f32], scores: &mut [f32]));
            at += segment.len;
        }
    }
    assert_eq!(at, keys, "positions of the segments");
    weigh(isa, scores, rows, keys, scale);
    out.fill(0.0);
    at = 0;
    for (segment, next) in with_next(segments, rows) {
        let (weights, wide, out) = (&scores[at..], &mut wide[..], &mut *out);
        dispatch!(isa, add_weighted(queries: &Queries<'_>, weights: &[f32], segment: Segment<'_>, next: Option<Segment<'_>>, wide: &mut [f32], out: &mut [f32]));
        at += segment.len;
    }
    true
}

/// Each segment, and the one behind it for memory to be asked for: where one row decodes. What rows of a prompt read, the rows before them
/// have left in a cache.
fn with_next<'a>(
    segments: impl Iterator<Item = Segment<'a>> + Clone,
    rows: usize,
) -> impl Iterator<Item = (Segment<'a>, Option<Segment<'a>>)> {
    let next = segments.clone().skip(1).map(Some).chain(repeat(None));
    segments.zip(next.map(move |next| next.filter(|_| rows == 1)))
}

impl Kept<'_> {
    /// Asks memory for some numbers of a segment's vector: the blocks of a pool lie anywhere, and no hardware guesses where.
    #[inline(always)]
    pub(super) fn ask_for(&self, vector: usize, segment: &Segment, d: usize, numbers: Range<usize>) {
        let start = vector * segment.stride * d;
        let bytes = |size: usize| (start + numbers.start) * size..(start + numbers.end) * size;
        match self {
            Kept::F32(kept) => prefetch(kept.as_ptr().cast(), bytes(4)),
            Kept::Bf16(kept) => prefetch(kept.as_ptr().cast(), bytes(2)),
            Kept::F16(kept) => prefetch(kept.as_ptr().cast(), bytes(2)),
            Kept::Fp8 { codes, .. } => prefetch(codes.as_ptr(), bytes(1)),
        }
    }
}
