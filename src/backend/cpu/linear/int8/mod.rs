//! Products of integers (`--act-dtype int8`): activations are rounded to 8 bits, and packed weights of 4 and 8 bits stay what they are.
//!
//! ```text
//! y[t, o] = Σ over blocks of 32 columns:   scale of x · scale of W · Σ x code · W code   +   scale of x · Σ x code · offset of W
//!                                                                  integers, exact
//! ```
//! A number of W is code · scale + offset, so a block needs one sum of products of integers, and the sum of x's codes, which all outputs share.
//! Only x is rounded: by half of a block's scale at most, 1/254 of its largest number.
//!
//! Rows, outputs and instruction sets share the order of all sums, so an output has the same bits in every batch and on every CPU.

#![allow(clippy::needless_range_loop)] // plain loops keep the instruction set's features

mod activations;
mod gguf;
mod integers;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::super::{Cpu, CpuWeight};
use super::packed::PackedPart;
use super::stored::Part;
use super::tasks::{Columns, Out, TASK, Task, for_each_task};
use crate::backend::simd::dispatch;
use crate::quant::{Numbers, gguf::SUB_BLOCK};
use crate::tensor::DType;
use activations::{Activations, Order, Row};
use integers::{CHUNK, Integers};
use std::ptr;

/// Whether this build has these products.
pub const HAS: bool = true;

/// Whether a part has a product of integers: codes of 4 and 8 bits with scales, and GGUF's commonest types.
pub fn multiplies(part: &Part) -> bool {
    match part {
        Part::Packed(PackedPart::Rows(rows)) => {
            let numbers = matches!(rows.numbers, Numbers::Affine4 | Numbers::Affine8 | Numbers::Int8);
            numbers && rows.sparse.is_none()
        }
        Part::Packed(PackedPart::Blocks { blocks, inputs, .. }) => match blocks.dtype() {
            DType::Q4_0 | DType::Q4_1 | DType::Q8_0 => true,
            // A chunk of columns is a pair of sub-blocks, whose codes share bytes.
            DType::Q4_K | DType::Q6_K => {
                [inputs.start, inputs.end].iter().all(|at| at.is_multiple_of(2 * SUB_BLOCK))
            }
            _ => false,
        },
        _ => false,
    }
}

/// y = x Wᵀ for a weight whose parts all have such a product. x: [rows, inputs].
pub fn product(cpu: &Cpu, x: &[f32], weight: &CpuWeight, rows: usize, y: &[Columns]) {
    let (isa, inputs) = (cpu.isa(), x.len() / rows);
    let all = &Inputs::new(cpu, x, inputs, weight);
    for_each_task(weight, rows, inputs, y, TASK, |task| {
        let task = &task;
        let x = &all.of(task.part);
        dispatch!(isa, multiply(task: &Task<'_>, x: &X<'_>));
    });
}

/// x as the parts of a weight take it.
struct Inputs<'a>(Vec<(Order, Option<&'a [u32]>, Activations)>, usize);

/// x of one part.
struct X<'a> {
    activations: &'a Activations,
    rows: usize,
}

impl<'a> Inputs<'a> {
    fn new(cpu: &Cpu, x: &[f32], inputs: usize, weight: &'a CpuWeight) -> Inputs<'a> {
        let mut all = Inputs(Vec::new(), x.len() / inputs);
        for part in weight.parts() {
            let (order, gather) = form(part);
            if all.find(order, gather).is_none() {
                all.0.push((order, gather, Activations::new(cpu, x, inputs, gather, order)));
            }
        }
        all
    }

    fn find(&self, order: Order, gather: Option<&[u32]>) -> Option<&Activations> {
        let same = |other: Option<&[u32]>| match (other, gather) {
            (None, None) => true,
            (Some(a), Some(b)) => ptr::eq(a, b),
            _ => false,
        };
        self.0.iter().find(|(of, other, _)| *of == order && same(*other)).map(|(.., x)| x)
    }

    fn of(&self, part: &Part) -> X<'_> {
        let (order, gather) = form(part);
        X { activations: self.find(order, gather).expect("made for every part"), rows: self.1 }
    }
}

/// The order in which a part wants x, and the input of each of its columns, if that is another.
fn form(part: &Part) -> (Order, Option<&[u32]>) {
    match part {
        Part::Packed(PackedPart::Rows(rows)) => {
            let order = if rows.numbers == Numbers::Affine4 { Order::Words } else { Order::Columns };
            (order, rows.gather.as_deref())
        }
        _ => (Order::Columns, None),
    }
}

/// A chunk of an output's codes, with scales for its quarters and offsets for its blocks. Where blocks have one scale each, it is that of the
/// first and third quarter.
struct Chunk<Codes> {
    codes: Codes,
    scales: [f32; 4],
    offsets: [f32; 2],
}

/// How a kind of codes is multiplied.
#[derive(PartialEq, Eq)]
enum Kind {
    Unsigned,
    Signed,
    Words,
}

/// Outputs of a part, whose codes come in chunks.
trait Outputs<T: Integers<L>, const L: usize> {
    /// What is known of an output before its first chunk.
    type Output;
    const KIND: Kind;
    /// Whether halves of blocks have scales of their own.
    const HALVES: bool = false;
    /// Whether numbers have offsets.
    const OFFSETS: bool;
    /// Chunks that are a line of a cache, about.
    const PER_LINE: usize;
    fn chunks(&self) -> usize;
    /// An output of the part. Those past the last one of the task are the last one.
    fn output(&self, output: usize) -> Self::Output;
    /// Where a chunk of an output lies, also past the task's last one, where the next task's are.
    fn address(&self, output: usize, chunk: usize) -> *const u8;
    fn chunk(&self, simd: T, output: &mut Self::Output, chunk: usize) -> Chunk<T::Codes>;
}

