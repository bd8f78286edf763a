//! The versions of the matrix product.

use super::{Family, Kernel, KernelShape, Memory};
use crate::{
    backend::cuda::device::{Arg, Grid, Launch},
    error::{Error, Result},
};

const DEFAULTS: super::Defaults = &[("rows", 1), ("inputs", 256), ("outputs", 256)];

/// x in f32 with W in any dtype, or both in the same one of 16 bits.
pub(super) const PLAIN: Family = Family {
    kernels: &["matmul_v0", "matmul_v1", "matmul_v2"],
    dtypes: &["bf16", "f16", "f32", "bf16_bf16", "f16_f16"],
    defaults: DEFAULTS,
    launches,
};

pub(super) const SIXTEEN_BITS: Family =
    Family { kernels: &["matmul_v3"], dtypes: &["bf16_bf16", "f16_f16"], defaults: DEFAULTS, launches };

pub(super) const UNSWIZZLED: Family =
    Family { kernels: &["matmul_v3_unswizzled"], dtypes: &["bf16_bf16"], defaults: DEFAULTS, launches };

fn launches(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let [rows, inputs, outputs] = ["rows", "inputs", "outputs"].map(|name| shape.get(name));
    let plain = kernel.base == "matmul_v0";
    let on_tensor_cores = kernel.base.starts_with("matmul_v3");
    if on_tensor_cores && inputs % 8 != 0 {
        let why = format!("{} takes inputs that are a multiple of 8; {inputs} is not", kernel.base);
        return Err(Error::parameter("shape", why));
    }
    let (x, w) = kernel.dtype.split_once('_').unwrap_or(("f32", kernel.dtype));
    let pointers =
        [memory.floats(rows * outputs)?, memory.ones(x, rows * inputs)?, memory.ones(w, outputs * inputs)?];
    let mut sizes = vec![inputs, outputs];
    if !on_tensor_cores {
        sizes.push(0); // not transposed
    }
    sizes.extend([outputs, 0]); // columns of y, and the first of them
    if !plain {
        sizes.push(rows);
    }
    let arguments =
        pointers.map(Arg::At).into_iter().chain(sizes.into_iter().map(|n| Arg::U32(n as u32))).collect();
    let tiles = |n: usize| [outputs.div_ceil(n) as u32, rows.div_ceil(n) as u32, 1];
    let (blocks, threads) = match kernel.base {
        "matmul_v0" => ([outputs.div_ceil(128) as u32, rows as u32, 1], 128),
        "matmul_v1" => (tiles(32), 256),
        "matmul_v2" => (tiles(64), 256),
        _ => (tiles(64), 128),
    };
    Ok(vec![Launch { kernel: kernel.name(), grid: Grid { blocks, threads, shared_bytes: 0 }, arguments }])
}
