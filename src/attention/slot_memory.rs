//! How many slots there is memory for, and how many tokens in each.

use super::options::{KvBudget, KvDtype, KvOptions};
use crate::error::{Error, Result};
use crate::{model::AttentionShape, words::field};

/// The part of the free memory that is offered to K and V; the rest is for activations and for others.
pub(super) const SHARE: f64 = 0.9;

impl KvOptions {
    /// Bytes for K and V where `free` bytes of the host's memory are free: a share of what is left beside the weights (which are mapped,
    /// and still to be read), for one of those that share the memory.
    pub fn host_room(&self, free: u64) -> u64 {
        let beside_weights = (free / (self.neighbours as u64 + 1)).saturating_sub(self.weight_bytes);
        (beside_weights as f64 * SHARE) as u64
    }
}

impl KvDtype {
    /// Bytes of one token's K or V of one head, `head_dim` numbers, its scale included.
    pub fn vector_bytes(self, head_dim: usize) -> usize {
        let scale = if self == KvDtype::Fp8 { size_of::<f32>() } else { 0 };
        head_dim * self.stored().bytes() + scale
    }
}

impl AttentionShape {
    // ANCHOR: bytes_per_token
    /// Bytes of K and V of one token: 2 · layers · kv_heads · head_dim · bytes of an element.
    /// (And in fp8 the scales, 2 · layers · kv_heads · 4.)
    pub fn bytes_per_token(&self, dtype: KvDtype) -> u64 {
        (2 * self.layers.len() * self.kv_heads * dtype.vector_bytes(self.head_dim)) as u64
    }
    // ANCHOR_END: bytes_per_token

    // ANCHOR: tokens_kept
    /// Tokens of one sequence that a layer must hold so that a sequence of `max_tokens` can run, in forward passes of at most
    /// `chunk` of its tokens.
    ///
    /// A layer with a sliding window is a ring of `window + chunk − 1` tokens. With the window alone, a chunk's last tokens would
    /// overwrite keys that its first ones still see.
    pub fn tokens_kept(&self, layer: usize, max_tokens: usize, chunk: usize) -> usize {
        match self.windows[layer] {
            Some(window) => max_tokens.min(window.saturating_add(chunk) - 1),
            None => max_tokens,
        }
    }
    // ANCHOR_END: tokens_kept

    /// Bytes of one sequence's slot: as [`bytes_per_token`](Self::bytes_per_token) times `max_tokens`, less what rings save.
    pub fn slot_bytes(&self, max_tokens: usize, options: &KvOptions) -> u64 {
        let chunk = options.max_chunk.unwrap_or(max_tokens).clamp(1, max_tokens.max(1));
        let tokens: u64 =
            self.layers.clone().map(|layer| self.tokens_kept(layer, max_tokens, chunk) as u64).sum();
        tokens * (2 * self.kv_heads * options.dtype.vector_bytes(self.head_dim)) as u64
    }
}

/// Slots, and tokens in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub slots: usize,
    pub max_tokens: usize,
}

/// Divides `free` bytes. A length that was asked for is kept, and slots are given up for it; otherwise the slots that were asked
/// for are kept, and the length gives way.
///
/// # Errors
/// If not even one slot fits.
pub(super) fn plan(shape: &AttentionShape, options: &KvOptions, free: u64) -> Result<Room> {
    let free = options.host_room(free).min(match options.budget {
        Some(KvBudget::Bytes(bytes)) => bytes,
        Some(KvBudget::Tokens(tokens)) => tokens as u64 * shape.bytes_per_token(options.dtype),
        None => u64::MAX,
    });
    let slots = options.max_num_seqs.unwrap_or(1).max(1);
    let fits = |slots: usize, tokens: usize| slots as u64 * shape.slot_bytes(tokens, options) <= free;
    match options.max_model_len {
        Some(max_tokens) => {
            let bytes = shape.slot_bytes(max_tokens, options);
            let slots = slots.min((free / bytes.max(1)) as usize);
            if slots == 0 {
                let mut why = format!(
                    "K and V of that many tokens are {:.2} GB ({} bytes a token), and {:.2} GB are free beside the weights; give a \
                     smaller {}",
                    bytes as f64 / 1e9,
                    shape.bytes_per_token(options.dtype),
                    free as f64 / 1e9,
                    field("max_model_len")
                );
                if options.dtype == KvDtype::F32 {
                    why += &format!(" or {} bf16", field("kv_dtype"));
                }
                let (value, why) = (max_tokens.to_string(), why.into());
                return Err(Error::Parameter { field: "max_model_len", value, why });
            }
            Ok(Room { slots, max_tokens })
        }
        None => {
            // The longest that fits, by bisection: bytes grow with the length.
            let (mut low, mut high) = (0, shape.context);
            while low < high {
                let middle = low + (high - low).div_ceil(2);
                if fits(slots, middle) { low = middle } else { high = middle - 1 }
            }
            if low == 0 {
                let bytes = slots as u64 * shape.bytes_per_token(options.dtype);
                let message = format!(
                    "there is no memory for K and V: one token takes {bytes} bytes, and {free} are free beside the weights; \
                     close other programs"
                );
                return Err(Error::Request(message));
            }
            Ok(Room { slots, max_tokens: low })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two layers, the second with a window of 8; 2 · 4 · 32 numbers a token and layer: 1,024 bytes in f32.
    fn shape() -> AttentionShape {
        AttentionShape {
            layers: 0..2,
            heads: 8,
            kv_heads: 4,
            head_dim: 32,
            scale: 1.0,
            windows: vec![None, Some(8)],
            context: 1000,
        }
    }

    #[test]
    fn a_ring_holds_the_window_and_the_rest_of_a_chunk() {
        let kept = |max_tokens, chunk| shape().tokens_kept(1, max_tokens, chunk);
        assert_eq!((kept(100, 1), kept(100, 5), kept(10, 5), kept(100, usize::MAX)), (8, 12, 10, 100));
        assert_eq!(shape().tokens_kept(0, 100, 1), 100);
        assert_eq!(shape().bytes_per_token(KvDtype::F32), 2048);
        let options = KvOptions { max_chunk: Some(5), dtype: KvDtype::Bf16, ..KvOptions::default() };
        assert_eq!(shape().slot_bytes(100, &options), (100 + 12) * 512);
    }

    #[test]
    fn length_gives_way_to_slots_unless_it_was_asked_for() {
        let room = |max_num_seqs, max_model_len, megabytes: f64| {
            let options =
                KvOptions { max_num_seqs, max_model_len, weight_bytes: 1000, ..KvOptions::default() };
            plan(&shape(), &options, (megabytes * 1e6 / SHARE) as u64 + 1001).map_err(|e| e.to_string())
        };
        assert_eq!(room(None, None, 100.0), Ok(Room { slots: 1, max_tokens: 1000 }));
        assert_eq!(room(Some(4), None, 2.048), Ok(Room { slots: 4, max_tokens: 250 }));
        assert_eq!(room(Some(4), Some(500), 2.048), Ok(Room { slots: 2, max_tokens: 500 }));
        let error = room(Some(4), Some(500), 1.0).unwrap_err();
        assert!(error.contains("max_model_len 500") && error.contains("2048 bytes a token"), "{error}");
        assert!(room(None, None, 0.0).unwrap_err().contains("no memory"));
    }
}
