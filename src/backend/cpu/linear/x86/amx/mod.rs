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
//! Up to 32 rows, each weight is read once, in place. With more, a panel of 32 rows of W is packed first, a block of k at a time, which
//! then stays in the second cache while x passes by; sums wait in memory between the blocks.

mod pack;

use super::super::stored::Rows;
use super::super::tasks::{Columns, TASK, Task, for_each_task};
use crate::backend::cpu::{Cpu, CpuWeight};
use crate::backend::simd::amx::{Ahead, Amx, Line, Panels, SIDE, Tiles, Walk, multiply, turned};
use pack::{PANEL, pack};
use std::{cell::RefCell, ops::Range};

/// Steps of a block of k: 64 KiB of a panel of W, which stays in the second cache. Blocks for the first cache were slower: between them sums go to memory.
const BLOCK: usize = 32;
/// Outputs of a task with many rows: they share what is read of a block of x, which comes from the third cache where x is large.
const MANY: usize = 128;
/// Panels of x up to which W is used in place.
const FEW: usize = 2;

/// Working space of a thread.
#[derive(Default)]
struct Scratch {
    /// A block of a panel of W.
    lines: Vec<Line>,
    /// Of panels of W and panels of x.
    sums: Vec<Sums>,
}

/// Two tiles of sums, [32 outputs][columns].
#[derive(Clone)]
#[repr(align(64))]
struct Sums([f32; PANEL * SIDE]);

impl Sums {
    const NONE: Sums = Sums([0.0; PANEL * SIDE]);
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// y = x Wᵀ for some rows of x and weights of bf16, stored [out, in].
pub fn product(cpu: &Cpu, amx: Amx, x: &[f32], weight: &CpuWeight, rows: usize, y: &[Columns]) {
    let inputs = x.len() / rows;
    let count = Panels::lines(rows, inputs);
    let mut lines = cpu.take(count + 1, 16);
    let lines = &mut Line::within(lines.data_mut())[..count];
    let panels = &Panels::pack(amx, x, rows, lines, rows > SIDE);
    let few = panels.count() <= FEW;
    for_each_task(weight, rows, inputs, y, if few { TASK } else { MANY }, |task| {
        // SAFETY: the token proves that the CPU has these features.
        SCRATCH.with_borrow_mut(|scratch| unsafe {
            if few {
                few_rows(amx, &task, panels, scratch);
            } else {
                many_rows(amx, &task, panels, scratch);
            }
        });
    });
}

/// The panels of W of a task, by their outputs.
fn weight_panels(task: &Task) -> impl Iterator<Item = Range<usize>> + Clone + use<> {
    let outputs = task.outputs.clone();
    outputs.clone().step_by(PANEL).map(move |first| first..outputs.end.min(first + PANEL))
}

/// Up to two panels of x against W in place.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn few_rows(amx: Amx, task: &Task, panels: &Panels, scratch: &mut Scratch) {
    let tiles = &Tiles::with_columns(amx, panels.columns);
    let (w, steps) = (&Rows::new(task.slice()), panels.steps);
    let Scratch { lines, sums } = scratch;
    sums.resize(sums.len().max(FEW), Sums::NONE);
    for outputs in weight_panels(task) {
        let start = w.row(outputs.start).as_ptr();
        let a = if outputs.len() == PANEL && w.len == 64 * steps {
            Walk { start, stride: w.stride, step: 64 }
        } else {
            lines.resize(lines.len().max(steps * PANEL), Line::ZERO);
            pack(w, outputs.clone(), 0..steps, lines)
        };
        // The next panel of W, in the order of its addresses.
        let share = (PANEL * w.stride / steps).div_ceil(64);
        let ahead =
            Ahead { start: start.wrapping_add(PANEL * w.stride), lines: share, stride: 64, step: 64 * share };
        // SAFETY: W in place is 32 rows of `steps` steps each, and so is a packed panel; `tiles` is alone.
        unsafe { pass(tiles, a, panels, 0, 0..steps, sums, ahead) }
        write(task, &outputs, panels, 0, sums);
    }
}

