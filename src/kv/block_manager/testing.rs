//! The model of the memory: see tests.rs.

use crate::batch::Move;
use crate::kv::{BlockManager, GONE, KvManager, KvPool, Preemption, Prefix, PrefixCache, RequestId, Sharing};
use rand::{RngExt, rngs::ChaCha8Rng};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::{collections::BTreeMap, sync::Arc};

/// A pool that a test makes.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub block_size: usize,
    pub blocks: usize,
    pub swap_blocks: usize,
    pub window: Option<usize>,
    pub preemption: Preemption,
    pub cache: Cache,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cache {
    Off,
    On,
    /// All chains have the same hash.
    Colliding,
}

pub const PLAIN: Setup = Setup {
    block_size: 4,
    blocks: 8,
    swap_blocks: 0,
    window: None,
    preemption: Preemption::Recompute,
    cache: Cache::On,
};

pub struct Sequence {
    pub tokens: Vec<u32>,
    salt: Option<Arc<str>>,
    /// Another sample's id and the tokens that they have in common.
    like: Option<(RequestId, usize)>,
    pub computed: usize,
    running: bool,
    pub cached: usize,
}

/// Block manager, memory, and requests.
pub struct Model {
    setup: Setup,
    pub kv: BlockManager,
    pool: Vec<Vec<u64>>,
    host: Vec<Vec<u64>>,
    pub requests: BTreeMap<RequestId, Sequence>,
    next_id: u64,
    pub operations: usize,
    /// Tokens that were found in the cache.
    pub hits: u64,
}

fn fingerprint(tokens: &[u32], salt: &Option<Arc<str>>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (tokens, salt).hash(&mut hasher);
    hasher.finish()
}

impl Model {
    pub fn new(setup: Setup) -> Model {
        let Setup { block_size, blocks, swap_blocks, window, preemption, cache } = setup;
        let pool = KvPool { block_size, blocks, swap_blocks, window, max_chunk: 8 };
        let cache = match cache {
            Cache::Off => None,
            Cache::On => Some(PrefixCache::new(blocks)),
            Cache::Colliding => Some(PrefixCache::with_hash(blocks, Box::new(|_, _| 1))),
        };
        Model {
            setup,
            kv: BlockManager::with_cache(pool, preemption, cache),
            pool: vec![vec![0; block_size]; blocks],
            host: vec![vec![0; block_size]; swap_blocks],
            requests: BTreeMap::new(),
            next_id: 0,
            operations: 0,
            hits: 0,
        }
    }

    /// After every operation.
    fn checked(&mut self) {
        self.operations += 1;
        self.kv.check_invariants();
        let (usage, counts) = (self.kv.usage(), self.kv.counts());
        let running = self.requests.values().filter(|r| r.running).count();
        assert!(usage.reserved - usage.used <= running * (self.setup.block_size - 1), "{usage:?}");
        assert_eq!(counts.held + counts.cached + counts.free, counts.total);
    }

    pub fn arrive(
        &mut self,
        tokens: Vec<u32>,
        salt: Option<&str>,
        like: Option<(RequestId, usize)>,
    ) -> RequestId {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let salt = salt.map(Arc::from);
        self.requests.insert(id, Sequence { tokens, salt, like, computed: 0, running: false, cached: 0 });
        id
    }

    /// Gives a request room for up to `n` more tokens and publishes them, as the scheduler does; how many it got.
    pub fn schedule(&mut self, id: RequestId, n: usize) -> Option<usize> {
        let request = self.requests.get_mut(&id).unwrap();
        let held = request.computed;
        if !request.running && held == 0 {
            let prefix = Prefix { tokens: &request.tokens, salt: request.salt.clone(), like: request.like };
            assert!(!self.kv.expects(&prefix) || request.like.is_some());
            let promised = self.kv.cached(&prefix);
            request.computed = self.kv.adopt(id, &prefix);
            request.cached = request.computed;
            self.hits += request.cached as u64;
            assert_eq!(promised, request.computed, "cached() says what adopt() gives");
            assert!(request.computed < request.tokens.len(), "the last token is left to compute");
        }
        let end = (request.computed + n).min(request.tokens.len());
        let (before, usage) = (self.kv.table(id).to_vec(), self.kv.usage());
        let fits = self.kv.reserve(id, end);
        if fits {
            request.running = true;
            self.kv.publish(id, &request.tokens[..end]);
        } else {
            assert_eq!(
                (self.kv.table(id), self.kv.usage()),
                (&before[..], usage),
                "a refusal changes nothing"
            );
            if !request.running && held == 0 {
                self.kv.release(id);
                request.computed = 0;
            }
        }
        let more = end - self.requests[&id].computed;
        self.checked();
        fits.then_some(more)
    }

