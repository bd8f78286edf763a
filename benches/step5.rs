//! Step 5's kernels, version by version: what they read and write, counted on the simulator, and on a GPU their times.
//!
//! ```text
//! cargo bench --features step5 --bench step5                          # a table; minutes without a GPU, since every access is counted
//! cargo bench --features step5 --bench step5 -- --out results.json    # and as JSON: see scripts/record_step5.py
//! ```
//! Counters are the same on every machine, and so need no harness that repeats them. With a GPU there are three more columns: µs, the least
//! bytes ÷ time, and that in parts of the bandwidth of a copy measured in the same run; matrix products have cuBLAS beside them. All numbers of
//! the work are ones, so a result is known, and it is checked before it is timed. Nobody has run that part on a GPU yet.

mod count;
mod measure;

use count::{HEAD, Section, count_all, print_timed};
use measure::{bench, copy_bandwidth, cublas, extent, timed};
use serde_json::Value;
use stairwell::{
    backend::cuda::{Gpu, KernelShape},
    error::Result,
};

const VERSIONS: &[&str] = &[
    "paged_attention_v0",
    "paged_attention_v1",
    "paged_attention_v2",
    "paged_attention_v3",
    "paged_attention_v4",
];

const SECTIONS: &[Section] = &[
    Section {
        key: "ladder",
        title: "The ladder: heads of Llama-3-8B, K and V in bf16",
        kernels: VERSIONS,
        shapes: &["sequences=4,tokens=512,heads=32,kv_heads=8,head_dim=128,block_size=16"],
    },
    Section {
        key: "groups",
        title: "Query heads that share a head of K and V: 1 to 16",
        kernels: &["paged_attention_v1", "paged_attention_v2"],
        shapes: &[
            "sequences=1,tokens=256,heads=16,kv_heads=16,head_dim=64",
            "sequences=1,tokens=256,heads=16,kv_heads=8,head_dim=64",
            "sequences=1,tokens=256,heads=16,kv_heads=4,head_dim=64",
            "sequences=1,tokens=256,heads=16,kv_heads=2,head_dim=64",
            "sequences=1,tokens=256,heads=16,kv_heads=1,head_dim=64",
        ],
    },
    Section {
        key: "long",
        title: "One sequence, longer and longer: blocks at work, and what dividing the context costs",
        kernels: &["paged_attention_v2", "paged_attention_v4"],
        shapes: &[
            "sequences=1,tokens=128,heads=8,kv_heads=2,head_dim=128",
            "sequences=1,tokens=512,heads=8,kv_heads=2,head_dim=128",
            "sequences=1,tokens=1024,heads=8,kv_heads=2,head_dim=128",
            "sequences=1,tokens=4096,heads=8,kv_heads=2,head_dim=128",
        ],
    },
    Section {
        key: "widths",
        title: "Widths of heads",
        kernels: VERSIONS,
        shapes: &[
            "sequences=1,tokens=128,heads=8,kv_heads=2,head_dim=64",
            "sequences=1,tokens=128,heads=8,kv_heads=2,head_dim=80",
            "sequences=1,tokens=128,heads=8,kv_heads=2,head_dim=96",
            "sequences=1,tokens=128,heads=8,kv_heads=2,head_dim=128",
            "sequences=1,tokens=128,heads=8,kv_heads=2,head_dim=256",
        ],
    },
    Section {
        key: "dtypes",
        title: "How K and V are kept",
        kernels: &[
            "paged_attention_v4_f32",
            "paged_attention_v4_bf16",
            "paged_attention_v4_f16",
            "paged_attention_v4_fp8",
        ],
        shapes: &["sequences=1,tokens=512,heads=8,kv_heads=2,head_dim=128"],
    },
    Section {
        key: "blocks",
        title: "Tokens of a block",
        kernels: &["paged_attention_v4"],
        shapes: &[
            "sequences=1,tokens=512,heads=8,kv_heads=2,head_dim=128,block_size=8",
            "sequences=1,tokens=512,heads=8,kv_heads=2,head_dim=128,block_size=16",
            "sequences=1,tokens=512,heads=8,kv_heads=2,head_dim=128,block_size=32",
        ],
    },
    Section {
        key: "fused",
        title: "Rotation and writing K and V: two kernels and one (rope is two launches, for q and for k)",
        kernels: &["rope", "write_kv", "rope_write_kv"],
        shapes: &["rows=8,heads=32,kv_heads=8,head_dim=128"],
    },
    Section {
        key: "matmul",
        title: "The ladder of matrix products: a prompt, and one row",
        kernels: &[
            "matmul_v0_bf16_bf16",
            "matmul_v1_bf16_bf16",
            "matmul_v2_bf16_bf16",
            "matmul_v3_unswizzled_bf16_bf16",
            "matmul_v3_bf16_bf16",
        ],
        shapes: &["rows=64,inputs=256,outputs=256", "rows=1,inputs=256,outputs=256"],
    },
];

/// What only a GPU does in time.
const ON_A_GPU: &[Section] = &[
    Section {
        key: "batch",
        title: "64 sequences of 4,096 tokens",
        kernels: VERSIONS,
        shapes: &["sequences=64,tokens=4096,heads=32,kv_heads=8,head_dim=128,block_size=16"],
    },
    Section {
        key: "alone",
        title: "One sequence of 16,384 tokens",
        kernels: VERSIONS,
        shapes: &["sequences=1,tokens=16384,heads=32,kv_heads=8,head_dim=128,block_size=16"],
    },
    Section {
        key: "products",
        title: "Matrix products of a prompt",
        kernels: &[
            "matmul_v1_bf16_bf16",
            "matmul_v2_bf16_bf16",
            "matmul_v3_unswizzled_bf16_bf16",
            "matmul_v3_bf16_bf16",
        ],
        shapes: &["rows=4096,inputs=4096,outputs=4096"],
    },
];

/// The least bytes of work, from its shape: K and V, or x, W and y.
fn least_bytes(shape: &str) -> f64 {
    let n = |name: &str| extent(shape, name).expect("the shape names it") as f64;
    match extent(shape, "inputs") {
        None => 4.0 * n("sequences") * n("tokens") * n("kv_heads") * n("head_dim"),
        Some(_) => 2.0 * n("inputs") * (n("rows") + n("outputs")) + 4.0 * n("rows") * n("outputs"),
    }
}

fn time_all(gpu: &Gpu, rows: &mut Vec<Value>) -> Result<()> {
    let copy = copy_bandwidth(gpu)?;
    println!("\nOn the GPU: a copy moves {:.0} GB/s", copy / 1e9);
    for section in ON_A_GPU {
        for shape in section.shapes {
            println!(
                "\n{}: {shape}\n{:<32} {:>10} {:>8} {:>8}",
                section.title, "kernel", "µs", "GB/s", "% copy"
            );
            let expected = if section.key == "products" { 4096.0 } else { 1.0 };
            for kernel in section.kernels {
                let (seconds, numbers) = timed(gpu, kernel, &KernelShape::parse(kernel, shape)?)?;
                assert!(
                    numbers.iter().all(|x| (x - expected).abs() < 1e-3 * expected),
                    "{kernel}: {numbers:?}"
                );
                rows.push(print_timed(section, kernel, shape, [least_bytes(shape), seconds, copy]));
            }
            if section.key == "products" {
                rows.push(print_timed(
                    section,
                    "cuBLAS",
                    shape,
                    [least_bytes(shape), cublas(gpu, shape)?, copy],
                ));
            }
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    println!("{HEAD}");
    bench(|rows| count_all(SECTIONS, rows), time_all)
}
