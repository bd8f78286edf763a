//! Multiplications of bf16 by AMX: tiles of 16 × 16 sums.
//!
//! ```text
//!  a: 16 rows of W as they are stored             b: 16 rows of x, packed in pairs
//!          32 inputs                                    16 rows of x
//!      ┌───────────────┐                            ┌──────────────────┐
//!  16  │ w₀ w₁ w₂ w₃ … │                        16  │ x₀x₁  x₀x₁  x₀x₁ │   inputs 0 and 1 of each
//! out- │               │            ×          pairs│ x₂x₃  x₂x₃  x₂x₃ │   2 and 3
//! puts │               │                            │  …               │
//!      └───────────────┘                            └──────────────────┘
//!  c += a · b: 16 outputs × 16 rows of x, so yᵀ
//! ```
//! W needs no packing: a tile is 16 rows of 64 bytes, at any distance. x does, and y is turned over at the end; both are small. A sum adds
//! its products in the order of k, tile by tile, whatever the other columns hold, so one row has the bits that it has among many.
//!
//! Up to 32 rows, each weight is read once, in place. With more, a strip of 32 outputs is copied first, a block of k at a time, which then
//! stays in the second cache while x passes by; sums wait in memory between the blocks.

mod pack;

use super::{
    super::tasks::{Columns, TASK, Task, for_each_task},
    weights::row,
};
use crate::backend::{
    cpu::{Cpu, CpuWeight},
    simd::{
        amx::{Line, Panels, SIDE, Tiles, Walk, multiply, turned},
        prefetch,
    },
};
use pack::copy_strip;
use std::{cell::RefCell, ops::Range};

/// Outputs of a strip: two tiles.
const STRIP: usize = 2 * SIDE;
/// Steps of a block of k: 64 KiB of a strip, which stays in the second cache. Blocks for the first cache were slower: between them sums go to memory.
const BLOCK: usize = 32;
/// Outputs of a task with many rows: they share what is read of a block of x, which comes from the third cache where x is large.
const MANY: usize = 128;
/// Panels up to which a strip is used in place.
const FEW: usize = 2;

/// Working space of a thread.
#[derive(Default)]
struct Scratch {
    /// A block of a strip.
    lines: Vec<Line>,
    /// Of strips and panels.
    sums: Vec<Sums>,
}

/// Two tiles of sums.
#[derive(Clone)]
#[repr(align(64))]
struct Sums([f32; STRIP * SIDE]);

impl Sums {
    const NONE: Sums = Sums([0.0; STRIP * SIDE]);
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// y = x Wᵀ for some rows of x and weights of bf16, stored [out, in].
pub fn product(cpu: &Cpu, x: &[f32], weight: &CpuWeight, rows: usize, y: &[Columns]) {
    let inputs = x.len() / rows;
    let count = Panels::lines(rows, inputs);
    let mut lines = cpu.take(count + 1, 16);
    let lines = &mut Line::within(lines.data_mut())[..count];
    // SAFETY: AMX is asked for where the CPU has it, and AVX-512-BF16, only.
    let panels = &unsafe {
        if rows <= SIDE { Panels::new(x, rows, lines) } else { Panels::on_all_cores(x, rows, lines) }
    };
    let few = panels.count() <= FEW;
    for_each_task(weight, rows, inputs, y, if few { TASK } else { MANY }, |task| {
        // SAFETY: as above.
        SCRATCH.with_borrow_mut(|scratch| unsafe {
            if few {
                few_rows(&task, panels, scratch);
            } else {
                many_rows(&task, panels, scratch);
            }
        });
    });
}

/// Strips of a task: the first output of each and how many it has.
fn strips(task: &Task) -> impl Iterator<Item = Range<usize>> + Clone + use<> {
    let outputs = task.outputs.clone();
    outputs.clone().step_by(STRIP).map(move |first| first..outputs.end.min(first + STRIP))
}

/// Up to two panels against strips that are used in place.
///
/// # Safety
/// The CPU must have AMX.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn few_rows(task: &Task, panels: &Panels, scratch: &mut Scratch) {
    // SAFETY: by the caller.
    let tiles = &unsafe { Tiles::with_columns(panels.columns) };
    let Scratch { lines, sums } = scratch;
    sums.resize(sums.len().max(FEW), Sums::NONE);
    let inputs = task.slice.cols.len();
    let stride = task.slice.tensor.matrix_shape().1 * 2;
    for outputs in strips(task) {
        let first = row(task.slice, outputs.start).as_ptr();
        let whole = outputs.len() == STRIP && inputs == 32 * panels.steps;
        let a = if whole {
            Walk { start: [first, first.wrapping_add(SIDE * stride)], stride, step: 64 }
        } else {
            lines.resize(lines.len().max(panels.steps * STRIP), Line::ZERO);
            copy_strip(task.slice, outputs.clone(), 0..panels.steps, lines);
            pack::walk(lines)
        };
        let share = STRIP * stride / panels.steps;
        let ahead = first.wrapping_add(STRIP * stride);
        let ask = |step: usize| prefetch(ahead, step * share..(step + 1) * share);
        // SAFETY: a strip in place is whole, 32 rows with `steps` steps each; a copy has these; so have the panels.
        unsafe { pass(tiles, a, panels, 0, 0..panels.steps, sums, ask) }
        write(task, &outputs, panels, 0, sums);
    }
}

