//! Attention of many queries by AVX-512, in f32: 16 queries lie side by side, one in each lane.
//!
//! A number of a key then meets 16 queries at once, and no sum goes across lanes. `dot` adds every 16th product to
//! one lane and at the end adds the lanes by halves. Here the same sums are made one after the other, and added in the same order: bits do not
//! tell which of the two has run.

use super::super::vectors::{PIECE, Segment};
use crate::backend::simd::{
    Isa,
    amx::{Line, SIDE, transpose},
};
use std::arch::x86_64::*;

/// Keys that meet two panels at a time: with two sums for each, they fill half of the registers.
const KEYS: usize = 4;
/// Values that pass the outputs in one go: they and some rows of weights stay in the first cache.
const VALUES: usize = 2 * PIECE;
/// Queries, and registers of each, that values pass at a time.
const QUERIES: usize = 4;
const WIDTH: usize = 4;
/// The first eight lanes in the order in which adding by halves needs them. Each is added to the one eight lanes on.
const BY_HALVES: [usize; 8] = [0, 4, 2, 6, 1, 5, 3, 7];

/// Whether there are queries for all lanes, and a CPU that has as many.
pub fn fits(isa: Isa, queries: usize) -> bool {
    isa.lanes() == SIDE && queries >= SIDE
}

/// Working space.
#[derive(Default)]
pub struct Scratch {
    /// Queries, [panel][d][16].
    panels: Vec<Line>,
    /// Values, [VALUES][d].
    values: Vec<Line>,
    /// A piece of K or V, widened.
    wide: Vec<f32>,
}

/// Up to 16 positions of a segment, from number `start` on.
pub type Part<'a> = (Segment<'a>, usize);

/// The positions in order.
pub fn parts<'a>(segments: impl Iterator<Item = Segment<'a>>) -> Vec<Part<'a>> {
    segments.flat_map(|segment| (0..segment.len).step_by(PIECE).map(move |start| (segment, start))).collect()
}

impl Scratch {
    /// scores[i, t] = q_i · k_t; q: [queries, d], `scores` has `keys` columns.
    ///
    /// # Safety
    /// The CPU must have AVX-512, and d be a multiple of 16.
    pub unsafe fn score(&mut self, q: &[f32], d: usize, parts: &[Part], keys: usize, scores: &mut [f32]) {
        let mut at = 0;
        self.wide.resize(PIECE * d, 0.0);
        // SAFETY: by the caller.
        let panels = unsafe { turn(q, d, &mut self.panels) };
        for (i, part) in parts.iter().enumerate() {
            let scores = &mut scores[at..];
            // SAFETY: by the caller.
            at += unsafe { score_part(panels, d, *part, parts.get(i + 1), keys, &mut self.wide, scores) };
        }
        assert_eq!(at, keys, "positions of the segments");
    }

    /// out_i = Σ weights[i, t] · v_t, one t after the other; `weights` has `keys` columns, out: [queries, d].
    ///
    /// # Safety
    /// The CPU must have AVX-512, and d be a multiple of 16.
    pub unsafe fn add_weighted(
        &mut self,
        weights: &[f32],
        d: usize,
        parts: &[Part],
        keys: usize,
        out: &mut [f32],
    ) {
        let mut at = 0;
        self.values.resize(VALUES * d / SIDE, Line::ZERO);
        out.fill(0.0);
        for two in parts.chunks(VALUES / PIECE) {
            let mut count = 0;
            for part in two {
                // SAFETY: by the caller.
                count += unsafe { copy(*part, d, &mut self.wide[..d], &mut self.values[count * d / SIDE..]) };
            }
            // SAFETY: by the caller.
            unsafe { add_values(&weights[at..], keys, d, &self.values[..count * d / SIDE], out) };
            at += count;
        }
    }
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
    let mut waiting = Waiting::default();
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
struct Waiting([[[__m512; KEYS]; 3]; 2]);

impl Default for Waiting {
    fn default() -> Waiting {
        // SAFETY: numbers of any bits are numbers.
        unsafe { std::mem::zeroed() }
    }
}

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
    assert!(panels.len() == COUNT * d && k.iter().all(|k| k.len() == d));
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
        let [of_a, of_b] = &mut waiting.0;
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

/// Copies values to one place: where they are kept, those of other heads lie between. Returns how many these are.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn copy((segment, start): Part, d: usize, wide: &mut [f32], values: &mut [Line]) -> usize {
    let len = PIECE.min(segment.len - start);
    for (t, to) in (start..start + len).zip(values.chunks_exact_mut(d / SIDE)) {
        let v = segment.v.vector(t * segment.stride, wide);
        for (v, to) in v.chunks_exact(SIDE).zip(to) {
            // SAFETY: 16 numbers, and a line has room for them.
            unsafe { _mm512_store_ps(to.0.as_mut_ptr().cast(), _mm512_loadu_ps(v.as_ptr())) }
        }
    }
    len
}

