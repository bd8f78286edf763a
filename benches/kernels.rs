//! Kernels compared, a table for each family: what each version reads and writes against the least, its arithmetic, and on a GPU its time.
//!
//! ```text
//! cargo bench --features step6 --bench kernels                          # minutes without a GPU, since every access is counted
//! cargo bench --features step6 --bench kernels -- --out results.json    # and as JSON: see scripts/record_step6.py
//! ```
//! Counters are the same on every machine. With a GPU there is a second table: µs, TFLOP/s and their part of what cuBLAS reaches, GB/s and their part of
//! what a copy reaches, both measured in the same run; matrix products have cuBLAS beside them, and scripts/torch_sdpa.py has torch's attention. Results are
//! checked before they are timed. Nobody has run that part on a GPU yet.

mod measure;

use measure::{bench, copy_bandwidth, cublas, extent, timed};
use serde_json::{Value, json};
use stairwell::{
    backend::cuda::{Gpu, KernelShape, profile_kernel},
    error::Result,
};

/// A family's versions on some shapes.
struct Section {
    key: &'static str,
    title: &'static str,
    kernels: &'static [&'static str],
    shapes: &'static [&'static str],
}

const FLASH: &[&str] = &[
    "flash_attention_v0",
    "flash_attention_v1",
    "flash_attention_v2_unswizzled",
    "flash_attention_v2",
    "flash_attention_v3",
    "flash_attention_v4",
];
const TILES: &[&str] = &["flash_attention_v1", "flash_attention_v2", "flash_attention_v3"];

const SECTIONS: &[Section] = &[
    Section {
        key: "norm",
        title: "RMSNorm",
        kernels: &["rms_norm_v0", "rms_norm_v1", "rms_norm_v2"],
        shapes: &["rows=8,width=1024"],
    },
    Section {
        key: "matmul",
        title: "Matrix products in bf16",
        kernels: &[
            "matmul_v0_bf16_bf16",
            "matmul_v1_bf16_bf16",
            "matmul_v2_bf16_bf16",
            "matmul_v3_unswizzled_bf16_bf16",
            "matmul_v3_bf16_bf16",
        ],
        shapes: &["rows=64,inputs=256,outputs=256"],
    },
    Section {
        key: "decode",
        title: "Attention of rows that decode, bf16",
        kernels: &[
            "paged_attention_v0",
            "paged_attention_v1",
            "paged_attention_v2",
            "paged_attention_v3",
            "paged_attention_v4",
        ],
        shapes: &["sequences=2,tokens=512,heads=16,kv_heads=4,head_dim=128"],
    },
    Section {
        key: "prefill",
        title: "Attention of prompts, bf16, longer and longer",
        kernels: FLASH,
        shapes: &[
            "tokens=128,heads=8,kv_heads=2,head_dim=128",
            "tokens=256,heads=8,kv_heads=2,head_dim=128",
            "tokens=512,heads=8,kv_heads=2,head_dim=128",
        ],
    },
    Section {
        key: "widths",
        title: "Attention of prompts: widths of heads",
        kernels: TILES,
        shapes: &[
            "tokens=128,heads=8,kv_heads=2,head_dim=64",
            "tokens=128,heads=8,kv_heads=2,head_dim=80",
            "tokens=128,heads=8,kv_heads=2,head_dim=96",
            "tokens=128,heads=8,kv_heads=2,head_dim=256",
        ],
    },
    Section {
        key: "groups",
        title: "Attention of prompts: 8 query heads on 8 to 1 heads of K and V",
        kernels: &["flash_attention_v3"],
        shapes: &[
            "tokens=128,heads=8,kv_heads=8,head_dim=64",
            "tokens=128,heads=8,kv_heads=4,head_dim=64",
            "tokens=128,heads=8,kv_heads=2,head_dim=64",
            "tokens=128,heads=8,kv_heads=1,head_dim=64",
        ],
    },
    Section {
        key: "chunks",
        title: "The last rows of a prompt, behind 512 tokens in the cache: as a prompt",
        kernels: TILES,
        shapes: &[
            "before=512,tokens=1,heads=8,kv_heads=2,head_dim=128",
            "before=512,tokens=2,heads=8,kv_heads=2,head_dim=128",
            "before=512,tokens=4,heads=8,kv_heads=2,head_dim=128",
            "before=512,tokens=16,heads=8,kv_heads=2,head_dim=128",
            "before=512,tokens=64,heads=8,kv_heads=2,head_dim=128",
        ],
    },
    Section {
        key: "rows",
        title: "The same rows, each as one that decodes",
        kernels: &["paged_attention_v4"],
        shapes: &[
            "sequences=1,tokens=513,heads=8,kv_heads=2,head_dim=128",
            "sequences=2,tokens=513,heads=8,kv_heads=2,head_dim=128",
            "sequences=4,tokens=513,heads=8,kv_heads=2,head_dim=128",
            "sequences=16,tokens=513,heads=8,kv_heads=2,head_dim=128",
        ],
    },
];

