//! The arithmetic of `stairwell plan`: it works out on paper how much of a KV cache fits into a given memory.
//!
//! ```text
//! room for K and V = min(memory − weights − activations, 0.9 · (memory − weights))
//! bytes of a token = 2 · layers · kv_heads · head_dim · bytes of an element, and in fp8 the scales, 2 · layers · kv_heads · 4
//! blocks           = ⌊room / (16 · bytes of a token)⌋
//! one sequence     = min(context, 16 · blocks) tokens
//! at a time        = ⌊blocks / ⌈length / 16⌉⌋ sequences of that length
//! ```
//! The 0.9 is the engine's: the engine leaves a tenth of the free memory to other programs, and a plan must not promise more than the engine takes.
//!
//! If every layer has a sliding window, blocks behind it are given back, and a sequence holds at most
//! ⌈(window + tokens of a step) / 16⌉ + 1 blocks, however long it is (as the block manager's `max_tokens`).

use super::pool_size::{BLOCK_SIZE, widest_window};
use super::{options::KvDtype, slot_memory::SHARE};
use crate::model::AttentionShape;
use serde::Serialize;

/// A memory, and what is in it beside K and V. All in bytes, but for the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    #[serde(rename = "memory_bytes")]
    pub memory: u64,
    #[serde(rename = "weights_bytes")]
    pub weights: u64,
    /// Of one step.
    #[serde(rename = "activation_bytes")]
    pub activations: u64,
    /// The most tokens of a step.
    #[serde(rename = "max_batched_tokens")]
    pub step_tokens: usize,
}

/// The KV cache that fits if K and V are stored in one dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KvPlan {
    pub dtype: KvDtype,
    pub bytes_per_token: u64,
    /// Blocks of the pool.
    pub blocks: usize,
    /// Tokens that they hold, over all sequences.
    pub tokens: usize,
    /// The longest sequence in tokens, if it is alone.
    #[serde(rename = "longest_sequence")]
    pub longest: usize,
    /// The reason why it is not longer: `context` or `memory`.
    pub limited_by: &'static str,
    /// Sequences of the wanted length at a time.
    pub sequences: usize,
    /// The least memory that holds one sequence of the wanted length.
    #[serde(rename = "memory_for_one_sequence_bytes")]
    pub memory_for_one: u64,
}

impl MemoryPlan {
    // ANCHOR: kv_room
    /// Bytes for K and V.
    pub fn kv_room(&self) -> u64 {
        let free = self.memory.saturating_sub(self.weights);
        let offered = (free as f64 * SHARE) as u64;
        offered.min(free.saturating_sub(self.activations))
    }
    // ANCHOR_END: kv_room

    /// The least memory with room for so many bytes of K and V: [`kv_room`](Self::kv_room) the other way round.
    fn memory_for(&self, kv: u64) -> u64 {
        // A byte more: the share is rounded down.
        let free = (kv as f64 / SHARE).ceil() as u64 + 1;
        self.weights.saturating_add(free.max(kv.saturating_add(self.activations)))
    }

    /// Blocks that a sequence of `tokens` tokens holds at most.
    pub fn blocks_held(&self, shape: &AttentionShape, tokens: usize) -> usize {
        let all = tokens.div_ceil(BLOCK_SIZE);
        widest_window(shape).map_or(all, |window| all.min(self.blocks_of_window(window)))
    }

    /// Blocks that the tokens of one step see. One block is added, because the window need not begin where a block begins.
    fn blocks_of_window(&self, window: usize) -> usize {
        window.saturating_add(self.step_tokens).div_ceil(BLOCK_SIZE) + 1
    }

