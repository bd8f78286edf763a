//! Wrong answers to the first exercise of chapter 4: each has one mistake.

use crate::contracts::step4::ReferenceCounts;

/// Counts, and a rule that takes a reference away and says whether the block can be allocated again.
pub struct Counts {
    references: Vec<u32>,
    free: Vec<u32>,
    take_away: fn(&mut u32) -> bool,
}

/// A block is free with the first reference that is given back.
pub fn freed_at_once(blocks: usize) -> Counts {
    Counts::new(blocks, |references| {
        let held = *references > 0;
        *references -= u32::from(held);
        held
    })
}

/// A block that nobody holds is given back again.
pub fn freed_twice(blocks: usize) -> Counts {
    Counts::new(blocks, |references| {
        *references = references.saturating_sub(1);
        *references == 0
    })
}

impl Counts {
    fn new(blocks: usize, take_away: fn(&mut u32) -> bool) -> Counts {
        Counts { references: vec![0; blocks], free: (0..blocks as u32).rev().collect(), take_away }
    }
}

impl ReferenceCounts for Counts {
    fn allocate(&mut self) -> Option<u32> {
        let block = self.free.pop()?;
        self.references[block as usize] = 1;
        Some(block)
    }
    fn share(&mut self, block: u32) {
        self.references[block as usize] += 1;
    }
    fn free(&mut self, block: u32) {
        if (self.take_away)(&mut self.references[block as usize]) {
            self.free.push(block);
        }
    }
    fn references(&self, block: u32) -> u32 {
        self.references[block as usize]
    }
    fn available(&self) -> usize {
        self.free.len()
    }
}

/// Forgets to count whoever shares a block.
pub struct ShareForgotten(super::solution::MyPool);

impl ShareForgotten {
    pub fn new(blocks: usize) -> ShareForgotten {
        ShareForgotten(super::solution::MyPool::new(blocks))
    }
}

impl ReferenceCounts for ShareForgotten {
    fn allocate(&mut self) -> Option<u32> {
        self.0.allocate()
    }
    fn share(&mut self, _: u32) {}
    fn free(&mut self, block: u32) {
        self.0.free(block);
    }
    fn references(&self, block: u32) -> u32 {
        self.0.references(block)
    }
    fn available(&self) -> usize {
        self.0.available()
    }
}
