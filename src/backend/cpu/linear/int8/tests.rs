//! The contract of every copy: the bits of the portable one, and an error that rounding x explains.

use super::super::super::{Cpu, CpuWeight, Isa};
use super::CHUNK;
use crate::backend::{Backend, PartShape, Slice};
use crate::packed::Matrix;
use crate::quant::{BLOCK, Coded, Format, Numbers, gguf};
use crate::tensor::{DType, HostTensor};
use half::f16;
use std::{ops::Range, sync::Arc};

/// A sequence of words that look random.
fn random(seed: u32) -> impl FnMut() -> u32 {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    }
}

/// Numbers whose magnitudes differ from block to block, with zeros among them.
fn activations(count: usize, seed: u32) -> Vec<f32> {
    let mut next = random(seed);
    let number = |i: usize| {
        let scale = [1.0, 0.01, 30.0, 0.0, 2.5][i / 29 % 5];
        ((next() >> 8) as f32 / 8_388_608.0 - 1.0) * scale
    };
    (0..count).map(number).collect()
}

/// Codes, with scales and offsets for groups of inputs, which may lie in any order.
#[derive(Debug)]
struct Made {
    numbers: Numbers,
    shape: [usize; 2],
    group_size: usize,
    /// Every input is of another group than its neighbour.
    scattered: bool,
}

impl Format for Made {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }
    fn label(&self) -> String {
        format!("{self:?}")
    }
    fn tensors(&self) -> Vec<&HostTensor> {
        Vec::new()
    }
    fn numbers(&self) -> Numbers {
        self.numbers
    }
    fn codes(&self, outputs: Range<usize>, inputs: Range<usize>, codes: &mut [u8]) {
        let mask = if self.numbers == Numbers::Affine4 { 15 } else { 255 };
        let all = outputs.flat_map(|o| inputs.clone().map(move |k| (o, k)));
        for ((o, k), code) in all.zip(codes) {
            *code = (random((o * 4099 + k) as u32 + 1)() >> 9) as u8 & mask;
        }
    }
    fn groups(&self) -> usize {
        self.shape[1].div_ceil(self.group_size)
    }
    fn group(&self, input: usize) -> usize {
        if self.scattered { input % self.groups() } else { input / self.group_size }
    }
    fn scale(&self, output: usize, group: usize) -> f32 {
        0.01 + (random((output * 31 + group) as u32 + 7)() >> 24) as f32 / 4096.0
    }
    fn offset(&self, output: usize, group: usize) -> f32 {
        -self.scale(output, group) * (group % 13 + 1) as f32
    }
}

/// Blocks of a type: f16 scales at some bytes, and anything else.
fn blocks(dtype: DType, shape: [usize; 2]) -> Matrix {
    let (bytes, numbers, scales): (usize, usize, &[usize]) = match dtype {
        DType::Q4_0 => (18, 32, &[0]),
        DType::Q4_1 => (20, 32, &[0, 2]),
        DType::Q8_0 => (34, 32, &[0]),
        DType::Q4_K => (144, 256, &[0, 2]),
        _ => (210, 256, &[208]),
    };
    let mut next = random(11);
    let mut data = Vec::new();
    for _ in 0..shape[0] * shape[1] / numbers {
        let mut block: Vec<u8> = (0..bytes).map(|_| (next() >> 13) as u8).collect();
        for at in scales {
            let scale = f16::from_f32((next() >> 24) as f32 / 2048.0 - 0.03);
            block[*at..*at + 2].copy_from_slice(&scale.to_le_bytes());
        }
        data.extend(block);
    }
    gguf::matrix(HostTensor::from_bytes(dtype, &shape, data))
}

/// Every kind, with columns that fill chunks and that do not.
fn matrices() -> Vec<(String, Matrix)> {
    let mut all = Vec::new();
    for numbers in [Numbers::Affine4, Numbers::Affine8, Numbers::Int8] {
        for (shape, group_size, scattered) in
            [([70, 256], 128, false), ([9, 96], 32, false), ([5, 200], 64, false), ([6, 130], 48, true)]
        {
            let made = Made { numbers, shape, group_size, scattered };
            all.push((made.label(), Matrix::Packed(Arc::new(Coded(made)))));
        }
    }
    for dtype in [DType::Q4_0, DType::Q4_1, DType::Q8_0] {
        all.push((dtype.to_string(), blocks(dtype, [67, 224])));
    }
    for dtype in [DType::Q4_K, DType::Q6_K] {
        all.push((dtype.to_string(), blocks(dtype, [67, 512])));
    }
    all
}

fn loaded(cpu: &Cpu, matrix: &Matrix, inputs: Range<usize>) -> CpuWeight {
    let outputs = matrix.shape()[0];
    let mut weight = cpu.weight(&[PartShape { outputs, inputs: inputs.len() }]).unwrap();
    let slice = Slice { tensor: matrix.clone(), rows: 0..outputs, cols: inputs, transposed: false };
    cpu.load(&mut weight, 0, &slice).unwrap();
    weight
}

/// x Wᵀ by integers.
fn product(cpu: &Cpu, weight: &CpuWeight, xs: &[f32], rows: usize) -> Vec<f32> {
    assert!(weight.parts().all(super::multiplies), "the product would be exact");
    cpu.matmul(&cpu.upload(xs, rows, xs.len() / rows).unwrap(), weight).unwrap().data().to_vec()
}

