//! Attention of many queries by AVX-512, in f32: 16 queries lie side by side, one in each lane.
//!
//! A number of a key then meets 16 queries at once, and no sum goes across lanes. `dot` adds every 16th product to
//! one lane and at the end adds the lanes by halves. Here the same sums are made one after the other, and added in the same order: bits do not
//! tell which of the two has run.

use super::super::vectors::{PIECE, Queries, Segment};
use crate::backend::simd::Avx512;
use crate::backend::simd::amx::{Line, SIDE, transpose};
use std::arch::x86_64::*;

/// Keys that meet two panels at a time: with two sums for each, they fill half of the registers.
const KEYS: usize = 4;
/// The first eight lanes in the order in which adding by halves needs them. Each is added to the one eight lanes on.
const BY_HALVES: [usize; 8] = [0, 4, 2, 6, 1, 5, 3, 7];

/// Up to 16 positions of a segment, from number `start` on.
type Part<'a> = (Segment<'a>, usize);

/// scores[i, t] = q_i · k_t; `scores` has `keys` columns, and `head_dim` must be a multiple of 16. `panels` and `wide` are working space.
/// Returns how many positions the segments have.
pub fn score<'a>(
    _: Avx512,
    queries: &Queries,
    segments: impl Iterator<Item = Segment<'a>>,
    panels: &mut Vec<Line>,
    wide: &mut [f32],
    scores: &mut [f32],
) -> usize {
    let Queries { q, head_dim: d, keys, .. } = *queries;
    let pieces = |segment: Segment<'a>| (0..segment.len).step_by(PIECE).map(move |start| (segment, start));
    let (mut parts, mut at) = (segments.flat_map(pieces).peekable(), 0);
    // SAFETY: the token proves that the CPU has these features.
    let panels = unsafe { turn(q, d, panels) };
    while let Some(part) = parts.next() {
        // SAFETY: as above.
        at += unsafe { score_part(panels, d, part, parts.peek(), keys, wide, &mut scores[at..]) };
    }
    at
}

/// Queries in panels of 16, [panel][d][16]. The last query fills up what is missing.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn turn<'a>(q: &[f32], d: usize, panels: &'a mut Vec<Line>) -> &'a [Line] {
    let queries = q.len() / d;
    let count = queries.next_multiple_of(SIDE) * d / SIDE;
    panels.resize(panels.len().max(count), Line::ZERO);
    for (number, panel) in panels[..count].chunks_exact_mut(d).enumerate() {
        for (first, lines) in (0..d).step_by(SIDE).zip(panel.chunks_exact_mut(SIDE)) {
            let mut rows = [_mm512_setzero_si512(); SIDE];
            // No closure: it would be compiled without AVX-512.
            for (i, row) in rows.iter_mut().enumerate() {
                let query = (number * SIDE + i).min(queries - 1);
                // SAFETY: 16 numbers of a query.
                *row = unsafe { _mm512_loadu_si512(q[query * d + first..][..SIDE].as_ptr().cast()) };
            }
            // SAFETY: this function has AVX-512; a line is written.
            unsafe {
                for (line, column) in lines.iter_mut().zip(transpose(rows)) {
                    _mm512_store_si512(line.0.as_mut_ptr().cast(), column);
                }
            }
        }
    }
    &panels[..count]
}

/// The scores of some keys. Returns how many keys these are.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn score_part(
    panels: &[Line],
    d: usize,
    (segment, start): Part,
    next: Option<&Part>,
    keys: usize,
    wide: &mut [f32],
    scores: &mut [f32],
) -> usize {
    let piece = segment.k.piece(start, &segment, d, wide);
    let mut waiting: Waiting = [[[_mm512_setzero_ps(); KEYS]; 3]; 2];
    for (pair, panels) in panels.chunks(2 * d).enumerate() {
        let mut sums = [[_mm512_setzero_ps(); PIECE]; 2];
        for first in (0..piece.len).step_by(KEYS) {
            let mut k = [piece.vector(first, d); KEYS];
            for (n, k) in k.iter_mut().enumerate() {
                *k = piece.vector((first + n).min(piece.len - 1), d);
                if let Some((next, start)) = next
                    && pair == 0
                {
                    next.k.ask_for(start + first + n, next, d, 0..d);
                }
            }
            if panels.len() > d {
                dots::<2>(panels, d, k, &mut waiting, &mut sums, first);
            } else {
                dots::<1>(panels, d, k, &mut waiting, &mut sums, first);
            }
        }
        for (panel, sums) in sums.iter().enumerate().take(panels.len() / d) {
            write(sums, piece.len, keys, (2 * pair + panel) * SIDE, scores);
        }
    }
    piece.len
}

