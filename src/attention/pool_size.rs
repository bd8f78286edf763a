//! How many blocks there is memory for.

use super::options::{KvBudget, KvDtype, KvOptions, KvSwap};
use crate::error::{Error, Result};
use crate::model::{AttentionShape, KvMemory, KvPool};
use crate::words;

/// Tokens of a block, if nobody asks for another number.
pub const BLOCK_SIZE: usize = 16;

/// A pool as it was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    pub block_size: usize,
    pub blocks: usize,
    pub swap_blocks: usize,
    /// The longest sequence in tokens.
    pub max_model_len: usize,
    pub max_chunk: usize,
    /// How many keys a query of any layer sees at most, if all have a window.
    pub window: Option<usize>,
}

impl Pool {
    /// What it takes, and what the block manager must know of it.
    pub fn memory(&self, shape: &AttentionShape, dtype: KvDtype) -> KvMemory {
        let Pool { block_size, blocks, swap_blocks, window, max_chunk, .. } = *self;
        let bytes_per_token = shape.bytes_per_token(dtype);
        KvMemory {
            dtype: Some(dtype.stored()),
            scales: None,
            bytes_per_token,
            slots: usize::MAX,
            reserved_bytes: (blocks * block_size) as u64 * bytes_per_token,
            pool: Some(KvPool { block_size, blocks, swap_blocks, window, max_chunk }),
        }
    }
}

/// Plans a pool in `free` bytes: what the options ask for, or what the sequences can use at most.
///
/// # Errors
/// If what was asked for does not fit, or nothing does.
pub(super) fn plan_pool(shape: &AttentionShape, options: &KvOptions, free: u64) -> Result<Pool> {
    let block_size = options.block_size.unwrap_or(BLOCK_SIZE);
    let block_bytes = shape.bytes_per_token(options.dtype) * block_size as u64;
    let fit = (free / block_bytes.max(1)) as usize;

    let longest = options.max_model_len.unwrap_or(shape.context);
    // Many sequences at a time: as much again for what the prefix cache keeps.
    let sequences = options.max_num_seqs.map_or(1, |n| n.saturating_mul(2));
    let wanted = sequences.saturating_mul(longest.div_ceil(block_size));
    let (field, blocks) = match options.budget {
        Some(KvBudget::Bytes(bytes)) => (Some("kv_memory"), (bytes / block_bytes.max(1)) as usize),
        Some(KvBudget::Tokens(tokens)) => (Some("max_kv_tokens"), tokens / block_size),
        None => (None, wanted.min(fit)),
    };
    if let Some(field) = field.filter(|_| blocks == 0) {
        let one = format!("a block of {block_size} tokens takes {block_bytes} bytes, and not one fits");
        let why = one + "; give more, or a smaller " + &words::field("block_size");
        return Err(Error::parameter(field, why));
    }
    if blocks > fit || blocks == 0 {
        let why = too_much(field.is_some(), blocks.max(1) as u64 * block_bytes, free, options.dtype);
        return Err(match field {
            Some(field) => Error::parameter(field, why),
            None => Error::Limit(format!("there is no memory for K and V: {why}").into()),
        });
    }
    let max_model_len = longest_sequence(shape, options, blocks * block_size, free)?;
    Ok(Pool {
        block_size,
        blocks,
        swap_blocks: match options.swap {
            KvSwap::None => 0,
            KvSwap::Bytes(bytes) => (bytes / block_bytes.max(1)) as usize,
            KvSwap::AsThePool => blocks,
        },
        max_model_len,
        max_chunk: options.max_chunk.unwrap_or(max_model_len),
        window: widest_window(shape),
    })
}

/// How many keys a query of any layer sees at most; `None` if some layer sees all.
pub(super) fn widest_window(shape: &AttentionShape) -> Option<usize> {
    // Of all layers, also those of other stages: one set of books says for all ranks which blocks are given back.
    let windows: Option<Vec<usize>> = shape.windows.iter().copied().collect();
    windows?.into_iter().max()
}

