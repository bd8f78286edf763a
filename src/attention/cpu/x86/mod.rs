//! Attention on x86-64: the numbers of the plain attention, with registers of 8 or 16 lanes; and, in bf16, AMX's tiles.

mod amx;
mod lanes;
mod registers;

use super::{
    vectors::{Kept, PIECE, Segment},
    weigh::weigh,
};
use crate::{
    backend::{
        cpu::Cpu,
        simd::{Avx512, Isa, amx::SIDE, dispatch, prefetch},
    },
    tensor::DType,
};
use registers::{add_weighted, score};
use std::{iter::repeat, ops::Range};

/// Query heads that attend together where many do it side by side.
const HEADS: usize = 64;

/// Working space.
#[derive(Default)]
pub struct Scratch {
    /// A piece of K or V, widened.
    wide: Vec<f32>,
    lanes: lanes::Scratch,
    amx: amx::Scratch,
}

/// Whether attention multiplies bf16 by AMX's tiles.
fn by_amx(cpu: &Cpu) -> bool {
    cpu.isa() == Isa::Amx && cpu.dtype() == DType::BF16
}

/// How many rows attend together on this CPU, if a head of K and V serves so many query heads.
pub fn rows_together(cpu: &Cpu, group: usize) -> Option<usize> {
    if by_amx(cpu) {
        Some(amx::ROWS)
    } else if lanes::fits(cpu.isa(), HEADS) {
        Some((HEADS / group).max(1))
    } else {
        None
    }
}

/// Whether a faster attention than the plain one was computed; the arguments are those of `attend_group`.
#[allow(clippy::too_many_arguments)]
pub fn attend<'a>(
    cpu: &Cpu,
    q: &[f32],
    head_dim: usize,
    rows: usize,
    segments: impl Iterator<Item = Segment<'a>> + Clone,
    keys: usize,
    scale: f32,
    scores: &mut Vec<f32>,
    scratch: &mut Scratch,
    out: &mut [f32],
) -> bool {
    let (isa, heads, d) = (cpu.isa(), q.len() / head_dim, head_dim);
    if by_amx(cpu) {
        // SAFETY: a CPU with this instruction set has AMX: `Cpu::with_isa` refuses others.
        unsafe { amx::attend(q, d, rows, segments, keys, scale, &mut scratch.amx, out) }
        return true;
    }
    if isa == Isa::Portable {
        return false;
    }
    scores.resize(heads * keys, 0.0);
    if lanes::fits(isa, heads) && d.is_multiple_of(SIDE) && Avx512::new().is_some() {
        let (parts, scratch) = (lanes::parts(segments), &mut scratch.lanes);
        // SAFETY: the CPU has AVX-512, by the line above.
        unsafe {
            scratch.score(q, d, &parts, keys, scores);
            weigh(isa, scores, rows, keys, scale);
            scratch.add_weighted(scores, d, &parts, keys, out);
        }
        return true;
    }
    let wide = &mut scratch.wide;
    wide.resize(PIECE * d, 0.0);
    let mut at = 0;
    for (segment, next) in with_next(segments.clone(), rows) {
        let (scores, wide) = (&mut scores[at..], &mut wide[..]);
        dispatch!(isa, score(q: &[f32], d: usize, segment: Segment<'_>, next: Option<Segment<'_>>, keys: usize, wide: &mut [f32], scores: &mut [f32]));
        at += segment.len;
    }
    assert_eq!(at, keys, "positions of the segments");
    weigh(isa, scores, rows, keys, scale);
    out.fill(0.0);
    at = 0;
    for (segment, next) in with_next(segments, rows) {
        let (weights, wide, out) = (&scores[at..], &mut wide[..], &mut *out);
        dispatch!(isa, add_weighted(weights: &[f32], d: usize, segment: Segment<'_>, next: Option<Segment<'_>>, keys: usize, wide: &mut [f32], out: &mut [f32]));
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
