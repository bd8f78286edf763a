//! The contract of every variant.
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
