//! y = x Wᵀ, with W as it lies in the file: bf16, f16 or f32, [out, in] or (GPT-2) [in, out].
//!
//! A few rows of W at a time are widened to f32 in a buffer that stays in the L1 cache, and used for every row of x before the
//! next ones are fetched, so W is read from memory once however many tokens there are. Where x has a few rows only, W is widened
//! in registers instead (`few_rows`). All cores take blocks of outputs.
//!
//! Each y[t, o] is one dot product that is summed in the same order whatever else is in the batch, so a token's bits do not
//! depend on its neighbours.

use super::{
    CpuTensor, CpuWeight,
    few_rows::{self, Pass, STREAMS},
    isa::{Isa, Shape, Tile, dispatch},
};
use crate::{
    backend::{Shaped, Slice},
    tensor::{DType, convert_to_f32},
};
use rayon::prelude::*;
use std::cell::RefCell;

/// Outputs of one task.
const TASK: usize = 64;
/// Rows of W that are widened together, and rows of x that meet them together: 4 × 4 sums live in registers.
const TILE: usize = 4;
/// Rows of x up to which W is widened in registers, again for every TILE of them; the buffer wins where there are more.
const FEW: usize = 64;
/// Multiplications below which a second thread costs more than it brings.
const SMALL: usize = 1 << 16;

/// y[t, o] = Σ_k x[t, k] · W[o, k]; y has the parts' outputs side by side.
///
/// # Panics
/// If a part was never loaded or does not fit x and y.
pub fn matmul(isa: Isa, x: &CpuTensor, weight: &CpuWeight, y: &mut CpuTensor) {
    if x.rows() == 0 {
        return; // a step in which no request samples
    }
    let tasks: Vec<(usize, usize, &Slice)> = tasks(weight);
    let columns = Columns::new(y);
    let run = |&(column, output, slice): &(usize, usize, &Slice)| {
        let few = x.rows() <= FEW && few_rows::reads(slice.tensor.dtype);
        let body = if slice.transposed {
            transposed_task
        } else if few {
            few_rows_task
        } else {
            row_task
        };
        body(isa, x, slice, output, column, &columns);
    };
    let multiplications = x.data().len() * weight.outputs();
    if multiplications < SMALL { tasks.iter().for_each(run) } else { tasks.par_iter().for_each(run) }
}

/// (column of y, first output of the slice, slice) for each block of outputs.
fn tasks(weight: &CpuWeight) -> Vec<(usize, usize, &Slice)> {
    let mut column = 0;
    let mut tasks = Vec::new();
    for slice in weight.slices() {
        let outputs = if slice.transposed { slice.cols.len() } else { slice.rows.len() };
        tasks.extend((0..outputs).step_by(TASK).map(|output| (column + output, output, slice)));
        column += outputs;
    }
    tasks
}

/// y's columns, written by several threads, each its own.
struct Columns {
    start: *mut f32,
    rows: usize,
    cols: usize,
}
// SAFETY: the pointer is only used through `write`, whose callers write disjoint columns.
unsafe impl Sync for Columns {}

impl Columns {
    fn new(y: &mut CpuTensor) -> Columns {
        Columns { rows: y.rows(), cols: y.cols(), start: y.data_mut().as_mut_ptr() }
    }

    /// Writes y[row, col]. A column must be written by one task only, while the tensor is borrowed by `matmul`.
    fn write(&self, row: usize, col: usize, value: f32) {
        assert!(row < self.rows && col < self.cols);
        // SAFETY: inside the tensor by the line above; `tasks` gives each task columns of its own.
        unsafe { self.start.add(row * self.cols + col).write(value) }
    }
}

thread_local! {
    /// Widened weights, or sums of a transposed task.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

fn with_scratch(n: usize, body: impl FnOnce(&mut [f32])) {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < n {
            scratch.resize(n, 0.0);
        }
        body(&mut scratch[..n]);
    });
}

