//! Who has which part of the KV cache: what stands between the scheduler and attention.

use crate::batch::Move;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A request, in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

// ANCHOR: kv_manager
/// Gives room for K and V to requests and takes it back. `Slots` (step 3); later a block manager (4).
pub trait KvManager: Send {
    /// Makes sure that a request has room for its first `tokens` tokens; false if there is none now, and nothing changes then.
    fn reserve(&mut self, id: RequestId, tokens: usize) -> bool;
    /// Where a request's K and V are, as attention reads it.
    fn table(&self, id: RequestId) -> &[u32];
    /// Takes back all that a request has, if it has anything.
    fn release(&mut self, id: RequestId);
    /// The longest sequence that can ever fit, in tokens.
    fn max_tokens(&self) -> usize;
    /// How full it is.
    fn usage(&self) -> KvUsage;
    // From here on methods of step 4, with bodies that do nothing.
    // ANCHOR_END: kv_manager

    // ANCHOR: sharing
    // Requests share what they have in common, and give way to each other. Slots can do neither.

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

/// Blocks now, and what happened to them since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct BlockCounts {
    /// Tokens of a block.
    pub block_size: usize,
    pub total: usize,
    /// Held by requests.
    pub held: usize,
    /// Held by nobody, and kept in case that somebody wants what is in them.
    pub cached: usize,
    pub free: usize,
    /// Copied because a request was to write to a shared one.
    pub copies: u64,
    /// Cached ones that were overwritten.
    pub evictions: u64,
    pub swapped_out: u64,
    pub swapped_in: u64,
}

/// Who has which block. A block that is nowhere in it is free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockSnapshot {
    /// The block table of each request that has one.
    pub tables: BTreeMap<RequestId, Vec<u32>>,
    /// Blocks that nobody holds, and what is in them can be found.
    pub cached: BTreeSet<u32>,
}

/// Tokens that there is room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvUsage {
    /// In all.
    pub total: usize,
    /// Held by requests, whether a token is there or not.
    pub reserved: usize,
    /// Where a token is.
    pub used: usize,
}

/// One contiguous slot a request, as long as the longest sequence may be.
pub struct Slots {
    max_tokens: usize,
    count: usize,
    free: Vec<u32>,
    /// Slot and tokens used.
    taken: BTreeMap<RequestId, ([u32; 1], usize)>,
}

impl Slots {
    /// `count` slots of `max_tokens` tokens.
    pub fn new(count: usize, max_tokens: usize) -> Slots {
        let free = (0..count as u32).rev().collect();
        Slots { max_tokens, count, free, taken: BTreeMap::new() }
    }
}

// ANCHOR: slots
impl KvManager for Slots {
    fn reserve(&mut self, id: RequestId, tokens: usize) -> bool {
        if tokens > self.max_tokens {
            return false;
        }
        if let Some((_, used)) = self.taken.get_mut(&id) {
            *used = tokens;
            return true;
        }
        let Some(slot) = self.free.pop() else { return false };
        self.taken.insert(id, ([slot], tokens));
        true
    }

    fn table(&self, id: RequestId) -> &[u32] {
        self.taken.get(&id).map_or(&[], |(slot, _)| slot)
    }

    fn release(&mut self, id: RequestId) {
        self.free.extend(self.taken.remove(&id).map(|([slot], _)| slot));
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn usage(&self) -> KvUsage {
        KvUsage {
            total: self.count * self.max_tokens,
            reserved: self.taken.len() * self.max_tokens,
            used: self.taken.values().map(|(_, used)| used).sum(),
        }
    }
}
// ANCHOR_END: slots

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_given_out_once_and_taken_back() {
        let mut slots = Slots::new(2, 8);
        let [a, b, c] = [1, 2, 3].map(RequestId);
        assert!(slots.reserve(a, 3) && slots.reserve(b, 8) && slots.reserve(a, 4));
        assert!(!slots.reserve(c, 1), "both are taken");
        assert_ne!(slots.table(a), slots.table(b));
        assert_eq!(slots.usage(), KvUsage { total: 16, reserved: 16, used: 12 });
        slots.release(a);
        slots.release(a);
        assert!(slots.reserve(c, 1));
        assert!(!slots.reserve(a, 1), "a slot that is given back twice is still one slot");
        let before = slots.usage();
        assert!(!slots.reserve(c, 9), "longer than a slot");
        assert_eq!(slots.usage(), before, "a refusal changes nothing");
    }
}