    /// The KV cache that fits if K and V are stored in `dtype` and sequences of `length` tokens are wanted (at least one).
    pub fn kv(&self, shape: &AttentionShape, dtype: KvDtype, length: usize) -> KvPlan {
        let bytes_per_token = shape.bytes_per_token(dtype);
        let block_bytes = (bytes_per_token * BLOCK_SIZE as u64).max(1);
        let blocks = (self.kv_room() / block_bytes) as usize;
        let (tokens, held) = (blocks * BLOCK_SIZE, self.blocks_held(shape, length).max(1));
        let endless = widest_window(shape).is_some_and(|window| self.blocks_of_window(window) <= blocks);
        let longest = if endless { shape.context } else { shape.context.min(tokens) };
        KvPlan {
            dtype,
            bytes_per_token,
            blocks,
            tokens,
            longest,
            limited_by: if longest == shape.context { "context" } else { "memory" },
            sequences: blocks / held,
            memory_for_one: self.memory_for((held as u64).saturating_mul(block_bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2 layers; 2 · 2 · 4 · 32 numbers a token: 2,048 bytes in f32, 1,024 in bf16, 576 in fp8.
    fn shape(window: Option<usize>) -> AttentionShape {
        let windows = vec![window; 2];
        AttentionShape {
            layers: 0..2,
            heads: 8,
            kv_heads: 4,
            head_dim: 32,
            scale: 1.0,
            windows,
            context: 1000,
        }
    }

    fn plan(memory: u64) -> MemoryPlan {
        MemoryPlan { memory, weights: 1_000_000, activations: 100_000, step_tokens: 64 }
    }

    #[test]
    fn activations_or_a_tenth_stay_free() {
        assert_eq!(plan(1_500_000).kv_room(), 400_000, "500,000 less the activations");
        assert_eq!(plan(3_000_000).kv_room(), 1_800_000, "nine tenths of 2,000,000");
        assert_eq!((plan(999_999).kv_room(), plan(1_050_000).kv_room()), (0, 0));
    }

    #[test]
    fn blocks_are_whole_and_the_context_limits_a_sequence() {
        let [f32, bf16, f16, fp8] = KvDtype::ALL.map(|dtype| plan(3_000_000).kv(&shape(None), dtype, 100));
        assert_eq!((f16.bytes_per_token, f16.blocks), (bf16.bytes_per_token, bf16.blocks));
        assert_eq!([f32, bf16, fp8].map(|kv| kv.bytes_per_token), [2048, 1024, 576]);
        assert_eq!([f32, bf16, fp8].map(|kv| kv.blocks), [54, 109, 195], "of 32,768, 16,384 and 9,216 bytes");
        assert_eq!([f32, bf16, fp8].map(|kv| kv.tokens), [864, 1744, 3120]);
        assert_eq!([f32, bf16, fp8].map(|kv| kv.longest), [864, 1000, 1000]);
        assert_eq!([f32, bf16, fp8].map(|kv| kv.sequences), [7, 15, 27], "100 tokens take 7 blocks");
    }

    #[test]
    fn with_a_window_everywhere_a_sequence_holds_no_more_than_a_step_sees() {
        // ⌈(8 + 64) / 16⌉ + 1 blocks of 32,768 bytes.
        let kv = |room: u64, window| plan(1_100_000 + room).kv(&shape(window), KvDtype::F32, 1000);
        let enough = kv(6 * 32_768, Some(8));
        assert_eq!((enough.blocks, enough.longest, enough.sequences), (6, 1000, 1));
        let short = kv(6 * 32_768 - 1, Some(8));
        assert_eq!((short.blocks, short.longest, short.sequences), (5, 80, 0));
        assert_eq!(kv(6 * 32_768, None).longest, 96);
        assert_eq!(plan(0).blocks_held(&shape(Some(8)), 40), 3, "a short sequence takes what it needs");
        let some = AttentionShape { windows: vec![None, Some(8)], ..shape(None) };
        assert_eq!(plan(0).blocks_held(&some, 1000), 63, "a block holds all layers");
    }

    #[test]
    fn the_least_memory_holds_one_and_a_byte_less_does_not() {
        for (dtype, length) in [(KvDtype::F32, 16), (KvDtype::Bf16, 100), (KvDtype::Fp8, 1000)] {
            for activations in [0, 100_000, 10_000_000] {
                let with =
                    |memory| MemoryPlan { activations, ..plan(memory) }.kv(&shape(None), dtype, length);
                let least = with(0).memory_for_one;
                assert_eq!(with(least).sequences, 1, "{dtype} {length} {activations}");
                assert_eq!(with(least - 2).sequences, 0, "{dtype} {length} {activations}");
            }
        }
    }
}
