//! Who has which part of the KV cache: books, and nothing else. K and V themselves, and attention over them, are in
//! [`crate::attention`]; nothing here knows of a model or of a backend.
//!
//! - `Slots` (step 3): a slot a request.
//! - `BlockManager` (step 4): blocks of a pool, which requests get as they grow, share, and give back.

#[cfg(feature = "step4")]
mod block_manager;
#[cfg(feature = "step4")]
mod block_pool;
#[cfg(feature = "step4")]
mod block_table;
#[cfg(feature = "step3")]
mod manager;
mod options;
#[cfg(feature = "step4")]
mod prefix_cache;

#[cfg(feature = "step4")]
pub use block_manager::BlockManager;
#[cfg(feature = "step4")]
pub use block_pool::{Block, BlockId, BlockPool};
#[cfg(feature = "step4")]
pub use block_table::{BlockTable, Blocks, GONE};
#[cfg(feature = "step3")]
pub use manager::{BlockCounts, BlockSnapshot, KvManager, KvUsage, Prefix, RequestId, Slots};
pub use options::{KvPool, ManagerOptions, Preemption};
#[cfg(feature = "step4")]
pub use prefix_cache::{ChainHash, Link, Parent, PrefixCache};

/// The manager of what an attention has reserved: the blocks of a pool, or else `slots` slots, for requests of at most `longest`
/// tokens.
#[cfg(feature = "step3")]
pub fn manager(
    slots: usize,
    pool: Option<KvPool>,
    longest: usize,
    options: &ManagerOptions,
) -> Box<dyn KvManager> {
    match (pool, options) {
        #[cfg(feature = "step4")]
        (Some(pool), options) => Box::new(BlockManager::new(pool, options)),
        _ => Box::new(Slots::new(slots, longest)),
    }
}
