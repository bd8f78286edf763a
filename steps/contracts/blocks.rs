//! What the exercises of chapter 4 are given and write, and the plain pool of those that are about something else.

use std::collections::BTreeMap;

/// Who holds which block, by counting. (The first exercise.)
pub trait ReferenceCounts: Send {
    /// A block that nobody holds, with one reference from now on; `None` if there is none.
    fn allocate(&mut self) -> Option<u32>;
    /// One more reference to a block that somebody holds.
    fn share(&mut self, block: u32);
    /// Takes a reference away. With the last one the block can be allocated again. A block that nobody holds is left alone.
    fn free(&mut self, block: u32);
    /// References to a block.
    fn references(&self, block: u32) -> u32;
    /// Blocks that can be allocated.
    fn available(&self) -> usize;
}

/// How a block table has to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Tokens of a block.
    pub block_size: usize,
    /// Tokens that are there. Those after them will be written.
    pub written: usize,
    /// Tokens that there must be room for.
    pub tokens: usize,
}

/// Grows a table, and notes blocks to copy as (from, to); false if there are not enough blocks, and nothing changes then. (The second
/// exercise.)
pub type Append = fn(&mut dyn ReferenceCounts, &mut Vec<u32>, Growth, &mut Vec<(u32, u32)>) -> bool;

/// A hash over the hash of what comes before and a block's tokens.
pub type Hash = fn(u64, &[u32]) -> u64;

/// Blocks that are found by their tokens and by what comes before them. (The third exercise.)
pub trait PrefixIndex: Send {
    /// From now on a block is found by its tokens after those that have the name `parent`; `None`: they are a sequence's first. Gives
    /// the name of all tokens up to its end, which no others have or will have. If another block holds the same already, that one
    /// stays, and its name is given.
    fn publish(&mut self, parent: Option<u64>, tokens: &[u32], block: u32) -> u64;
    /// The block that holds these tokens after that parent, and its name.
    fn find(&self, parent: Option<u64>, tokens: &[u32]) -> Option<(u32, u64)>;
    /// A block will be overwritten: it can't be found any more.
    fn forget(&mut self, block: u32);
}

/// Plain counts: the pool of those exercises that are about something else.
pub struct Counted {
    references: BTreeMap<u32, u32>,
    blocks: usize,
}

impl Counted {
    /// So many free blocks.
    pub fn new(blocks: usize) -> Counted {
        Counted { references: BTreeMap::new(), blocks }
    }
}

impl ReferenceCounts for Counted {
    fn allocate(&mut self) -> Option<u32> {
        let block = (0..self.blocks as u32).find(|block| !self.references.contains_key(block))?;
        self.references.insert(block, 1);
        Some(block)
    }
    fn share(&mut self, block: u32) {
        *self.references.entry(block).or_default() += 1;
    }
    fn free(&mut self, block: u32) {
        match self.references.get_mut(&block) {
            Some(1) => drop(self.references.remove(&block)),
            Some(references) => *references -= 1,
            None => {}
        }
    }
    fn references(&self, block: u32) -> u32 {
        self.references.get(&block).copied().unwrap_or(0)
    }
    fn available(&self) -> usize {
        self.blocks - self.references.len()
    }
}
