//! GGUF's blocks where the file is mapped.

use super::{CHUNK, Chunk, Integers, Kind, Outputs};
use crate::backend::simd::LINE;
use crate::quant::gguf::{BlockBytes, SUB_BLOCK, super_blocks::q4_k_scales};
use std::{marker::PhantomData, ops::Range};

/// Rows of blocks of BYTES bytes with 32 numbers each. A chunk is two blocks.
pub struct SmallBlocks<'a, Q, const BYTES: usize> {
    rows: BlockBytes<'a>,
    /// The matrix's output that is the part's first, and the last output of the task.
    first: usize,
    last: usize,
    /// The part's blocks.
    blocks: Range<usize>,
    kind: PhantomData<Q>,
}

/// A type of such blocks.
pub trait Small<const BYTES: usize> {
    const KIND: Kind;
    const OFFSETS: bool;
    /// The codes of two blocks.
    fn codes<T: Integers<L>, const L: usize>(simd: T, first: &[u8; BYTES], second: &[u8; BYTES]) -> T::Codes;
    /// The offset of a block, from its scale.
    fn offset<T: Integers<L>, const L: usize>(_: T, _: &[u8; BYTES], _scale: f32) -> f32 {
        0.0
    }
}

pub struct Q4_0;
pub struct Q4_1;
pub struct Q8_0;

impl Small<18> for Q4_0 {
    const KIND: Kind = Kind::Unsigned;
    const OFFSETS: bool = true;

    #[inline(always)]
    fn codes<T: Integers<L>, const L: usize>(simd: T, first: &[u8; 18], second: &[u8; 18]) -> T::Codes {
        simd.halves_of_two(after(first), after(second))
    }

    #[inline(always)]
    fn offset<T: Integers<L>, const L: usize>(_: T, _: &[u8; 18], scale: f32) -> f32 {
        -8.0 * scale
    }
}

impl Small<20> for Q4_1 {
    const KIND: Kind = Kind::Unsigned;
    const OFFSETS: bool = true;

    #[inline(always)]
    fn codes<T: Integers<L>, const L: usize>(simd: T, first: &[u8; 20], second: &[u8; 20]) -> T::Codes {
        simd.halves_of_two(after(first), after(second))
    }

    #[inline(always)]
    fn offset<T: Integers<L>, const L: usize>(simd: T, block: &[u8; 20], _: f32) -> f32 {
        simd.half([block[2], block[3]])
    }
}

impl Small<34> for Q8_0 {
    const KIND: Kind = Kind::Signed;
    const OFFSETS: bool = false;

    #[inline(always)]
    fn codes<T: Integers<L>, const L: usize>(simd: T, first: &[u8; 34], second: &[u8; 34]) -> T::Codes {
        simd.bytes(after(first), after(second))
    }
}

/// The codes of a block, its last N bytes.
#[inline(always)]
fn after<const BYTES: usize, const N: usize>(block: &[u8; BYTES]) -> &[u8; N] {
    block.last_chunk().expect("a block is longer than its codes")
}

impl<'a, Q, const BYTES: usize> SmallBlocks<'a, Q, BYTES> {
    pub fn new(rows: BlockBytes<'a>, first: usize, last: usize, inputs: &Range<usize>) -> Self {
        let blocks = inputs.start / SUB_BLOCK..inputs.end / SUB_BLOCK;
        SmallBlocks { rows, first, last, blocks, kind: PhantomData }
    }
}

impl<'a, T: Integers<L>, Q: Small<BYTES>, const L: usize, const BYTES: usize> Outputs<T, L>
    for SmallBlocks<'a, Q, BYTES>
{
    /// The part's blocks.
    type Output = &'a [[u8; BYTES]];
    const KIND: Kind = Q::KIND;
    const OFFSETS: bool = Q::OFFSETS;
    const PER_LINE: usize = if BYTES < LINE / 2 { 2 } else { 1 };

    #[inline(always)]
    fn chunks(&self) -> usize {
        self.blocks.len().div_ceil(2)
    }

    #[inline(always)]
    fn output(&self, output: usize) -> Self::Output {
        let start = self.rows.start_of(self.first + output.min(self.last));
        &self.rows.bytes[start..start + self.rows.len].as_chunks().0[self.blocks.clone()]
    }

    #[inline(always)]
    fn address(&self, output: usize, chunk: usize) -> *const u8 {
        let at = self.rows.start_of(self.first + output) + (self.blocks.start + 2 * chunk) * BYTES;
        self.rows.bytes.as_ptr().wrapping_add(at)
    }

    #[inline(always)]
    fn chunk(&self, simd: T, blocks: &mut Self::Output, chunk: usize) -> Chunk<T::Codes> {
        let (first, second) = (&blocks[2 * chunk], blocks.get(2 * chunk + 1));
        let scale = simd.half([first[0], first[1]]);
        let mut scales = [scale, scale, 0.0, 0.0];
        let mut offsets = [Q::offset(simd, first, scale), 0.0];
        // Past the last block any codes will do: they are scaled with zero.
        let held = second.unwrap_or(first);
        if second.is_some() {
            let scale = simd.half([held[0], held[1]]);
            (scales[2], scales[3]) = (scale, scale);
            offsets[1] = Q::offset(simd, held, scale);
        }
        Chunk { codes: Q::codes(simd, first, held), scales, offsets }
    }
}