/// Outputs `output .. output + TASK` of a weight stored [out, in].
fn row_task(isa: Isa, x: &CpuTensor, slice: &Slice, output: usize, column: usize, y: &Columns) {
    let inputs = slice.cols.len();
    assert_eq!(inputs, x.cols(), "inputs of {:?}", slice.tensor);
    let end = slice.rows.len().min(output + TASK);
    with_scratch(TILE * inputs, |wide| {
        for first in (output..end).step_by(TILE) {
            let count = TILE.min(end - first);
            for (i, wide) in wide.chunks_exact_mut(inputs).enumerate().take(count) {
                widen(isa, slice, slice.rows.start + first + i, slice.cols.start, wide);
            }
            let mut sums = Sums { y, column: column + first - output, count };
            let (x, sums) = (x.data(), &mut sums);
            let wide = &*wide;
            dispatch!(isa, tiles(x: &[f32], inputs: usize, wide: &[f32], sums: &mut Sums));
        }
    });
}

/// The same for a few rows of x.
fn few_rows_task(isa: Isa, x: &CpuTensor, slice: &Slice, output: usize, column: usize, y: &Columns) {
    let inputs = slice.cols.len();
    assert_eq!(inputs, x.cols(), "inputs of {:?}", slice.tensor);
    let (dtype, end) = (slice.tensor.dtype, slice.rows.len().min(output + TASK));
    for first in (output..end).step_by(STREAMS) {
        let count = STREAMS.min(end - first);
        // Where fewer rows are left, the last one fills the places.
        let w: [&[u8]; STREAMS] = std::array::from_fn(|n| stored_row(slice, first + n.min(count - 1)));
        let mut sums = Sums { y, column: column + first - output, count };
        let (x, sums) = (x.data(), &mut sums);
        dispatch!(isa, few_tiles(dtype: DType, x: &[f32], inputs: usize, w: [&[u8]; STREAMS], sums: &mut Sums));
    }
}

/// All rows of x against STREAMS stored rows of W.
#[inline(always)]
fn few_tiles<S: Shape, const L: usize>(
    dtype: DType,
    x: &[f32],
    inputs: usize,
    w: [&[u8]; STREAMS],
    out: &mut Sums,
) {
    let rows = x.len() / inputs;
    let fours = if L >= 16 { rows / 4 } else { 0 };
    let twos = (rows - 4 * fours) / 2;
    let count = fours + twos + rows % 2;
    let (first, rest) = x.split_at(4 * fours * inputs);
    let (second, last) = rest.split_at(2 * twos * inputs);
    few_groups::<S, L, 4>(dtype, first, inputs, w, Pass { index: 0, count }, 0, out);
    few_groups::<S, L, 2>(dtype, second, inputs, w, Pass { index: fours, count }, 4 * fours, out);
    few_groups::<S, L, 1>(dtype, last, inputs, w, Pass { index: fours + twos, count }, rows / 2 * 2, out);
}

/// x, whose first row is `row`, in groups of M rows: a pass each.
#[inline(always)]
fn few_groups<S: Shape, const L: usize, const M: usize>(
    dtype: DType,
    x: &[f32],
    inputs: usize,
    w: [&[u8]; STREAMS],
    mut pass: Pass,
    mut row: usize,
    out: &mut Sums,
) {
    for group in x.chunks_exact(M * inputs) {
        let x: [&[f32]; M] = std::array::from_fn(|i| &group[i * inputs..][..inputs]);
        out.write(row, 0, few_rows::dots::<S, L, M>(dtype, x, w, pass));
        pass.index += 1;
        row += M;
    }
}

/// The bytes of one row of a slice.
fn stored_row(slice: &Slice, row: usize) -> &[u8] {
    let (size, (_, stride)) = (slice.tensor.dtype.bytes(), slice.tensor.matrix_shape());
    let start = (slice.rows.start + row) * stride + slice.cols.start;
    &slice.tensor.data[start * size..][..slice.cols.len() * size]
}

