//! Where tokens meet: the implementations of [`crate::model::Attention`], and the K and V that they keep.
//!
//! - [`Recompute`] (step 1): keeps nothing. The whole sequence is given at every step.
//! - `Contiguous` (step 2): in one contiguous slot a sequence, reserved at its longest.
//! - `Paged` (step 4): in blocks of a pool. Who has which block is written down in [`crate::kv`]; attention follows the tables.
//! - `cuda::PagedCuda` (step 5): the same on a device. `cuda::FlashCuda` (step 6): with kernels of their own for prompts.

#[cfg(feature = "step4")]
mod batch_placement;
#[cfg(feature = "step4")]
mod block_storage;
#[cfg(feature = "step2")]
mod contiguous;
pub mod cpu;
#[cfg(feature = "step5")]
pub mod cuda;
#[cfg(feature = "step4")]
mod memory_plan;
mod options;
#[cfg(feature = "step4")]
mod paged;
#[cfg(feature = "step4")]
mod pool_size;
mod recompute;
#[cfg(feature = "step2")]
mod sequences;
#[cfg(feature = "step2")]
mod slot_memory;
#[cfg(feature = "step2")]
mod storage;

#[cfg(feature = "step2")]
pub use contiguous::Contiguous;
#[cfg(feature = "step4")]
pub use memory_plan::{KvPlan, MemoryPlan};
pub use options::{AttentionKind, KvBudget, KvDtype, KvOptions, KvScales, KvScalesFile, KvSwap};
#[cfg(feature = "step4")]
pub use paged::Paged;
#[cfg(feature = "step4")]
pub use pool_size::BLOCK_SIZE;
pub use recompute::Recompute;

use crate::model::{Attention, AttentionShape};
use crate::{backend::cpu::Cpu, error::Result};

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
