//! Where K and V are kept, and attention over them: the implementations of [`crate::model::Attention`].
//!
//! - [`Recompute`] (step 1): nowhere. The whole sequence is given at every step.
//! - `Contiguous` (step 2): in one contiguous slot a sequence, reserved at its longest.
//! - `Paged` (step 4): in blocks of a pool, which a `BlockManager` gives to sequences as they grow. `PagedCuda` (step 5): on a device.
//!   `FlashCuda` (step 6): the same, with kernels of their own for prompts.

#[cfg(feature = "step4")]
mod block_manager;
#[cfg(feature = "step4")]
mod block_pool;
#[cfg(feature = "step4")]
mod block_storage;
#[cfg(feature = "step4")]
mod block_table;
#[cfg(feature = "step2")]
mod contiguous;
#[cfg(feature = "step6")]
mod flash_cuda;
#[cfg(feature = "step3")]
mod manager;
#[cfg(feature = "step2")]
mod memory;
mod options;
#[cfg(feature = "step4")]
mod paged;
#[cfg(feature = "step5")]
mod paged_cuda;
#[cfg(feature = "step4")]
mod placement;
#[cfg(feature = "step4")]
mod plan;
#[cfg(feature = "step4")]
mod prefix_cache;
mod recompute;
#[cfg(feature = "step4")]
mod sizing;
#[cfg(feature = "step2")]
mod storage;

#[cfg(feature = "step6")]
pub use FlashCuda as OnDevice;
/// The best attention on a device so far.
#[cfg(all(feature = "step5", not(feature = "step6")))]
pub use PagedCuda as OnDevice;
#[cfg(feature = "step4")]
pub use block_manager::BlockManager;
#[cfg(feature = "step4")]
pub use block_pool::{Block, BlockId, BlockPool};
#[cfg(feature = "step4")]
pub use block_table::{BlockTable, Blocks, GONE};
#[cfg(feature = "step2")]
pub use contiguous::Contiguous;
#[cfg(feature = "step6")]
pub use flash_cuda::{FLASH_ROWS, FlashCuda};
#[cfg(feature = "step3")]
pub use manager::{BlockCounts, BlockSnapshot, KvManager, KvUsage, Prefix, RequestId, Slots};
pub use options::{AttentionKind, KvBudget, KvDtype, KvOptions, KvSwap, ManagerOptions, Preemption};
#[cfg(feature = "step4")]
pub use paged::Paged;
#[cfg(feature = "step5")]
pub use paged_cuda::PagedCuda;

#[cfg(feature = "step4")]
pub use plan::{KvPlan, MemoryPlan};
#[cfg(feature = "step4")]
pub use prefix_cache::{ChainHash, Link, Parent, PrefixCache};
pub use recompute::Recompute;
#[cfg(feature = "step4")]
pub use sizing::BLOCK_SIZE;

pub use crate::model::{KvMemory, KvPool};
use crate::{
    backend::cpu::Cpu,
    error::Result,
    model::{Attention, AttentionShape},
};

/// The attention that is asked for, or the best one built so far, for the CPU.
///
/// # Errors
/// If the kind is not in this build, or the memory that it reserves is not to be had.
pub fn build(shape: AttentionShape, options: &KvOptions) -> Result<Box<dyn Attention<Cpu>>> {
    match options.attention.unwrap_or(AttentionKind::BEST) {
        AttentionKind::Recompute => Ok(Box::new(Recompute::new(shape))),
        #[cfg(feature = "step2")]
        AttentionKind::Contiguous => Ok(Box::new(Contiguous::new(shape, options)?)),
        #[cfg(feature = "step4")]
        AttentionKind::Paged => Ok(Box::new(Paged::new(shape, options)?)),
        #[cfg(not(feature = "step4"))]
        missing => Err(missing.needs_a_feature()),
    }
}

/// The manager of what an attention has reserved, for requests of at most `longest` tokens.
#[cfg(feature = "step3")]
pub fn manager(memory: &KvMemory, longest: usize, options: &ManagerOptions) -> Box<dyn KvManager> {
    match (memory.pool, options) {
        #[cfg(feature = "step4")]
        (Some(pool), options) => Box::new(BlockManager::new(pool, options)),
        _ => Box::new(Slots::new(memory.slots, longest)),
    }
}

impl AttentionKind {
    /// The best that this build has.
    pub const BEST: AttentionKind = match () {
        #[cfg(feature = "step4")]
        () => AttentionKind::Paged,
        #[cfg(all(feature = "step2", not(feature = "step4")))]
        () => AttentionKind::Contiguous,
        #[cfg(not(feature = "step2"))]
        () => AttentionKind::Recompute,
    };
}
