//! Products with packed weights: a chunk of codes is widened to registers of f32 when it is needed.
//!
//! With up to four rows of x (a decode step), the registers are multiplied at once: the time is that of reading the codes, and of the five
//! instructions that make 8 numbers of them and multiply. With more rows, a block of a panel of W is widened into the first cache, and the
//! micro-kernel of dense weights takes it from there. Both add the products of an output in the same order, so a row's bits do not depend
//! on how many rows there are.

#![allow(clippy::needless_range_loop)] // plain loops keep the instruction set's features

mod widen;

pub use widen::Widens;

use super::super::super::{Cpu, CpuTensor, CpuWeight};
use super::super::{packed::PackedPart, stored::Part, tasks::Out, tasks::Task};
use super::macro_kernel::{self, Operand};
use super::micro_kernel::{self, IN_PLACE, PackedBlock, Waiting, load};
use super::{fill_f32, pack::Panels};
use crate::backend::simd::{F32, LINE, add_row, filled_up, of_rows, prefetch};
use crate::quant::{BLOCK, CHUNK, NO_INPUT, Numbers, PackedRows};
use std::{marker::PhantomData, ops::Range, ptr};

/// What codes are, before they are scaled.
trait Kind: Copy {
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
}

/// Codes of 4 bits are numbers.
#[derive(Clone, Copy)]
struct Nibbles;
/// Codes of 4 bits choose from the output's table.
#[derive(Clone, Copy)]
struct Looked;

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
        struct $kind;

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

/// Whether a part has a product here.
pub fn has_product(part: &Part) -> bool {
    matches!(part, Part::Dense(_) | Part::Packed(PackedPart::Rows(_)))
}

/// x for parts whose columns are not in the order of the inputs.
pub struct Gathered<'a>(Vec<(&'a PackedRows, usize, CpuTensor)>);

impl<'a> Gathered<'a> {
    pub fn new(cpu: &Cpu, x: &[f32], inputs: usize, weight: &'a CpuWeight) -> Gathered<'a> {
        let rows = x.len() / inputs;
        let packed = weight.parts().filter_map(|part| match part {
            Part::Packed(PackedPart::Rows(packed)) => Some((packed, packed.gather.as_ref()?)),
            _ => None,
        });
        let in_order = packed.map(|(packed, gather)| {
            let mut columns = cpu.take(rows, packed.columns);
            cpu.for_each_chunk(columns.data_mut(), packed.columns, |row, columns| {
                let x = &x[row * inputs..][..inputs];
                for (column, &input) in columns.iter_mut().zip(&**gather) {
                    *column = if input == NO_INPUT { 0.0 } else { x[input as usize] };
                }
            });
            let mut panels = cpu.take(rows, packed.columns);
            fill_f32(cpu.isa(), columns.data(), packed.columns, panels.data_mut());
            (packed, rows, panels)
        });
        Gathered(in_order.collect())
    }

    /// Those of a part.
    pub fn panels(&self, part: &Part) -> Option<Panels<'_, f32>> {
        let Part::Packed(PackedPart::Rows(rows)) = part else { return None };
        let (packed, rows, panels) = self.0.iter().find(|(packed, ..)| ptr::eq(*packed, rows))?;
        Some(Panels::new(panels.data(), *rows, packed.columns))
    }
}

/// The outputs of a task of a packed part.
#[inline(always)]
pub fn task<
    T: Widens<L, C>,
    const L: usize,
    const C: usize,
    const N: usize,
    const R: usize,
    const K: usize,
>(
    simd: T,
    task: &Task,
    part: &PackedPart,
    panels: &Panels<f32>,
) {
    let PackedPart::Rows(rows) = part else { unreachable!("has_product said so") };
    match rows.numbers {
        Numbers::Affine4 => run::<T, Nibbles, L, C, N, R, K>(simd, task, rows, panels),
        Numbers::Table => run::<T, Looked, L, C, N, R, K>(simd, task, rows, panels),
        Numbers::Affine8 => run::<T, Unsigned, L, C, N, R, K>(simd, task, rows, panels),
        Numbers::Int8 => run::<T, Signed, L, C, N, R, K>(simd, task, rows, panels),
        Numbers::Fp8 => run::<T, E4m3, L, C, N, R, K>(simd, task, rows, panels),
    }
}

