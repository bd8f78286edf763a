//! Wrong answers to the second exercise of chapter 3: each has one mistake, and the rest is the engine's.

use stairwell::engine::{KvManager, KvUsage, RequestId, Slots};

/// Slots by the request's number: two requests can have the same one.
pub struct SharedSlots {
    slots: Slots,
    count: u64,
    tables: Vec<[u32; 1]>,
}

impl SharedSlots {
    pub fn new(count: usize, max_tokens: usize) -> SharedSlots {
        let tables = (0..count as u32).map(|slot| [slot]).collect();
        SharedSlots { slots: Slots::new(count, max_tokens), count: count as u64, tables }
    }
}

impl KvManager for SharedSlots {
    fn reserve(&mut self, id: RequestId, tokens: usize) -> bool {
        self.slots.reserve(id, tokens)
    }
    fn table(&self, id: RequestId) -> &[u32] {
        &self.tables[(id.0 / 2 % self.count) as usize]
    }
    fn release(&mut self, id: RequestId) {
        self.slots.release(id);
    }
    fn max_tokens(&self) -> usize {
        self.slots.max_tokens()
    }
    fn usage(&self) -> KvUsage {
        self.slots.usage()
    }
}

/// Slots are never given back.
pub struct LeakedSlots(Slots);

impl LeakedSlots {
    pub fn new(count: usize, max_tokens: usize) -> LeakedSlots {
        LeakedSlots(Slots::new(count, max_tokens))
    }
}

impl KvManager for LeakedSlots {
    fn reserve(&mut self, id: RequestId, tokens: usize) -> bool {
        self.0.reserve(id, tokens)
    }
    fn table(&self, id: RequestId) -> &[u32] {
        self.0.table(id)
    }
    fn release(&mut self, _: RequestId) {}
    fn max_tokens(&self) -> usize {
        self.0.max_tokens()
    }
    fn usage(&self) -> KvUsage {
        self.0.usage()
    }
}
