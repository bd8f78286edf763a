//! Linear layers on the CPU: each variant, and the crate gemm, against what the machine can do, measured in the same run.
//!
//! ```text
//! cargo bench --features step4,gemm --bench cpu_linear           # a table, and target/cpu_linear.json
//! cargo bench --features step4 --bench cpu_linear -- avx512/     # some of it
//! cargo bench --features step4 --bench cpu_linear -- roofline    # the machine's limits alone
//! cargo bench --features step4 --bench cpu_linear -- --test      # whether it runs
//! python scripts/record_cpu.py                                   # writes benches/results/cpu_linear.json
//! ```
//! The layer is gate and up of Qwen3-0.6B, 1,024 → 6,144. There are 50 of them, used in turn: 629 MB in bf16, so that no cache holds them, as
//! none holds a model's. Bytes are those of W, which each call reads once; x and y stay in a cache and are not counted.
//!
//! Instruction sets that multiply bf16 do so here; their f32 is that of the set below them. `gemm` multiplies f32 weights, since it has no bf16:
//! twice the bytes. Each figure in the table is the fastest of criterion's samples: other programs can only make it worse.

mod roofline;

use criterion::BenchmarkId;
#[cfg(feature = "gemm")]
use gemm::{Parallelism, gemm};
use roofline::{BEYOND_CACHES, Report, Work};
use serde_json::json;
use stairwell::{
    backend::{
        Backend, PartShape, Slice,
        cpu::{Arithmetic, Cpu, CpuWeight, Isa},
    },
    tensor::{DType, HostTensor},
};
use std::{env, hint::black_box};

const INPUTS: usize = 1024;
const OUTPUTS: usize = 6144;
const ROWS: [usize; 8] = [1, 2, 4, 8, 16, 32, 128, 512];

fn main() {
    let mut report = Report::new("cpu_linear");
    if !env::args().any(|arg| arg == "roofline") {
        let layers = if report.quick() { 1 } else { BEYOND_CACHES.div_ceil(2 * INPUTS * OUTPUTS) };
        let stored: Vec<HostTensor> = (0..layers).map(stored).collect();
        Isa::supported().into_iter().for_each(|isa| variant(&mut report, isa, &stored));
        drop(stored);
        #[cfg(feature = "gemm")]
        crate_gemm(&mut report, layers);
    }
    report.finish();
}

/// W of a layer, [outputs, inputs]: each another allocation.
fn stored(layer: usize) -> HostTensor {
    let bytes = (0..INPUTS * OUTPUTS).flat_map(|i| [(i * 7 + layer) as u8, 0x3c]).collect();
    HostTensor::from_bytes(DType::BF16, &[OUTPUTS, INPUTS], bytes)
}

fn loaded(cpu: &Cpu, tensor: &HostTensor) -> CpuWeight {
    let slice = Slice { tensor: tensor.clone(), rows: 0..OUTPUTS, cols: 0..INPUTS, transposed: false };
    let mut weight = cpu.weight(&[PartShape { outputs: OUTPUTS, inputs: INPUTS }]).expect("a weight");
    cpu.load(&mut weight, 0, &slice.into()).expect("a weight");
    weight
}

/// One call with this many rows and a W of so many bytes an element.
fn work(rows: usize, element: usize, peak: &'static str) -> Work {
    let weights = (INPUTS * OUTPUTS) as f64;
    Work { operations: 2.0 * weights * rows as f64, bytes: weights * element as f64, peak }
}

fn bench(report: &mut Report, variant: &str, rows: usize, work: Work, body: impl FnMut()) {
    let case = json!({"variant": variant, "rows": rows});
    report.bench("cpu_linear", BenchmarkId::new(variant, rows), case, work, body);
}

/// What an instruction set makes of it.
fn variant(report: &mut Report, isa: Isa, stored: &[HostTensor]) {
    let arithmetic = if isa.multiplies_bf16() { Arithmetic::Bf16 } else { Arithmetic::F32 };
    let cpu = Cpu::with_isa(isa).with_arithmetic(arithmetic);
    let layers: Vec<CpuWeight> = stored.iter().map(|tensor| loaded(&cpu, tensor)).collect();
    let mut layers = layers.iter().cycle();
    for rows in ROWS {
        let x = cpu.upload(&vec![0.5; rows * INPUTS], rows, INPUTS).expect("a tensor");
        bench(report, isa.name(), rows, work(rows, 2, isa.name()), || {
            let w = layers.next().expect("a cycle has no end");
            drop(black_box(cpu.matmul(&x, w).expect("a product")));
        });
    }
}

/// The crate, which takes the best f32 instructions of this CPU.
#[cfg(feature = "gemm")]
fn crate_gemm(report: &mut Report, layers: usize) {
    let peak =
        Isa::supported().into_iter().rfind(|isa| !isa.multiplies_bf16()).expect("the portable one").name();
    let layers: Vec<Vec<f32>> = (0..layers).map(|layer| stored(layer).to_f32()).collect();
    let mut layers = layers.iter().cycle();
    for rows in ROWS {
        let (x, mut y) = (vec![0.5; rows * INPUTS], vec![0.0; rows * OUTPUTS]);
        bench(report, "gemm", rows, work(rows, 4, peak), || {
            product(&x, layers.next().expect("a cycle has no end"), &mut y);
            black_box(&y);
        });
    }
}

/// y = x Wᵀ. Wᵀ is W with its strides exchanged.
#[cfg(feature = "gemm")]
fn product(x: &[f32], w: &[f32], y: &mut [f32]) {
    let (rows, inputs, outputs) = (x.len() / INPUTS, INPUTS as isize, OUTPUTS as isize);
    assert_eq!((x.len(), w.len(), y.len()), (rows * INPUTS, OUTPUTS * INPUTS, rows * OUTPUTS));
    // SAFETY: the extents and strides, of columns and then of rows, stay inside of the three.
    unsafe {
        gemm(
            rows,
            OUTPUTS,
            INPUTS,
            y.as_mut_ptr(),
            1,
            outputs,
            false,
            x.as_ptr(),
            1,
            inputs,
            w.as_ptr(),
            inputs,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}
