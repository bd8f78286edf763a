//! The loops of attention on the CPU.
//!
//! - [`head`]: one query head over its keys (step 1).
//! - `group`: the query heads that share a head of K and V, over what a cache keeps (step 2); `row_blocks` gives rows of a batch to the
//!   cores, and `vectors` reads K and V as they are kept.
//! - `x86/`: the same numbers faster, with wider registers (step 4).

#[cfg(all(feature = "step2", not(all(feature = "step4", target_arch = "x86_64"))))]
#[path = "plain_only.rs"]
mod faster;
#[cfg(all(feature = "step4", target_arch = "x86_64"))]
#[path = "x86/mod.rs"]
mod faster;
#[cfg(feature = "step2")]
pub mod group;
pub mod head;
#[cfg(feature = "step2")]
pub mod row_blocks;
mod softmax;
#[cfg(feature = "step2")]
pub mod vectors;
#[cfg(feature = "step2")]
mod weigh;
