//! What a manager of blocks can do beside giving room: requests share what they have in common, and give way to each other. (Step 4.)

use super::{BlockCounts, KvManager, RequestId, Slots};
use crate::batch::Move;
use clap::ValueEnum;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

// ANCHOR: sharing
/// A [`KvManager`] whose requests can share K and V, and give way to each other. The bodies here do neither.
pub trait Sharing: KvManager {
    /// How many of a waiting request's first tokens are there already.
    fn cached(&self, _prefix: &Prefix) -> usize {
        0
    }
    /// Whether another request is computing its first tokens right now: it had better wait for them.
    fn expects(&self, _prefix: &Prefix) -> bool {
        false
    }
    /// Gives them to the request, which has nothing yet. At least its last token is left to compute.
    fn adopt(&mut self, _id: RequestId, _prefix: &Prefix) -> usize {
        0
    }
    /// A request's first tokens, which are computed or in the batch to come: others may use their K and V from now on.
    fn publish(&mut self, _id: RequestId, _tokens: &[u32]) {}
    /// A request's first `tokens` tokens are computed now.
    fn computed(&mut self, _id: RequestId, _tokens: usize) {}
    /// Takes a running request's room. Gives how many of its tokens are kept elsewhere; `reserve` brings them back.
    fn preempt(&mut self, id: RequestId) -> usize {
        self.release(id);
        0
    }
    /// What the next batch must copy before it computes.
    fn take_moves(&mut self, _moves: &mut Vec<Move>) {}
    /// Forgets what was kept for requests to come: the weights have changed.
    fn flush(&mut self) {}
    // ANCHOR_END: sharing

    /// Counters of blocks; zero without them.
    fn counts(&self) -> BlockCounts {
        BlockCounts::default()
    }
    /// Who has which block, for a picture.
    fn snapshot(&self) -> BlockSnapshot {
        BlockSnapshot::default()
    }
}

/// What a request's first tokens are found by.
#[derive(Clone, Debug)]
pub struct Prefix<'a> {
    /// All its tokens.
    pub tokens: &'a [u32],
    /// Requests share K and V only if their salts are equal.
    pub salt: Option<Arc<str>>,
    /// A request with the same first tokens, and how many those are: another sample of the same prompt.
    pub like: Option<(RequestId, usize)>,
}

/// Who has which block. A block that is nowhere in it is free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockSnapshot {
    /// The block table of each request that has one.
    pub tables: BTreeMap<RequestId, Vec<u32>>,
    /// Blocks that nobody holds, and what is in them can be found.
    pub cached: BTreeSet<u32>,
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

impl Sharing for Slots {}