/// Widens part of one stored row to f32.
fn widen(isa: Isa, slice: &Slice, row: usize, col: usize, out: &mut [f32]) {
    let (dtype, (_, stride)) = (slice.tensor.dtype, slice.tensor.matrix_shape());
    let bytes = &slice.tensor.data[(row * stride + col) * dtype.bytes()..][..out.len() * dtype.bytes()];
    #[inline(always)]
    #[allow(clippy::extra_unused_type_parameters)] // dispatch! gives them to every body
    fn body<S: Shape, const L: usize>(dtype: DType, bytes: &[u8], out: &mut [f32]) {
        convert_to_f32(dtype, bytes, out);
    }
    dispatch!(isa, body(dtype: DType, bytes: &[u8], out: &mut [f32]));
}

/// Where a tile's sums go: `count` columns from `column`.
struct Sums<'a> {
    y: &'a Columns,
    column: usize,
    count: usize,
}

/// All rows of x against TILE widened rows of W.
#[inline(always)]
fn tiles<S: Shape, const L: usize>(x: &[f32], inputs: usize, wide: &[f32], out: &mut Sums) {
    let w: [&[f32]; TILE] = std::array::from_fn(|i| &wide[i * inputs..][..inputs]);
    let (groups, rest) = x.split_at(x.len() / (TILE * inputs) * (TILE * inputs));
    let mut row = 0;
    for group in groups.chunks_exact(TILE * inputs) {
        // 16 registers of AVX2 hold 4 × 2 sums, the 32 of AVX-512 4 × 4.
        let x: [&[f32]; TILE] = std::array::from_fn(|i| &group[i * inputs..][..inputs]);
        if L >= 16 {
            out.write(row, 0, dots::<S, L, TILE, TILE>(x, w));
        } else {
            out.write(row, 0, dots::<S, L, TILE, 2>(x, [w[0], w[1]]));
            out.write(row, 2, dots::<S, L, TILE, 2>(x, [w[2], w[3]]));
        }
        row += TILE;
    }
    for x in rest.chunks_exact(inputs) {
        out.write(row, 0, dots::<S, L, 1, TILE>([x], w));
        row += 1;
    }
}

impl Sums<'_> {
    #[inline(always)]
    fn write<const M: usize, const N: usize>(&mut self, row: usize, first: usize, sums: [[f32; N]; M]) {
        for (m, sums) in sums.iter().enumerate() {
            for (n, &sum) in sums.iter().enumerate().take(self.count.saturating_sub(first)) {
                self.y.write(row + m, self.column + first + n, sum);
            }
        }
    }
}

/// M × N dot products at once; each is summed in L lanes, then across them.
#[inline(always)]
fn dots<S: Shape, const L: usize, const M: usize, const N: usize>(
    x: [&[f32]; M],
    w: [&[f32]; N],
) -> [[f32; N]; M] {
    let x_chunks = x.map(|x| x.as_chunks::<L>());
    let w_chunks = w.map(|w| w.as_chunks::<L>());
    let count = x_chunks[0].0.len();
    let (x_full, w_full) = (x_chunks.map(|c| &c.0[..count]), w_chunks.map(|c| &c.0[..count]));
    let mut tile = Tile::<M, N, L>::ZERO;
    for i in 0..count {
        tile.multiply_add::<S>(|m| x_full[m][i], w_full.map(|w| &w[i]));
    }
    let sums = tile.rows();
    std::array::from_fn(|m| {
        std::array::from_fn(|n| sums[m][n].multiply_add_rest::<S>(x_chunks[m].1, w_chunks[n].1).sum())
    })
}

/// Outputs `output .. output + TASK` of a weight stored [in, out]: a row of W is scaled and added, input by input.
fn transposed_task(isa: Isa, x: &CpuTensor, slice: &Slice, output: usize, column: usize, y: &Columns) {
    let inputs = slice.rows.len();
    assert_eq!(inputs, x.cols(), "inputs of {:?}", slice.tensor);
    let width = TASK.min(slice.cols.len() - output);
    with_scratch((x.rows() + 1) * width, |scratch| {
        let (w, sums) = scratch.split_at_mut(width);
        sums.fill(0.0);
        for k in 0..inputs {
            widen(isa, slice, slice.rows.start + k, slice.cols.start + output, w);
            let (x, sums, w) = (&x.data()[k..], &mut *sums, &*w);
            dispatch!(isa, add_scaled(x: &[f32], inputs: usize, w: &[f32], sums: &mut [f32]));
        }
        for (row, sums) in sums.chunks_exact(width).enumerate() {
            for (i, &sum) in sums.iter().enumerate() {
                y.write(row, column + i, sum);
            }
        }
    });
}

