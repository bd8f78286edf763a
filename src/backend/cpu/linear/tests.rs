//! The contract of every variant.

use crate::backend::cpu::{Arithmetic, Cpu, CpuWeight, Isa};
use crate::backend::{Backend, PartShape, Slice};
use crate::tensor::{DType, HostTensor};
use half::bf16;

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

/// A weight on a backend. `ws`: [outputs, inputs].
fn loaded(cpu: &Cpu, dtype: DType, transposed: bool, outputs: usize, ws: &[f32]) -> CpuWeight {
    let inputs = ws.len() / outputs;
    let w: Vec<f32> = match transposed {
        false => ws.to_vec(),
        true => (0..ws.len()).map(|i| ws[i % outputs * inputs + i / outputs]).collect(),
    };
    let shape = if transposed { [inputs, outputs] } else { [outputs, inputs] };
    let slice = Slice { tensor: stored(dtype, &shape, &w), rows: 0..shape[0], cols: 0..shape[1], transposed };
    let mut weight = cpu.weight(&[PartShape { outputs, inputs }]).unwrap();
    cpu.load(&mut weight, 0, &slice.into()).unwrap();
    weight
}

/// Every variant, arithmetic, dtype and layout.
fn cases() -> Vec<(Cpu, DType, bool)> {
    let mut cases = Vec::new();
    for isa in Isa::supported() {
        for arithmetic in [Arithmetic::F32, Arithmetic::Bf16] {
            for (dtype, transposed) in [
                (DType::F32, false),
                (DType::BF16, false),
                (DType::F16, false),
                (DType::F32, true),
                (DType::BF16, true),
            ] {
                cases.push((Cpu::with_isa(isa).with_arithmetic(arithmetic), dtype, transposed));
            }
        }
    }
    cases
}

/// Against a plain f64 sum, at sizes that fill no tile and cross every edge of the blocking; and a row has the same bits alone, in a
/// small batch (weights in place) and in a large one (packed).
#[test]
fn agrees_with_f64_and_keeps_rows_independent() {
    let sizes =
        [(0, 8, 4), (1, 1, 1), (1, 40, 3), (3, 17, 70), (4, 64, 64), (9, 100, 131), (6, 48, 5), (21, 70, 9)];
    // Blocks of k, of weights that fill registers and that do not; x beyond a cache; panels in turns; passes over W.
    let long = [(18, 1100, 5), (70, 2112, 9), (130, 3104, 9), (140, 33, 3), (530, 40, 6)];
    for (rows, inputs, outputs) in sizes.into_iter().chain(long) {
        let (xs, ws) = (values(rows * inputs, 1), values(outputs * inputs, 2));
        let x_of = |t: usize| xs[t * inputs..][..inputs].iter();
        let w_of = |o: usize| ws[o * inputs..][..inputs].iter();
        let exact = |t, o| x_of(t).zip(w_of(o)).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
        let want: Vec<f64> = (0..rows * outputs).map(|i| exact(i / outputs, i % outputs)).collect();
        for (cpu, dtype, transposed) in cases() {
            let name = format!(
                "{:?} {:?} {dtype} {transposed} {rows}x{inputs}x{outputs}",
                cpu.isa(),
                cpu.arithmetic()
            );
            let weight = loaded(&cpu, dtype, transposed, outputs, &ws);
            let y = cpu.matmul(&cpu.upload(&xs, rows, inputs).unwrap(), &weight).unwrap();
            for (i, (got, want)) in y.data().iter().zip(&want).enumerate() {
                assert!((f64::from(*got) - want).abs() < 1e-4, "{name} [{i}]: {got} for {want}");
            }
            for count in [1, 5].into_iter().filter(|count| *count <= rows) {
                let some = (rows - count) * inputs;
                let some = cpu.upload(&xs[some..], count, inputs).unwrap();
                let some = cpu.matmul(&some, &weight).unwrap();
                assert_eq!(some.data(), &y.data()[(rows - count) * outputs..], "{name}: {count} rows alone");
            }
        }
    }
}

