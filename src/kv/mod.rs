//! Who has which part of the KV cache: books, and nothing else. K and V themselves, and attention over them, are in
//! [`crate::attention`]; nothing here knows of a backend, or of a model more than how large its pool is.
//!
//! - `KvManager` gives room to requests and takes it back. `Slots` (step 3): a slot a request.
//! - `Sharing` (step 4) is a `KvManager` whose requests share what they have in common, and give way to each other. `BlockManager`:
//!   blocks of a pool, which requests get as they grow.
//!
//! `Manager` is what the engine of this build asks for: the first trait, or from step 4 on the second.

#[cfg(feature = "step4")]
mod block_manager;
#[cfg(feature = "step4")]
mod block_pool;
#[cfg(feature = "step4")]
mod block_table;
mod manager;
#[cfg(not(feature = "step4"))]
mod no_sharing;
#[cfg(feature = "step4")]
mod prefix_cache;
#[cfg(feature = "step4")]
mod sharing;

#[cfg(feature = "step4")]
pub use self::{
    block_manager::{BlockManager, manager},
    block_pool::{Block, BlockId, BlockPool},
    block_table::{BlockTable, Blocks, GONE},
    prefix_cache::{ChainHash, Link, Parent, PrefixCache},
    sharing::{BlockSnapshot, ManagerOptions, Preemption, Prefix, Sharing, Sharing as Manager},
};
pub use crate::model::KvPool;
#[cfg(not(feature = "step4"))]
pub use manager::KvManager as Manager;
pub use manager::{BlockCounts, KvManager, KvUsage, RequestId, Slots};
#[cfg(not(feature = "step4"))]
pub use no_sharing::{ManagerOptions, manager};
