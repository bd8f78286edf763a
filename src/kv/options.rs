//! What the books are told: how large the pool is, and how its blocks are shared out.

use clap::ValueEnum;

/// Blocks of K and V, which sequences share out among them.
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

/// How the pool's blocks are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManagerOptions {
    /// Whether requests find what earlier ones have computed.
    pub prefix_cache: bool,
    pub preemption: Preemption,
}

impl Default for ManagerOptions {
    fn default() -> ManagerOptions {
        ManagerOptions { prefix_cache: true, preemption: Preemption::Recompute }
    }
}

/// What happens to the K and V of a request that must give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preemption {
    /// They are dropped, and computed again later (what the prefix cache still has is not).
    #[value(help = "Dropped, and computed again later")]
    Recompute,
    /// They are copied to host memory and back, as long as there is room; dropped otherwise.
    #[value(help = "Copied to host memory, and back later")]
    Swap,
}