/// The numbers that x has after rounding, from the formula alone, and the scale of each.
fn rounded(xs: &[f32]) -> Vec<(f64, f64)> {
    let block = |xs: &[f32]| {
        let scale = f64::from(xs.iter().fold(0f32, |largest, x| largest.max(x.abs()))) / 127.0;
        let code = move |x: &f32| if scale == 0.0 { 0.0 } else { (f64::from(*x) / scale).round_ties_even() };
        xs.iter().map(|x| (code(x) * scale, scale)).collect::<Vec<_>>()
    };
    xs.chunks(BLOCK).flat_map(block).collect()
}

/// Every instruction set gives the portable copy's bits, and a row has the same bits alone, in a small batch and in a large one.
#[test]
fn all_copies_and_all_batches_give_the_same_bits() {
    for (name, matrix) in matrices() {
        let inputs = matrix.shape()[1];
        let rows = 11;
        let xs = activations(rows * inputs, 3);
        let cpus = Isa::supported().into_iter().map(|isa| Cpu::with_isa(isa).with_int8_activations(true));
        let mut first: Option<Vec<u32>> = None;
        for cpu in cpus {
            let weight = loaded(&cpu, &matrix, 0..inputs);
            let y: Vec<u32> = product(&cpu, &weight, &xs, rows).iter().map(|y| y.to_bits()).collect();
            assert!(
                first.get_or_insert_with(|| y.clone()) == &y,
                "{name}: {:?} is not the portable copy",
                cpu.isa()
            );
            for count in [1, 2, 3, 4, 7] {
                let some = product(&cpu, &weight, &xs[(rows - count) * inputs..], count);
                let same = some.iter().map(|y| y.to_bits()).eq(y[y.len() - some.len()..].iter().copied());
                assert!(same, "{name}: {count} rows alone, {:?}", cpu.isa());
            }
        }
    }
}

/// The product is that of the rounded x, and so no further from the exact one than half a scale for each number of x.
#[test]
fn only_x_is_rounded() {
    for (name, matrix) in matrices().into_iter().filter(|(name, _)| !name.contains("scattered: true")) {
        let (inputs, cpu) = (matrix.shape()[1], Cpu::default().with_int8_activations(true));
        let (xs, weight) = (activations(inputs, 5), loaded(&cpu, &matrix, 0..inputs));
        let (y, rounded) = (product(&cpu, &weight, &xs, 1), rounded(&xs));
        let mut w = vec![0.0; inputs];
        let mut furthest = 0f64;
        for (output, y) in y.iter().enumerate() {
            weight.parts().next().unwrap().widen(output, &mut w);
            let each = || w.iter().map(|w| f64::from(*w)).zip(&xs).zip(&rounded);
            let exact: f64 = each().map(|((w, x), _)| w * f64::from(*x)).sum();
            let (of_rounded, bound) = each().fold((0.0, 0.0), |(sum, bound), ((w, _), (x, scale))| {
                (sum + w * x, bound + w.abs() * scale / 2.0)
            });
            let magnitude: f64 = each().map(|((w, x), _)| (w * f64::from(*x)).abs()).sum();
            let error = (f64::from(*y) - of_rounded).abs();
            assert!(error <= 1e-5 * magnitude, "{name} [{output}]: {y} for {of_rounded}");
            let from_exact = (f64::from(*y) - exact).abs();
            assert!(from_exact <= bound + 1e-5 * magnitude, "{name} [{output}]: {from_exact} above {bound}");
            furthest = furthest.max(from_exact / magnitude);
        }
        assert!(furthest > 1e-5, "{name}: it is exact, so nothing was tested");
    }
}

/// Parts of a row, as ranks have them: whole chunks of super-blocks, and blocks from an odd one on.
#[test]
fn ranks_multiply_their_columns() {
    for (dtype, inputs) in
        [(DType::Q4_0, 32..192), (DType::Q8_0, 96..224), (DType::Q4_K, 64..192), (DType::Q6_K, 320..512)]
    {
        let columns = if matches!(dtype, DType::Q4_0 | DType::Q8_0) { 224 } else { 512 };
        let matrix = blocks(dtype, [5, columns]);
        let xs = activations(columns, 9);
        for isa in Isa::supported() {
            let cpu = Cpu::with_isa(isa).with_int8_activations(true);
            // All other columns are zero.
            let mut alone = vec![0.0; columns];
            alone[inputs.clone()].copy_from_slice(&xs[inputs.clone()]);
            let whole = product(&cpu, &loaded(&cpu, &matrix, 0..columns), &alone, 1);
            let part = product(&cpu, &loaded(&cpu, &matrix, inputs.clone()), &xs[inputs.clone()], 1);
            for (whole, part) in whole.iter().zip(part) {
                assert!(
                    (whole - part).abs() <= 1e-4 * whole.abs().max(1.0),
                    "{dtype} {isa:?}: {part} for {whole}"
                );
            }
        }
    }
    let cpu = Cpu::default().with_int8_activations(true);
    let odd = loaded(&cpu, &blocks(DType::Q4_K, [5, 512]), 32..CHUNK + 32);
    assert!(!odd.parts().all(super::multiplies), "half a chunk's codes share bytes with others");
}

/// NaN and infinities stay visible.
#[test]
fn what_is_no_number_stays_none() {
    for isa in Isa::supported() {
        for bad in [f32::NAN, f32::INFINITY] {
            let cpu = Cpu::with_isa(isa).with_int8_activations(true);
            let mut xs = activations(224, 1);
            xs[100] = bad;
            let y = product(&cpu, &loaded(&cpu, &blocks(DType::Q4_0, [5, 224]), 0..224), &xs, 1);
            assert!(y.iter().all(|y| !y.is_finite()), "{isa:?} {bad}: {y:?}");
        }
    }
}
