//! A group of query heads over K and V that are kept: the arithmetic of every CPU attention with a cache.
//!
//! The query heads of a group share one head of K and V, so they are computed together and each vector of K and V is read
//! once for some rows. Each number is computed exactly as [`attend_head`](super::attention::attend_head) does: keys in the order of
//! their positions, one by one. So a token's bits depend neither on the batch, nor on how its sequence was cut into forward passes,
//! nor on how K and V are cut into segments. Where there are many queries and registers of 16 lanes, `many_queries` computes the
//! same numbers another way.

use super::{
    Cpu,
    attention::softmax,
    isa::{Isa, Shape, dispatch},
    kept::{PIECE, Piece},
    linear::{F32Sums, Tiles, add_row},
};
use std::iter::repeat;

pub use super::kept::{Kept, Segment};

/// Working space of [`attend_group`].
#[derive(Default)]
pub struct Scratch {
    /// [rows · group, keys]
    scores: Vec<f32>,
    /// A piece of K or V, widened.
    wide: Vec<f32>,
    #[cfg(target_arch = "x86_64")]
    many: super::many_queries::Scratch,
    #[cfg(target_arch = "x86_64")]
    tiled: super::tiled::Scratch,
}

// ANCHOR: attend_group
/// out = softmax(q kᵀ · scale) v for the query heads that share these keys, of `rows` tokens that follow each other; q and out: [rows · group,
/// head_dim]. The last row sees all `keys`, the one before it one less, and so on. `segments` gives the positions in order; it is walked twice,
/// once for K and once for V.
#[allow(clippy::too_many_arguments)]
pub fn attend_group<'a>(
    cpu: &Cpu,
    q: &[f32],
    head_dim: usize,
    rows: usize,
    segments: impl Iterator<Item = Segment<'a>> + Clone,
    keys: usize,
    scale: f32,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if cpu.attends_by_tiles() {
        let scratch = &mut scratch.tiled;
        // SAFETY: the CPU has AMX where it attends by tiles.
        return unsafe { super::tiled::attend(q, head_dim, rows, segments, keys, scale, scratch, out) };
    }
    let (isa, heads, d) = (cpu.isa(), q.len() / head_dim, head_dim);
    let Scratch { scores, wide, .. } = scratch;
    scores.resize(heads * keys, 0.0);
    #[cfg(target_arch = "x86_64")]
    if super::many_queries::fits(isa, heads) && d.is_multiple_of(super::tiles::SIDE) {
        let (parts, scratch) = (super::many_queries::parts(segments), &mut scratch.many);
        // SAFETY: many queries fit where the CPU has AVX-512.
        return unsafe {
            scratch.score(q, d, &parts, keys, scores);
            weigh(isa, scores, rows, keys, scale);
            scratch.add_weighted(scores, d, &parts, keys, out);
        };
    }
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
}
// ANCHOR_END: attend_group

