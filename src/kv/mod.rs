//! Where K and V are kept, and attention over them: the implementations of [`crate::model::Attention`].
//!
//! - [`Recompute`] (step 1): nowhere. The whole sequence is given at every step.

mod recompute;

pub use recompute::Recompute;

use crate::{
    backend::cpu::Cpu,
    model::{Attention, AttentionShape},
};

/// The best attention built so far, for the CPU.
pub fn best(shape: AttentionShape) -> Box<dyn Attention<Cpu>> {
    Box::new(Recompute::new(shape))
}
