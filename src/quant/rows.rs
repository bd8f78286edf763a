//! Rows of codes as the CPU multiplies them: what a load makes of a packed matrix.
//!
//! Tools pack codes for GPUs: GPTQ and AWQ put those of one input next to each other, SqueezeLLM too. A CPU wants an output's codes side
//! by side, and in an order from which shifts alone fill a register. So a load rewrites codes of 4 bits, and gives the file's pages back:
//!
//! ```text
//! a chunk of 64 columns = 8 words of 32 bits.  word l:  c[l] c[8+l] c[16+l] … c[56+l]   4 bits each, the first one lowest
//! register j of 8 floats = (words >> 4 j) & 15  =  c[8 j] … c[8 j + 7]
//! ```
//! Codes of 8 bits lie side by side. Where the file has them so, they are used where it is mapped.
//!
//! Columns are inputs, in the order of their groups: every block of 32 columns is of one group. Mostly the two orders are the same. Where they
//! are not (GPTQ's act-order, a group that ranks share), `gather` says which input a column has, and x is gathered before it is multiplied.

use super::arena::Piece;
use super::format::{Format, Numbers, e4m3};
use crate::{error::Result, tensor::Bytes};
use rayon::prelude::*;
use std::{ops::Range, sync::Arc};

/// Columns of a chunk.
pub const CHUNK: usize = 64;
/// Columns of a block, which are all of one group.
pub const BLOCK: usize = 32;
/// A column that has no input.
pub const NO_INPUT: u32 = u32::MAX;
/// Outputs that are rewritten together.
const TILE: usize = 64;

/// Some outputs and inputs of a packed matrix.
pub struct PackedRows {
    pub numbers: Numbers,
    pub outputs: usize,
    pub inputs: usize,
    /// Columns of a row; only the last block may be shorter than [`BLOCK`].
    pub columns: usize,
    /// The input of each column, where they are not the same.
    pub gather: Option<Arc<[u32]>>,
    /// Rows of codes, `stride` bytes from one to the next.
    pub codes: Bytes,
    pub stride: usize,
    /// The group of each block of columns, for whole chunks.
    pub group_of: Vec<u32>,
    /// Groups that the columns touch.
    pub groups: usize,
    /// [outputs, groups]; those of fp8 are 2^120 times as large.
    pub scales: Vec<f32>,
    /// [outputs, groups], for the affine kinds.
    pub offsets: Vec<f32>,
    /// [outputs, 16] for [`Numbers::Table`].
    pub tables: Vec<f32>,
    /// Numbers beside the codes: for each output (column, number).
    pub sparse: Option<Vec<Vec<(u32, f32)>>>,
}

