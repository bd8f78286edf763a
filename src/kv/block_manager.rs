//! Blocks for requests: what vLLM calls the KV cache manager.
//!
//! A request gets a block when it has filled the one before, so what it holds and does not use is less than a block. Blocks with the
//! same beginnings of prompts are shared. When the pool is empty, `reserve` says no, and the scheduler
//! preempts somebody.

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use super::{
    BlockCounts, BlockId, BlockPool, BlockSnapshot, BlockTable, Blocks, KvManager, KvPool, KvUsage,
    ManagerOptions, Parent, Preemption, Prefix, PrefixCache, RequestId, Sharing, Slots,
};
use crate::batch::Move;
use std::collections::BTreeMap;

/// See the module's documentation.
pub struct BlockManager {
    blocks: Blocks,
    pool: KvPool,
    preemption: Preemption,
    tables: BTreeMap<RequestId, BlockTable>,
    swapped: BTreeMap<RequestId, Swapped>,
    /// Free blocks of host memory.
    host: Vec<u32>,
    swapped_out: u64,
    swapped_in: u64,
}

/// A request whose K and V are in host memory.
struct Swapped {
    /// `None` behind the window.
    host: Vec<Option<u32>>,
    tokens: usize,
    root: Parent,
    /// Nobody else may find what is in them.
    hidden: bool,
}

/// Where a request's first tokens come from.
enum Source {
    /// Another request's table.
    Fork { from: RequestId, tokens: usize },
    /// The prefix cache.
    Cached(Vec<(BlockId, Parent)>),
}

impl BlockManager {
    /// A manager of a pool in which all blocks are free.
    pub fn new(pool: KvPool, options: &ManagerOptions) -> BlockManager {
        let cache = options.prefix_cache.then(|| PrefixCache::new(pool.blocks));
        BlockManager::with_cache(pool, options.preemption, cache)
    }

    /// The same with a prefix cache of the caller's own, or with none.
    pub fn with_cache(pool: KvPool, preemption: Preemption, cache: Option<PrefixCache>) -> BlockManager {
        let (size, moves) = (pool.block_size, Vec::new());
        let blocks =
            Blocks { size, pool: BlockPool::new(pool.blocks), cache, moves, copies: 0, evictions: 0 };
        BlockManager {
            blocks,
            pool,
            preemption,
            tables: BTreeMap::new(),
            swapped: BTreeMap::new(),
            host: (0..pool.swap_blocks as u32).rev().collect(),
            swapped_out: 0,
            swapped_in: 0,
        }
    }

    // ANCHOR: source
    /// What a new request need not compute, and how many tokens that are. The last token is computed in any case: its logits are
    /// wanted.
    fn source(&self, prefix: &Prefix) -> (Source, usize) {
        let most = prefix.tokens.len().saturating_sub(1);
        let size = self.blocks.size;
        let root = Parent::Root(prefix.salt.clone());
        let cache = self.blocks.cache.iter();
        let cached: Vec<_> =
            cache.flat_map(|cache| cache.prefix(root.clone(), &prefix.tokens[..most], size)).collect();
        let tokens = cached.len() * size;
        if let Some((from, common)) = prefix.like {
            let common = common.min(most);
            if common > tokens && self.can_fork(from, common) {
                return (Source::Fork { from, tokens: common }, common);
            }
        }
        (Source::Cached(cached), tokens)
    }
    // ANCHOR_END: source

    /// Whether a request has K and V of its first `tokens` tokens, all that a later one's window reaches.
    fn can_fork(&self, from: RequestId, tokens: usize) -> bool {
        let Some(table) = self.tables.get(&from) else { return false };
        let first =
            self.pool.window.map_or(0, |window| (tokens + 1).saturating_sub(window)) / self.blocks.size;
        let needed = first..self.blocks.count(tokens);
        !table.is_hidden()
            && table.settled() >= tokens
            && table.ids()[needed].iter().all(|id| *id != super::block_table::GONE)
    }