/// Rows of blocks of BYTES bytes with 256 numbers each. A chunk is two of its sub-blocks.
pub struct SuperBlocks<'a, Q, const BYTES: usize> {
    rows: BlockBytes<'a>,
    first: usize,
    last: usize,
    /// The chunks of the part, counted from the row's first one.
    chunks: Range<usize>,
    kind: PhantomData<Q>,
}

/// Chunks of such a block.
const PER_BLOCK: usize = 4;

/// A type of such blocks.
pub trait Super<const BYTES: usize> {
    const KIND: Kind;
    const HALVES: bool;
    const OFFSETS: bool;
    /// The scales of a block, and what else its chunks share.
    type Scales: Copy + Default;
    fn scales<T: Integers<L>, const L: usize>(simd: T, block: &[u8; BYTES]) -> Self::Scales;
    /// A chunk of a block.
    fn chunk<T: Integers<L>, const L: usize>(
        simd: T,
        block: &[u8; BYTES],
        scales: &Self::Scales,
        chunk: usize,
    ) -> Chunk<T::Codes>;
}

pub struct Q4K;
pub struct Q6K;

impl Super<144> for Q4K {
    const KIND: Kind = Kind::Unsigned;
    const HALVES: bool = false;
    const OFFSETS: bool = true;
    /// d · scale and −dmin · min of each sub-block.
    type Scales = [[f32; 8]; 2];

    #[inline(always)]
    fn scales<T: Integers<L>, const L: usize>(simd: T, block: &[u8; 144]) -> [[f32; 8]; 2] {
        q4_k_scales(block, simd.half([block[0], block[1]]), simd.half([block[2], block[3]]))
    }

    #[inline(always)]
    fn chunk<T: Integers<L>, const L: usize>(
        simd: T,
        block: &[u8; 144],
        [scales, mins]: &[[f32; 8]; 2],
        chunk: usize,
    ) -> Chunk<T::Codes> {
        let codes = block[16 + 32 * chunk..].first_chunk().expect("32 bytes");
        let (first, second) = (scales[2 * chunk], scales[2 * chunk + 1]);
        Chunk {
            codes: simd.halves(codes),
            scales: [first, first, second, second],
            offsets: [mins[2 * chunk], mins[2 * chunk + 1]],
        }
    }
}

impl Super<210> for Q6K {
    const KIND: Kind = Kind::Signed;
    const HALVES: bool = true;
    const OFFSETS: bool = false;
    /// d · scale of 16 numbers each.
    type Scales = [[f32; 4]; 4];

    #[inline(always)]
    fn scales<T: Integers<L>, const L: usize>(simd: T, block: &[u8; 210]) -> [[f32; 4]; 4] {
        let (d, mut scales) = (simd.half([block[208], block[209]]), [[0.0; 4]; 4]);
        for k in 0..16 {
            scales[k / 4][k % 4] = d * f32::from(block[192 + k] as i8);
        }
        scales
    }

    #[inline(always)]
    fn chunk<T: Integers<L>, const L: usize>(
        simd: T,
        block: &[u8; 210],
        scales: &[[f32; 4]; 4],
        chunk: usize,
    ) -> Chunk<T::Codes> {
        let half = chunk / 2;
        let low = block[64 * half..].first_chunk().expect("64 bytes");
        let high = block[128 + 32 * half..].first_chunk().expect("32 bytes");
        let codes = simd.six_bits(low, high, chunk % 2 == 1);
        Chunk { codes, scales: scales[chunk], offsets: [0.0; 2] }
    }
}

impl<'a, Q, const BYTES: usize> SuperBlocks<'a, Q, BYTES> {
    pub fn new(rows: BlockBytes<'a>, first: usize, last: usize, inputs: &Range<usize>) -> Self {
        let chunks = inputs.start / CHUNK..inputs.end / CHUNK;
        SuperBlocks { rows, first, last, chunks, kind: PhantomData }
    }
}

impl<'a, T: Integers<L>, Q: Super<BYTES>, const L: usize, const BYTES: usize> Outputs<T, L>
    for SuperBlocks<'a, Q, BYTES>
{
    /// The row's blocks, and the scales of one of them.
    type Output = (&'a [[u8; BYTES]], Q::Scales, usize);
    const KIND: Kind = Q::KIND;
    const HALVES: bool = Q::HALVES;
    const OFFSETS: bool = Q::OFFSETS;
    const PER_LINE: usize = if BYTES < 2 * LINE + LINE / 2 { 2 } else { 1 };

    #[inline(always)]
    fn chunks(&self) -> usize {
        self.chunks.len()
    }

    #[inline(always)]
    fn output(&self, output: usize) -> Self::Output {
        let start = self.rows.start_of(self.first + output.min(self.last));
        (self.rows.bytes[start..start + self.rows.len].as_chunks().0, Q::Scales::default(), usize::MAX)
    }

    #[inline(always)]
    fn address(&self, output: usize, chunk: usize) -> *const u8 {
        let at = self.rows.start_of(self.first + output) + (self.chunks.start + chunk) * BYTES / PER_BLOCK;
        self.rows.bytes.as_ptr().wrapping_add(at)
    }

    #[inline(always)]
    fn chunk(&self, simd: T, (blocks, scales, held): &mut Self::Output, chunk: usize) -> Chunk<T::Codes> {
        let chunk = self.chunks.start + chunk;
        let (at, chunk) = (chunk / PER_BLOCK, chunk % PER_BLOCK);
        if *held != at {
            (*scales, *held) = (Q::scales(simd, &blocks[at]), at);
        }
        Q::chunk(simd, &blocks[at], scales, chunk)
    }
}
