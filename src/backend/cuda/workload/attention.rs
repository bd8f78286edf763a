//! Attention over a paged cache, and the writes into it.

use super::{Family, Kernel, KernelShape, Memory};
use crate::backend::cuda::device::{Address, Arg, Grid, Launch};
use crate::backend::cuda::{AttentionVersion, PagedPlaces, PagedShape, PagedWork, suffix};
use crate::error::{Error, Result};
use crate::tensor::DType;
use strum::VariantNames;

pub(super) const KV_DTYPES: &[&str] = &["bf16", "f16", "f32", "fp8"];

/// Sequences that decode: a row for each, behind `tokens` − 1 others.
pub(super) const VERSIONS: Family = Family {
    kernels: &[(AttentionVersion::VARIANTS, KV_DTYPES)],
    defaults: "sequences=2,tokens=256,heads=8,kv_heads=2,head_dim=64,block_size=16",
    launches: attend,
};

const WRITE: &str = "rows=8,heads=8,kv_heads=2,head_dim=64,block_size=16";

pub(super) const WRITES: Family =
    Family { kernels: &[(&["write_kv", "rope_write_kv"], KV_DTYPES)], defaults: WRITE, launches: write };

/// Rotation alone, of q and of k.
pub(super) const ROTATION: Family =
    Family { kernels: &[(&["rope"], &[])], defaults: WRITE, launches: rotate };

/// The shape, and memory for K or V of so many tokens for each of some sequences; fp8 has the scales in it. Also the blocks of a sequence.
pub(super) fn cache(
    memory: &Memory,
    kernel: &Kernel,
    shape: &KernelShape,
    sequences: usize,
    tokens: usize,
) -> Result<(PagedShape, [Address; 2], usize)> {
    let [heads, kv_heads, head_dim, block_size] = shape.get(["heads", "kv_heads", "head_dim", "block_size"]);
    if heads % kv_heads != 0 {
        let why = format!("heads={heads} is no multiple of kv_heads={kv_heads}");
        return Err(Error::parameter("shape", why));
    }
    if !block_size.is_power_of_two() {
        return Err(Error::parameter("shape", format!("block_size={block_size} is no power of two")));
    }
    let dtypes = [DType::BF16, DType::F16, DType::F8_E4M3];
    let dtype = dtypes.into_iter().find(|dtype| suffix(*dtype) == kernel.dtype).unwrap_or(DType::F32);
    let shape = PagedShape { heads, kv_heads, head_dim, block_size, dtype };
    let each = tokens.div_ceil(block_size);
    let numbers = sequences * each * shape.block_bytes() / dtype.bytes();
    let kept = || memory.ones(kernel.dtype, numbers);
    Ok((shape, [kept()?, kept()?], each))
}

fn attend(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let [sequences, tokens] = shape.get(["sequences", "tokens"]);
    let (shape, [k, v], each) = cache(memory, kernel, shape, sequences, tokens)?;
    let version = AttentionVersion::ALL.into_iter().find(|version| version.kernel() == kernel.base);
    let version = version.expect("a version of the list");
    if !version.fits(&shape) {
        let why = format!(
            "{} takes a head_dim that is a multiple of 8 (in fp8 of 16), up to 256, and query heads of a group that fit into \
             shared memory",
            kernel.name()
        );
        return Err(Error::parameter("shape", why));
    }
    let query_rows = sequences * shape.heads;
    let [out, q] = memory.floats([query_rows * shape.head_dim; 2])?;
    let tables = memory.ids((0..sequences * each).rev())?;
    let table_starts = memory.ids((0..sequences).map(|sequence| sequence * each))?;
    let positions = memory.ids(vec![tokens - 1; sequences])?;
    let parts = version.parts(tokens);
    let partial = match parts {
        1 => out,
        parts => memory.ones("f32", query_rows * parts * (shape.head_dim + 2))?,
    };
    let places = PagedPlaces { k, v, tables, table_starts, positions };
    let work = PagedWork { shape, places, rows: sequences, window: None, scale: 0.125, parts };
    Ok(version.launches(&work, out, q, partial))
}

fn write(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let [rows] = shape.get(["rows"]);
    let (shape, cache, _) = cache(memory, kernel, shape, 1, rows)?;
    let PagedShape { heads, kv_heads, head_dim, .. } = shape;
    let [k, v] = memory.floats([rows * kv_heads * head_dim; 2])?;
    let slots = memory.ids(0..rows)?;
    if kernel.base == "write_kv" {
        return Ok(vec![shape.write(cache, [k, v, slots], [0.0; 2], rows)]);
    }
    let positions = memory.ids(0..rows)?;
    let [frequencies, q] = memory.floats([head_dim / 2, rows * heads * head_dim])?;
    let rotation = [positions, frequencies];
    Ok(vec![shape.rotate_and_write(cache, [q, k, v, slots], rotation, (1.0, [0.0; 2]), rows)])
}

fn rotate(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let [rows, heads, kv_heads, head_dim] = shape.get(["rows", "heads", "kv_heads", "head_dim"]);
    let positions = memory.ids(0..rows)?;
    let [frequencies, q, k] =
        memory.floats([head_dim / 2, rows * heads * head_dim, rows * kv_heads * head_dim])?;
    let rotated = [(q, heads), (k, kv_heads)].map(|(x, heads)| {
        let values = [Arg::extent(heads), Arg::extent(head_dim), Arg::F32(1.0)];
        Launch::new(kernel.base, Grid::rows(rows, 128), &[x, positions, frequencies], &values)
    });
    Ok(rotated.into())
}
