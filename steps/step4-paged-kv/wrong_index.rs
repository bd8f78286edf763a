//! Wrong answers to the third exercise of chapter 4: each has one mistake.

use crate::contracts::step4::{Hash, PrefixIndex};

/// What is published: parent, tokens, block, name.
type Entries = Vec<(Option<u64>, Vec<u32>, u32, u64)>;

/// Believes the hash.
pub struct HashOnly(Hash, Entries);

impl HashOnly {
    pub fn new(hash: Hash) -> HashOnly {
        HashOnly(hash, Vec::new())
    }
}

impl PrefixIndex for HashOnly {
    fn publish(&mut self, parent: Option<u64>, tokens: &[u32], block: u32) -> u64 {
        let name = (self.0)(parent.unwrap_or(0), tokens);
        self.1.push((parent, tokens.to_vec(), block, name));
        name
    }
    fn find(&self, parent: Option<u64>, tokens: &[u32]) -> Option<(u32, u64)> {
        let name = (self.0)(parent.unwrap_or(0), tokens);
        self.1.iter().find(|entry| entry.3 == name).map(|entry| (entry.2, name))
    }
    fn forget(&mut self, block: u32) {
        self.1.retain(|entry| entry.2 != block);
    }
}

/// Does not ask what comes before.
pub struct NoParent(Entries);

impl NoParent {
    pub fn new(_: Hash) -> NoParent {
        NoParent(Vec::new())
    }
}

impl PrefixIndex for NoParent {
    fn publish(&mut self, parent: Option<u64>, tokens: &[u32], block: u32) -> u64 {
        if let Some((_, name)) = self.find(parent, tokens) {
            return name;
        }
        self.0.push((parent, tokens.to_vec(), block, self.0.len() as u64));
        self.0.len() as u64 - 1
    }
    fn find(&self, _: Option<u64>, tokens: &[u32]) -> Option<(u32, u64)> {
        self.0.iter().find(|entry| entry.1 == tokens).map(|entry| (entry.2, entry.3))
    }
    fn forget(&mut self, block: u32) {
        self.0.iter_mut().filter(|entry| entry.2 == block).for_each(|entry| entry.1.clear());
    }
}

/// Takes a block's number for its name: with new contents it is still the same parent.
pub struct NamedByBlock(Entries);

impl NamedByBlock {
    pub fn new(_: Hash) -> NamedByBlock {
        NamedByBlock(Vec::new())
    }
}

impl PrefixIndex for NamedByBlock {
    fn publish(&mut self, parent: Option<u64>, tokens: &[u32], block: u32) -> u64 {
        if let Some((_, name)) = self.find(parent, tokens) {
            return name;
        }
        self.0.push((parent, tokens.to_vec(), block, u64::from(block)));
        u64::from(block)
    }
    fn find(&self, parent: Option<u64>, tokens: &[u32]) -> Option<(u32, u64)> {
        self.0.iter().find(|entry| entry.0 == parent && entry.1 == tokens).map(|entry| (entry.2, entry.3))
    }
    fn forget(&mut self, block: u32) {
        self.0.retain(|entry| entry.2 != block);
    }
}

/// Forgets nothing: a block that is used again is found by its old tokens.
pub struct NeverForgets(super::solution::MyIndex);

impl NeverForgets {
    pub fn new(hash: Hash) -> NeverForgets {
        NeverForgets(super::solution::MyIndex::new(hash))
    }
}

impl PrefixIndex for NeverForgets {
    fn publish(&mut self, parent: Option<u64>, tokens: &[u32], block: u32) -> u64 {
        self.0.publish(parent, tokens, block)
    }
    fn find(&self, parent: Option<u64>, tokens: &[u32]) -> Option<(u32, u64)> {
        self.0.find(parent, tokens)
    }
    fn forget(&mut self, _: u32) {}
}

/// Compares what comes before, and believes the hash about the tokens.
pub struct NoTokens(Hash, Vec<(Option<u64>, u64, u32, u64)>);

impl NoTokens {
    pub fn new(hash: Hash) -> NoTokens {
        NoTokens(hash, Vec::new())
    }
}

impl PrefixIndex for NoTokens {
    fn publish(&mut self, parent: Option<u64>, tokens: &[u32], block: u32) -> u64 {
        if let Some((_, name)) = self.find(parent, tokens) {
            return name;
        }
        let name = 1 + self.1.iter().map(|entry| entry.3).max().unwrap_or(0);
        self.1.push((parent, (self.0)(parent.unwrap_or(0), tokens), block, name));
        name
    }
    fn find(&self, parent: Option<u64>, tokens: &[u32]) -> Option<(u32, u64)> {
        let hash = (self.0)(parent.unwrap_or(0), tokens);
        let entry = self.1.iter().find(|entry| entry.0 == parent && entry.1 == hash)?;
        Some((entry.2, entry.3))
    }
    fn forget(&mut self, block: u32) {
        self.1.retain(|entry| entry.2 != block);
    }
}

/// Names contents by how many there are: once one is forgotten, the next has the name of another.
pub struct NamedByCount(Entries);

impl NamedByCount {
    pub fn new(_: Hash) -> NamedByCount {
        NamedByCount(Vec::new())
    }
}

impl PrefixIndex for NamedByCount {
    fn publish(&mut self, parent: Option<u64>, tokens: &[u32], block: u32) -> u64 {
        if let Some((_, name)) = self.find(parent, tokens) {
            return name;
        }
        let name = self.0.len() as u64;
        self.0.push((parent, tokens.to_vec(), block, name));
        name
    }
    fn find(&self, parent: Option<u64>, tokens: &[u32]) -> Option<(u32, u64)> {
        self.0.iter().find(|entry| entry.0 == parent && entry.1 == tokens).map(|entry| (entry.2, entry.3))
    }
    fn forget(&mut self, block: u32) {
        self.0.retain(|entry| entry.2 != block);
    }
}

/// Finds nothing: the stories are right, and every prompt is computed again.
pub struct NeverFinds;

impl NeverFinds {
    pub fn new(_: Hash) -> NeverFinds {
        NeverFinds
    }
}

impl PrefixIndex for NeverFinds {
    fn publish(&mut self, _: Option<u64>, _: &[u32], block: u32) -> u64 {
        u64::from(block)
    }
    fn find(&self, _: Option<u64>, _: &[u32]) -> Option<(u32, u64)> {
        None
    }
    fn forget(&mut self, _: u32) {}
}
