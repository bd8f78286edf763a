//! Kernels over rows of an activation.

use super::{Family, Kernel, KernelShape, Memory};
use crate::backend::cuda::device::{Arg, Grid, Launch};
use crate::error::{Error, Result};

const DEFAULTS: &str = "rows=8,width=1024";

pub(super) const ELEMENTWISE: Family =
    Family { kernels: &[(&["add", "silu_mul"], &[])], defaults: DEFAULTS, launches: elementwise };

pub(super) const NORMS: Family = Family {
    kernels: &[(&["rms_norm_v0", "rms_norm_v1", "rms_norm_v2", "add_rms_norm"], &[])],
    defaults: DEFAULTS,
    launches: norm,
};

fn elementwise(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let [rows, width] = shape.get(["rows", "width"]);
    let n = rows * width;
    kernel.launch(Grid::numbers(n), &memory.floats([n, n])?, &[Arg::Size(n as u64)])
}

fn norm(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let [rows, width] = shape.get(["rows", "width"]);
    if kernel.base == "rms_norm_v2" && (width % 4 != 0 || width > 4096) {
        let why =
            format!("{} takes a width that is a multiple of 4, up to 4096; {width} is not", kernel.base);
        return Err(Error::parameter("shape", why));
    }
    let mut pointers = memory.floats([rows * width, rows * width])?.to_vec();
    if kernel.base == "add_rms_norm" {
        pointers.extend(memory.floats([rows * width])?);
    }
    pointers.extend(memory.floats([width])?);
    kernel.launch(Grid::rows(rows, 128), &pointers, &[Arg::extent(width), Arg::F32(1e-6)])
}
