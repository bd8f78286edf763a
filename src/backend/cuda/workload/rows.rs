//! Kernels over rows of an activation.

use super::{Family, Kernel, KernelShape, Memory};
use crate::{
    backend::cuda::device::{Arg, Grid, Launch},
    error::{Error, Result},
};

pub(super) const ELEMENTWISE: Family = Family {
    kernels: &["add", "silu_mul"],
    dtypes: &[],
    defaults: &[("rows", 8), ("width", 1024)],
    launches: elementwise,
};

pub(super) const NORMS: Family = Family {
    kernels: &["rms_norm_v0", "rms_norm_v1", "rms_norm_v2", "add_rms_norm"],
    dtypes: &[],
    defaults: &[("rows", 8), ("width", 1024)],
    launches: norm,
};

fn elementwise(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let n = shape.get("rows") * shape.get("width");
    let arguments = vec![Arg::At(memory.floats(n)?), Arg::At(memory.floats(n)?), Arg::Size(n as u64)];
    Ok(vec![Launch { kernel: kernel.name(), grid: Grid::numbers(n), arguments }])
}

fn norm(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let (rows, width) = (shape.get("rows"), shape.get("width"));
    if kernel.base == "rms_norm_v2" && (width % 4 != 0 || width > 4096) {
        let why =
            format!("{} takes a width that is a multiple of 4, up to 4096; {width} is not", kernel.base);
        return Err(Error::parameter("shape", why));
    }
    let mut arguments = vec![Arg::At(memory.floats(rows * width)?), Arg::At(memory.floats(rows * width)?)];
    if kernel.base == "add_rms_norm" {
        arguments.push(Arg::At(memory.floats(rows * width)?));
    }
    arguments.extend([Arg::At(memory.floats(width)?), Arg::U32(width as u32), Arg::F32(1e-6)]);
    Ok(vec![Launch { kernel: kernel.name(), grid: Grid::rows(rows, 128), arguments }])
}