/// The outputs of a task.
#[inline(always)]
fn multiply<T: Integers<L>, const L: usize>(simd: T, task: &Task<'_>, x: &X<'_>) {
    let last = task.outputs.end - 1;
    match task.part {
        Part::Packed(PackedPart::Rows(rows)) => match rows.numbers {
            Numbers::Affine4 => run(simd, task, x, &rows::Nibbles(rows::Codes::new(rows, last))),
            Numbers::Affine8 => run(simd, task, x, &rows::Bytes::<true>(rows::Codes::new(rows, last))),
            Numbers::Int8 => run(simd, task, x, &rows::Bytes::<false>(rows::Codes::new(rows, last))),
            Numbers::Fp8 | Numbers::Table => unreachable!("`multiplies` said so"),
        },
        Part::Packed(PackedPart::Blocks { blocks, outputs, inputs }) => {
            let (first, rows) = (outputs.start, blocks.bytes());
            macro_rules! run_type {
                ($rows:ident<$type:ident, $bytes:literal>) => {
                    run(simd, task, x, &gguf::$rows::<gguf::$type, $bytes>::new(rows, first, last, inputs))
                };
            }
            match blocks.dtype() {
                DType::Q4_0 => run_type!(SmallBlocks<Q4_0, 18>),
                DType::Q4_1 => run_type!(SmallBlocks<Q4_1, 20>),
                DType::Q8_0 => run_type!(SmallBlocks<Q8_0, 34>),
                DType::Q4_K => run_type!(SuperBlocks<Q4K, 144>),
                DType::Q6_K => run_type!(SuperBlocks<Q6K, 210>),
                other => unreachable!("`multiplies` refuses {other}"),
            }
        }
        _ => unreachable!("`multiplies` said so"),
    }
}

/// Outputs that are multiplied together, or rows of x: a tile has four sums, which stay in registers.
const TILE: usize = 4;
/// How many fours of outputs ahead codes are asked for.
const AHEAD: usize = 4;

/// All rows of x against the outputs of a task. No closures on the way: they would be compiled without the instruction set's features.
#[inline(always)]
fn run<T: Integers<L>, W: Outputs<T, L>, const L: usize>(simd: T, task: &Task<'_>, x: &X<'_>, w: &W) {
    for first in task.outputs.clone().step_by(TILE) {
        let out = &task.out.from(first - task.outputs.start);
        let mut row = 0;
        while row < x.rows {
            match x.rows - row {
                1 => {
                    tiles::<T, W, L, 1, 4>(simd, w, x, row, first, out);
                    row += 1;
                }
                2 | 3 => {
                    tiles::<T, W, L, 2, 2>(simd, w, x, row, first, out);
                    row += 2;
                }
                _ => {
                    tiles::<T, W, L, 4, 1>(simd, w, x, row, first, out);
                    row += 4;
                }
            }
        }
    }
}

/// M rows of x from number `row` on against four outputs, N at a time.
#[inline(always)]
fn tiles<T: Integers<L>, W: Outputs<T, L>, const L: usize, const M: usize, const N: usize>(
    simd: T,
    w: &W,
    x: &X<'_>,
    row: usize,
    first: usize,
    out: &Out,
) {
    let mut rows = [x.activations.row(row); M];
    for m in 1..M {
        rows[m] = x.activations.row(row + m);
    }
    for n in (0..TILE).step_by(N) {
        let sums = tile::<T, W, L, M, N>(simd, w, rows, first + n);
        for m in 0..M {
            out.from(n).write(row + m, sums[m]);
        }
    }
}

// ANCHOR: tile
/// M rows of x against N outputs.
#[inline(always)]
fn tile<T: Integers<L>, W: Outputs<T, L>, const L: usize, const M: usize, const N: usize>(
    simd: T,
    w: &W,
    x: [Row<'_>; M],
    first: usize,
) -> [[f32; N]; M] {
    let (mut sums, mut offsets) = ([[simd.zero(); N]; M], [[0.0; N]; M]);
    let chunks = w.chunks();
    // Slices of one length spare the loop checks.
    let mut rows = x;
    for m in 0..M {
        let Row { codes, scales, sums } = x[m];
        rows[m] = Row { codes: &codes[..chunks], scales: &scales[..chunks], sums: &sums[..chunks] };
    }
    let mut outputs = [w.output(first), w.output(first + 1), w.output(first + 2), w.output(first + 3)];
    for chunk in 0..chunks {
        for n in 0..N {
            if chunk.is_multiple_of(W::PER_LINE) {
                simd.prefetch(w.address(first + n + AHEAD * TILE, chunk));
            }
            let w = w.chunk(simd, &mut outputs[n], chunk);
            for m in 0..M {
                let (x, [a, b]) = (&rows[m].codes[chunk], rows[m].scales[chunk]);
                let products = match W::KIND {
                    Kind::Unsigned => simd.unsigned(w.codes, x),
                    Kind::Signed => simd.signed(w.codes, x),
                    Kind::Words => simd.words(w.codes, x),
                };
                let [p, q, r, s] = w.scales;
                sums[m][n] = match W::HALVES {
                    true => simd.add_halves(sums[m][n], products, [p * a, q * a, r * b, s * b]),
                    false => simd.add(sums[m][n], products, [p * a, r * b]),
                };
                if W::OFFSETS {
                    let [a, b] = rows[m].sums[chunk];
                    offsets[m][n] = offsets[m][n] + w.offsets[0] * a + w.offsets[1] * b;
                }
            }
        }
    }
    let mut totals = offsets;
    for m in 0..M {
        for n in 0..N {
            totals[m][n] = simd.total(sums[m][n]) + offsets[m][n];
        }
    }
    totals
}
// ANCHOR_END: tile