    /// Carries out the moves, writes the rows of all, and then reads as all: one forward pass.
    pub fn forward(&mut self, batch: &[(RequestId, usize)]) {
        let mut moves = Vec::new();
        self.kv.take_moves(&mut moves);
        for step in moves {
            match step {
                Move::Copy { from, to } => self.pool[to as usize] = self.pool[from as usize].clone(),
                Move::SwapOut { block, host } => self.host[host as usize] = self.pool[block as usize].clone(),
                Move::SwapIn { host, block } => self.pool[block as usize] = self.host[host as usize].clone(),
            }
        }
        let size = self.setup.block_size;
        for (id, n) in batch {
            let (request, table) = (&self.requests[id], self.kv.table(*id));
            for position in request.computed..request.computed + n {
                let written = fingerprint(&request.tokens[..=position], &request.salt);
                self.pool[table[position / size] as usize][position % size] = written;
            }
        }
        for (id, n) in batch {
            let (request, table) = (&self.requests[id], self.kv.table(*id));
            let first = self.setup.window.map_or(0, |w| (request.computed + 1).saturating_sub(w));
            for position in first..request.computed + n {
                let block = table[position / size];
                assert_ne!(block, GONE, "{id:?}: position {position} was given back");
                let want = fingerprint(&request.tokens[..=position], &request.salt);
                assert_eq!(
                    self.pool[block as usize][position % size],
                    want,
                    "{id:?}: K and V of position {position}"
                );
            }
        }
        for (id, n) in batch {
            let request = self.requests.get_mut(id).unwrap();
            request.computed += n;
            self.kv.computed(*id, request.computed);
            // Blocks that no later token sees go back at once: one whose last position is just behind the window, too.
            let seen = self.setup.window.map_or(0, |w| (request.computed + 1).saturating_sub(w));
            for block in 0..seen / size {
                assert_eq!(
                    self.kv.table(*id)[block],
                    GONE,
                    "{id:?}: block {block} of {seen} positions behind"
                );
            }
            self.checked();
        }
    }

    /// The forward pass fails: everybody starts again.
    fn fail(&mut self) {
        let mut moves = Vec::new();
        self.kv.take_moves(&mut moves);
        for (id, request) in self.requests.iter_mut().filter(|(_, r)| r.running || r.computed > 0) {
            self.kv.release(*id);
            (request.running, request.computed) = (false, 0);
        }
        self.checked();
    }

    pub fn preempt(&mut self, id: RequestId) {
        let request = self.requests.get_mut(&id).unwrap();
        let kept = self.kv.preempt(id);
        assert!(kept == 0 || kept == request.computed);
        (request.running, request.computed) = (false, kept);
        self.checked();
    }

    pub fn finish(&mut self, id: RequestId) {
        self.kv.release(id);
        self.requests.remove(&id);
        self.checked();
    }

    /// Computes a request to the end of its tokens, alone.
    pub fn run(&mut self, id: RequestId) {
        let n = self.schedule(id, usize::MAX / 2).expect("room");
        self.forward(&[(id, n)]);
    }

    fn some(&self, rng: &mut ChaCha8Rng, running: bool) -> Option<RequestId> {
        let ids: Vec<RequestId> =
            self.requests.iter().filter(|(_, r)| r.running == running).map(|(id, _)| *id).collect();
        (!ids.is_empty()).then(|| ids[rng.random_range(0..ids.len())])
    }

    /// One random operation: an arrival, a forward pass of some requests, an end, a preemption, or something rare.
    pub fn random(&mut self, rng: &mut ChaCha8Rng) {
        match rng.random_range(0..20) {
            0..4 if self.requests.len() < 12 => self.random_arrival(rng),
            4..6 => {
                if let Some(id) = self.some(rng, true) {
                    self.finish(id);
                }
            }
            6..8 => {
                if let Some(id) = self.some(rng, true) {
                    self.preempt(id);
                }
            }
            8 => {
                if let Some(id) = self.some(rng, false) {
                    self.finish(id); // aborted while it waits, perhaps swapped out
                }
            }
            9 if rng.random_bool(0.1) => {
                self.kv.flush();
                // Their K and V would be of other weights; the engine has drained or aborted them.
                let ids: Vec<RequestId> = self.requests.keys().copied().collect();
                ids.into_iter().for_each(|id| self.finish(id));
            }
            _ => self.random_step(rng),
        }
    }

    fn random_arrival(&mut self, rng: &mut ChaCha8Rng) {
        let longest =
            if self.setup.window.is_some() { 40 } else { self.setup.block_size * self.setup.blocks };
        let first = self.requests.iter().next().map(|(id, r)| (*id, r.tokens.clone(), r.salt.clone()));
        if let Some((id, tokens, salt)) = first.filter(|_| rng.random_bool(0.3)) {
            let common = rng.random_range(1..=tokens.len());
            let mut tokens = tokens[..common].to_vec();
            tokens.push(rng.random_range(0..2));
            tokens.truncate(longest);
            let common = common.min(tokens.len());
            self.arrive(tokens, salt.as_deref(), Some((id, common)));
        } else {
            // Two tokens: many beginnings are equal.
            let n = rng.random_range(1..=longest);
            let tokens = (0..n).map(|_| u32::from(rng.random_bool(0.1))).collect();
            let salt = rng.random_bool(0.2).then_some("tenant");
            self.arrive(tokens, salt, None);
        }
    }

    fn random_step(&mut self, rng: &mut ChaCha8Rng) {
        let mut batch: Vec<(RequestId, usize)> = Vec::new();
        for _ in 0..rng.random_range(1..5) {
            let running = rng.random_bool(0.6);
            let Some(id) = self.some(rng, running) else { continue };
            let request = &self.requests[&id];
            if batch.iter().any(|(other, _)| *other == id) {
                continue;
            }
            if request.running && request.computed == request.tokens.len() {
                let token = u32::from(rng.random_bool(0.2));
                let room = self.setup.block_size * self.setup.blocks;
                if self.setup.window.is_none() && request.tokens.len() == room {
                    continue;
                }
                self.requests.get_mut(&id).unwrap().tokens.push(token); // it has sampled one
            }
            match self.schedule(id, rng.random_range(1..9)) {
                Some(n) => batch.push((id, n)),
                None => {
                    let busy = |id: &RequestId| batch.iter().any(|(other, _)| other == id);
                    let victim = self.some(rng, true).filter(|id| !busy(id));
                    if let Some(victim) = victim {
                        self.preempt(victim);
                    }
                }
            }
        }
        if rng.random_bool(0.02) { self.fail() } else { self.forward(&batch) }
    }
}
