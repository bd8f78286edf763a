//! Codes as a load has rewritten them, or bytes where the file is mapped: see [`PackedRows`].

use super::{Widens, rows::Rows};
use crate::backend::simd::{LINE, filled_up};
use crate::quant::{BLOCK, CHUNK, PackedRows};
use std::marker::PhantomData;

/// A kind of codes: it makes registers of floats of them, which are not scaled yet.
pub trait Kind: Copy {
    /// Bytes of a chunk.
    const BYTES: usize;
    /// Whether an offset is added after scaling.
    const OFFSETS: bool = false;
    /// Registers of a block, which is the first or second half of a chunk, from the chunk's bytes and the output's table.
    fn widen<T: Widens<L, C>, const L: usize, const C: usize>(
        simd: T,
        codes: &[u8],
        second: bool,
        table: &[f32],
    ) -> [T::Register; C];

    // ANCHOR: scaled
    /// The same, scaled: the numbers of a block.
    #[inline(always)]
    fn numbers<T: Widens<L, C>, const L: usize, const C: usize>(
        simd: T,
        codes: &[u8],
        second: bool,
        output: &Output,
        group: usize,
    ) -> [T::Register; C] {
        let mut numbers = Self::widen(simd, codes, second, output.table);
        let scale = simd.all(output.scales[group]);
        if Self::OFFSETS {
            let offset = simd.all(output.offsets[group]);
            for i in 0..C {
                numbers[i] = simd.multiply_add(offset, numbers[i], scale);
            }
        } else {
            for i in 0..C {
                numbers[i] = simd.multiply(numbers[i], scale);
            }
        }
        numbers
    }
    // ANCHOR_END: scaled
}

/// Codes of 4 bits are numbers.
#[derive(Clone, Copy)]
pub struct Nibbles;
/// Codes of 4 bits choose from the output's table.
#[derive(Clone, Copy)]
pub struct Looked;

impl Kind for Nibbles {
    const BYTES: usize = CHUNK / 2;
    const OFFSETS: bool = true;

    #[inline(always)]
    fn widen<T: Widens<L, C>, const L: usize, const C: usize>(
        simd: T,
        codes: &[u8],
        second: bool,
        _: &[f32],
    ) -> [T::Register; C] {
        simd.nibbles(codes.first_chunk().expect("whole chunks"), second)
    }

    #[inline(always)]
    fn numbers<T: Widens<L, C>, const L: usize, const C: usize>(
        simd: T,
        codes: &[u8],
        second: bool,
        output: &Output,
        group: usize,
    ) -> [T::Register; C] {
        let words = codes.first_chunk().expect("whole chunks");
        simd.affine(words, second, output.scales[group], output.offsets[group])
    }
}

impl Kind for Looked {
    const BYTES: usize = CHUNK / 2;

    #[inline(always)]
    fn widen<T: Widens<L, C>, const L: usize, const C: usize>(
        simd: T,
        codes: &[u8],
        second: bool,
        table: &[f32],
    ) -> [T::Register; C] {
        simd.looked_up(
            codes.first_chunk().expect("whole chunks"),
            second,
            table.first_chunk().expect("16 numbers"),
        )
    }
}

/// Kinds of which a code is a byte.
macro_rules! bytes {
    ($($kind:ident by $method:ident, $offsets:literal;)*) => {$(
        #[derive(Clone, Copy)]
        pub struct $kind;

        impl Kind for $kind {
            const BYTES: usize = CHUNK;
            const OFFSETS: bool = $offsets;

            #[inline(always)]
            fn widen<T: Widens<L, C>, const L: usize, const C: usize>(
                simd: T,
                codes: &[u8],
                second: bool,
                _: &[f32],
            ) -> [T::Register; C] {
                let start = if second { BLOCK } else { 0 };
                let (registers, _) = codes[start..start + BLOCK].as_chunks::<L>();
                let mut widened = [simd.zero(); C];
                for i in 0..C {
                    widened[i] = simd.$method(&registers[i]);
                }
                widened
            }
        }
    )*};
}
bytes! {
    Unsigned by unsigned, true;
    Signed by signed, false;
    E4m3 by e4m3, false;
}

/// Rows of codes of a task: those of [`PackedRows`] as slices, so that inner loops ask nobody where they are.
pub struct Codes<'a, Q> {
    codes: &'a [u8],
    stride: usize,
    columns: usize,
    group_of: &'a [u32],
    groups: usize,
    scales: &'a [f32],
    offsets: &'a [f32],
    tables: &'a [f32],
    /// The last output of the task.
    last: usize,
    kind: PhantomData<Q>,
}

impl<'a, Q: Kind> Codes<'a, Q> {
    pub fn new(rows: &'a PackedRows, last: usize) -> Codes<'a, Q> {
        let PackedRows { codes, stride, columns, group_of, groups, scales, offsets, tables, .. } = rows;
        let (stride, columns, groups) = (*stride, *columns, *groups);
        Codes { codes, stride, columns, group_of, groups, scales, offsets, tables, last, kind: PhantomData }
    }
}

impl<'a, T: Widens<L, C>, Q: Kind, const L: usize, const C: usize> Rows<T, L, C> for Codes<'a, Q> {
    type Output = Output<'a>;
    const PER_LINE: usize = 2 * LINE / Q::BYTES;

    #[inline(always)]
    fn columns(&self) -> usize {
        self.columns
    }

    #[inline(always)]
    fn output(&self, output: usize) -> Output<'a> {
        let output = output.min(self.last);
        // Columns of 4 bits fill whole chunks; those of a byte end with the last one.
        let bytes = if Q::BYTES == CHUNK { self.columns } else { self.stride };
        let scales = output * self.groups..(output + 1) * self.groups;
        Output {
            codes: &self.codes[output * self.stride..][..bytes],
            scales: &self.scales[scales.clone()],
            offsets: if Q::OFFSETS { &self.offsets[scales] } else { &[] },
            table: if self.tables.is_empty() { &[] } else { &self.tables[16 * output..][..16] },
        }
    }

    #[inline(always)]
    fn address(&self, output: usize) -> *const u8 {
        self.codes.as_ptr().wrapping_add(output * self.stride)
    }

    #[inline(always)]
    fn bytes_before(&self, block: usize) -> usize {
        block * Q::BYTES / 2
    }

    #[inline(always)]
    fn block(&self, simd: T, output: &mut Output<'a>, block: usize) -> [T::Register; C] {
        let codes = &output.codes[block / 2 * Q::BYTES..];
        Q::numbers(simd, codes, block % 2 == 1, output, self.group_of[block] as usize)
    }

    #[inline(always)]
    fn last_block(&self, simd: T, output: &mut Output<'a>, block: usize) -> [T::Register; C] {
        let held = &output.codes[block / 2 * Q::BYTES..];
        let whole: [u8; CHUNK] = filled_up(&held[..held.len().min(Q::BYTES)], 0);
        Q::numbers(simd, &whole, block % 2 == 1, output, self.group_of[block] as usize)
    }
}

/// The codes of one output, with what makes numbers of them.
pub struct Output<'a> {
    codes: &'a [u8],
    scales: &'a [f32],
    offsets: &'a [f32],
    table: &'a [f32],
}
