//! Step 9's kernels, version by version: what they read and write, counted on the simulator, and on a GPU their times.
//!
//! ```text
//! cargo bench --features step9 --bench step9                          # a table; a minute without a GPU, since every access is counted
//! cargo bench --features step9 --bench step9 -- --out results.json    # and as JSON
//! ```
//! Counters are the same on every machine. With a GPU there are three more columns: µs, bytes of codes and scales ÷ time, and that in parts of the
//! bandwidth of a copy measured in the same run. Every weight and every number of x is 1, so a result is the number of inputs, and it is checked
//! before it is timed. Nobody has run that part on a GPU yet.

mod count;
mod measure;

use count::{HEAD, Section, count_all, print_timed};
use measure::{bench, copy_bandwidth, cublas, extent, timed};
use serde_json::Value;
use stairwell::{
    backend::cuda::{Gpu, KernelShape},
    error::Result,
};

const LADDER: &[&str] =
    &["quant_matmul_v0_bf16", "quant_matmul_v1_bf16", "quant_matmul_v2_bf16", "quant_matmul_v3_bf16"];

const SECTIONS: &[Section] = &[
    Section {
        key: "ladder",
        title: "The ladder: 4 bits in groups of 128, a row that decodes, and 32 rows",
        kernels: LADDER,
        shapes: &[
            "rows=1,inputs=1024,outputs=1024,group_size=128",
            "rows=32,inputs=1024,outputs=1024,group_size=128",
        ],
    },
    Section {
        key: "dense",
        title: "The same matrix in bf16",
        kernels: &["matmul_v3_bf16_bf16"],
        shapes: &["rows=1,inputs=1024,outputs=1024", "rows=32,inputs=1024,outputs=1024"],
    },
    Section {
        key: "blocks",
        title: "Floats of 8 bits in blocks of 128 x 128",
        kernels: &["quant_matmul_v4_bf16"],
        shapes: &["rows=1,inputs=1024,outputs=1024", "rows=4,inputs=1024,outputs=1024"],
    },
    Section {
        key: "rows",
        title: "The general kernel",
        kernels: &[
            "quant_matmul_rows_affine4",
            "quant_matmul_rows_table",
            "quant_matmul_rows_affine8",
            "quant_matmul_rows_int8",
            "quant_matmul_rows_fp8",
        ],
        shapes: &["rows=1,inputs=1024,outputs=1024,group_size=128"],
    },
];

/// What only a GPU does in time.
const ON_A_GPU: &[Section] = &[
    Section {
        key: "decode",
        title: "One row",
        kernels: LADDER,
        shapes: &["rows=1,inputs=4096,outputs=4096,group_size=128"],
    },
    Section {
        key: "prompt",
        title: "A prompt of 512 tokens",
        kernels: &["quant_matmul_v2_bf16", "quant_matmul_v3_bf16"],
        shapes: &["rows=512,inputs=4096,outputs=4096,group_size=128"],
    },
];

/// Bytes of codes of 4 bits with a scale and a zero point for each group.
fn packed_bytes(shape: &str) -> f64 {
    let n = |name: &str| extent(shape, name).expect("the shape names it") as f64;
    n("inputs") * n("outputs") * (4.0 + 20.0 / n("group_size")) / 8.0
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
            for kernel in section.kernels {
                let (seconds, numbers) = timed(gpu, kernel, &KernelShape::parse(kernel, shape)?)?;
                let right = |x: &f32| (x - 4096.0).abs() < 4.0;
                assert!(numbers.iter().all(right), "{kernel}: {numbers:?}");
                rows.push(print_timed(section, kernel, shape, [packed_bytes(shape), seconds, copy]));
            }
            // cuBLAS reads the same matrix in bf16; its speed is counted in packed bytes, too, so that the columns compare.
            let dense = shape.replace(",group_size=128", "");
            rows.push(print_timed(
                section,
                "cuBLAS, bf16",
                shape,
                [packed_bytes(shape), cublas(gpu, &dense)?, copy],
            ));
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    println!("{HEAD}");
    bench(|rows| count_all(SECTIONS, rows), time_all)
}
