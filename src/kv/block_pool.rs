//! The pool of blocks: who may write where.
//!
//! ```text
//! free ──allocate──▶ held (1 reference, 2, …) ──release the last──▶ idle if others may want what is in it, else free
//!   ▲                  ▲                                             │
//!   └──────────────────┴────── hold: somebody wants it again ◀───────┤
//!   allocate, when nothing is free: the block that is idle longest ◀─┘
//! ```
//! A reference to a block is a value, [`Block`], that can't be copied: [`BlockPool::release`] takes it away, so a block that is
//! given back twice does not compile. No operation takes longer than to find an idle block by its age, however large the pool.

use std::collections::BTreeMap;

/// The number of a block: its place in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

impl BlockId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

// ANCHOR: block
/// One reference to a block.
///
/// ```compile_fail,E0382
/// # use stairwell::kv::BlockPool;
/// let mut pool = BlockPool::new(2);
/// let (block, _) = pool.allocate().unwrap();
/// pool.release(block, false);
/// pool.release(block, false); // use of moved value: `block`
/// ```
#[must_use = "a reference that is dropped is lost to the pool: give it to BlockPool::release"]
#[derive(Debug)]
pub struct Block(BlockId);

impl Block {
    /// Which block it is.
    pub fn id(&self) -> BlockId {
        self.0
    }
}
// ANCHOR_END: block

/// See the module's documentation.
pub struct BlockPool {
    /// References to each block.
    references: Vec<u32>,
    /// Blocks with nothing in them that anybody may want.
    free: Vec<BlockId>,
    idle: IdleList,
}

impl BlockPool {
    /// A pool of free blocks.
    pub fn new(blocks: usize) -> BlockPool {
        let free = (0..blocks as u32).rev().map(BlockId).collect();
        BlockPool { references: vec![0; blocks], free, idle: IdleList::new(blocks) }
    }

    // ANCHOR: allocate
    /// A block for one writer: a free one, or the one that is idle longest. What was in that is lost, and its number is given too,
    /// since whoever finds blocks by their contents must forget it.
    pub fn allocate(&mut self) -> Option<(Block, Option<BlockId>)> {
        let (id, evicted) = match self.free.pop() {
            Some(id) => (id, None),
            None => self.idle.pop_oldest().map(|id| (id, Some(id)))?,
        };
        self.references[id.index()] = 1;
        Some((Block(id), evicted))
    }

    /// One more reference to a block that somebody holds.
    pub fn share(&mut self, block: &Block) -> Block {
        self.references[block.0.index()] += 1;
        Block(block.0)
    }

    /// A reference to a block that is held or idle: what is in it is wanted again.
    ///
    /// # Panics
    /// If the block is free: then nothing is in it.
    pub fn hold(&mut self, id: BlockId) -> Block {
        let references = &mut self.references[id.index()];
        if *references == 0 {
            assert!(self.idle.remove(id), "block {} is free, and somebody wants what is in it", id.0);
        }
        *references += 1;
        Block(id)
    }

    /// Takes a reference back. With the last one the block becomes idle if it is to be kept, and free otherwise.
    pub fn release(&mut self, block: Block, keep: bool) {
        let references = &mut self.references[block.0.index()];
        *references -= 1;
        match (*references, keep) {
            (0, true) => self.idle.push_newest(block.0),
            (0, false) => self.free.push(block.0),
            _ => {}
        }
    }
    // ANCHOR_END: allocate

    /// Nobody will want what is in an idle block any more.
    pub fn forget(&mut self, id: BlockId) {
        if self.idle.remove(id) {
            self.free.push(id);
        }
    }

    /// References to a block.
    pub fn references(&self, id: BlockId) -> u32 {
        self.references[id.index()]
    }

    /// Blocks in all.
    pub fn total(&self) -> usize {
        self.references.len()
    }

    /// Blocks that are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Blocks that nobody holds, and that somebody may want again.
    pub fn idle(&self) -> usize {
        self.idle.by_age.len()
    }