/// Sums of 2, 4 and 8 lanes that wait for as many others, of two panels and some keys.
type Waiting = [[[__m512; KEYS]; 3]; 2];

/// q · k of COUNT panels and some keys; the sums of key n go to `sums[panel][first + n]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn dots<const COUNT: usize>(
    panels: &[Line],
    d: usize,
    k: [&[f32]; KEYS],
    waiting: &mut Waiting,
    sums: &mut [[__m512; PIECE]; 2],
    first: usize,
) {
    assert!(panels.len() == COUNT * d && k.iter().all(|k| k.len() == d) && d.is_multiple_of(SIDE));
    let q: *const f32 = panels.as_ptr().cast();
    let zero = [_mm512_setzero_ps(); KEYS];
    for (n, lane) in BY_HALVES.into_iter().enumerate() {
        // Sums of this lane and of the one 8 lanes on, for each panel.
        let (mut a, mut a_8, mut b, mut b_8) = (zero, zero, zero, zero);
        for i in (lane..d).step_by(SIDE) {
            // SAFETY: numbers i and i + 8 of the queries and keys, which have d, a multiple of 16.
            unsafe {
                let (q, q_8) = (q.add(i * SIDE), q.add((i + 8) * SIDE));
                let (q_a, q_a_8) = (_mm512_load_ps(q), _mm512_load_ps(q_8));
                let other = (COUNT - 1) * d * SIDE;
                let (q_b, q_b_8) = (_mm512_load_ps(q.add(other)), _mm512_load_ps(q_8.add(other)));
                for key in 0..KEYS {
                    let number = _mm512_set1_ps(*k[key].get_unchecked(i));
                    let number_8 = _mm512_set1_ps(*k[key].get_unchecked(i + 8));
                    a[key] = _mm512_fmadd_ps(q_a, number, a[key]);
                    a_8[key] = _mm512_fmadd_ps(q_a_8, number_8, a_8[key]);
                    if COUNT > 1 {
                        b[key] = _mm512_fmadd_ps(q_b, number, b[key]);
                        b_8[key] = _mm512_fmadd_ps(q_b_8, number_8, b_8[key]);
                    }
                }
            }
        }
        let [of_a, of_b] = waiting;
        add_halves(n, [a, a_8], of_a, &mut sums[0][first..]);
        if COUNT > 1 {
            add_halves(n, [b, b_8], of_b, &mut sums[1][first..]);
        }
    }
}

// ANCHOR: add_halves
/// Adds two lanes, and to them what waits for them: number n of the pairs completes as many halves as its lowest bits are ones.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_halves(
    n: usize,
    [mut sums, other]: [[__m512; KEYS]; 2],
    waiting: &mut [[__m512; KEYS]; 3],
    out: &mut [__m512],
) {
    for key in 0..KEYS {
        sums[key] = _mm512_add_ps(sums[key], other[key]);
    }
    let complete = n.trailing_ones() as usize;
    for half in &waiting[..complete] {
        for key in 0..KEYS {
            sums[key] = _mm512_add_ps(half[key], sums[key]);
        }
    }
    match waiting.get_mut(complete) {
        Some(place) => *place = sums,
        None => out[..KEYS].copy_from_slice(&sums),
    }
}
// ANCHOR_END: add_halves

/// Writes what 16 queries from number `first` on have for some keys, each to its row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn write(sums: &[__m512; PIECE], count: usize, keys: usize, first: usize, scores: &mut [f32]) {
    let mut rows = [_mm512_setzero_si512(); SIDE];
    for (row, sums) in rows.iter_mut().zip(sums) {
        *row = _mm512_castps_si512(*sums);
    }
    let mask = ((1u32 << count) - 1) as u16;
    // SAFETY: this function has AVX-512.
    let rows = unsafe { transpose(rows) };
    for (row, scores) in rows.into_iter().zip(scores.chunks_mut(keys).skip(first)) {
        // SAFETY: the mask lets as many numbers be written as there are.
        unsafe { _mm512_mask_storeu_epi32(scores[..count].as_mut_ptr().cast(), mask, row) }
    }
}
