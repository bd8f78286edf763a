//! Rows of codes as a load has rewritten them, or bytes where the file is mapped: see [`PackedRows`].

use super::{CHUNK, Chunk, Integers, Kind, Outputs};
use crate::backend::simd::filled_up;
use crate::quant::{BLOCK, PackedRows};

/// Blocks of a chunk.
const BLOCKS: usize = CHUNK / BLOCK;

/// The rows of a task, as slices.
pub struct Codes<'a> {
    codes: &'a [u8],
    stride: usize,
    columns: usize,
    group_of: &'a [[u32; BLOCKS]],
    groups: usize,
    scales: &'a [f32],
    offsets: &'a [f32],
    /// The last output of the task.
    last: usize,
}

/// The codes of one output, and what makes numbers of them.
pub struct Output<'a> {
    codes: &'a [u8],
    scales: &'a [f32],
    offsets: &'a [f32],
}

impl<'a> Codes<'a> {
    pub fn new(rows: &'a PackedRows, last: usize) -> Codes<'a> {
        let PackedRows { codes, stride, columns, group_of, groups, scales, offsets, .. } = rows;
        let (stride, columns, groups) = (*stride, *columns, *groups);
        Codes { codes, stride, columns, group_of: group_of.as_chunks().0, groups, scales, offsets, last }
    }

    /// An output whose codes take so many bytes.
    #[inline(always)]
    fn output(&self, output: usize, bytes: usize) -> Output<'a> {
        let output = output.min(self.last);
        let groups = output * self.groups..(output + 1) * self.groups;
        Output {
            codes: &self.codes[output * self.stride..][..bytes],
            scales: &self.scales[groups.clone()],
            offsets: if self.offsets.is_empty() { &[] } else { &self.offsets[groups] },
        }
    }

    /// The scales and offsets of a chunk.
    #[inline(always)]
    fn numbers(&self, output: &Output, chunk: usize, has_offsets: bool) -> ([f32; 4], [f32; 2]) {
        let [a, b] = self.group_of[chunk].map(|group| group as usize);
        let (first, second) = (output.scales[a], output.scales[b]);
        let offsets = if has_offsets { [output.offsets[a], output.offsets[b]] } else { [0.0; 2] };
        ([first, first, second, second], offsets)
    }
}

/// Codes of 4 bits.
pub struct Nibbles<'a>(pub Codes<'a>);

impl<'a, T: Integers<L>, const L: usize> Outputs<T, L> for Nibbles<'a> {
    type Output = Output<'a>;
    const KIND: Kind = Kind::Words;
    const OFFSETS: bool = true;
    const PER_LINE: usize = 2;

    #[inline(always)]
    fn chunks(&self) -> usize {
        self.0.columns.div_ceil(CHUNK)
    }

    #[inline(always)]
    fn output(&self, output: usize) -> Output<'a> {
        self.0.output(output, self.0.stride)
    }

    #[inline(always)]
    fn address(&self, output: usize, chunk: usize) -> *const u8 {
        self.0.codes.as_ptr().wrapping_add(output * self.0.stride + chunk * (CHUNK / 2))
    }

    #[inline(always)]
    fn chunk(&self, simd: T, output: &mut Output<'a>, chunk: usize) -> Chunk<T::Codes> {
        let codes = output.codes[chunk * (CHUNK / 2)..].first_chunk().expect("whole chunks");
        let (scales, offsets) = self.0.numbers(output, chunk, true);
        Chunk { codes: simd.halves(codes), scales, offsets }
    }
}

/// Codes of a byte: with an offset and no sign, of which 128 is taken first, or with a sign.
pub struct Bytes<'a, const OFFSETS: bool>(pub Codes<'a>);

impl<'a, T: Integers<L>, const L: usize, const OFFSETS: bool> Outputs<T, L> for Bytes<'a, OFFSETS> {
    type Output = Output<'a>;
    const KIND: Kind = Kind::Signed;
    const OFFSETS: bool = OFFSETS;
    const PER_LINE: usize = 1;

    #[inline(always)]
    fn chunks(&self) -> usize {
        self.0.columns.div_ceil(CHUNK)
    }

    #[inline(always)]
    fn output(&self, output: usize) -> Output<'a> {
        self.0.output(output, self.0.columns)
    }

    #[inline(always)]
    fn address(&self, output: usize, chunk: usize) -> *const u8 {
        self.0.codes.as_ptr().wrapping_add(output * self.0.stride + chunk * CHUNK)
    }

    #[inline(always)]
    fn chunk(&self, simd: T, output: &mut Output<'a>, chunk: usize) -> Chunk<T::Codes> {
        let held = &output.codes[chunk * CHUNK..];
        let whole: [u8; CHUNK];
        let codes = match held.first_chunk::<CHUNK>() {
            Some(codes) => codes,
            // A row ends with its last column. x has zeros there.
            None => {
                whole = filled_up(held, 0);
                &whole
            }
        };
        let (first, second) = codes.split_at(BLOCK);
        let (first, second) = (first.first_chunk().expect("a block"), second.first_chunk().expect("a block"));
        let codes = simd.bytes(first, second);
        let (scales, mut offsets) = self.0.numbers(output, chunk, OFFSETS);
        if !OFFSETS {
            return Chunk { codes, scales, offsets };
        }
        offsets = [offsets[0] + 128.0 * scales[0], offsets[1] + 128.0 * scales[2]];
        Chunk { codes: simd.centred(codes), scales, offsets }
    }
}
