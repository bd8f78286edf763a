//! Answers to exercise.rs: `cargo test --features step4 --test solution4`.

use crate::contracts::step4::{self, Growth, Hash, PrefixIndex, ReferenceCounts};
use std::collections::HashMap;

// 1. The pool -----------------------------------------------------------------------------------------------------------

pub struct MyPool {
    references: Vec<u32>,
    free: Vec<u32>,
}

impl MyPool {
    pub fn new(blocks: usize) -> MyPool {
        MyPool { references: vec![0; blocks], free: (0..blocks as u32).rev().collect() }
    }
}

impl ReferenceCounts for MyPool {
    fn allocate(&mut self) -> Option<u32> {
        let block = self.free.pop()?;
        self.references[block as usize] = 1;
        Some(block)
    }

    fn share(&mut self, block: u32) {
        self.references[block as usize] += 1;
    }

    fn free(&mut self, block: u32) {
        match &mut self.references[block as usize] {
            0 => {}
            references => {
                *references -= 1;
                if *references == 0 {
                    self.free.push(block);
                }
            }
        }
    }

    fn references(&self, block: u32) -> u32 {
        self.references[block as usize]
    }

    fn available(&self) -> usize {
        self.free.len()
    }
}

#[test]
fn pool() {
    step4::pool(MyPool::new);
}

// 2. The table ----------------------------------------------------------------------------------------------------------

pub fn my_append(
    pool: &mut dyn ReferenceCounts,
    table: &mut Vec<u32>,
    growth: Growth,
    copies: &mut Vec<(u32, u32)>,
) -> bool {
    let Growth { block_size, written, tokens } = growth;
    let first = written / block_size; // the block of the first token that will be written
    let shared: Vec<usize> = (first..table.len()).filter(|at| pool.references(table[*at]) > 1).collect();
    let more = tokens.div_ceil(block_size).saturating_sub(table.len());
    if shared.len() + more > pool.available() {
        return false;
    }
    for at in shared {
        let Some(mine) = pool.allocate() else { return false };
        copies.push((table[at], mine));
        pool.free(table[at]);
        table[at] = mine;
    }
    table.extend((0..more).filter_map(|_| pool.allocate()));
    true
}

#[test]
fn append() {
    step4::append(my_append);
}

// 3. The index ----------------------------------------------------------------------------------------------------------

pub struct MyIndex {
    hash: Hash,
    by_hash: HashMap<u64, Vec<u32>>,
    entries: HashMap<u32, Entry>,
    names: u64,
}

struct Entry {
    parent: Option<u64>,
    tokens: Vec<u32>,
    name: u64,
}

impl MyIndex {
    pub fn new(hash: Hash) -> MyIndex {
        MyIndex { hash, by_hash: HashMap::new(), entries: HashMap::new(), names: 0 }
    }

    /// A name stands for all that comes before, so it can be hashed in its place.
    fn hash(&self, parent: Option<u64>, tokens: &[u32]) -> u64 {
        (self.hash)(parent.unwrap_or(0), tokens)
    }
}

impl PrefixIndex for MyIndex {
    fn publish(&mut self, parent: Option<u64>, tokens: &[u32], block: u32) -> u64 {
        if let Some((_, name)) = self.find(parent, tokens) {
            return name;
        }
        self.names += 1; // never used again, so a block with new contents is another parent
        let hash = self.hash(parent, tokens);
        self.by_hash.entry(hash).or_default().push(block);
        self.entries.insert(block, Entry { parent, tokens: tokens.to_vec(), name: self.names });
        self.names
    }

    fn find(&self, parent: Option<u64>, tokens: &[u32]) -> Option<(u32, u64)> {
        let candidates = self.by_hash.get(&self.hash(parent, tokens))?;
        let mut entries = candidates.iter().filter_map(|block| Some((block, self.entries.get(block)?)));
        let (block, entry) = entries.find(|(_, entry)| entry.parent == parent && entry.tokens == tokens)?;
        Some((*block, entry.name))
    }

    fn forget(&mut self, block: u32) {
        let Some(entry) = self.entries.remove(&block) else { return };
        let hash = self.hash(entry.parent, &entry.tokens);
        if let Some(blocks) = self.by_hash.get_mut(&hash) {
            blocks.retain(|other| *other != block);
        }
    }
}

#[test]
fn index() {
    step4::prefix_index(MyIndex::new);
}

// All of them -----------------------------------------------------------------------------------------------------------

#[test]
fn all_tell_the_stories() {
    step4::tells_the_demo_stories(MyPool::new, my_append, MyIndex::new);
}
