//! Wrong answers to the first exercise of chapter 4: each has one mistake.

use stairwell::contracts::step4::ReferenceCounts;

/// A block is free with the first reference that is given back.
pub struct FreedAtOnce(Vec<u32>, Vec<u32>);

impl FreedAtOnce {
    pub fn new(blocks: usize) -> FreedAtOnce {
        FreedAtOnce(vec![0; blocks], (0..blocks as u32).rev().collect())
    }
}

impl ReferenceCounts for FreedAtOnce {
    fn allocate(&mut self) -> Option<u32> {
        let block = self.1.pop()?;
        self.0[block as usize] = 1;
        Some(block)
    }
    fn share(&mut self, block: u32) {
        self.0[block as usize] += 1;
    }
    fn free(&mut self, block: u32) {
        let references = &mut self.0[block as usize];
        if *references > 0 {
            *references -= 1;
            self.1.push(block);
        }
    }
    fn references(&self, block: u32) -> u32 {
        self.0[block as usize]
    }
    fn available(&self) -> usize {
        self.1.len()
    }
}

/// A block that nobody holds is given back again.
pub struct FreedTwice(Vec<u32>, Vec<u32>);

impl FreedTwice {
    pub fn new(blocks: usize) -> FreedTwice {
        FreedTwice(vec![0; blocks], (0..blocks as u32).rev().collect())
    }
}

impl ReferenceCounts for FreedTwice {
    fn allocate(&mut self) -> Option<u32> {
        let block = self.1.pop()?;
        self.0[block as usize] = 1;
        Some(block)
    }
    fn share(&mut self, block: u32) {
        self.0[block as usize] += 1;
    }
    fn free(&mut self, block: u32) {
        let references = &mut self.0[block as usize];
        *references = references.saturating_sub(1);
        if *references == 0 {
            self.1.push(block);
        }
    }
    fn references(&self, block: u32) -> u32 {
        self.0[block as usize]
    }
    fn available(&self) -> usize {
        self.1.len()
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