#[inline(always)]
fn run<
    T: Widens<L, C>,
    Q: Kind,
    const L: usize,
    const C: usize,
    const N: usize,
    const R: usize,
    const K: usize,
>(
    simd: T,
    task: &Task,
    rows: &PackedRows,
    panels: &Panels<f32>,
) {
    let w = Codes::<Q, C>::new(rows, task.outputs.end - 1);
    macro_kernel::task::<T, _, L, N, R, K>(simd, task, &w, panels);
    if let Some(sparse) = &rows.sparse {
        for (n, output) in task.outputs.clone().enumerate() {
            add_sparse::<T, L>(simd, &sparse[output], panels, &task.out.from(n));
        }
    }
}

/// Adds the numbers beside the codes of one output.
#[inline(always)]
fn add_sparse<T: F32<L>, const L: usize>(simd: T, numbers: &[(u32, f32)], panels: &Panels<f32>, out: &Out) {
    for row in 0..panels.rows {
        // SAFETY: `row` checks the place; the task has its columns to itself, and has written them.
        let mut sum = unsafe { out.row(row).read() };
        for &(column, number) in numbers {
            sum = simd.multiply_add_one(panels.number::<L>(row, column as usize), number, sum);
        }
        out.write(row, [sum]);
    }
}

/// Rows of codes of a task: those of [`PackedRows`] as slices, so that inner loops ask nobody where they are. C registers are a block.
struct Codes<'a, Q, const C: usize> {
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

