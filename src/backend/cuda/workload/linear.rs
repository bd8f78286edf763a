//! The versions of the matrix product.

use super::{Family, Kernel, KernelShape, Memory};
use crate::backend::cuda::device::{Arg, Grid, Launch};
use crate::error::{Error, Result};

/// x in f32 with W in any dtype, or both in the same one of 16 bits, as tensor cores want them.
pub(super) const PRODUCTS: Family = Family {
    kernels: &[
        (&["matmul_v0", "matmul_v1", "matmul_v2"], &["bf16", "f16", "f32", "bf16_bf16", "f16_f16"]),
        (&["matmul_v3"], &["bf16_bf16", "f16_f16"]),
        (&["matmul_v3_unswizzled"], &["bf16_bf16"]),
    ],
    defaults: "rows=1,inputs=256,outputs=256",
    launches,
};

fn launches(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let [rows, inputs, outputs] = shape.get(["rows", "inputs", "outputs"]);
    let on_tensor_cores = kernel.base.starts_with("matmul_v3");
    if on_tensor_cores && inputs % 8 != 0 {
        let why = format!("{} takes inputs that are a multiple of 8; {inputs} is not", kernel.base);
        return Err(Error::parameter("shape", why));
    }
    let (x, w) = kernel.dtype.split_once('_').unwrap_or(("f32", kernel.dtype));
    let [y] = memory.floats([rows * outputs])?;
    let pointers = [y, memory.ones(x, rows * inputs)?, memory.ones(w, outputs * inputs)?];
    let mut sizes = vec![inputs, outputs];
    if !on_tensor_cores {
        sizes.push(0); // not transposed
    }
    sizes.extend([outputs, 0]); // columns of y, and the first of them
    if kernel.base != "matmul_v0" {
        sizes.push(rows);
    }
    let sizes: Vec<Arg> = sizes.into_iter().map(Arg::extent).collect();
    let tiles = |n: usize| [outputs.div_ceil(n) as u32, rows.div_ceil(n) as u32, 1];
    let (blocks, threads) = match kernel.base {
        "matmul_v0" => ([outputs.div_ceil(128) as u32, rows as u32, 1], 128),
        "matmul_v1" => (tiles(32), 256),
        "matmul_v2" => (tiles(64), 256),
        _ => (tiles(64), 128),
    };
    kernel.launch(Grid { blocks, threads, shared_bytes: 0 }, &pointers, &sizes)
}