/// Weights of scores, [rows · group, keys].
fn weigh(isa: Isa, scores: &mut [f32], rows: usize, keys: usize, scale: f32) {
    let group = scores.len() / keys / rows;
    for (i, scores) in scores.chunks_exact_mut(keys).enumerate() {
        let (seen, later) = scores.split_at_mut(keys + 1 + i / group - rows);
        softmax(isa, scale, seen);
        later.fill(0.0); // weights of what this row does not see
    }
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

/// Keys whose scores are summed side by side.
const KEYS: usize = 4;
/// Queries at most whose numbers stay in registers together; see [`Tiles::QUERIES`].
const QUERIES: usize = 4;
/// Registers of an output that stay where they are while values pass.
const WIDTH: usize = 4;

/// Calls `$f::<…, M>(…)` for M queries: as many as a tile has, or one.
macro_rules! of_queries {
    ($queries:expr, $f:ident::<$($t:ty),*>($($arg:expr),*)) => {
        match $queries {
            4 => $f::<$($t,)* L, 4>($($arg),*),
            2 => $f::<$($t,)* L, 2>($($arg),*),
            _ => $f::<$($t,)* L, 1>($($arg),*),
        }
    };
}

/// How many of the queries that are left go together.
#[inline(always)]
fn together<S: Tiles<L>, const L: usize>(left: usize) -> usize {
    if left >= S::QUERIES {
        S::QUERIES
    } else if left >= 2 {
        2
    } else {
        1
    }
}

// ANCHOR: score
/// scores[i, t] = q_i · k_t for the keys of a segment; `scores` has `keys` columns. Two queries, or four where there are registers
/// for their sums, meet four keys at a time.
#[inline(always)]
fn score<S: Tiles<L>, const L: usize>(
    q: &[f32],
    d: usize,
    segment: Segment<'_>,
    next: Option<Segment<'_>>,
    keys: usize,
    wide: &mut [f32],
    scores: &mut [f32],
) {
    for start in (0..segment.len).step_by(PIECE) {
        let piece = segment.k.piece(start, &segment, d, wide);
        for first in (0..piece.len).step_by(KEYS) {
            let count = KEYS.min(piece.len - first);
            if let Some(next) = &next {
                (start + first..start + first + count).for_each(|t| next.k.ask_for(t, next, d, 0..d));
            }
            let last = first + count - 1;
            let k = [0, 1, 2, 3].map(|n| piece.vector(last.min(first + n), d));
            let (mut i, mut rest) = (0, q);
            while !rest.is_empty() {
                let queries = together::<S, L>(rest.len() / d);
                let (some, others) = rest.split_at(queries * d);
                let sums = of_queries!(queries, dots::<S::Sums>(some, d, k));
                for sums in &sums[..queries] {
                    scores[i * keys + start + first..][..count].copy_from_slice(&sums[..count]);
                    i += 1;
                }
                rest = others;
            }
        }
    }
}
// ANCHOR_END: score

/// q_m · k_n of M queries, each summed as [`dot`](super::attention::dot) does.
#[inline(always)]
fn dots<T: F32Sums<L>, const L: usize, const M: usize>(
    q: &[f32],
    d: usize,
    k: [&[f32]; KEYS],
) -> [[f32; KEYS]; QUERIES] {
    let row = |m: usize| q[m.min(M - 1) * d..][..d].as_chunks::<L>();
    let (x, w) = ([row(0), row(1), row(2), row(3)], k.map(|k| k.as_chunks::<L>()));
    // A variable for each query: sums in an array of rows would be kept in memory.
    let zero = [T::zero(); KEYS];
    let (mut first, mut second, mut third, mut fourth) = (zero, zero, zero, zero);
    for i in 0..d / L {
        let w = [T::load(&w[0].0[i]), T::load(&w[1].0[i]), T::load(&w[2].0[i]), T::load(&w[3].0[i])];
        add_row(&mut first, T::load(&x[0].0[i]), &w);
        if M > 1 {
            add_row(&mut second, T::load(&x[1].0[i]), &w);
        }
        if M > 2 {
            add_row(&mut third, T::load(&x[2].0[i]), &w);
            add_row(&mut fourth, T::load(&x[3].0[i]), &w);
        }
    }
    if !d.is_multiple_of(L) {
        let w = w.map(|k| T::load(&filled_up(k.1)));
        add_row(&mut first, T::load(&filled_up(x[0].1)), &w);
        add_row(&mut second, T::load(&filled_up(x[1].1)), &w);
        add_row(&mut third, T::load(&filled_up(x[2].1)), &w);
        add_row(&mut fourth, T::load(&filled_up(x[3].1)), &w);
    }
    let mut sums = [T::finish(first), [0.0; KEYS], [0.0; KEYS], [0.0; KEYS]];
    if M > 1 {
        sums[1] = T::finish(second);
    }
    if M > 2 {
        sums[2] = T::finish(third);
        sums[3] = T::finish(fourth);
    }
    sums
}

/// What does not fill a register, and zeros.
#[inline(always)]
fn filled_up<const L: usize>(rest: &[f32]) -> [f32; L] {
    let mut register = [0.0; L];
    register[..rest.len()].copy_from_slice(rest);
    register
}

/// out_i += Σ weights[i, t] · v_t over a segment, one t after the other; `weights` has `keys` columns.
#[inline(always)]
fn add_weighted<S: Tiles<L>, const L: usize>(
    weights: &[f32],
    d: usize,
    segment: Segment<'_>,
    next: Option<Segment<'_>>,
    keys: usize,
    wide: &mut [f32],
    out: &mut [f32],
) {
    for start in (0..segment.len).step_by(PIECE) {
        let piece = segment.v.piece(start, &segment, d, wide);
        let (mut i, mut rest) = (0, &mut *out);
        while !rest.is_empty() {
            let queries = together::<S, L>(rest.len() / d);
            let (some, others) = rest.split_at_mut(queries * d);
            let ahead = next.filter(|_| i == 0).map(|next| (next, start));
            let weights = &weights[i * keys + start..];
            of_queries!(queries, add_piece::<S, S::Sums>(weights, keys, &piece, ahead, d, some));
            (i, rest) = (i + queries, others);
        }
    }
}

/// The same for a piece and M queries.
#[inline(always)]
fn add_piece<S: Shape, T: F32Sums<L>, const L: usize, const M: usize>(
    weights: &[f32],
    keys: usize,
    piece: &Piece,
    ahead: Option<(Segment, usize)>,
    d: usize,
    out: &mut [f32],
) {
    let row = |m: usize| &weights[m.min(M - 1) * keys..][..piece.len];
    let weights = [row(0), row(1), row(2), row(3)];
    let mut col = 0;
    while col + WIDTH * L <= d {
        add_registers::<T, L, WIDTH, M>(weights, piece, ahead, d, col, out);
        col += WIDTH * L;
    }
    while col + L <= d {
        add_registers::<T, L, 1, M>(weights, piece, ahead, d, col, out);
        col += L;
    }
    if col == d {
        return;
    }
    for (out, weights) in out.chunks_exact_mut(d).zip(weights) {
        for (t, weight) in weights.iter().enumerate() {
            let v = piece.vector(t, d);
            for col in col..d {
                out[col] = S::multiply_add(*weight, v[col], out[col]);
            }
        }
    }
}

/// The same for N registers of each output, from column `col`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // plain loops keep the instruction set's features
fn add_registers<T: F32Sums<L>, const L: usize, const N: usize, const M: usize>(
    weights: [&[f32]; QUERIES],
    piece: &Piece,
    ahead: Option<(Segment, usize)>,
    d: usize,
    col: usize,
    out: &mut [f32],
) {
    let zero = [T::zero(); N];
    let (mut first, mut second, mut third, mut fourth) = (zero, zero, zero, zero);
    load_sums(&mut first, &out[col..]);
    if M > 1 {
        load_sums(&mut second, &out[d + col..]);
    }
    if M > 2 {
        load_sums(&mut third, &out[2 * d + col..]);
        load_sums(&mut fourth, &out[3 * d + col..]);
    }
    for t in 0..piece.len {
        if M <= 2
            && let Some((next, start)) = &ahead
        {
            next.v.ask_for(start + t, next, d, col..col + N * L);
        }
        let v = load_registers::<T, L, N>(&piece.vector(t, d)[col..]);
        add_row(&mut first, T::splat(weights[0][t]), &v);
        if M > 1 {
            add_row(&mut second, T::splat(weights[1][t]), &v);
        }
        if M > 2 {
            add_row(&mut third, T::splat(weights[2][t]), &v);
            add_row(&mut fourth, T::splat(weights[3][t]), &v);
        }
    }
    store_sums(first, &mut out[col..]);
    if M > 1 {
        store_sums(second, &mut out[d + col..]);
    }
    if M > 2 {
        store_sums(third, &mut out[2 * d + col..]);
        store_sums(fourth, &mut out[3 * d + col..]);
    }
}

#[inline(always)]
fn load_registers<T: F32Sums<L>, const L: usize, const N: usize>(numbers: &[f32]) -> [T::Register; N] {
    let numbers = &numbers[..N * L].as_chunks::<L>().0[..N];
    let mut registers = [T::load(&numbers[0]); N];
    for n in 1..N {
        registers[n] = T::load(&numbers[n]);
    }
    registers
}

#[inline(always)]
fn load_sums<T: F32Sums<L>, const L: usize, const N: usize>(sums: &mut [T; N], numbers: &[f32]) {
    let registers = load_registers::<T, L, N>(numbers);
    for n in 0..N {
        sums[n] = T::of(registers[n]);
    }
}

#[inline(always)]
fn store_sums<T: F32Sums<L>, const L: usize, const N: usize>(sums: [T; N], numbers: &mut [f32]) {
    let numbers = &mut numbers[..N * L].as_chunks_mut::<L>().0[..N];
    for n in 0..N {
        T::store(sums[n].register(), &mut numbers[n]);
    }
}

#[cfg(test)]
mod tests;
