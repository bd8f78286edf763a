//! Attention over prompts.

use super::{Family, Kernel, KernelShape, Memory, attention};
use crate::backend::cuda::device::Launch;
use crate::backend::cuda::{FlashVersion, FlashWork, PagedPlaces};
use crate::error::{Error, Result};

/// v2 with the pieces of a tile where they come: to be counted beside it. Heads of 64 or 128.
const UNSWIZZLED: &str = "flash_attention_v2_unswizzled";

/// A prompt for each sequence, behind `before` tokens that are kept.
pub(super) const VERSIONS: Family = Family {
    kernels: &[
        (&["flash_attention_v0", "flash_attention_v1"], attention::KV_DTYPES),
        (&["flash_attention_v2", "flash_attention_v3", "flash_attention_v4"], &["bf16", "f16"]),
        (&[UNSWIZZLED], &["bf16"]),
    ],
    defaults: "sequences=1,tokens=256,before=0,heads=8,kv_heads=2,head_dim=64,block_size=16",
    launches,
};

fn launches(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let [sequences, tokens, before] = shape.get(["sequences", "tokens", "before"]);
    let longest = before + tokens;
    let (shape, [k, v], each) = attention::cache(memory, kernel, shape, sequences, longest)?;
    let unswizzled = kernel.base == UNSWIZZLED;
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
    let [out, q] = memory.floats([rows * shape.heads * shape.head_dim; 2])?;
    let places = PagedPlaces {
        k,
        v,
        tables: memory.ids((0..sequences * each).rev())?,
        table_starts: memory.ids((0..rows).map(|row| row / tokens * each))?,
        positions: memory.ids((0..rows).map(|row| before + row % tokens))?,
    };
    let work = FlashWork {
        shape,
        places,
        row_starts: memory.ids((0..sequences).map(|sequence| sequence * tokens))?,
        row_counts: memory.ids(vec![tokens; sequences])?,
        sequences,
        most_rows: tokens,
        rows,
        longest,
        window: None,
        scale: 0.125,
    };
    let scores = if version == FlashVersion::V0 { memory.room(4 * version.scores(&work))? } else { out };
    let mut launches = version.launches(&work, out, None, q, scores);
    if unswizzled {
        let name = &mut launches[0].kernel;
        *name = name.replace(version.kernel(), kernel.base);
    }
    Ok(launches)
}
