//! Attention over prompts.

use super::{Family, Kernel, KernelShape, Memory, attention};
use crate::{
    backend::cuda::{
        FlashVersion, FlashWork, PagedPlaces,
        device::{Address, Launch},
    },
    error::{Error, Result},
};

/// A prompt for each sequence, behind `before` tokens that are kept.
const DEFAULTS: super::Defaults = &[
    ("sequences", 1),
    ("tokens", 256),
    ("before", 0),
    ("heads", 8),
    ("kv_heads", 2),
    ("head_dim", 64),
    ("block_size", 16),
];

pub(super) const PLAIN: Family = Family {
    kernels: &["flash_attention_v0", "flash_attention_v1"],
    dtypes: attention::KV_DTYPES,
    defaults: DEFAULTS,
    launches,
};

pub(super) const SIXTEEN_BITS: Family = Family {
    kernels: &["flash_attention_v2", "flash_attention_v3"],
    dtypes: &["bf16", "f16"],
    defaults: DEFAULTS,
    launches,
};

pub(super) const HOPPER: Family =
    Family { kernels: &["flash_attention_v4"], dtypes: &["bf16", "f16"], defaults: DEFAULTS, launches };

/// v2 with the pieces of a tile where they come: to be counted beside it. Heads of 64 or 128.
pub(super) const UNSWIZZLED: Family =
    Family { kernels: &["flash_attention_v2_unswizzled"], dtypes: &["bf16"], defaults: DEFAULTS, launches };

fn launches(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let [sequences, tokens, before] = ["sequences", "tokens", "before"].map(|name| shape.get(name));
    let longest = before + tokens;
    let each = longest.div_ceil(shape.get("block_size"));
    let (shape, [k, v]) = attention::cache(memory, kernel, shape, sequences * each)?;
    let unswizzled = kernel.base == "flash_attention_v2_unswizzled";
    let version = FlashVersion::ALL.into_iter().find(|version| kernel.base.starts_with(version.kernel()));
    let version = version.expect("a version of the list");
    if !version.fits(&shape) || unswizzled && ![64, 128].contains(&shape.head_dim) {
        let widths = match version {
            FlashVersion::V0 | FlashVersion::V1 => "a multiple of 4, up to 256",
            FlashVersion::V4 => "64 or 128",
            _ if unswizzled => "64 or 128",
            _ => "64, 80, 96, 128 or 256",
        };
        return Err(Error::parameter("shape", format!("{} takes a head_dim of {widths}", kernel.name())));
    }
    let rows = sequences * tokens;
    let numbers = rows * shape.heads * shape.head_dim;
    let (out, q) = (memory.floats(numbers)?, memory.floats(numbers)?);
    let ids = |values: &mut dyn Iterator<Item = usize>| -> Result<Address> {
        memory.ids(&values.map(|n| n as u32).collect::<Vec<_>>())
    };
    let places = PagedPlaces {
        k,
        v,
        tables: ids(&mut (0..sequences * each).rev())?,
        table_starts: ids(&mut (0..rows).map(|row| row / tokens * each))?,
        positions: ids(&mut (0..rows).map(|row| before + row % tokens))?,
    };
    let work = FlashWork {
        shape,
        places,
        row_starts: ids(&mut (0..sequences).map(|s| s * tokens))?,
        row_counts: ids(&mut std::iter::repeat_n(tokens, sequences))?,
        sequences,
        most_rows: tokens,
        rows,
        longest,
        window: None,
        scale: 0.125,
    };
    let scores = if version == FlashVersion::V0 { memory.room(version.scores(&work))? } else { out };
    let mut launches = version.launches(&work, out, None, q, scores);
    if unswizzled {
        let name = &mut launches[0].kernel;
        *name = name.replace(version.kernel(), kernel.base);
    }
    Ok(launches)
}