    // ANCHOR: swap
    /// Copies a request's blocks to host memory; false if there is no room, and nothing changes then.
    fn swap_out(&mut self, id: RequestId) -> bool {
        let room = |table: &mut &BlockTable| table.held().count() <= self.host.len();
        let Some(table) = self.tables.get(&id).filter(|t| room(&mut &**t)) else { return false };
        let mut to_host = |block: &u32| {
            let host = if *block == super::block_table::GONE { None } else { self.host.pop() }?;
            self.blocks.moves.push(Move::SwapOut { block: *block, host });
            self.swapped_out += 1;
            Some(host)
        };
        let host = table.ids().iter().map(&mut to_host).collect();
        let (tokens, root) = (table.tokens_computed(), table.root().clone());
        let swapped = Swapped { host, tokens, root, hidden: table.is_hidden() };
        self.swapped.insert(id, swapped);
        if let Some(table) = self.tables.remove(&id) {
            table.release(&mut self.blocks);
        }
        true
    }

    /// Brings a request's blocks back, and makes room for its first `tokens` tokens; false if there is none, and nothing changes.
    fn swap_in(&mut self, id: RequestId, tokens: usize) -> bool {
        let Some(swapped) = self.swapped.get(&id) else { return false };
        let held = swapped.host.iter().flatten().count();
        let more = self.blocks.count(tokens).saturating_sub(swapped.host.len());
        if held + more > self.blocks.pool.available() {
            return false;
        }
        let Some(swapped) = self.swapped.remove(&id) else { return false };
        let gone: Vec<bool> = swapped.host.iter().map(Option::is_none).collect();
        let mut table = BlockTable::restore(&mut self.blocks, swapped.root, &gone, swapped.tokens);
        if swapped.hidden {
            table.hide();
        }
        for (block, host) in table.ids().iter().zip(&swapped.host) {
            let Some(host) = *host else { continue };
            self.blocks.moves.push(Move::SwapIn { host, block: *block });
            self.host.push(host);
            self.swapped_in += 1;
        }
        let fits = table.reserve(&mut self.blocks, tokens);
        self.tables.insert(id, table);
        fits
    }
    // ANCHOR_END: swap

    /// Checks what must hold between any two calls. The block manager's tests call it after each of many random operations.
    ///
    /// # Panics
    /// If something does not hold.
    #[cfg(test)]
    pub fn check_invariants(&self) {
        let Blocks { pool, cache, size, .. } = &self.blocks;
        pool.check_invariants();
        let mut references = vec![0; pool.total()];
        for (id, table) in &self.tables {
            table.held().for_each(|block| references[block.index()] += 1);
            let ids = table.ids().iter().filter(|block| **block != super::block_table::GONE);
            assert!(
                ids.copied().eq(table.held().map(|block| block.0)),
                "{id:?}: the table that attention reads"
            );
            assert_eq!(
                table.ids().len(),
                table.tokens().div_ceil(*size),
                "{id:?}: less than a block is unused"
            );
            assert!(
                table.tokens_computed() <= table.tokens(),
                "{id:?}: more is computed than there is room for"
            );
        }
        for (index, count) in references.iter().enumerate() {
            let id = BlockId(index as u32);
            assert_eq!(pool.references(id), *count, "block {index}: references counted, and held");
            let found = cache.as_ref().is_some_and(|cache| cache.has(id));
            assert!(!pool.is_idle(id) || found, "block {index} is kept, and nobody can find it");
            assert!(*count > 0 || pool.is_idle(id) || !found, "block {index} is free, and can be found");
        }
        let taken = self.swapped.values().flat_map(|swapped| swapped.host.iter().flatten());
        let mut host: Vec<u32> = self.host.iter().chain(taken).copied().collect();
        host.sort_unstable();
        assert!(host.into_iter().eq(0..self.pool.swap_blocks as u32), "blocks of host memory");
    }
}

impl KvManager for BlockManager {
    fn reserve(&mut self, id: RequestId, tokens: usize) -> bool {
        if self.swapped.contains_key(&id) {
            return self.swap_in(id, tokens);
        }
        if let Some(table) = self.tables.get_mut(&id) {
            return table.reserve(&mut self.blocks, tokens);
        }
        let mut table = BlockTable::new(Parent::Root(None));
        let fits = table.reserve(&mut self.blocks, tokens);
        if fits {
            self.tables.insert(id, table);
        }
        fits
    }

    fn table(&self, id: RequestId) -> &[u32] {
        self.tables.get(&id).map_or(&[], BlockTable::ids)
    }

