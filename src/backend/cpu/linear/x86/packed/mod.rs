//! Products with packed weights: a chunk of codes is widened to registers of f32 when it is needed.
//!
//! With up to four rows of x (a decode step), the registers are multiplied at once: the time is that of reading the codes, and of the five
//! instructions that make 8 numbers of them and multiply. With more rows, a block of a panel of W is widened into the first cache, and the
//! micro-kernel of dense weights takes it from there. Both add the products of an output in the same order, so a row's bits do not depend
//! on how many rows there are.

mod widen;

pub use widen::Widens;

use super::super::super::{Cpu, CpuTensor, CpuWeight};
use super::super::{packed::PackedPart, stored::Part, tasks::Out, tasks::Task};
use super::macro_kernel::{self, Operand};
use super::micro_kernel::{self, IN_PLACE, PackedBlock, Waiting, load};
use super::{fill_f32, pack::Panels};
use crate::backend::simd::{F32, add_row, filled_up, of_rows};
use crate::quant::{CHUNK, NO_INPUT, Numbers, PackedRows};
use std::{marker::PhantomData, ops::Range, ptr};

/// What one output's codes are, with what makes numbers of them.
trait Kind: Copy {
    /// Registers of a chunk before scaling.
    fn codes<T: Widens<L, C>, const L: usize, const C: usize>(
        simd: T,
        rows: &PackedRows,
        output: usize,
        chunk: usize,
    ) -> [T::Register; C];
}

#[derive(Clone, Copy)]
struct Nibbles;
#[derive(Clone, Copy)]
struct Looked;
#[derive(Clone, Copy)]
struct Unsigned;
#[derive(Clone, Copy)]
struct Signed;
#[derive(Clone, Copy)]
struct E4m3;

/// The words of a chunk of codes of 4 bits.
#[inline(always)]
fn words(rows: &PackedRows, output: usize, chunk: usize) -> &[u8; CHUNK / 2] {
    rows.codes[output * rows.stride + chunk * (CHUNK / 2)..].first_chunk().expect("whole chunks")
}

/// A chunk of bytes. Those past the last column are 0.
#[inline(always)]
fn bytes(rows: &PackedRows, output: usize, chunk: usize) -> [u8; CHUNK] {
    let codes = &rows.codes[output * rows.stride + chunk * CHUNK..];
    match rows.columns - chunk * CHUNK {
        CHUNK.. => *codes.first_chunk().expect("a whole chunk"),
        held => filled_up(&codes[..held], 0),
    }
}

impl Kind for Nibbles {
    #[inline(always)]
    fn codes<T: Widens<L, C>, const L: usize, const C: usize>(
        simd: T,
        rows: &PackedRows,
        output: usize,
        chunk: usize,
    ) -> [T::Register; C] {
        simd.nibbles(words(rows, output, chunk))
    }
}

impl Kind for Looked {
    #[inline(always)]
    fn codes<T: Widens<L, C>, const L: usize, const C: usize>(
        simd: T,
        rows: &PackedRows,
        output: usize,
        chunk: usize,
    ) -> [T::Register; C] {
        let table = rows.tables[16 * output..].first_chunk().expect("a table for each output");
        simd.looked_up(words(rows, output, chunk), table)
    }
}

macro_rules! of_bytes {
    ($kind:ident, $method:ident) => {
        impl Kind for $kind {
            #[inline(always)]
            fn codes<T: Widens<L, C>, const L: usize, const C: usize>(
                simd: T,
                rows: &PackedRows,
                output: usize,
                chunk: usize,
            ) -> [T::Register; C] {
                let bytes = bytes(rows, output, chunk);
                let (registers, _) = bytes.as_chunks::<L>();
                let mut widened = [simd.zero(); C];
                for i in 0..C {
                    widened[i] = simd.$method(&registers[i]);
                }
                widened
            }
        }
    };
}
of_bytes!(Unsigned, unsigned);
of_bytes!(Signed, signed);
of_bytes!(E4m3, e4m3);

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
    let w = Codes::<Q, C> { rows, last: task.outputs.end - 1, kind: PhantomData };
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
        let mut sum = out.read(row);
        for &(column, number) in numbers {
            sum = simd.multiply_add_one(panels.number::<L>(row, column as usize), number, sum);
        }
        out.write(row, [sum]);
    }
}

/// Rows of codes of a task. C registers are a chunk.
struct Codes<'a, Q, const C: usize> {
    rows: &'a PackedRows,
    /// The last output of the task.
    last: usize,
    kind: PhantomData<Q>,
}

impl<Q: Kind, const C: usize> Codes<'_, Q, C> {
    /// A chunk of an output, as numbers.
    #[inline(always)]
    fn chunk<T: Widens<L, C>, const L: usize>(
        &self,
        simd: T,
        output: usize,
        chunk: usize,
    ) -> [T::Register; C] {
        let rows = self.rows;
        let mut numbers = Q::codes(simd, rows, output, chunk);
        for block in 0..2 {
            let at = output * rows.groups + rows.group_of[2 * chunk + block] as usize;
            let scale = simd.all(rows.scales[at]);
            if rows.offsets.is_empty() {
                for i in block * C / 2..(block + 1) * C / 2 {
                    numbers[i] = simd.multiply(numbers[i], scale);
                }
            } else {
                let offset = simd.all(rows.offsets[at]);
                for i in block * C / 2..(block + 1) * C / 2 {
                    numbers[i] = simd.multiply_add(offset, numbers[i], scale);
                }
            }
        }
        numbers
    }
}

impl<T: Widens<L, C>, Q: Kind, const L: usize, const C: usize> Operand<T, L> for Codes<'_, Q, C> {
    // With more rows, chunks would be widened again for each panel of x.
    const FEW: usize = 4;

    #[inline(always)]
    fn registers(&self) -> usize {
        self.rows.columns.div_ceil(L)
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
            let output = (first + n).min(self.last);
            for start in (0..block.len()).step_by(C) {
                let numbers = self.chunk::<T, L>(simd, output, (block.start + start) / C);
                for i in 0..C.min(block.len() - start) {
                    simd.store(numbers[i], &mut packed.0[start + i][n]);
                }
            }
        }
        let last = block.end == Operand::<T, L>::registers(self);
        micro_kernel::packed_block(simd, panels, some, block, last, packed, waiting, out);
    }
}

/// M rows of x against four outputs. The chains of additions of the four are independent, so one waits while the others go on.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // plain loops keep the instruction set's features
fn few_rows<T: Widens<L, C>, Q: Kind, const L: usize, const C: usize, const M: usize>(
    simd: T,
    w: &Codes<Q, C>,
    panels: &Panels<f32>,
    first: usize,
    out: &Out,
) {
    let x = panels.panel::<L, M>(0);
    let mut sums = [[simd.zero(); M]; IN_PLACE];
    for (chunk, x) in x.chunks(C).enumerate() {
        for n in 0..IN_PLACE {
            let numbers = w.chunk::<T, L>(simd, (first + n).min(w.last), chunk);
            match x.first_chunk::<C>() {
                Some(x) => {
                    for i in 0..C {
                        add_row(simd, &mut sums[n], numbers[i], &load(simd, &x[i]));
                    }
                }
                None => {
                    for i in 0..x.len() {
                        add_row(simd, &mut sums[n], numbers[i], &load(simd, &x[i]));
                    }
                }
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