/// What only a GPU does in time: 16,384 tokens each.
const ON_A_GPU: &[Section] = &[
    Section {
        key: "prefill",
        title: "Attention of prompts, bf16, causal",
        kernels: FLASH,
        shapes: &[
            "sequences=4,tokens=4096,heads=32,kv_heads=8,head_dim=128",
            "sequences=2,tokens=8192,heads=32,kv_heads=8,head_dim=128",
            "sequences=1,tokens=16384,heads=32,kv_heads=8,head_dim=128",
            "sequences=4,tokens=4096,heads=32,kv_heads=8,head_dim=64",
        ],
    },
    Section {
        key: "chunks",
        title: "The last rows of a prompt, behind 8,192 tokens in the cache: as a prompt",
        kernels: TILES,
        shapes: &[
            "sequences=1,before=8192,tokens=1,heads=32,kv_heads=8,head_dim=128",
            "sequences=1,before=8192,tokens=4,heads=32,kv_heads=8,head_dim=128",
            "sequences=1,before=8192,tokens=16,heads=32,kv_heads=8,head_dim=128",
            "sequences=1,before=8192,tokens=64,heads=32,kv_heads=8,head_dim=128",
        ],
    },
    Section {
        key: "rows",
        title: "The same rows, each as one that decodes",
        kernels: &["paged_attention_v4"],
        shapes: &[
            "sequences=1,tokens=8193,heads=32,kv_heads=8,head_dim=128",
            "sequences=4,tokens=8193,heads=32,kv_heads=8,head_dim=128",
            "sequences=16,tokens=8193,heads=32,kv_heads=8,head_dim=128",
            "sequences=64,tokens=8193,heads=32,kv_heads=8,head_dim=128",
        ],
    },
    Section {
        key: "matmul",
        title: "Matrix products in bf16",
        kernels: &["matmul_v1_bf16_bf16", "matmul_v2_bf16_bf16", "matmul_v3_bf16_bf16"],
        shapes: &["rows=4096,inputs=4096,outputs=4096"],
    },
];

/// Multiplications and additions of a kernel's arithmetic; exponentials and divisions are not counted.
fn operations(kernel: &str, shape: &str) -> f64 {
    let n = |name: &str| extent(shape, name).expect("the shape names it") as f64;
    match kernel {
        _ if kernel.starts_with("flash_attention") => {
            let (tokens, before) = (n("tokens"), extent(shape, "before").unwrap_or(0) as f64);
            let scores = tokens * before + tokens * (tokens + 1.0) / 2.0;
            4.0 * extent(shape, "sequences").unwrap_or(1) as f64 * n("heads") * scores * n("head_dim")
        }
        _ if kernel.starts_with("paged_attention") => {
            4.0 * n("sequences") * n("heads") * n("tokens") * n("head_dim")
        }
        _ if kernel.starts_with("matmul") || kernel == "cuBLAS" => {
            2.0 * n("rows") * n("inputs") * n("outputs")
        }
        _ => 4.0 * n("rows") * n("width"), // square, add, and two products
    }
}

fn counted(section: &Section, kernel: &str, shape: &str) -> Result<Value> {
    let profile = profile_kernel(kernel, &KernelShape::parse(kernel, shape)?)?;
    let (read, written) = (32 * profile.sectors(false), 32 * profile.sectors(true));
    let least = profile.least_read + profile.least_written;
    let operations = operations(kernel, shape);
    Ok(json!({
        "section": section.key, "kernel": kernel, "shape": shape, "sectors_read": read / 32, "bytes_read": read, "bytes_written": written,
        "least_bytes": least, "times_the_least": round((read + written) as f64 / least as f64), "operations": operations,
        "operations_per_byte": round(operations / (read + written) as f64), "bank_conflicts": profile.bank_conflicts(),
        "barriers": profile.barriers,
    }))
}

fn round(x: f64) -> f64 {
    (1000.0 * x).round() / 1000.0
}

