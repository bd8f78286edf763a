//! Where tokens meet.
//!
//! Embedding, norms, linear layers, the MLP: all of them treat each token alone. Attention is the only place where a token
//! sees others, so batching and caching change only what is behind this trait. Its implementations are in [`crate::attention`].

use crate::backend::{Backend, Rope};
use crate::{batch::Batch, error::Result, tensor::DType};
use std::ops::Range;

/// What an attention implementation must know of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionShape {
    /// The layers that this process holds.
    pub layers: Range<usize>,
    /// Query heads.
    pub heads: usize,
    /// Heads of K and V; `heads / kv_heads` query heads share one (grouped-query attention).
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on q · k, usually 1/√head_dim.
    pub scale: f32,
    /// For each layer of the model, how many keys a query sees, itself included; `None` sees all.
    pub windows: Vec<Option<usize>>,
    /// The longest sequence that the model can have, in tokens.
    pub context: usize,
}

/// Where the scales of K and V in fp8 come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvScalesFrom {
    /// Every token's K and V of a head have a scale of their own.
    Vectors,
    /// The checkpoint has a scale for K and one for V of each layer. (Step 9.)
    Checkpoint,
    /// A file has a scale for each layer. (Step 9.)
    File,
}

/// Memory that an attention has reserved for K and V.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct KvMemory {
    /// How they are stored; `None` if nothing is.
    #[serde(rename = "kv_dtype")]
    pub dtype: Option<DType>,
    /// In fp8: where their scales come from.
    #[serde(rename = "kv_scales", skip_serializing_if = "Option::is_none")]
    pub scales: Option<KvScalesFrom>,
    /// What one token takes: 2 · layers · kv_heads · head_dim · bytes of an element.
    #[serde(rename = "kv_bytes_per_token")]
    pub bytes_per_token: u64,
    /// Sequences at a time.
    #[serde(skip)]
    pub slots: usize,
    /// All of it, used or not.
    #[serde(rename = "kv_reserved_bytes")]
    pub reserved_bytes: u64,
    /// The pool, where K and V are kept in blocks of it.
    #[serde(skip)]
    pub pool: Option<KvPool>,
}

/// Blocks of K and V, which sequences share out among them. (Step 4.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvPool {
    /// Tokens of a block.
    pub block_size: usize,
    pub blocks: usize,
    /// Blocks of host memory for sequences that are swapped out.
    pub swap_blocks: usize,
    /// How many keys a query of any layer sees at most; `None` if some layer sees all.
    pub window: Option<usize>,
    /// The most tokens of one sequence in one forward pass.
    pub max_chunk: usize,
}

/// Attention over a batch. Implemented by `Recompute` in step 1; later by `Contiguous` (2) and `Paged` (4), and on
/// the device (5, 6).
pub trait Attention<B: Backend>: Send {
    /// The name in stats, such as `recompute`.
    fn name(&self) -> &'static str;

    /// The kernel that attends, on a device that has several.
    fn kernel(&self) -> Option<&'static str> {
        None
    }

    /// The kernel that prompts ran on, if they have one of their own. (Step 6.)
    fn prefill_kernel(&self) -> Option<&'static str> {
        None
    }

    /// Told of the batch once a forward pass. All metadata is uploaded here, none in [`attend`](Attention::attend).
    ///
    /// `Some(key)`: forwards with the same key launch the same kernels on the same addresses, so a device may replay them.
    ///
    /// # Errors
    /// If the batch asks for more than there is room for.
    fn begin(&mut self, backend: &B, batch: &Batch) -> Result<Option<u64>>;

    /// softmax(q kᵀ · scale) v over the keys that each row may see.
    ///
    /// `qkv` are q: [tokens, heads · head_dim], and k and v: [tokens, kv_heads · head_dim], of this batch's tokens only → [tokens,
    /// heads · head_dim].
    ///
    /// # Errors
    /// Those of the backend.
    fn attend(&mut self, backend: &B, layer: usize, qkv: [&B::Tensor; 3]) -> Result<B::Tensor>;

    /// Rotates q and k to their positions, then attends. A device overrides it to fuse the rotation with writing K and V.
    ///
    /// # Errors
    /// Those of the backend.
    #[allow(clippy::too_many_arguments)]
    fn rotate_and_attend(
        &mut self,
        backend: &B,
        layer: usize,
        rope: &Rope<B>,
        positions: &B::Ids,
        q: B::Tensor,
        k: B::Tensor,
        v: &B::Tensor,
    ) -> Result<B::Tensor> {
        // ANCHOR: rotate_and_attend
        let q = backend.rope(q, positions, rope)?;
        let k = backend.rope(k, positions, rope)?;
        self.attend(backend, layer, [&q, &k, v])
        // ANCHOR_END: rotate_and_attend
    }

    /// Whether K and V of earlier forwards are kept, so that only new tokens need to be given.
    fn remembers(&self) -> bool {
        true
    }

    /// The longest sequence that there is room for, in tokens; `None` if nothing is reserved.
    fn max_tokens(&self) -> Option<usize> {
        None
    }

    /// What is reserved.
    fn memory(&self) -> KvMemory {
        KvMemory::default()
    }
}