/// Adds some weighted values, to four queries and four registers of each at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn add_values(weights: &[f32], keys: usize, d: usize, values: &[Line], out: &mut [f32]) {
    let count = values.len() * SIDE / d;
    for (i, out) in out.chunks_mut(QUERIES * d).enumerate() {
        let last = out.len() / d - 1;
        let row = |n: usize| &weights[(QUERIES * i + last.min(n)) * keys..][..count];
        let w = [row(0), row(1), row(2), row(3)];
        if last + 1 == QUERIES {
            add_columns::<QUERIES>(w, values, out);
        } else {
            for (n, out) in out.chunks_exact_mut(d).enumerate() {
                add_columns::<1>([w[n]; QUERIES], values, out);
            }
        }
    }
}

/// The same for M queries.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn add_columns<const M: usize>(w: [&[f32]; QUERIES], values: &[Line], out: &mut [f32]) {
    let lines = out.len() / M / SIDE;
    let mut first = 0;
    while first + WIDTH <= lines {
        add_registers::<WIDTH, M>(w, &values[first..], lines, &mut out[first * SIDE..]);
        first += WIDTH;
    }
    while first < lines {
        add_registers::<1, M>(w, &values[first..], lines, &mut out[first * SIDE..]);
        first += 1;
    }
}

/// The same for N registers of each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
#[allow(clippy::needless_range_loop)] // plain loops keep the instruction set's features
fn add_registers<const N: usize, const M: usize>(
    w: [&[f32]; QUERIES],
    values: &[Line],
    lines: usize,
    out: &mut [f32],
) {
    let (count, d) = (w[0].len(), lines * SIDE);
    assert!(
        w.iter().all(|w| w.len() == count)
            && values.len() >= (count - 1) * lines + N
            && out.len() >= (M - 1) * d + N * SIDE
    );
    let (values, out) = (values.as_ptr().cast::<f32>(), out.as_mut_ptr());
    let zero = [_mm512_setzero_ps(); N];
    let mut sums = [zero; M];
    // SAFETY: N registers of each of four outputs and of each value, by the line above.
    unsafe {
        for i in 0..M {
            for n in 0..N {
                sums[i][n] = _mm512_loadu_ps(out.add(i * d + n * SIDE));
            }
        }
        for t in 0..count {
            let mut v = zero;
            for n in 0..N {
                v[n] = _mm512_load_ps(values.add((t * lines + n) * SIDE));
            }
            for i in 0..M {
                let w = _mm512_set1_ps(*w[i].get_unchecked(t));
                for n in 0..N {
                    sums[i][n] = _mm512_fmadd_ps(w, v[n], sums[i][n]);
                }
            }
        }
        for i in 0..M {
            for n in 0..N {
                _mm512_storeu_ps(out.add(i * d + n * SIDE), sums[i][n]);
            }
        }
    }
}