impl<'a, Q: Kind, const C: usize> Codes<'a, Q, C> {
    fn new(rows: &'a PackedRows, last: usize) -> Codes<'a, Q, C> {
        let PackedRows { codes, stride, columns, group_of, groups, scales, offsets, tables, .. } = rows;
        let (stride, columns, groups) = (*stride, *columns, *groups);
        Codes { codes, stride, columns, group_of, groups, scales, offsets, tables, last, kind: PhantomData }
    }

    /// One output.
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

    /// A block of an output, as numbers.
    #[inline(always)]
    fn block<T: Widens<L, C>, const L: usize>(
        &self,
        simd: T,
        output: &Output,
        block: usize,
    ) -> [T::Register; C] {
        let codes = &output.codes[block / 2 * Q::BYTES..];
        self.scaled(simd, Q::widen(simd, codes, block % 2 == 1, output.table), output, block)
    }

    /// The last block of an output, if it is not whole. Columns past the last one have any numbers.
    #[inline(always)]
    fn last_block<T: Widens<L, C>, const L: usize>(
        &self,
        simd: T,
        output: &Output,
        block: usize,
    ) -> [T::Register; C] {
        let held = &output.codes[block / 2 * Q::BYTES..];
        let whole: [u8; CHUNK] = filled_up(&held[..held.len().min(Q::BYTES)], 0);
        self.scaled(simd, Q::widen(simd, &whole, block % 2 == 1, output.table), output, block)
    }

    #[inline(always)]
    fn scaled<T: Widens<L, C>, const L: usize>(
        &self,
        simd: T,
        mut numbers: [T::Register; C],
        output: &Output,
        block: usize,
    ) -> [T::Register; C] {
        let group = self.group_of[block] as usize;
        let scale = simd.all(output.scales[group]);
        if Q::OFFSETS {
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
}

/// The codes of one output, with what makes numbers of them.
struct Output<'a> {
    codes: &'a [u8],
    scales: &'a [f32],
    offsets: &'a [f32],
    table: &'a [f32],
}

impl<T: Widens<L, C>, Q: Kind, const L: usize, const C: usize> Operand<T, L> for Codes<'_, Q, C> {
    // With more rows, chunks would be widened again for each panel of x.
    const FEW: usize = 4;

    #[inline(always)]
    fn registers(&self) -> usize {
        self.columns.div_ceil(L)
    }

    #[inline(always)]
    fn in_place<const N: usize>(&self, simd: T, panels: &Panels<f32>, first: usize, out: &Out) {
        of_rows!(panels.rows, few_rows::<T, Q, L, C>(simd, self, panels, first, out));
    }

    #[inline(always)]
    fn block<const N: usize, const R: usize, const K: usize>(
        &self,
        simd: T,
        panels: &Panels<f32>,
        some: Range<usize>,
        first: usize,
        block: Range<usize>,
        packed: &mut PackedBlock<f32, L, R, K>,
        waiting: &mut Waiting<T::Sums, N>,
        out: &Out,
    ) {
        for n in 0..R {
            let output = self.output(first + n);
            for start in (0..block.len()).step_by(C) {
                let of_32 = (block.start + start) / C;
                let numbers = match (of_32 + 1) * BLOCK <= self.columns {
                    true => self.block::<T, L>(simd, &output, of_32),
                    false => self.last_block::<T, L>(simd, &output, of_32),
                };
                for i in 0..C.min(block.len() - start) {
                    simd.store(numbers[i], &mut packed.0[start + i][n]);
                }
            }
        }
        let last = block.end == Operand::<T, L>::registers(self);
        micro_kernel::packed_block(simd, panels, some, block, last, packed, waiting, out);
    }
}

/// How many fours of outputs ahead codes are asked for.
const AHEAD: usize = 4;

/// M rows of x against four outputs. The chains of additions of the four are independent, so one waits while the others go on.
#[inline(always)]
fn few_rows<T: Widens<L, C>, Q: Kind, const L: usize, const C: usize, const M: usize>(
    simd: T,
    w: &Codes<Q, C>,
    panels: &Panels<f32>,
    first: usize,
    out: &Out,
) {
    let x = panels.panel::<L, M>(0);
    let (x, rest) = x.split_at(w.columns / BLOCK * C);
    let x = x.as_chunks::<C>().0;
    let next = w.codes.as_ptr().wrapping_add((first + AHEAD * IN_PLACE) * w.stride);
    let outputs = [w.output(first), w.output(first + 1), w.output(first + 2), w.output(first + 3)];
    let [mut a, mut b, mut c, mut d] = [[simd.zero(); M]; IN_PLACE];
    // Not a loop over the four: their sums stay in registers only if each has a name.
    for (block, x) in x.iter().enumerate() {
        let bytes = block * Q::BYTES / 2;
        if bytes.is_multiple_of(LINE) {
            for n in 0..IN_PLACE {
                prefetch(next.wrapping_add(n * w.stride + bytes), 0..1);
            }
        }
        a = add_block(simd, w.block(simd, &outputs[0], block), x, a);
        b = add_block(simd, w.block(simd, &outputs[1], block), x, b);
        c = add_block(simd, w.block(simd, &outputs[2], block), x, c);
        d = add_block(simd, w.block(simd, &outputs[3], block), x, d);
    }
    let mut sums = [a, b, c, d];
    if !rest.is_empty() {
        for n in 0..IN_PLACE {
            let numbers = w.last_block(simd, &outputs[n], x.len());
            for i in 0..rest.len() {
                add_row(simd, &mut sums[n], numbers[i], &load(simd, &rest[i]));
            }
        }
    }
    for m in 0..M {
        let mut of_row = [sums[0][m]; IN_PLACE];
        for n in 1..IN_PLACE {
            of_row[n] = sums[n][m];
        }
        out.write(m, simd.finish(of_row));
    }
}

/// Adds the products of a block to an output's sums.
#[inline(always)]
fn add_block<T: Widens<L, C>, const L: usize, const C: usize, const M: usize>(
    simd: T,
    numbers: [T::Register; C],
    x: &[[[f32; L]; M]; C],
    mut sums: [T::Sums; M],
) -> [T::Sums; M] {
    for i in 0..C {
        add_row(simd, &mut sums, numbers[i], &load(simd, &x[i]));
    }
    sums
}
