//! Linear layers on the CPU: each variant against what the machine can do, measured in the same run.
//!
//!     cargo bench --features step2 --bench cpu_linear            # a table, and target/cpu_linear.json
//!     cargo bench --features step2 --bench cpu_linear -- roofline    # the machine's limits alone
//!
//! The layer is gate and up of Qwen3-0.6B, 1,024 → 6,144 in bf16. There are sixteen of them, 201 MB, used in turn: no cache holds
//! them, as none holds a model's. Each figure is the best of some rounds: other programs can only make it worse.

use serde_json::{Value, json};
use stairwell::{
    backend::{
        Backend, PartShape, Slice,
        cpu::{Arithmetic, Cpu, CpuWeight, Isa},
    },
    tensor::{DType, HostTensor},
};
use std::{env, fs, hint::black_box, thread, time::Instant};

const INPUTS: usize = 1024;
const OUTPUTS: usize = 6144;
const LAYERS: usize = 16;

fn main() {
    let roofline = roofline();
    println!("{roofline}");
    let mut result = json!({"roofline": roofline});
    if !env::args().any(|arg| arg == "roofline") {
        result["rows"] = variants();
    }
    let target = env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    fs::write(format!("{target}/cpu_linear.json"), result.to_string()).unwrap();
}

/// The shortest time of some calls, in seconds.
fn best(rounds: usize, mut body: impl FnMut()) -> f64 {
    let time = |()| {
        let start = Instant::now();
        body();
        start.elapsed().as_secs_f64()
    };
    std::iter::repeat_n((), rounds).map(time).fold(f64::MAX, f64::min)
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Runs `body` on all cores and gives the time until the last is done.
fn on_all_cores(rounds: usize, body: impl Fn(usize) + Sync) -> f64 {
    best(rounds, || {
        thread::scope(|scope| {
            (0..threads()).for_each(|i| {
                drop(scope.spawn({
                    let body = &body;
                    move || body(i)
                }))
            })
        });
    })
}

/// Bytes a second that can be read from memory, and operations a second of each kind of multiplication, all cores together.
fn roofline() -> Value {
    let memory = vec![1u64; (1 << 30) / 8];
    let parts: Vec<&[u64]> = memory.chunks(memory.len() / threads()).collect();
    let sum = |i: usize| {
        let sums = parts[i].as_chunks::<32>().0.iter().fold([0u64; 32], |mut sums, chunk| {
            (0..32).for_each(|l| sums[l] = sums[l].wrapping_add(chunk[l]));
            sums
        });
        black_box(sums);
    };
    let read = (1u64 << 30) as f64 / on_all_cores(9, sum);
    let mut found = json!({"threads": threads(), "read_gigabytes_per_second": read / 1e9});
    for (name, operations, supported, body) in peaks::all() {
        if supported {
            let seconds = on_all_cores(5, |_| body());
            found[name] = json!(operations * threads() as f64 / seconds / 1e9);
        }
    }
    found
}

/// Loops of nothing but multiplications, in 12 chains: enough to keep every pipe busy.
#[cfg(target_arch = "x86_64")]
mod peaks {
    use std::{arch::x86_64::*, hint::black_box};

    const TURNS: usize = 4_000_000;

    /// Name, operations of a call, whether this CPU has it, and the call.
    pub type Peak = (&'static str, f64, bool, fn());

    pub fn all() -> [Peak; 3] {
        let operations = |lanes: usize| (TURNS * 12 * lanes * 2) as f64;
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f");
        [
            ("avx2_gflops", operations(8), avx2, || {
                // SAFETY: called where `avx2` is true only.
                unsafe { fma_256() }
            }),
            ("avx512_gflops", operations(16), avx512, || {
                // SAFETY: called where `avx512` is true only.
                unsafe { fma_512() }
            }),
            ("avx512bf16_gflops", operations(32), avx512 && is_x86_feature_detected!("avx512bf16"), || {
                // SAFETY: called where the CPU has it only.
                unsafe { dot_512() }
            }),
        ]
    }

    #[target_feature(enable = "avx2,fma")]
    fn fma_256() {
        let (x, y) = (black_box(_mm256_set1_ps(0.999)), black_box(_mm256_set1_ps(0.001)));
        let mut sums = [x; 12];
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, y);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    fn fma_512() {
        let (x, y) = (black_box(_mm512_set1_ps(0.999)), black_box(_mm512_set1_ps(0.001)));
        let mut sums = [x; 12];
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, y);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn dot_512() {
        let ones = black_box(_mm512_set1_epi16(0x3f80));
        // SAFETY: both are 512 bits.
        let ones = unsafe { std::mem::transmute::<__m512i, __m512bh>(ones) };
        let mut sums = [_mm512_setzero_ps(); 12];
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, ones, ones);
            }
        }
        black_box(sums);
    }
}
#[cfg(not(target_arch = "x86_64"))]
mod peaks {
    pub type Peak = (&'static str, f64, bool, fn());

    pub fn all() -> [Peak; 0] {
        []
    }
}

/// Every variant, with 1 to 512 rows.
fn variants() -> Value {
    let mut rows = Vec::new();
    let mut cases: Vec<(Isa, Arithmetic)> =
        Isa::supported().into_iter().map(|isa| (isa, Arithmetic::F32)).collect();
    cases.retain(|(isa, _)| !isa.multiplies_bf16()); // its f32 is that of the set below it
    cases.extend(
        Isa::supported().into_iter().filter(|isa| isa.multiplies_bf16()).map(|isa| (isa, Arithmetic::Bf16)),
    );
    println!("| variant | rows | GFLOP/s | GB/s of weights |\n|---|---|---|---|");
    for (isa, arithmetic) in cases {
        let cpu = Cpu::with_isa(isa).with_arithmetic(arithmetic);
        let layers: Vec<CpuWeight> = (0..LAYERS).map(|i| layer(&cpu, i)).collect();
        for count in [1, 2, 4, 8, 16, 32, 128, 512] {
            let x = cpu.upload(&vec![0.5; count * INPUTS], count, INPUTS).unwrap();
            let seconds = best(7, || layers.iter().for_each(|w| drop(black_box(cpu.matmul(&x, w).unwrap()))));
            let weights = (LAYERS * INPUTS * OUTPUTS) as f64;
            let (gflops, gigabytes) =
                (2.0 * weights * count as f64 / seconds / 1e9, 2.0 * weights / seconds / 1e9);
            println!("| {} | {count} | {gflops:.0} | {gigabytes:.1} |", isa.name());
            rows.push(json!({"variant": isa.name(), "rows": count, "gflops": gflops, "gigabytes_per_second": gigabytes}));
        }
    }
    Value::Array(rows)
}

fn layer(cpu: &Cpu, seed: usize) -> CpuWeight {
    let bytes = (0..INPUTS * OUTPUTS).flat_map(|i| [(i * 7 + seed) as u8, 0x3c]).collect();
    let slice = Slice {
        tensor: HostTensor::from_bytes(DType::BF16, &[OUTPUTS, INPUTS], bytes),
        rows: 0..OUTPUTS,
        cols: 0..INPUTS,
        transposed: false,
    };
    let mut weight = cpu.weight(&[PartShape { outputs: OUTPUTS, inputs: INPUTS }]).unwrap();
    cpu.load(&mut weight, 0, &slice).unwrap();
    weight
}