fn count_all(rows: &mut Vec<Value>) -> Result<()> {
    for section in SECTIONS {
        println!("\n{}", section.title);
        for shape in section.shapes {
            println!(
                "\n{shape}\n{:<32} {:>12} {:>9} {:>10} {:>8} {:>9} {:>7} {:>10}",
                "kernel", "sectors read", "MB read", "MB written", "x least", "MFLOP", "FLOP/B", "turns lost"
            );
            for kernel in section.kernels {
                let row = counted(section, kernel, shape)?;
                let number = |key: &str| row[key].as_f64().unwrap_or(0.0);
                println!(
                    "{kernel:<32} {:>12} {:>9.2} {:>10.2} {:>8.2} {:>9.2} {:>7.1} {:>10}",
                    number("sectors_read"),
                    number("bytes_read") / 1e6,
                    number("bytes_written") / 1e6,
                    number("times_the_least"),
                    number("operations") / 1e6,
                    number("operations_per_byte"),
                    number("bank_conflicts"),
                );
                rows.push(row);
            }
        }
    }
    Ok(())
}

/// What a GPU can do at most, measured: operations of cuBLAS in bf16, and bytes of a copy, both a second.
struct Ceilings {
    operations: f64,
    bytes: f64,
}

/// Bytes of what must be read and written, from the shape: in 16 bits but for rows of activations, which are f32.
fn least_bytes(kernel: &str, shape: &str) -> f64 {
    let n = |name: &str| extent(shape, name).expect("the shape names it") as f64;
    if shape.contains("inputs") {
        return 2.0 * n("inputs") * (n("rows") + n("outputs")) + 4.0 * n("rows") * n("outputs");
    }
    let sequences = extent(shape, "sequences").unwrap_or(1) as f64;
    let prompt = kernel.starts_with("flash");
    let (rows, before) =
        if prompt { (n("tokens"), extent(shape, "before").unwrap_or(0) as f64) } else { (1.0, 0.0) };
    let kept = 2.0 * 2.0 * (n("tokens") + before) * n("kv_heads") * n("head_dim");
    sequences * (kept + 2.0 * 4.0 * rows * n("heads") * n("head_dim"))
}

fn print_timed(section: &Section, kernel: &str, shape: &str, seconds: f64, ceilings: &Ceilings) -> Value {
    let (speed, bandwidth) = (operations(kernel, shape) / seconds, least_bytes(kernel, shape) / seconds);
    let (of_matmul, of_copy) = (speed / ceilings.operations, bandwidth / ceilings.bytes);
    println!(
        "{kernel:<32} {:>10.1} {:>8.1} {:>9.1} {:>8.0} {:>7.1}",
        1e6 * seconds,
        speed / 1e12,
        100.0 * of_matmul,
        bandwidth / 1e9,
        100.0 * of_copy
    );
    json!({
        "section": section.key, "kernel": kernel, "shape": shape, "microseconds": 1e6 * seconds, "teraflops": speed / 1e12,
        "of_matmul": of_matmul, "gigabytes_per_second": bandwidth / 1e9, "of_copy": of_copy,
    })
}

fn time_all(gpu: &Gpu, rows: &mut Vec<Value>) -> Result<()> {
    let large = "rows=8192,inputs=8192,outputs=8192";
    let ceilings = Ceilings {
        operations: operations("cuBLAS", large) / cublas(gpu, large)?,
        bytes: copy_bandwidth(gpu)?,
    };
    println!(
        "\nOn the GPU: cuBLAS reaches {:.0} TFLOP/s in bf16, a copy {:.0} GB/s",
        ceilings.operations / 1e12,
        ceilings.bytes / 1e9
    );
    for section in ON_A_GPU {
        for shape in section.shapes {
            println!(
                "\n{}: {shape}\n{:<32} {:>10} {:>8} {:>9} {:>8} {:>7}",
                section.title, "kernel", "µs", "TFLOP/s", "% matmul", "GB/s", "% copy"
            );
            let product = section.key == "matmul";
            let expected = if product { 4096.0 } else { 1.0 };
            for kernel in section.kernels {
                let (seconds, numbers) = match timed(gpu, kernel, &KernelShape::parse(kernel, shape)?) {
                    Ok(timed) => timed,
                    // v0 wants memory for all scores, which there may not be.
                    Err(error) => {
                        println!("{kernel:<32} {error}");
                        continue;
                    }
                };
                assert!(
                    numbers.iter().all(|x| (x - expected).abs() < 4e-3 * expected),
                    "{kernel}: {numbers:?}"
                );
                rows.push(print_timed(section, kernel, shape, seconds, &ceilings));
            }
            if product {
                rows.push(print_timed(section, "cuBLAS", shape, cublas(gpu, shape)?, &ceilings));
            }
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    println!(
        "x least: bytes of the sectors read and written ÷ bytes that must be; turns lost: to banks of shared memory"
    );
    bench(count_all, time_all)
}
