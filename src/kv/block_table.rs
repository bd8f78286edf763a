//! One sequence's blocks, and what all sequences share: pool, prefix cache, copies.
//!
//! ```text
//! positions   0 … 15    16 … 31    32 … 40
//! table      [  7     ,   2      ,   9      ]      the K and V of position p are in block table[p / 16], at p % 16
//!               ▲          ▲          ▲
//!               │ shared   │ shared   └ its own: 7 places of it are not used yet
//! ```

use super::{Block, BlockId, BlockPool, Parent, PrefixCache};
use crate::batch::Move;

/// The entry of a block behind the sliding window: nobody reads it any more.
pub const GONE: u32 = u32::MAX;

/// What the tables of a pool share.
pub struct Blocks {
    /// Tokens of a block, a power of two.
    pub size: usize,
    pub pool: BlockPool,
    /// `None`: nothing is looked up, and nothing is kept for later requests.
    pub cache: Option<PrefixCache>,
    /// What the next batch must copy before it computes, in this order.
    pub moves: Vec<Move>,
    /// Blocks copied before they were written to, and cached blocks that were overwritten, since the start.
    pub copies: u64,
    pub evictions: u64,
}

impl Blocks {
    /// Blocks that so many tokens take.
    pub fn count(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.size)
    }

    /// A block to write to.
    pub fn take(&mut self) -> Option<Block> {
        let (block, evicted) = self.pool.allocate()?;
        if let (Some(id), Some(cache)) = (evicted, &mut self.cache) {
            cache.forget(id);
            self.evictions += 1;
        }
        Some(block)
    }

    /// Gives a reference back. A block that can be found stays until its place is needed.
    pub fn give_back(&mut self, block: Block) {
        let keep = self.cache.as_ref().is_some_and(|cache| cache.has(block.id()));
        self.pool.release(block, keep);
    }

    /// Nobody is to find what is in a block.
    pub fn forget(&mut self, id: BlockId) {
        if let Some(cache) = &mut self.cache {
            cache.forget(id);
            self.pool.forget(id);
        }
    }
}

/// See the module's documentation.
pub struct BlockTable {
    /// `None` behind the window.
    blocks: Vec<Option<Block>>,
    /// Their numbers, as attention reads them.
    ids: Vec<u32>,
    /// Tokens that there is room for.
    tokens: usize,
    /// The first tokens, whose K and V are there when the next batch's attention reads them.
    computed: usize,
    /// Those of them that are there already when the next batch begins, and can be copied then.
    settled: usize,
    /// The first blocks, which were found in the cache.
    adopted: usize,
    root: Parent,
    /// Full blocks that can be found, and the last of them; `None` when the chain is broken.
    published: Option<(usize, Parent)>,
    /// Others may find nothing of it.
    hidden: bool,
}

impl BlockTable {
    /// Nothing yet. Blocks are found by, and for, sequences with the same root.
    pub fn new(root: Parent) -> BlockTable {
        let published = Some((0, root.clone()));
        let (blocks, ids) = (Vec::new(), Vec::new());
        BlockTable {
            blocks,
            ids,
            tokens: 0,
            computed: 0,
            settled: 0,
            adopted: 0,
            root,
            published,
            hidden: false,
        }
    }

    // ANCHOR: reserve
    /// Makes room for the first `tokens` tokens. The places that will be written, those after the computed ones, are this sequence's
    /// alone afterwards: a block that others hold too is copied first. False if there are not enough blocks; nothing changes then.
    pub fn reserve(&mut self, blocks: &mut Blocks, tokens: usize) -> bool {
        let first = self.computed / blocks.size;
        let shared =
            |block: &Option<Block>| block.as_ref().is_some_and(|b| blocks.pool.references(b.id()) > 1);
        let to_copy: Vec<usize> = (first..self.blocks.len()).filter(|at| shared(&self.blocks[*at])).collect();
        let more = blocks.count(tokens).saturating_sub(self.blocks.len());
        if to_copy.len() + more > blocks.pool.available() {
            return false;
        }
        for at in to_copy {
            self.copy_on_write(blocks, at);
        }
        for _ in 0..more {
            self.push(blocks.take());
        }
        self.tokens = self.tokens.max(tokens);
        true
    }

    fn copy_on_write(&mut self, blocks: &mut Blocks, at: usize) {
        let (Some(mine), Some(shared)) = (blocks.take(), self.blocks[at].take()) else { return };
        blocks.moves.push(Move::Copy { from: shared.id().0, to: mine.id().0 });
        blocks.copies += 1;
        self.ids[at] = mine.id().0;
        self.blocks[at] = Some(mine);
        blocks.give_back(shared);
    }
    // ANCHOR_END: reserve

    fn push(&mut self, block: Option<Block>) {
        self.ids.push(block.as_ref().map_or(GONE, |block| block.id().0));
        self.blocks.push(block);
    }

