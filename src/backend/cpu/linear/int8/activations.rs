//! x as integers: each block of 32 columns of a row has a scale, and its numbers are multiples of it from −127 to 127.
//!
//! ```text
//! a row:  codes, a byte a column, in chunks of 64 │ scales, an f32 a block │ scale · sum of the codes, an f32 a block
//! ```
//! That is the arithmetic of llama.cpp's Q8_0 (`quantize_row_q8_0` in `ggml-quants.c`). A row's numbers depend on no other row.

use super::super::super::{Cpu, CpuTensor};
use super::integers::CHUNK;
use crate::backend::simd::{F32, dispatch};
use crate::quant::{BLOCK, NO_INPUT};
use bytemuck::{cast_slice, cast_slice_mut};

/// In which order a chunk's columns lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Columns,
    /// That of the bytes of a chunk of 4-bit codes: see `quant/rows.rs`.
    Words,
}

/// Rows of x.
pub struct Activations {
    rows: CpuTensor,
    /// Columns of a row, in whole chunks.
    width: usize,
}

/// One row: of each chunk its codes, and of its blocks the scales and the scaled sums.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub codes: &'a [[i8; CHUNK]],
    pub scales: &'a [[f32; 2]],
    pub sums: &'a [[f32; 2]],
}

/// Floats that a row of so many columns takes: codes, scales and sums, in whole lines of a cache.
fn stride(width: usize) -> usize {
    (width / size_of::<f32>() + 2 * (width / BLOCK)).next_multiple_of(CHUNK / size_of::<f32>())
}

impl Activations {
    /// From x, [rows, inputs]. `gather`: the input of each column, where columns are not in the order of the inputs.
    pub fn new(cpu: &Cpu, x: &[f32], inputs: usize, gather: Option<&[u32]>, order: Order) -> Activations {
        let rows = x.len() / inputs;
        let columns = gather.map_or(inputs, <[u32]>::len);
        let width = columns.next_multiple_of(CHUNK);
        let gathered = gather.map(|gather| {
            let mut gathered = cpu.take(rows, columns);
            cpu.for_each_chunk(gathered.data_mut(), columns, |row, to| {
                let x = &x[row * inputs..][..inputs];
                for (to, &input) in to.iter_mut().zip(gather) {
                    *to = if input == NO_INPUT { 0.0 } else { x[input as usize] };
                }
            });
            gathered
        });
        let x = gathered.as_ref().map_or(x, CpuTensor::data);
        let (isa, stride) = (cpu.isa(), stride(width));
        let mut quantized = cpu.take(rows, stride);
        cpu.for_each_chunk(quantized.data_mut(), stride, |row, to| {
            let x = &x[row * columns..][..columns];
            let words = order == Order::Words;
            dispatch!(isa, quantize(x: &[f32], words: bool, to: &mut [f32]));
        });
        Activations { rows: quantized, width }
    }

    /// A row.
    #[inline(always)]
    pub fn row(&self, row: usize) -> Row<'_> {
        let (codes, rest) = self.rows.row(row).split_at(self.width / size_of::<f32>());
        let (scales, rest) = rest.split_at(self.width / BLOCK);
        Row {
            codes: cast_slice::<f32, i8>(codes).as_chunks().0,
            scales: scales.as_chunks().0,
            sums: rest[..self.width / BLOCK].as_chunks().0,
        }
    }
}

// ANCHOR: quantize
/// Quantises a row. Columns beyond the last one are zeros.
#[inline(always)]
fn quantize<S: F32<L>, const L: usize>(_: S, x: &[f32], words: bool, to: &mut [f32]) {
    let width = x.len().next_multiple_of(CHUNK);
    let (codes, rest) = to.split_at_mut(width / size_of::<f32>());
    let (scales, sums) = rest.split_at_mut(width / BLOCK);
    let codes = cast_slice_mut::<f32, i8>(codes).as_chunks_mut::<CHUNK>().0;
    for (chunk, codes) in codes.iter_mut().enumerate() {
        let mut in_order = [0; CHUNK];
        for half in 0..2 {
            let block = chunk * 2 + half;
            let x = &x[x.len().min(block * BLOCK)..x.len().min((block + 1) * BLOCK)];
            (scales[block], sums[block]) = quantize_block(x, &mut in_order[half * BLOCK..][..BLOCK]);
        }
        for (place, code) in codes.iter_mut().enumerate() {
            *code = in_order[if words { column_of_word(place) } else { place }];
        }
    }
}

/// Quantises the numbers of a block, and returns its scale and the scaled sum of its codes.
#[inline(always)]
fn quantize_block(x: &[f32], codes: &mut [i8]) -> (f32, f32) {
    // The largest by its bits: an infinity is larger than all numbers, and NaN than an infinity. Both make the scale, and so all products.
    let largest = x.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let mut sum = 0;
    for (code, x) in codes.iter_mut().zip(x) {
        // 1.5 · 2^23 leaves no bits behind the point, and the integer in the lowest bits: rounded to the nearest, ties to even.
        *code = (x * inverse + 12_582_912.0).to_bits() as i8;
        sum += i32::from(*code);
    }
    let scale = largest / 127.0;
    (scale, scale * sum as f32)
}
// ANCHOR_END: quantize

/// The column of a chunk that byte `place` of its low halves, then of its high ones has.
#[inline(always)]
const fn column_of_word(place: usize) -> usize {
    16 * (place % 4) + place % 32 / 4 + 8 * (place / 32)
}