/// A single sequence gives way to the pool, unless a length was asked for. Many sequences are checked one by one, when they arrive.
fn longest_sequence(shape: &AttentionShape, options: &KvOptions, room: usize, free: u64) -> Result<usize> {
    let asked = options.max_model_len;
    let too_long = |why: String| {
        let value = asked.unwrap_or_default().to_string();
        Error::Parameter { field: "max_model_len", value, why: why.into() }
    };
    match (asked, options.max_num_seqs) {
        (Some(asked), None) if asked > room => {
            if let Some(budget) = options.budget {
                let (field, value) = match budget {
                    KvBudget::Bytes(bytes) => ("kv_memory", format!("{bytes} bytes")),
                    KvBudget::Tokens(tokens) => ("max_kv_tokens", tokens.to_string()),
                };
                let pool = format!("the pool of {} {value}", words::field(field));
                return Err(too_long(format!("{pool} has room for {room} tokens; give a larger one")));
            }
            let bytes = asked as u64 * shape.bytes_per_token(options.dtype);
            Err(too_long(too_much(true, bytes, free, options.dtype)))
        }
        (Some(asked), _) => Ok(asked),
        (None, _) => Ok(shape.context.min(room)),
    }
}

/// What is asked for and what is free; `asked` for less of it where somebody asked for a size.
fn too_much(asked: bool, bytes: u64, free: u64, dtype: KvDtype) -> String {
    let [needed, free] = [bytes, free].map(|bytes| bytes as f64 / 1e9);
    let way_out = if asked { "give less" } else { "close other programs" };
    let why =
        format!("K and V would take {needed:.3} GB, and {free:.3} GB are free beside the weights; {way_out}");
    let kv_dtype = words::field("kv_dtype");
    match dtype {
        KvDtype::F32 => format!("{why} or {kv_dtype} bf16"),
        KvDtype::Bf16 | KvDtype::F16 => format!("{why} or {kv_dtype} fp8-e4m3"),
        KvDtype::Fp8 => why,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::slot_memory::SHARE, *};

    /// Two layers; 2 · 4 · 32 numbers a token and layer: 2,048 bytes a token in f32.
    fn shape(windows: [Option<usize>; 2]) -> AttentionShape {
        let (layers, windows) = (0..2, windows.to_vec());
        AttentionShape { layers, heads: 8, kv_heads: 4, head_dim: 32, scale: 1.0, windows, context: 1000 }
    }

    fn pool(options: KvOptions, free_megabytes: f64) -> Result<Pool, String> {
        let free = (free_megabytes * 1e6 / SHARE) as u64 + 1;
        plan_pool(&shape([None, Some(8)]), &options, options.host_room(free)).map_err(|e| e.to_string())
    }

    #[test]
    fn a_pool_is_what_was_asked_for_or_what_can_be_used() {
        let options = KvOptions { max_num_seqs: Some(4), max_model_len: Some(100), ..KvOptions::default() };
        assert_eq!(pool(options.clone(), 100.0).unwrap().blocks, 2 * 4 * 7);
        assert_eq!(pool(options.clone(), 0.33).unwrap().blocks, 10, "330,000 / (16 · 2,048)");
        let asked = |budget, block_size| {
            pool(KvOptions { budget: Some(budget), block_size, ..options.clone() }, 100.0)
        };
        assert_eq!(asked(KvBudget::Tokens(640), Some(32)).unwrap().blocks, 20);
        let planned = asked(KvBudget::Bytes(1 << 20), Some(1)).unwrap();
        assert_eq!((planned.blocks, planned.max_model_len, planned.window), (512, 100, None));
        let error = asked(KvBudget::Bytes(1 << 30), None).unwrap_err();
        assert!(error.contains("kv_memory") && error.contains("0.100 GB are free"), "{error}");
        assert!(asked(KvBudget::Tokens(15), None).unwrap_err().contains("not one fits"));
    }

    #[test]
    fn one_sequence_gives_way_to_the_pool() {
        assert_eq!(pool(KvOptions::default(), 100.0).unwrap().max_model_len, 1000);
        assert_eq!(pool(KvOptions::default(), 0.33).unwrap().max_model_len, 160);
        let error = pool(KvOptions { max_model_len: Some(500), ..KvOptions::default() }, 0.33).unwrap_err();
        assert!(error.contains("max_model_len 500") && error.contains("kv_dtype bf16"), "{error}");
        assert!(pool(KvOptions::default(), 0.0).unwrap_err().contains("no memory"));
    }

    #[test]
    fn a_window_counts_if_every_layer_has_one() {
        let of = |windows| plan_pool(&shape(windows), &KvOptions::default(), 1 << 30).unwrap().window;
        assert_eq!(of([Some(5), Some(8)]), Some(8));
        assert_eq!(of([Some(5), None]), None);
    }
}