impl PackedRows {
    /// Rewrites some outputs and inputs of a matrix.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn new(format: &impl Format, outputs: Range<usize>, inputs: Range<usize>) -> Result<PackedRows> {
        let mut order = Order::of(format, inputs.clone());
        let last = order.group_of.last().copied().unwrap_or(0);
        order.group_of.resize(order.columns.div_ceil(CHUNK) * (CHUNK / BLOCK), last);
        let numbers = format.numbers();
        let (columns, groups) = (order.columns, order.groups.len());
        let (codes, stride) = match format.bytes().filter(|_| order.gather.is_none()) {
            Some(tensor) => {
                let stride = format.shape()[1];
                let (start, end) =
                    (outputs.start * stride + inputs.start, (outputs.end - 1) * stride + inputs.end);
                (tensor.data.part(start..end), stride)
            }
            None => rewritten(format, &outputs, &inputs, &order)?,
        };
        let per_group = |value: &(dyn Fn(usize, usize) -> f32 + Sync)| -> Vec<f32> {
            let of_output = |output: usize| order.groups.iter().map(move |&group| value(output, group));
            outputs.clone().into_par_iter().flat_map_iter(of_output).collect()
        };
        let mut scales = per_group(&|output, group| format.scale(output, group));
        if numbers == Numbers::Fp8 {
            prepare_fp8(&codes, stride, columns, &order.group_of, groups, &mut scales);
        }
        let offsets = match numbers {
            Numbers::Affine4 | Numbers::Affine8 => per_group(&|output, group| format.offset(output, group)),
            _ => Vec::new(),
        };
        let tables = match numbers {
            Numbers::Table => outputs.clone().flat_map(|output| format.table(output)).collect(),
            _ => Vec::new(),
        };
        let sparse = format.is_sparse().then(|| {
            let of_output = |output: usize| {
                let mut numbers = Vec::new();
                format.sparse(output, &mut |input, number| {
                    if inputs.contains(&input) {
                        numbers.push(((input - inputs.start) as u32, number));
                    }
                });
                numbers
            };
            outputs.clone().map(of_output).collect()
        });
        if format.bytes().is_none() || order.gather.is_some() {
            format.tensors().iter().for_each(|tensor| tensor.data.release());
        }
        Ok(PackedRows {
            numbers,
            outputs: outputs.len(),
            inputs: inputs.len(),
            columns,
            gather: order.gather.map(Arc::from),
            codes,
            stride,
            group_of: order.group_of,
            groups,
            scales,
            offsets,
            tables,
            sparse,
        })
    }

    /// The numbers of one output, in the order of its inputs.
    pub fn row(&self, output: usize, numbers: &mut [f32]) {
        let mut columns = vec![0.0; self.columns];
        for (chunk, numbers) in columns.chunks_mut(CHUNK).enumerate() {
            let widened = self.chunk(output, chunk);
            numbers.copy_from_slice(&widened[..numbers.len()]);
        }
        match &self.gather {
            None => numbers.copy_from_slice(&columns[..self.inputs]),
            Some(gather) => {
                let held = gather.iter().zip(columns).filter(|(input, _)| **input != NO_INPUT);
                held.for_each(|(input, number)| numbers[*input as usize] = number);
            }
        }
        if let Some(sparse) = &self.sparse {
            sparse[output].iter().for_each(|(input, number)| numbers[*input as usize] += number);
        }
    }

    /// The numbers of a chunk of one output's columns. Columns past the last one have any numbers.
    fn chunk(&self, output: usize, chunk: usize) -> [f32; CHUNK] {
        let mut numbers = [0.0; CHUNK];
        match self.numbers {
            Numbers::Affine4 | Numbers::Table => {
                let bytes = &self.codes[output * self.stride + chunk * (CHUNK / 2)..][..CHUNK / 2];
                let (words, _) = bytes.as_chunks::<4>();
                for j in 0..8 {
                    for l in 0..8 {
                        numbers[8 * j + l] = (u32::from_le_bytes(words[l]) >> (4 * j) & 15) as f32;
                    }
                }
            }
            _ => {
                let start = output * self.stride + chunk * CHUNK;
                let held = CHUNK.min(self.columns - chunk * CHUNK);
                let codes = &self.codes[start..start + held];
                match self.numbers {
                    Numbers::Int8 => codes.iter().zip(&mut numbers).for_each(|(c, n)| *n = *c as i8 as f32),
                    Numbers::Fp8 => {
                        codes.iter().zip(&mut numbers).for_each(|(c, n)| *n = e4m3(*c) * FP8_CODES)
                    }
                    _ => codes.iter().zip(&mut numbers).for_each(|(c, n)| *n = *c as f32),
                }
            }
        }
        if self.numbers == Numbers::Table {
            let table = &self.tables[16 * output..][..16];
            numbers.iter_mut().for_each(|number| *number = table[*number as usize]);
        }
        for (block, numbers) in numbers.chunks_exact_mut(BLOCK).enumerate() {
            let at = output * self.groups + self.group_of[chunk * (CHUNK / BLOCK) + block] as usize;
            let scale = self.scales[at];
            match self.offsets.get(at) {
                Some(offset) => {
                    numbers.iter_mut().for_each(|number| *number = number.mul_add(scale, *offset))
                }
                None => numbers.iter_mut().for_each(|number| *number *= scale),
            }
        }
        numbers
    }
}

/// Kernels put an e4m3 float's bits at the places of an f32's, which is that much smaller; scales make up for it.
const FP8_CODES: f32 = f32::from_bits((127 - 120) << 23);