    /// Takes over the first `tokens` tokens of another table, whose blocks are shared from now on.
    pub fn fork(&self, blocks: &mut Blocks, tokens: usize) -> BlockTable {
        let mut table = BlockTable::new(self.root.clone());
        for block in &self.blocks[..blocks.count(tokens)] {
            table.push(block.as_ref().map(|block| blocks.pool.share(block)));
        }
        (table.tokens, table.computed, table.settled) = (tokens, tokens, tokens);
        table
    }

    /// Takes over a cached block after those that it has.
    pub fn adopt(&mut self, blocks: &mut Blocks, id: BlockId, chain: Parent) {
        self.push(Some(blocks.pool.hold(id)));
        self.tokens += blocks.size;
        self.computed = self.tokens;
        self.adopted = self.blocks.len();
        self.published = Some((self.adopted, chain));
    }

    /// The same blocks in other places: what was swapped out comes back. The caller sees to it that there are enough.
    pub fn restore(blocks: &mut Blocks, root: Parent, gone: &[bool], tokens: usize) -> BlockTable {
        let mut table = BlockTable::new(root);
        for gone in gone {
            let block = if *gone { None } else { blocks.take() };
            table.push(block);
        }
        (table.tokens, table.computed) = (tokens, tokens);
        table
    }

    // ANCHOR: publish
    /// Makes the blocks that `tokens`, the first of the sequence, fill known to later requests.
    pub fn publish(&mut self, blocks: &mut Blocks, tokens: &[u32]) {
        let (Some(cache), Some((done, mut chain))) = (&mut blocks.cache, self.published.take()) else {
            return;
        };
        let full = tokens.chunks_exact(blocks.size);
        let (count, done) = (full.len(), done.min(full.len()));
        for (block, tokens) in self.blocks[done..].iter().zip(full.skip(done)) {
            chain = match block {
                Some(block) => cache.publish(block.id(), &chain, tokens),
                None => match cache.find(&chain, tokens) {
                    Some((_, chain)) => chain,
                    None => return, // behind the window and forgotten: nothing after it can be found either
                },
            };
        }
        self.published = Some((count, chain));
    }
    // ANCHOR_END: publish

    /// The first tokens are computed.
    pub fn computed(&mut self, blocks: &mut Blocks, tokens: usize, window: Option<usize>) {
        (self.computed, self.settled) = (tokens, tokens);
        self.leave_behind(blocks, window);
    }

    /// Gives the blocks back that no later token's window reaches.
    pub fn leave_behind(&mut self, blocks: &mut Blocks, window: Option<usize>) {
        let Some(window) = window else { return };
        let behind = (self.computed + 1).saturating_sub(window) / blocks.size;
        for at in (0..behind.min(self.blocks.len())).rev() {
            let Some(block) = self.blocks[at].take() else { break };
            self.ids[at] = GONE;
            blocks.give_back(block);
        }
    }

    /// Gives everything back, the last block first: whoever looks for a beginning needs the first ones most.
    pub fn release(mut self, blocks: &mut Blocks) {
        let published = self.published.as_ref().map_or(0, |(count, _)| *count);
        let never_computed = self.adopted.max(self.settled / blocks.size)..published;
        for (at, block) in self.blocks.drain(..).enumerate().rev() {
            let Some(block) = block else { continue };
            if never_computed.contains(&at) {
                blocks.forget(block.id()); // the forward pass failed
            }
            blocks.give_back(block);
        }
    }

    /// Nothing of what it has or will have may be found by others: it was computed with other weights.
    pub fn hide(&mut self) {
        (self.published, self.hidden) = (None, true);
    }

    /// Whether others may find nothing of it.
    pub fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// The blocks' numbers, [`GONE`] behind the window.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Tokens that there is room for.
    #[cfg(test)]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Places of its last block that it does not use yet, less than a block. A last block that is shared is somebody else's to fill.
    pub fn unused(&self, blocks: &Blocks) -> usize {
        let last = self.blocks.last().and_then(Option::as_ref);
        match last.is_some_and(|block| blocks.pool.references(block.id()) == 1) {
            true => self.ids.len() * blocks.size - self.tokens,
            false => 0,
        }
    }

    /// Tokens whose K and V are there when the next batch's attention reads them.
    pub fn tokens_computed(&self) -> usize {
        self.computed
    }

    /// Tokens whose K and V can be copied when the next batch begins. Those of a cached block may be computed only in that batch.
    pub fn settled(&self) -> usize {
        self.settled
    }

    /// What its first block follows.
    pub fn root(&self) -> &Parent {
        &self.root
    }

    /// The blocks that it holds.
    pub fn held(&self) -> impl Iterator<Item = BlockId> {
        self.blocks.iter().flatten().map(Block::id)
    }
}
