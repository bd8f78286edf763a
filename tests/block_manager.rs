//! The block manager against a model of the memory that it manages.
//!
//! In the model, K and V of a token are a fingerprint of all tokens up to it. Blocks hold fingerprints; moves and writes are carried out
//! as `Paged` does; and before a request's row is "computed", every place that it reads must hold the fingerprints of its own tokens.
//! Whatever a wrong manager does (a stale hash, a shared block that is freed or written to, a lost copy), somebody reads something
//! that is not his.

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use stairwell::{
    batch::Move,
    kv::{BlockManager, GONE, KvManager, KvPool, Preemption, Prefix, PrefixCache, RequestId},
};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// A pool that a test makes.
#[derive(Clone, Copy, Debug)]
struct Setup {
    block_size: usize,
    blocks: usize,
    swap_blocks: usize,
    window: Option<usize>,
    preemption: Preemption,
    cache: Cache,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Cache {
    Off,
    On,
    /// All chains have the same hash.
    Colliding,
}

const PLAIN: Setup = Setup {
    block_size: 4,
    blocks: 8,
    swap_blocks: 0,
    window: None,
    preemption: Preemption::Recompute,
    cache: Cache::On,
};

struct Sequence {
    tokens: Vec<u32>,
    salt: Option<Arc<str>>,
    /// Another sample's id and the tokens that they have in common.
    like: Option<(RequestId, usize)>,
    computed: usize,
    running: bool,
    cached: usize,
}

/// Block manager, memory, and requests.
struct Model {
    setup: Setup,
    kv: BlockManager,
    pool: Vec<Vec<u64>>,
    host: Vec<Vec<u64>>,
    requests: BTreeMap<RequestId, Sequence>,
    next_id: u64,
    operations: usize,
    /// Tokens that were found in the cache.
    hits: u64,
}

fn fingerprint(tokens: &[u32], salt: &Option<Arc<str>>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (tokens, salt).hash(&mut hasher);
    hasher.finish()
}

impl Model {
    fn new(setup: Setup) -> Model {
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

    fn arrive(
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
    fn schedule(&mut self, id: RequestId, n: usize) -> Option<usize> {
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
    fn forward(&mut self, batch: &[(RequestId, usize)]) {
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

    fn preempt(&mut self, id: RequestId) {
        let request = self.requests.get_mut(&id).unwrap();
        let kept = self.kv.preempt(id);
        assert!(kept == 0 || kept == request.computed);
        (request.running, request.computed) = (false, kept);
        self.checked();
    }

    fn finish(&mut self, id: RequestId) {
        self.kv.release(id);
        self.requests.remove(&id);
        self.checked();
    }

    /// Computes a request to the end of its tokens, alone.
    fn run(&mut self, id: RequestId) {
        let n = self.schedule(id, usize::MAX / 2).expect("room");
        self.forward(&[(id, n)]);
    }

    fn some(&self, rng: &mut ChaCha8Rng, running: bool) -> Option<RequestId> {
        let ids: Vec<RequestId> =
            self.requests.iter().filter(|(_, r)| r.running == running).map(|(id, _)| *id).collect();
        (!ids.is_empty()).then(|| ids[rng.random_range(0..ids.len())])
    }

    /// One random operation: an arrival, a forward pass of some requests, an end, a preemption, or something rare.
    fn random(&mut self, rng: &mut ChaCha8Rng) {
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

#[test]
fn every_place_that_is_read_holds_what_was_computed_for_it() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let (mut operations, mut seen) = (0, [0; 5]);
    for round in 0..60 {
        let setup = Setup {
            block_size: [1, 2, 4, 8][round % 4],
            blocks: rng.random_range(3..20),
            swap_blocks: rng.random_range(0..20),
            window: [None, None, Some(5)][round % 3],
            preemption: [Preemption::Recompute, Preemption::Swap][round / 2 % 2],
            cache: [Cache::On, Cache::Colliding, Cache::Off, Cache::On, Cache::On][round % 5],
        };
        let mut model = Model::new(setup);
        while model.operations < 5000 {
            model.random(&mut rng);
        }
        let ids: Vec<RequestId> = model.requests.keys().copied().collect();
        ids.into_iter().for_each(|id| model.finish(id));
        assert_eq!(model.kv.usage().reserved, 0, "{setup:?}: nobody is there, and blocks are held");
        operations += model.operations;
        let counts = model.kv.counts();
        let happened = [counts.copies, counts.evictions, counts.swapped_out, counts.swapped_in, model.hits];
        seen.iter_mut().zip(happened).for_each(|(seen, now)| *seen += now);
    }
    assert!(operations >= 100_000, "{operations} operations were checked");
    assert!(seen.iter().all(|count| *count > 500), "copies, evictions, swaps out and in, hits: {seen:?}");
}

#[test]
fn a_block_that_is_used_again_is_not_found_by_its_old_tokens() {
    let mut model = Model::new(Setup { blocks: 3, ..PLAIN });
    let old = model.arrive(vec![1; 8], None, None);
    model.run(old);
    model.finish(old);
    assert_eq!(model.kv.counts().cached, 2);
    // The old second block becomes the second of another request, which does not fill it: no new name takes the place of the old.
    let other = model.arrive(vec![2; 7], None, None);
    model.run(other);
    assert_eq!(model.kv.counts().evictions, 1);
    model.finish(other);
    let again = model.arrive(vec![1; 9], None, None);
    model.run(again); // `forward` reads as the request does
    assert_eq!(model.requests[&again].cached, 4);
}

#[test]
fn a_prompt_that_is_wholly_cached_computes_its_last_tokens() {
    let mut model = Model::new(PLAIN);
    for n in [4, 8, 9] {
        let tokens: Vec<u32> = (10..10 + n).collect();
        let first = model.arrive(tokens.clone(), None, None);
        model.run(first);
        model.finish(first);
        let again = model.arrive(tokens, None, None);
        let computed = model.schedule(again, 100).unwrap();
        assert_eq!(computed, [4, 4, 1][[4, 8, 9].iter().position(|m| *m == n).unwrap()], "{n} tokens");
        model.forward(&[(again, computed)]);
        model.finish(again);
    }
}

#[test]
fn two_new_requests_of_one_batch_share_what_they_have_in_common() {
    let mut model = Model::new(PLAIN);
    let first = model.arrive([vec![7; 8], vec![1]].concat(), None, None);
    let second = model.arrive([vec![7; 8], vec![2, 3]].concat(), None, None);
    let batch = [first, second].map(|id| (id, model.schedule(id, 100).unwrap()));
    assert_eq!(batch, [(first, 9), (second, 2)]);
    model.forward(&batch);
    assert_eq!(model.kv.counts().held, 4, "two in common, and one each");
    // The first one ends; what they share stays.
    model.finish(first);
    model.requests.get_mut(&second).unwrap().tokens.push(5);
    model.run(second);
}

#[test]
fn a_preempted_request_finds_its_own_blocks() {
    let mut model = Model::new(PLAIN);
    let id = model.arrive((0..14).collect(), None, None);
    model.run(id);
    model.preempt(id);
    assert_eq!((model.requests[&id].computed, model.kv.counts().held), (0, 0));
    assert_eq!(model.schedule(id, 100), Some(2), "12 of 14 are in full blocks");
    model.forward(&[(id, 2)]);
}

#[test]
fn a_freed_block_is_in_no_table_and_is_written_by_one() {
    let mut model = Model::new(Setup { cache: Cache::Off, ..PLAIN });
    let first = model.arrive(vec![1; 32], None, None);
    model.run(first);
    let waits = model.arrive(vec![2; 4], None, None);
    assert_eq!(model.schedule(waits, 4), None, "all blocks are held");
    model.finish(first);
    assert!(model.kv.table(first).is_empty());
    model.run(waits);
    let other = model.arrive(vec![3; 28], None, None);
    model.run(other);
    let (a, b) = (model.kv.table(waits), model.kv.table(other));
    assert!(a.iter().all(|block| !b.contains(block)), "{a:?} and {b:?}");
}

#[test]
fn samples_copy_the_block_that_they_write_to_and_no_other() {
    for cache in [Cache::On, Cache::Off] {
        let mut model = Model::new(Setup { cache, ..PLAIN });
        let first = model.arrive((0..10).collect(), None, None);
        model.run(first);
        model.requests.get_mut(&first).unwrap().tokens.push(50);
        let second = model.arrive((0..10).collect(), None, Some((first, 10)));
        // In one batch: the first sample goes on in its block, the second one copies that block before.
        let batch = [first, second].map(|id| (id, model.schedule(id, 1).unwrap()));
        model.forward(&batch);
        let counts = model.kv.counts();
        assert_eq!((counts.copies, counts.held), (1, 4), "two shared, and one each: {cache:?}");
        assert_eq!(model.requests[&second].cached, 9, "all but the last token");
        let (a, b) = (model.kv.table(first), model.kv.table(second));
        assert!(a[..2] == b[..2] && a[2] != b[2], "{a:?} and {b:?}");
    }
}

#[test]
fn tenants_with_other_salts_share_nothing() {
    let mut model = Model::new(PLAIN);
    for (salt, cached) in [(None, 0), (Some("a"), 0), (Some("b"), 0), (Some("a"), 8), (None, 8)] {
        let id = model.arrive(vec![3; 9], salt, None);
        model.run(id);
        assert_eq!(model.requests[&id].cached, cached, "{salt:?}");
        model.finish(id);
    }
}

#[test]
fn swapped_blocks_come_back_as_they_were() {
    let swap = Setup { preemption: Preemption::Swap, swap_blocks: 3, cache: Cache::Off, ..PLAIN };
    let mut model = Model::new(swap);
    let (a, b) = (model.arrive((0..9).collect(), None, None), model.arrive((20..29).collect(), None, None));
    model.run(a);
    model.run(b);
    model.preempt(a);
    assert_eq!(model.requests[&a].computed, 9);
    model.preempt(b);
    assert_eq!(model.requests[&b].computed, 0, "there is no host memory left: it is computed again");
    let other = model.arrive(vec![5; 32], None, None);
    model.run(other); // overwrites the whole pool
    model.finish(other);
    for id in [a, b] {
        model.requests.get_mut(&id).unwrap().tokens.push(99);
        model.run(id);
    }
    let counts = model.kv.counts();
    assert_eq!((counts.swapped_out, counts.swapped_in), (3, 3));
}

#[test]
fn what_is_behind_the_window_is_given_back() {
    let mut model = Model::new(Setup { window: Some(6), blocks: 5, ..PLAIN });
    assert_eq!(model.kv.max_tokens(), usize::MAX, "it never holds more than the window and a chunk");
    let id = model.arrive((0..100).collect(), None, None);
    while model.requests[&id].computed < 100 {
        let n = model.schedule(id, 8).expect("room, however long it gets");
        model.forward(&[(id, n)]);
    }
    assert!(model.kv.counts().held <= 3 && model.kv.table(id)[..20].iter().all(|block| *block == GONE));
}