/// Scales of fp8 rows: times 2^120, and NaN for the groups in which a code is NaN. One NaN makes the whole product NaN, so that is the same.
fn prepare_fp8(
    codes: &[u8],
    stride: usize,
    columns: usize,
    group_of: &[u32],
    groups: usize,
    scales: &mut [f32],
) {
    scales.par_chunks_mut(groups).enumerate().for_each(|(output, scales)| {
        scales.iter_mut().for_each(|scale| *scale /= FP8_CODES);
        let row = &codes[output * stride..][..columns];
        for (block, codes) in row.chunks(BLOCK).enumerate() {
            if codes.iter().any(|code| code & 0x7f == 0x7f) {
                scales[group_of[block] as usize] = f32::NAN;
            }
        }
    });
}

/// In which order the inputs of a slice become columns.
struct Order {
    columns: usize,
    /// Of each column, counted from the slice's first input.
    gather: Option<Vec<u32>>,
    /// Which of `groups` each block is of.
    group_of: Vec<u32>,
    /// The groups that the slice touches, in their order.
    groups: Vec<usize>,
}

impl Order {
    fn of(format: &impl Format, inputs: Range<usize>) -> Order {
        let mut members: Vec<Vec<u32>> = vec![Vec::new(); format.groups()];
        for (column, input) in inputs.clone().enumerate() {
            members[format.group(input)].push(column as u32);
        }
        let groups: Vec<usize> = (0..members.len()).filter(|group| !members[*group].is_empty()).collect();
        let block_has_one = |first: usize| {
            let block = first..inputs.end.min(first + BLOCK);
            block.clone().all(|input| format.group(input) == format.group(first))
        };
        let place = |group: usize| groups.binary_search(&group).expect("a group that is touched") as u32;
        if inputs.clone().step_by(BLOCK).all(block_has_one) {
            let group_of = inputs.clone().step_by(BLOCK).map(|first| place(format.group(first))).collect();
            return Order { columns: inputs.len(), gather: None, group_of, groups };
        }
        let (mut gather, mut group_of) = (Vec::new(), Vec::new());
        for (place, &group) in groups.iter().enumerate() {
            gather.extend(&members[group]);
            gather.resize(gather.len().next_multiple_of(BLOCK), NO_INPUT);
            group_of.resize(gather.len() / BLOCK, place as u32);
        }
        Order { columns: gather.len(), gather: Some(gather), group_of, groups }
    }
}

/// Rows of codes in memory of their own, and the bytes from one to the next.
fn rewritten(
    format: &impl Format,
    outputs: &Range<usize>,
    inputs: &Range<usize>,
    order: &Order,
) -> Result<(Bytes, usize)> {
    let padded = order.columns.next_multiple_of(CHUNK);
    let bits = format.numbers().bits();
    let stride = padded * bits / 8;
    let size = outputs.len() * stride;
    let mut memory = Piece::new(size)?;
    let rows = &mut memory.bytes()[..size];
    let tiles = rows.par_chunks_mut(TILE * stride).zip(outputs.clone().into_par_iter().step_by(TILE));
    tiles.for_each_init(Vec::new, |codes: &mut Vec<u8>, (rows, first)| {
        let count = rows.len() / stride;
        codes.resize(count * inputs.len(), 0);
        format.codes(first..first + count, inputs.clone(), codes);
        let mut columns = vec![0; padded];
        for (codes, row) in codes.chunks_exact(inputs.len()).zip(rows.chunks_exact_mut(stride)) {
            match &order.gather {
                None => columns[..inputs.len()].copy_from_slice(codes),
                Some(gather) => {
                    for (column, &input) in columns.iter_mut().zip(gather) {
                        *column = if input == NO_INPUT { 0 } else { codes[input as usize] };
                    }
                }
            }
            match bits {
                4 => nibbles(&columns, row),
                _ => row.copy_from_slice(&columns),
            }
        }
    });
    Ok((Bytes::new(Arc::new(memory), 0..size), stride))
}

// ANCHOR: nibbles
/// Packs codes of 4 bits, chunk by chunk.
fn nibbles(codes: &[u8], row: &mut [u8]) {
    for (codes, words) in
        codes.as_chunks::<CHUNK>().0.iter().zip(row.as_chunks_mut::<4>().0.as_chunks_mut::<8>().0)
    {
        for (l, word) in words.iter_mut().enumerate() {
            let packed = (0..8).fold(0, |word, j| word | (codes[8 * j + l] as u32) << (4 * j));
            *word = packed.to_le_bytes();
        }
    }
}
// ANCHOR_END: nibbles
