//! Rows of x as operands b: bf16, in pairs.

use super::{super::to_bf16, Amx, DEPTH, Line, SIDE, transpose::transpose};
use rayon::prelude::*;
use std::arch::x86_64::*;

/// Rows of x in bf16, 16 to a panel or all of them if they are fewer, `[k / 32][16 pairs][columns][2]`: an operand b is a piece of it. Zeros
/// fill up what is missing.
pub struct Panels<'a> {
    /// A tile is as many lines as it has columns.
    lines: &'a [Line],
    /// Rows of x.
    pub rows: usize,
    /// Columns of a tile.
    pub columns: usize,
    /// Steps of 32 numbers.
    pub steps: usize,
}

impl<'a> Panels<'a> {
    /// Lines that some rows need.
    pub fn lines(rows: usize, inputs: usize) -> usize {
        rows.min(SIDE) * rows.div_ceil(SIDE) * inputs.div_ceil(DEPTH)
    }

    /// Packs x: on all cores, or on this one, which may be in the middle of a task of its own.
    pub fn pack(_: Amx, x: &[f32], rows: usize, lines: &'a mut [Line], on_all_cores: bool) -> Panels<'a> {
        let (columns, inputs) = (rows.min(SIDE), x.len() / rows);
        let steps = inputs.div_ceil(DEPTH);
        let pack_one = |(x, panel): (&[f32], &mut [Line])| {
            // SAFETY: the token proves that the CPU has these features.
            unsafe { pack_panel(x, inputs, columns, panel) }
        };
        if on_all_cores {
            x.par_chunks(SIDE * inputs).zip(lines.par_chunks_mut(steps * columns)).for_each(pack_one);
        } else {
            x.chunks(SIDE * inputs).zip(lines.chunks_mut(steps * columns)).for_each(pack_one);
        }
        Panels { lines, rows, columns, steps }
    }

    /// Panels that are packed already.
    pub fn packed(lines: &'a [Line], rows: usize, steps: usize) -> Panels<'a> {
        Panels { lines, rows, columns: rows.min(SIDE), steps }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(SIDE)
    }

    /// Where a panel and the one behind it begin, from a step on; twice the same if there is none behind it.
    pub fn pair(&self, panel: usize, step: usize) -> [*const u8; 2] {
        let second = (panel + 1).min(self.count() - 1);
        [panel, second].map(|panel| self.lines[(panel * self.steps + step) * self.columns..].as_ptr().cast())
    }
}

/// A panel, step by step.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_panel(x: &[f32], inputs: usize, columns: usize, panel: &mut [Line]) {
    for (step, tile) in panel.chunks_exact_mut(columns).enumerate() {
        pack(x, inputs, step * DEPTH, columns, tile);
    }
}

/// Numbers `from` .. `from` + 32 of some rows, at most 16, as one operand b.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack(x: &[f32], inputs: usize, from: usize, columns: usize, tile: &mut [Line]) {
    let mut rows = [_mm512_setzero_si512(); SIDE];
    for (pairs, x) in rows.iter_mut().zip(x.chunks_exact(inputs)) {
        let mut rest = [0.0; DEPTH];
        let numbers = match x[from..].first_chunk::<DEPTH>() {
            Some(numbers) => numbers,
            None => {
                rest[..inputs - from].copy_from_slice(&x[from..]);
                &rest
            }
        };
        // SAFETY: 32 numbers are read.
        let (low, high) =
            unsafe { (_mm512_loadu_ps(numbers.as_ptr()), _mm512_loadu_ps(numbers.as_ptr().add(SIDE))) };
        *pairs = to_bf16(low, high);
    }
    if columns == 1 {
        // SAFETY: a tile of one column is a line.
        unsafe { _mm512_store_si512(tile[0].0.as_mut_ptr().cast(), rows[0]) }
        return;
    }
    // SAFETY: this function has AVX-512.
    let of_pair = unsafe { transpose(rows) };
    let mask = ((1u32 << columns) - 1) as u16;
    let tile = Line::bytes(tile);
    for (to, columns_of_pair) in tile.chunks_exact_mut(4 * columns).zip(of_pair) {
        // SAFETY: the mask lets `columns` pairs be written.
        unsafe { _mm512_mask_storeu_epi32(to.as_mut_ptr().cast(), mask, columns_of_pair) }
    }
}
