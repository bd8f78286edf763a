//! A few queries over keys, by registers of 8 or 16 numbers: two queries, or four where there are registers for their sums, meet four keys
//! at a time.

use super::super::vectors::{PIECE, Piece, Segment};
use crate::backend::simd::{F32, filled_up};

/// Keys whose scores are summed side by side.
const KEYS: usize = 4;
/// Queries at most whose numbers stay in registers together; see [`together`].
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

/// How many of the queries that are left go together: those whose sums with four others the registers hold, 2 or 4.
#[inline(always)]
fn together<const L: usize>(left: usize) -> usize {
    if left >= 4 && L == 16 {
        4
    } else if left >= 2 {
        2
    } else {
        1
    }
}

/// scores[i, t] = q_i · k_t for the keys of a segment; `scores` has `keys` columns. Two queries, or four where there are registers
/// for their sums, meet four keys at a time.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub fn score<S: F32<L>, const L: usize>(
    simd: S,
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
                let queries = together::<L>(rest.len() / d);
                let (some, others) = rest.split_at(queries * d);
                let sums = of_queries!(queries, dots::<S>(simd, some, d, k));
                for sums in &sums[..queries] {
                    scores[i * keys + start + first..][..count].copy_from_slice(&sums[..count]);
                    i += 1;
                }
                rest = others;
            }
        }
    }
}

/// q_m · k_n of M queries, each summed as [`dot`](super::attention::dot) does.
#[inline(always)]
fn dots<T: F32<L>, const L: usize, const M: usize>(
    simd: T,
    q: &[f32],
    d: usize,
    k: [&[f32]; KEYS],
) -> [[f32; KEYS]; QUERIES] {
    let row = |m: usize| q[m.min(M - 1) * d..][..d].as_chunks::<L>();
    let (x, w) = ([row(0), row(1), row(2), row(3)], k.map(|k| k.as_chunks::<L>()));
    // A variable for each query: sums in an array of rows would be kept in memory.
    let zero = [simd.zero(); KEYS];
    let (mut first, mut second, mut third, mut fourth) = (zero, zero, zero, zero);
    for i in 0..d / L {
        let w = [simd.load(&w[0].0[i]), simd.load(&w[1].0[i]), simd.load(&w[2].0[i]), simd.load(&w[3].0[i])];
        add_row(simd, &mut first, simd.load(&x[0].0[i]), &w);
        if M > 1 {
            add_row(simd, &mut second, simd.load(&x[1].0[i]), &w);
        }
        if M > 2 {
            add_row(simd, &mut third, simd.load(&x[2].0[i]), &w);
            add_row(simd, &mut fourth, simd.load(&x[3].0[i]), &w);
        }
    }
    if !d.is_multiple_of(L) {
        let w = w.map(|k| simd.load(&filled_up(k.1, 0.0)));
        add_row(simd, &mut first, simd.load(&filled_up(x[0].1, 0.0)), &w);
        add_row(simd, &mut second, simd.load(&filled_up(x[1].1, 0.0)), &w);
        add_row(simd, &mut third, simd.load(&filled_up(x[2].1, 0.0)), &w);
        add_row(simd, &mut fourth, simd.load(&filled_up(x[3].1, 0.0)), &w);
    }
    let mut sums = [simd.finish(first), [0.0; KEYS], [0.0; KEYS], [0.0; KEYS]];
    if M > 1 {
        sums[1] = simd.finish(second);
    }
    if M > 2 {
        sums[2] = simd.finish(third);
        sums[3] = simd.finish(fourth);
    }
    sums
}

/// out_i += Σ weights[i, t] · v_t over a segment, one t after the other; `weights` has `keys` columns.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub fn add_weighted<S: F32<L>, const L: usize>(
    simd: S,
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
            let queries = together::<L>(rest.len() / d);
            let (some, others) = rest.split_at_mut(queries * d);
            let ahead = next.filter(|_| i == 0).map(|next| (next, start));
            let weights = &weights[i * keys + start..];
            of_queries!(queries, add_piece::<S>(simd, weights, keys, &piece, ahead, d, some));
            (i, rest) = (i + queries, others);
        }
    }
}

