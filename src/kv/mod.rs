//! Where K and V are kept, and attention over them: the implementations of [`crate::model::Attention`].
//!
//! - [`Recompute`] (step 1): nowhere. The whole sequence is given at every step.
//! - `Contiguous` (step 2): in one contiguous slot a sequence, reserved at its longest.

#[cfg(feature = "step2")]
mod contiguous;
#[cfg(feature = "step3")]
mod manager;
#[cfg(feature = "step2")]
mod memory;
mod options;
mod recompute;

#[cfg(feature = "step2")]
pub use contiguous::Contiguous;
#[cfg(feature = "step3")]
pub use manager::{KvManager, KvUsage, RequestId, Slots};
pub use options::{AttentionKind, KvDtype, KvOptions};
pub use recompute::Recompute;

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
        #[cfg(not(feature = "step2"))]
        missing => Err(missing.needs_a_feature()),
    }
}

impl AttentionKind {
    /// The best that this build has.
    #[cfg(not(feature = "step2"))]
    pub const BEST: AttentionKind = AttentionKind::Recompute;
    /// The best that this build has.
    #[cfg(feature = "step2")]
    pub const BEST: AttentionKind = AttentionKind::Contiguous;
}