// ANCHOR: many_rows
/// All panels against strips that are copied first, block by block of k.
///
/// # Safety
/// The CPU must have AMX.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn many_rows(task: &Task, panels: &Panels, scratch: &mut Scratch) {
    // SAFETY: by the caller.
    let tiles = &unsafe { Tiles::with_columns(panels.columns) };
    let Scratch { lines, sums } = scratch;
    let (count, strips) = (panels.count(), strips(task));
    lines.resize(lines.len().max(BLOCK * STRIP), Line::ZERO);
    sums.resize(sums.len().max(count * strips.clone().count()), Sums::NONE);
    for start in (0..panels.steps).step_by(BLOCK) {
        let steps = start..panels.steps.min(start + BLOCK);
        for (outputs, sums) in strips.clone().zip(sums.chunks_exact_mut(count)) {
            copy_strip(task.slice, outputs.clone(), steps.clone(), lines);
            let mut next = Next::new(task, &outputs, &steps, panels.steps, count);
            for (pair, sums) in sums.chunks_mut(2).enumerate() {
                // SAFETY: the copy has these steps of 32 rows, and so have the panels.
                unsafe {
                    pass(tiles, pack::walk(lines), panels, 2 * pair, steps.clone(), sums, |_| next.ask())
                }
                if steps.end == panels.steps {
                    write(task, &outputs, panels, 2 * pair, sums);
                }
            }
        }
    }
}
// ANCHOR_END: many_rows

/// One or two panels from number `panel` on against a strip, over a range of steps.
///
/// # Safety
/// All of `a` must be readable.
#[inline(always)]
unsafe fn pass(
    tiles: &Tiles,
    a: Walk,
    panels: &Panels,
    panel: usize,
    steps: Range<usize>,
    sums: &mut [Sums],
    each: impl FnMut(usize),
) {
    let (b, count, fresh) = (panels.walk(panel, steps.start), steps.len(), steps.start == 0);
    let half = SIDE * panels.columns; // sums of a tile
    let stride = 4 * panels.columns;
    let two = panel + 1 < panels.count();
    let mut tile = |i: usize, j: usize| sums[j].0[i * half..].as_mut_ptr();
    // SAFETY: a by the caller, b by `Panels::walk`; the sums of a panel have room for two tiles.
    unsafe {
        if two {
            let c = [[tile(0, 0), tile(0, 1)], [tile(1, 0), tile(1, 1)]];
            multiply::<2>(tiles, a, b, count, c, stride, fresh, each);
        } else {
            let c = [[tile(0, 0)], [tile(1, 0)]];
            multiply::<1>(tiles, a, b, count, c, stride, fresh, each);
        }
    }
}

/// Writes the sums of a strip, [32 outputs][columns] for each panel from number `panel` on, to where they belong in y.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn write(task: &Task, outputs: &Range<usize>, panels: &Panels, panel: usize, sums: &[Sums]) {
    let out = task.out.from(outputs.start - task.outputs.start);
    for (panel, sums) in (panel..panels.count().min(panel + FEW)).zip(sums) {
        let rows = panel * SIDE..panels.rows.min((panel + 1) * SIDE);
        if panels.columns == 1 {
            out.write(0, *sums.0.first_chunk::<STRIP>().expect("a strip"));
            continue;
        }
        let (first, second) = sums.0.split_at(SIDE * panels.columns);
        let columns = turned(first, panels.columns).into_iter().zip(turned(second, panels.columns));
        for (row, (first, second)) in rows.zip(columns) {
            out.write_lines(row, [first, second]);
        }
    }
}

/// The block of W that comes next, asked for line by line while the panels pass by.
struct Next {
    first: *const u8,
    stride: usize,
    lines: Range<usize>,
    lines_of_row: usize,
    /// Lines at a time.
    share: usize,
}

impl Next {
    #[inline(always)]
    fn new(task: &Task, outputs: &Range<usize>, steps: &Range<usize>, all: usize, panels: usize) -> Next {
        let stride = task.slice.tensor.matrix_shape().1 * 2;
        // The next strip; after the last one of a task, the next block of the first.
        let (first, step) = match outputs.end < task.outputs.end || steps.end == all {
            true => (outputs.end, steps.start),
            false => (task.outputs.start, steps.end),
        };
        let step = if outputs.end == task.outputs.end && steps.end == all { 0 } else { step };
        let lines_of_row = BLOCK.min(all - step);
        let lines = STRIP * lines_of_row;
        let share = lines.div_ceil(panels.div_ceil(2) * steps.len());
        let start = row(task.slice, 0).as_ptr();
        Next {
            first: start.wrapping_add(first * stride + step * 64),
            stride,
            lines: 0..lines,
            lines_of_row,
            share,
        }
    }

    #[inline(always)]
    fn ask(&mut self) {
        for line in self.lines.by_ref().take(self.share) {
            let (row, step) = (line / self.lines_of_row, line % self.lines_of_row);
            prefetch(self.first, row * self.stride + step * 64..row * self.stride + step * 64 + 1);
        }
    }
}
