//! Blocks that are found by what is in them.
//!
//! K and V at a position depend on all tokens up to it. So a block's contents are named by its own tokens and by the block before
//! it, which is named the same way: a chain, from the first block of the sequence.
//!
//! ```text
//! root(salt) ◀─ [Once upon a time] ◀─ [, in a small vil] ◀─ …
//!                                  ◀─ [there was a big ]          two sequences with the same first block
//! ```
//! A block is looked up by a hash of the chain, and **verified by its tokens**: a hash alone would one day, or under attack, give one
//! request the K and V of another's text. Which block comes before is verified by a number that is never used again, so a block
//! that was evicted and filled anew does not match.

use super::BlockId;
use std::hash::{BuildHasher, RandomState};
use std::{collections::HashMap, sync::Arc};

/// What comes before a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parent {
    /// Nothing: it is a sequence's first. Sequences share blocks only if their salts are equal.
    Root(Option<Arc<str>>),
    /// A cached block.
    Block(Link),
}

/// A cached block's place in its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The hash over the chain.
    hash: u64,
    /// A number that no other contents have or will have.
    contents: u64,
}

/// Hash of a chain: from that of the block before and a block's own tokens.
pub type ChainHash = Box<dyn Fn(u64, &[u32]) -> u64 + Send>;

/// See the module's documentation.
pub struct PrefixCache {
    hash: ChainHash,
    by_hash: HashMap<u64, Vec<BlockId>>,
    /// What is in each block, if it can be found.
    entries: Vec<Option<Entry>>,
    next_contents: u64,
}

struct Entry {
    parent: Parent,
    tokens: Box<[u32]>,
    link: Link,
}

impl PrefixCache {
    /// Finds nothing yet, in a pool of so many blocks. The hash's key is random: whoever sends requests can't know which
    /// tokens collide.
    pub fn new(blocks: usize) -> PrefixCache {
        let key = RandomState::new();
        PrefixCache::with_hash(blocks, Box::new(move |parent, tokens| key.hash_one((parent, tokens))))
    }

    /// The same with another hash.
    pub fn with_hash(blocks: usize, hash: ChainHash) -> PrefixCache {
        let entries = (0..blocks).map(|_| None).collect();
        PrefixCache { hash, by_hash: HashMap::new(), entries, next_contents: 0 }
    }

    fn chain(&self, parent: &Parent, tokens: &[u32]) -> u64 {
        match parent {
            Parent::Root(salt) => {
                let salt = salt.iter().flat_map(|salt| salt.bytes()).map(u32::from).collect::<Vec<_>>();
                (self.hash)((self.hash)(0, &salt), tokens)
            }
            Parent::Block(link) => (self.hash)(link.hash, tokens),
        }
    }

    // ANCHOR: find
    /// The block that holds K and V of these tokens after this parent.
    pub fn find(&self, parent: &Parent, tokens: &[u32]) -> Option<(BlockId, Parent)> {
        self.find_hashed(self.chain(parent, tokens), parent, tokens)
    }

    fn find_hashed(&self, hash: u64, parent: &Parent, tokens: &[u32]) -> Option<(BlockId, Parent)> {
        let same = |id: &&BlockId| {
            self.entries[id.index()].as_ref().is_some_and(|e| *e.tokens == *tokens && e.parent == *parent)
        };
        let id = *self.by_hash.get(&hash)?.iter().find(same)?;
        Some((id, Parent::Block(self.entries[id.index()].as_ref()?.link)))
    }
    // ANCHOR_END: find