/// The same for a piece and M queries.
#[inline(always)]
fn add_piece<T: F32<L>, const L: usize, const M: usize>(
    simd: T,
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
        add_registers::<T, L, WIDTH, M>(simd, weights, piece, ahead, d, col, out);
        col += WIDTH * L;
    }
    while col + L <= d {
        add_registers::<T, L, 1, M>(simd, weights, piece, ahead, d, col, out);
        col += L;
    }
    if col == d {
        return;
    }
    for (out, weights) in out.chunks_exact_mut(d).zip(weights) {
        for (t, weight) in weights.iter().enumerate() {
            let v = piece.vector(t, d);
            for col in col..d {
                out[col] = simd.multiply_add_one(*weight, v[col], out[col]);
            }
        }
    }
}

/// The same for N registers of each output, from column `col`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // plain loops keep the instruction set's features
fn add_registers<T: F32<L>, const L: usize, const N: usize, const M: usize>(
    simd: T,
    weights: [&[f32]; QUERIES],
    piece: &Piece,
    ahead: Option<(Segment, usize)>,
    d: usize,
    col: usize,
    out: &mut [f32],
) {
    let zero = [simd.zero(); N];
    let (mut first, mut second, mut third, mut fourth) =
        (load_registers(simd, &out[col..]), zero, zero, zero);
    if M > 1 {
        second = load_registers(simd, &out[d + col..]);
    }
    if M > 2 {
        third = load_registers(simd, &out[2 * d + col..]);
        fourth = load_registers(simd, &out[3 * d + col..]);
    }
    for t in 0..piece.len {
        if M <= 2
            && let Some((next, start)) = &ahead
        {
            next.v.ask_for(start + t, next, d, col..col + N * L);
        }
        let v = load_registers::<T, L, N>(simd, &piece.vector(t, d)[col..]);
        add_row(simd, &mut first, simd.load(&[weights[0][t]; L]), &v);
        if M > 1 {
            add_row(simd, &mut second, simd.load(&[weights[1][t]; L]), &v);
        }
        if M > 2 {
            add_row(simd, &mut third, simd.load(&[weights[2][t]; L]), &v);
            add_row(simd, &mut fourth, simd.load(&[weights[3][t]; L]), &v);
        }
    }
    store_registers(simd, first, &mut out[col..]);
    if M > 1 {
        store_registers(simd, second, &mut out[d + col..]);
    }
    if M > 2 {
        store_registers(simd, third, &mut out[2 * d + col..]);
        store_registers(simd, fourth, &mut out[3 * d + col..]);
    }
}

#[inline(always)]
fn load_registers<T: F32<L>, const L: usize, const N: usize>(simd: T, numbers: &[f32]) -> [T::Register; N] {
    let numbers = &numbers[..N * L].as_chunks::<L>().0[..N];
    let mut registers = [simd.load(&numbers[0]); N];
    for n in 1..N {
        registers[n] = simd.load(&numbers[n]);
    }
    registers
}

#[inline(always)]
fn store_registers<T: F32<L>, const L: usize, const N: usize>(
    simd: T,
    sums: [T::Register; N],
    numbers: &mut [f32],
) {
    let numbers = &mut numbers[..N * L].as_chunks_mut::<L>().0[..N];
    for n in 0..N {
        simd.store(sums[n], &mut numbers[n]);
    }
}

/// Adds the products of one register of numbers with N others.
#[inline(always)]
fn add_row<T: F32<L>, const L: usize, const N: usize>(
    simd: T,
    sums: &mut [T::Register; N],
    one: T::Register,
    others: &[T::Register; N],
) {
    for n in 0..N {
        sums[n] = simd.multiply_add(sums[n], one, others[n]);
    }
}