    fn release(&mut self, id: RequestId) {
        if let Some(table) = self.tables.remove(&id) {
            table.release(&mut self.blocks);
        }
        if let Some(swapped) = self.swapped.remove(&id) {
            self.host.extend(swapped.host.into_iter().flatten());
        }
    }

    fn max_tokens(&self) -> usize {
        let KvPool { block_size, blocks, window, max_chunk, .. } = self.pool;
        // With a window in every layer, a sequence holds what the tokens of one chunk see, and a block more at either end.
        let windowed = |window: usize| window.saturating_add(max_chunk).div_ceil(block_size) < blocks;
        if window.is_some_and(windowed) { usize::MAX } else { blocks * block_size }
    }

    fn usage(&self) -> KvUsage {
        let Blocks { size, pool, .. } = &self.blocks;
        let unused: usize = self.tables.values().map(|table| table.unused(&self.blocks)).sum();
        let reserved = pool.held() * size;
        KvUsage { total: pool.total() * size, reserved, used: reserved - unused }
    }
}

impl Sharing for BlockManager {
    fn cached(&self, prefix: &Prefix) -> usize {
        self.source(prefix).1
    }

    fn expects(&self, prefix: &Prefix) -> bool {
        let computing = |(id, common)| self.tables.get(&id).is_some_and(|t| t.settled() < common);
        prefix.like.is_some_and(computing)
    }

    fn adopt(&mut self, id: RequestId, prefix: &Prefix) -> usize {
        let (source, tokens) = self.source(prefix);
        let table = match source {
            Source::Fork { from, tokens } => self.tables.get(&from).map(|t| t.fork(&mut self.blocks, tokens)),
            Source::Cached(found) => {
                let mut table = BlockTable::new(Parent::Root(prefix.salt.clone()));
                found.into_iter().for_each(|(id, chain)| table.adopt(&mut self.blocks, id, chain));
                Some(table)
            }
        };
        let Some(mut table) = table else { return 0 };
        table.leave_behind(&mut self.blocks, self.pool.window);
        self.tables.insert(id, table);
        tokens
    }

    fn publish(&mut self, id: RequestId, tokens: &[u32]) {
        if let Some(table) = self.tables.get_mut(&id) {
            table.publish(&mut self.blocks, tokens);
        }
    }

    fn computed(&mut self, id: RequestId, tokens: usize) {
        if let Some(table) = self.tables.get_mut(&id) {
            table.computed(&mut self.blocks, tokens, self.pool.window);
        }
    }

    fn preempt(&mut self, id: RequestId) -> usize {
        if self.preemption == Preemption::Swap && self.swap_out(id) {
            return self.swapped.get(&id).map_or(0, |swapped| swapped.tokens);
        }
        self.release(id);
        0
    }

    fn take_moves(&mut self, moves: &mut Vec<Move>) {
        moves.append(&mut self.blocks.moves);
    }

    fn flush(&mut self) {
        (0..self.blocks.pool.total() as u32).for_each(|id| self.blocks.forget(BlockId(id)));
        self.tables.values_mut().for_each(BlockTable::hide);
        self.swapped.values_mut().for_each(|swapped| swapped.hidden = true);
    }

    fn counts(&self) -> BlockCounts {
        let Blocks { size, pool, copies, evictions, .. } = &self.blocks;
        BlockCounts {
            block_size: *size,
            total: pool.total(),
            held: pool.held(),
            cached: pool.idle(),
            free: pool.free(),
            copies: *copies,
            evictions: *evictions,
            swapped_out: self.swapped_out,
            swapped_in: self.swapped_in,
        }
    }

    fn snapshot(&self) -> BlockSnapshot {
        let pool = &self.blocks.pool;
        BlockSnapshot {
            tables: self.tables.iter().map(|(id, table)| (*id, table.ids().to_vec())).collect(),
            cached: (0..pool.total() as u32).filter(|id| pool.is_idle(BlockId(*id))).collect(),
        }
    }
}

/// The manager of what an attention has reserved: the blocks of a pool, or else `slots` slots, for requests of at most `longest`
/// tokens.
pub fn manager(
    slots: usize,
    pool: Option<KvPool>,
    longest: usize,
    options: &ManagerOptions,
) -> Box<dyn Sharing> {
    match pool {
        Some(pool) => Box::new(BlockManager::new(pool, options)),
        None => Box::new(Slots::new(slots, longest)),
    }
}