// ANCHOR: many_rows
/// All panels of x against panels of W that are packed first, block by block of k.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn many_rows(amx: Amx, task: &Task, panels: &Panels, scratch: &mut Scratch) {
    let tiles = &Tiles::with_columns(amx, panels.columns);
    let w = &Rows::new(task.slice());
    let Scratch { lines, sums } = scratch;
    let count = panels.count();
    lines.resize(lines.len().max(BLOCK * PANEL), Line::ZERO);
    sums.resize(sums.len().max(count * weight_panels(task).count()), Sums::NONE);
    for start in (0..panels.steps).step_by(BLOCK) {
        let steps = start..panels.steps.min(start + BLOCK);
        for (outputs, sums) in weight_panels(task).zip(sums.chunks_exact_mut(count)) {
            let a = pack(w, outputs.clone(), steps.clone(), lines);
            let mut ahead = next_block(w, task, &outputs, &steps, panels);
            for (pair, sums) in sums.chunks_mut(2).enumerate() {
                // SAFETY: the packed panel has these steps of 32 rows; `tiles` is alone.
                unsafe { pass(tiles, a, panels, 2 * pair, steps.clone(), sums, ahead) }
                ahead.start = ahead.start.wrapping_add(ahead.lines * ahead.stride);
                if steps.end == panels.steps {
                    write(task, &outputs, panels, 2 * pair, sums);
                }
            }
        }
    }
}
// ANCHOR_END: many_rows

/// The block of W that comes next: while the first two panels of x pass, its first rows are asked for; each pair asks for as many.
fn next_block(w: &Rows, task: &Task, outputs: &Range<usize>, steps: &Range<usize>, panels: &Panels) -> Ahead {
    let (output, step) = match (outputs.end < task.outputs.end, steps.end < panels.steps) {
        (true, _) => (outputs.end, steps.start),
        (false, true) => (task.outputs.start, steps.end),
        (false, false) => (outputs.end, 0), // of the next task
    };
    let start = w.row(0).as_ptr().wrapping_add(output * w.stride + step * 64);
    Ahead { start, lines: PANEL.div_ceil(panels.count().div_ceil(2)), stride: w.stride, step: 64 }
}

/// One or two panels of x from number `panel` on against a panel of W, over a range of steps.
///
/// # Safety
/// That of [`multiply`], for `a` and `tiles`.
#[inline(always)]
unsafe fn pass(
    tiles: &Tiles,
    a: Walk,
    panels: &Panels,
    panel: usize,
    steps: Range<usize>,
    sums: &mut [Sums],
    ahead: Ahead,
) {
    let second = (panels.count() - 1 - panel).min(1);
    let c = [0, second].map(|panel| sums[panel].0.as_mut_ptr());
    let (b, fresh) = (panels.pair(panel, steps.start), steps.start == 0);
    // SAFETY: a by the caller, b by `Panels::pair`; the sums of a panel have room for two tiles.
    unsafe { multiply(tiles, a, b, steps.len(), c, fresh, ahead) }
}

/// Writes the sums of a panel of W, [32 outputs][columns] for each panel of x from number `panel` on, to where they belong in y.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn write(task: &Task, outputs: &Range<usize>, panels: &Panels, panel: usize, sums: &[Sums]) {
    let out = task.out.from(outputs.start - task.outputs.start);
    for (panel, sums) in (panel..panels.count().min(panel + FEW)).zip(sums) {
        let rows = panel * SIDE..panels.rows.min((panel + 1) * SIDE);
        if panels.columns == 1 {
            out.write(0, *sums.0.first_chunk::<PANEL>().expect("32 sums"));
            continue;
        }
        let (first, second) = sums.0.split_at(SIDE * panels.columns);
        let columns = turned(first, panels.columns).into_iter().zip(turned(second, panels.columns));
        for (row, (first, second)) in rows.zip(columns) {
            out.write_lines(row, [first, second]);
        }
    }
}
