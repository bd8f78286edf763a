//! Attention over a paged cache, and the writes into it.

use super::{Family, Kernel, KernelShape, Memory};
use crate::{
    backend::cuda::{
        AttentionVersion, PagedPlaces, PagedShape, PagedWork,
        device::{Address, Arg, Grid, Launch},
    },
    error::{Error, Result},
    tensor::DType,
};

pub(super) const KV_DTYPES: &[&str] = &["bf16", "f16", "f32", "fp8"];

/// Sequences that decode: a row for each, behind `tokens` − 1 others.
pub(super) const VERSIONS: Family = Family {
    kernels: &[
        "paged_attention_v0",
        "paged_attention_v1",
        "paged_attention_v2",
        "paged_attention_v3",
        "paged_attention_v4",
    ],
    dtypes: KV_DTYPES,
    defaults: &[
        ("sequences", 2),
        ("tokens", 256),
        ("heads", 8),
        ("kv_heads", 2),
        ("head_dim", 64),
        ("block_size", 16),
    ],
    launches: attend,
};

const WRITE: super::Defaults =
    &[("rows", 8), ("heads", 8), ("kv_heads", 2), ("head_dim", 64), ("block_size", 16)];

pub(super) const WRITES: Family =
    Family { kernels: &["write_kv", "rope_write_kv"], dtypes: KV_DTYPES, defaults: WRITE, launches: write };

/// Rotation alone, of q and of k.
pub(super) const ROTATION: Family =
    Family { kernels: &["rope"], dtypes: &[], defaults: WRITE, launches: rotate };

fn dtype_of(kernel: &Kernel) -> DType {
    match kernel.dtype {
        "bf16" => DType::BF16,
        "f16" => DType::F16,
        "fp8" => DType::F8_E4M3,
        _ => DType::F32,
    }
}

/// The shape, and memory for K or V of so many blocks; fp8 has the scales in it.
pub(super) fn cache(
    memory: &Memory,
    kernel: &Kernel,
    shape: &KernelShape,
    blocks: usize,
) -> Result<(PagedShape, [Address; 2])> {
    let [heads, kv_heads, head_dim, block_size] =
        ["heads", "kv_heads", "head_dim", "block_size"].map(|name| shape.get(name));
    if heads % kv_heads != 0 {
        let why = format!("heads={heads} is no multiple of kv_heads={kv_heads}");
        return Err(Error::parameter("shape", why));
    }
    if !block_size.is_power_of_two() {
        return Err(Error::parameter("shape", format!("block_size={block_size} is no power of two")));
    }
    let vectors = kv_heads * block_size;
    let numbers = match kernel.dtype {
        "fp8" => ((vectors * head_dim).next_multiple_of(4) + 4 * vectors).next_multiple_of(16),
        _ => vectors * head_dim,
    };
    let kept = || memory.ones(kernel.dtype, blocks * numbers);
    Ok((PagedShape { heads, kv_heads, head_dim, block_size, dtype: dtype_of(kernel) }, [kept()?, kept()?]))
}

fn attend(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let [sequences, tokens] = ["sequences", "tokens"].map(|name| shape.get(name));
    let each = tokens.div_ceil(shape.get("block_size"));
    let (shape, [k, v]) = cache(memory, kernel, shape, sequences * each)?;
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
    let (heads, head_dim) = (shape.heads, shape.head_dim);
    let [out, q] =
        [memory.floats(sequences * heads * head_dim)?, memory.floats(sequences * heads * head_dim)?];
    let tables: Vec<u32> = (0..(sequences * each) as u32).rev().collect();
    let starts: Vec<u32> = (0..sequences).map(|s| (s * each) as u32).collect();
    let (tables, table_starts) = (memory.ids(&tables)?, memory.ids(&starts)?);
    let positions = memory.ids(&vec![tokens as u32 - 1; sequences])?;
    let parts = version.parts(tokens);
    let partial = if parts > 1 { memory.floats(sequences * heads * parts * (head_dim + 2))? } else { out };
    let places = PagedPlaces { k, v, tables, table_starts, positions };
    let work = PagedWork { shape, places, rows: sequences, window: None, scale: 0.125, parts };
    Ok(version.launches(&work, out, q, partial))
}

fn write(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let rows = shape.get("rows");
    let (PagedShape { heads, kv_heads, head_dim, block_size, .. }, kept) =
        cache(memory, kernel, shape, rows.div_ceil(shape.get("block_size")))?;
    let [k, v] = [memory.floats(rows * kv_heads * head_dim)?, memory.floats(rows * kv_heads * head_dim)?];
    let slots = memory.ids(&(0..rows as u32).collect::<Vec<_>>())?;
    let sizes = [kv_heads, head_dim, block_size].map(|n| Arg::U32(n as u32));
    let (arguments, shared_bytes) = if kernel.base == "rope_write_kv" {
        let (positions, frequencies) =
            (memory.ids(&(0..rows as u32).collect::<Vec<_>>())?, memory.floats(head_dim / 2)?);
        let q = memory.floats(rows * heads * head_dim)?;
        let pointers = [kept[0], kept[1], q, k, v, slots, positions, frequencies].map(Arg::At);
        ([&pointers[..], &[Arg::F32(1.0), Arg::U32(heads as u32)], &sizes].concat(), 4 * head_dim)
    } else {
        ([&[kept[0], kept[1], k, v, slots].map(Arg::At)[..], &sizes].concat(), 0)
    };
    Ok(vec![Launch {
        kernel: kernel.name(),
        grid: Grid { shared_bytes, ..Grid::rows(rows, 128) },
        arguments,
    }])
}

fn rotate(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let [rows, head_dim] = ["rows", "head_dim"].map(|name| shape.get(name));
    let positions = memory.ids(&(0..rows as u32).collect::<Vec<_>>())?;
    let frequencies = memory.floats(head_dim / 2)?;
    let of = |heads: usize| -> Result<Launch> {
        let x = memory.floats(rows * heads * head_dim)?;
        let sizes = [heads, head_dim].map(|n| Arg::U32(n as u32));
        let arguments = [&[x, positions, frequencies].map(Arg::At)[..], &sizes, &[Arg::F32(1.0)]].concat();
        Ok(Launch { kernel: kernel.name(), grid: Grid::rows(rows, 128), arguments })
    };
    Ok(vec![of(shape.get("heads"))?, of(shape.get("kv_heads"))?])
}