    /// Blocks that somebody holds.
    pub fn held(&self) -> usize {
        self.total() - self.free() - self.idle()
    }

    /// Blocks that [`allocate`](Self::allocate) can give.
    pub fn available(&self) -> usize {
        self.free() + self.idle()
    }

    /// Whether a block is idle.
    pub fn is_idle(&self, id: BlockId) -> bool {
        self.idle.since[id.index()].is_some()
    }

    /// Checks that each block is in one place: held, idle or free.
    ///
    /// # Panics
    /// If one is not.
    #[cfg(test)]
    pub fn check_invariants(&self) {
        let mut free = vec![false; self.total()];
        for id in &self.free {
            assert!(!std::mem::replace(&mut free[id.index()], true), "block {} is free twice", id.0);
        }
        let dated = self.idle.since.iter().flatten().count();
        assert_eq!(dated, self.idle.by_age.len(), "the list of idle blocks");
        for (index, references) in self.references.iter().enumerate() {
            let id = BlockId(index as u32);
            let places = [*references > 0, free[index], self.is_idle(id)];
            let count = places.into_iter().filter(|place| *place).count();
            assert_eq!(count, 1, "block {index}: held, free, idle: {places:?}");
        }
    }
}

/// Idle blocks by the time of their last use.
struct IdleList {
    /// When each block became idle, counted in blocks that did.
    since: Vec<Option<u64>>,
    by_age: BTreeMap<u64, BlockId>,
    clock: u64,
}

impl IdleList {
    fn new(blocks: usize) -> IdleList {
        IdleList { since: vec![None; blocks], by_age: BTreeMap::new(), clock: 0 }
    }

    fn push_newest(&mut self, id: BlockId) {
        self.clock += 1;
        self.since[id.index()] = Some(self.clock);
        self.by_age.insert(self.clock, id);
    }

    fn pop_oldest(&mut self) -> Option<BlockId> {
        let (_, oldest) = self.by_age.pop_first()?;
        self.since[oldest.index()] = None;
        Some(oldest)
    }

    /// False if it was not in the list.
    fn remove(&mut self, id: BlockId) -> bool {
        let since = self.since[id.index()].take();
        since.is_some_and(|since| self.by_age.remove(&since).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pool: &mut BlockPool) -> Block {
        pool.allocate().unwrap().0
    }

    #[test]
    fn a_shared_block_is_given_back_by_the_last() {
        let mut pool = BlockPool::new(2);
        let (first, other) = (take(&mut pool), take(&mut pool));
        assert!(pool.allocate().is_none());
        let again = pool.share(&first);
        pool.release(first, false);
        assert_eq!((pool.references(again.id()), pool.held()), (1, 2));
        assert!(pool.allocate().is_none(), "somebody holds it still");
        let id = again.id();
        pool.release(again, false);
        assert_eq!(take(&mut pool).id(), id);
        pool.release(other, false);
        pool.check_invariants();
    }

    #[test]
    fn the_block_that_is_idle_longest_goes_first() {
        let mut pool = BlockPool::new(4);
        let blocks: Vec<Block> = (0..4).map(|_| take(&mut pool)).collect();
        blocks.into_iter().for_each(|block| pool.release(block, true));
        assert_eq!((pool.free(), pool.idle(), pool.available()), (0, 4, 4));
        let one = pool.hold(BlockId(1)); // out of the middle
        let zero = pool.hold(BlockId(0)); // the oldest
        pool.release(one, true);
        let mut evicted = || pool.allocate().map(|(block, evicted)| (block.id(), evicted));
        assert_eq!(evicted(), Some((BlockId(2), Some(BlockId(2)))));
        assert_eq!(evicted(), Some((BlockId(3), Some(BlockId(3)))));
        assert_eq!(evicted(), Some((BlockId(1), Some(BlockId(1)))));
        assert_eq!(evicted(), None, "block 0 is held");
        pool.release(zero, true);
        pool.forget(BlockId(0));
        assert_eq!((pool.free(), pool.idle()), (1, 0));
        pool.check_invariants();
    }
}