/// sums[t, ·] += x[t · stride] · w for every row t.
#[inline(always)]
fn add_scaled<S: Shape, const L: usize>(x: &[f32], stride: usize, w: &[f32], sums: &mut [f32]) {
    for (t, sums) in sums.chunks_exact_mut(w.len()).enumerate() {
        let x = x[t * stride];
        for (sum, w) in sums.iter_mut().zip(w) {
            *sum = S::multiply_add(x, *w, *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::{Backend, PartShape, cpu::Cpu},
        tensor::HostTensor,
    };

    /// Values in [-1, 1) that bf16 and f16 hold exactly.
    fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut s = seed.wrapping_mul(2654435761) | 1;
        let mut next = || {
            s ^= s << 13;
            s ^= s >> 17;
            s ^= s << 5;
            (s >> 24) as f32 / 128.0 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn stored(dtype: DType, shape: &[usize], v: &[f32]) -> HostTensor {
        let bytes = v.iter().flat_map(|&v| match dtype {
            DType::F32 => v.to_le_bytes().to_vec(),
            DType::BF16 => half::bf16::from_f32(v).to_le_bytes().to_vec(),
            _ => half::f16::from_f32(v).to_le_bytes().to_vec(),
        });
        HostTensor::from_bytes(dtype, shape, bytes.collect())
    }

    /// Every dtype, layout, ISA and awkward size against a plain f64 sum; and a row alone has the bits it has in a batch.
    #[test]
    fn agrees_with_f64_and_keeps_rows_independent() {
        for (rows, inputs, outputs) in
            [(0, 8, 4), (1, 1, 1), (1, 40, 3), (3, 17, 70), (4, 64, 64), (9, 100, 131), (6, 48, 5)]
        {
            let (xs, ws) = (values(rows * inputs, 1), values(outputs * inputs, 2));
            for (isa, dtype, transposed) in cases() {
                let cpu = Cpu::with_isa(isa);
                let w: Vec<f32> = match transposed {
                    false => ws.clone(),
                    true => (0..inputs * outputs).map(|i| ws[i % outputs * inputs + i / outputs]).collect(),
                };
                let shape = if transposed { [inputs, outputs] } else { [outputs, inputs] };
                let slice = Slice {
                    tensor: stored(dtype, &shape, &w),
                    rows: 0..shape[0],
                    cols: 0..shape[1],
                    transposed,
                };
                let mut weight = cpu.weight(&[PartShape { outputs, inputs }]).unwrap();
                cpu.load(&mut weight, 0, &slice).unwrap();

                let y = cpu.matmul(&cpu.upload(&xs, rows, inputs).unwrap(), &weight).unwrap();
                for t in 0..rows {
                    for o in 0..outputs {
                        let products =
                            (0..inputs).map(|k| xs[t * inputs + k] as f64 * ws[o * inputs + k] as f64);
                        let want: f64 = products.sum();
                        let got = y.row(t)[o] as f64;
                        assert!(
                            (got - want).abs() < 1e-5,
                            "{isa:?} {dtype} {transposed} [{t},{o}]: {got} for {want}"
                        );
                    }
                    let row = cpu.upload(&xs[t * inputs..][..inputs], 1, inputs).unwrap();
                    assert_eq!(
                        cpu.matmul(&row, &weight).unwrap().data(),
                        y.row(t),
                        "{isa:?} {dtype}: row {t} alone"
                    );
                }
            }
        }
    }

    fn cases() -> Vec<(Isa, DType, bool)> {
        let mut cases = Vec::new();
        for isa in Isa::supported() {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                cases.extend([(isa, dtype, false), (isa, dtype, true)]);
            }
        }
        cases
    }
}