/// bf16 rounds the activations, and nothing else: 1 + 2⁻⁹ becomes 1, and the weights of f32 stay.
#[test]
fn bf16_rounds_activations() {
    let (inputs, outputs) = (70, 3);
    let xs: Vec<f32> = values(inputs, 3).iter().map(|x| x * (1.0 + 2f32.powi(-9))).collect();
    let ws = values(inputs * outputs, 4);
    for (cpu, dtype, transposed) in cases() {
        let weight = loaded(&cpu, dtype, transposed, outputs, &ws);
        let got = cpu.matmul(&cpu.upload(&xs, 1, inputs).unwrap(), &weight).unwrap();
        for o in 0..outputs {
            let sum = |x_of: fn(f32) -> f32| {
                let products =
                    xs.iter().zip(&ws[o * inputs..]).map(|(x, w)| f64::from(x_of(*x)) * f64::from(*w));
                products.sum::<f64>()
            };
            let (rounded, exact) = (sum(|x| bf16::from_f32(x).to_f32()), sum(|x| x));
            assert!((rounded - exact).abs() > 1e-4, "the test would see no difference");
            let want = if cpu.arithmetic() == Arithmetic::Bf16 { rounded } else { exact };
            let error = (f64::from(got.data()[o]) - want).abs();
            assert!(error < 1e-5, "{:?} {:?} {dtype}: {error}", cpu.isa(), cpu.arithmetic());
        }
    }
}

/// Outputs written apart have the numbers that they have side by side, whether they begin where parts of the weight do or not.
#[test]
fn outputs_are_written_apart() {
    let (rows, inputs, parts) = (5, 64, [70, 3, 9]);
    let xs = values(rows * inputs, 7);
    for (cpu, dtype, transposed) in cases().into_iter().filter(|(_, _, transposed)| !transposed) {
        let mut weight = cpu.weight(&parts.map(|outputs| PartShape { outputs, inputs })).unwrap();
        for (part, outputs) in parts.into_iter().enumerate() {
            let tensor = stored(dtype, &[outputs, inputs], &values(outputs * inputs, 8 + part as u32));
            let slice = Slice { tensor, rows: 0..outputs, cols: 0..inputs, transposed };
            cpu.load(&mut weight, part, &slice.into()).unwrap();
        }
        let x = cpu.upload(&xs, rows, inputs).unwrap();
        let whole = cpu.matmul(&x, &weight).unwrap();
        for cols in [[70, 3, 9], [73, 9, 0], [10, 60, 12]] {
            let mut first = 0;
            for (y, n) in cpu.matmul_split(&x, &weight, cols).unwrap().iter().zip(cols) {
                for row in 0..rows {
                    assert_eq!(
                        y.row(row),
                        &whole.row(row)[first..first + n],
                        "{:?} {dtype} {cols:?}",
                        cpu.isa()
                    );
                }
                first += n;
            }
        }
    }
}

/// Two variants of f32 differ by the order of their sums alone.
#[test]
fn variants_agree() {
    let (rows, inputs, outputs) = (20, 1024, 8);
    let (xs, ws) = (values(rows * inputs, 5), values(outputs * inputs, 6));
    let results: Vec<Vec<f32>> = Isa::supported()
        .into_iter()
        .map(|isa| {
            let cpu = Cpu::with_isa(isa);
            let weight = loaded(&cpu, DType::BF16, false, outputs, &ws);
            cpu.matmul(&cpu.upload(&xs, rows, inputs).unwrap(), &weight).unwrap().data().to_vec()
        })
        .collect();
    for other in &results[1..] {
        // Sums of 1,024 products below 1: an error of 2⁻²⁴ of the partial sums, each at most some 30.
        let largest = other.iter().zip(&results[0]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest < 1e-4, "{largest}");
    }
}
