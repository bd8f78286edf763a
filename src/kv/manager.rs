//! Who has which part of the KV cache: what stands between the scheduler and attention.

use std::collections::BTreeMap;

/// A request, in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

// ANCHOR: kv_manager
/// Gives room for K and V to requests and takes it back. `Slots` (step 3); `Sharing` (4) adds what blocks can do.
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
}
// ANCHOR_END: kv_manager

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

/// Blocks now, and what happened to them since the start: zero before step 4.
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