    /// The blocks of the longest cached beginning of a sequence, `block_size` tokens each.
    pub fn prefix<'a>(
        &'a self,
        root: Parent,
        tokens: &'a [u32],
        block_size: usize,
    ) -> impl Iterator<Item = (BlockId, Parent)> + 'a {
        let mut parent = root;
        tokens.chunks_exact(block_size).map_while(move |tokens| {
            let found = self.find(&parent, tokens)?;
            parent = found.1.clone();
            Some(found)
        })
    }

    // ANCHOR: publish
    /// From now on a block can be found by its tokens. If others hold the same already, those stay, and the chain goes on from them.
    pub fn publish(&mut self, id: BlockId, parent: &Parent, tokens: &[u32]) -> Parent {
        let hash = self.chain(parent, tokens);
        if let Some((_, same)) = self.find_hashed(hash, parent, tokens) {
            return same;
        }
        self.next_contents += 1;
        let link = Link { hash, contents: self.next_contents };
        self.by_hash.entry(hash).or_default().push(id);
        self.entries[id.index()] = Some(Entry { parent: parent.clone(), tokens: tokens.into(), link });
        Parent::Block(link)
    }

    /// A block's contents will be overwritten.
    pub fn forget(&mut self, id: BlockId) {
        let Some(entry) = self.entries[id.index()].take() else { return };
        let hash = entry.link.hash;
        if let Some(blocks) = self.by_hash.get_mut(&hash) {
            blocks.retain(|block| *block != id);
            if blocks.is_empty() {
                self.by_hash.remove(&hash);
            }
        }
    }
    // ANCHOR_END: publish

    /// Whether a block can be found.
    pub fn has(&self, id: BlockId) -> bool {
        self.entries[id.index()].is_some()
    }

    /// Blocks that can be found.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.iter().flatten().count()
    }

    /// Whether nothing can be found.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(cache: &PrefixCache, salt: Option<&str>, tokens: &[u32]) -> Vec<u32> {
        cache.prefix(Parent::Root(salt.map(Arc::from)), tokens, 2).map(|(id, _)| id.0).collect()
    }

    fn publish(cache: &mut PrefixCache, salt: Option<&str>, tokens: &[u32], blocks: &[u32]) {
        let mut parent = Parent::Root(salt.map(Arc::from));
        for (tokens, id) in tokens.chunks_exact(2).zip(blocks) {
            parent = cache.publish(BlockId(*id), &parent, tokens);
        }
    }

    /// With a good hash, and with one under which all collide.
    fn both(check: impl Fn(PrefixCache)) {
        check(PrefixCache::new(8));
        check(PrefixCache::with_hash(8, Box::new(|_, _| 7)));
    }

    #[test]
    fn the_longest_beginning_is_found_and_nothing_else() {
        both(|mut cache| {
            publish(&mut cache, None, &[1, 2, 3, 4, 5, 6], &[0, 1, 2]);
            assert_eq!(ids(&cache, None, &[1, 2, 3, 4, 5, 6, 7, 8]), [0, 1, 2]);
            assert_eq!(ids(&cache, None, &[1, 2, 3, 4, 9, 6]), [0, 1]);
            assert_eq!(ids(&cache, None, &[1, 2, 3]), [0], "a block that is not full is not looked up");
            assert_eq!(ids(&cache, None, &[3, 4]), [0; 0], "the same tokens, but not after 1, 2");
            assert_eq!(ids(&cache, Some("tenant"), &[1, 2]), [0; 0], "another salt");
            publish(&mut cache, Some("tenant"), &[1, 2], &[5]);
            assert_eq!(ids(&cache, Some("tenant"), &[1, 2, 3, 4]), [5]);
            publish(&mut cache, None, &[1, 2, 3, 4, 8, 8], &[6, 7, 4]);
            assert_eq!(ids(&cache, None, &[1, 2, 3, 4, 8, 8]), [0, 1, 4], "those that are there stay");
            assert!(!cache.has(BlockId(6)) && cache.len() == 5);
        });
    }

    #[test]
    fn a_block_that_is_used_again_has_no_children() {
        both(|mut cache| {
            publish(&mut cache, None, &[1, 2, 3, 4], &[0, 1]);
            cache.forget(BlockId(0));
            publish(&mut cache, None, &[1, 2], &[0]); // the same tokens; K and V were computed again
            assert_eq!(ids(&cache, None, &[1, 2, 3, 4]), [0], "block 1 followed other contents");
            publish(&mut cache, None, &[1, 2, 3, 4], &[0, 2]);
            assert_eq!(ids(&cache, None, &[1, 2, 3, 4]), [0, 2]);
            for id in 0..8 {
                cache.forget(BlockId(id));
            }
            assert_eq!((cache.is_empty(), cache.len()), (true, 0));
        });
    }
}
