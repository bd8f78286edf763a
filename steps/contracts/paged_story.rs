//! An engine whose blocks are managed by someone else's pieces, and the stories that it must tell.

use super::blocks::{Append, Growth, Hash, PrefixIndex, ReferenceCounts};
use stairwell::{
    attention::{AttentionKind, KvBudget, KvOptions},
    backend::cpu::Cpu,
    batch::Move,
    demo,
    engine::{
        BlockCounts, Continuous, Engine, Finished, KvManager, KvUsage, Limits, LocalWorker, NewRequest,
        RequestId, SharesWith,
    },
    error::Result,
    generate::GenerateParams,
    kv::{BlockManager, ManagerOptions, Prefix, Sharing},
    runner::{LoadOptions, ModelRunner, Prompt},
    sampling::SamplingParams,
    tokenizer::Tokenizer,
};
use std::collections::BTreeMap;

const BLOCK_SIZE: usize = 4;
/// For two of the four requests at their longest.
const BLOCKS: usize = 18;
const TOKENS: usize = 20;
const LIMITS: Limits = Limits { max_num_seqs: 4, max_batched_tokens: 12 };
const BEGINNING: &str = "Once upon a time, in a small village,";
/// What follows the beginning, and the seed of a request that samples. The last two are samples of one prompt.
const REQUESTS: [(&str, Option<u64>); 4] = [
    (" there lived a dog", None),
    (" Tom found a red ball", None),
    (" it was very cold", None),
    (" it was very cold", Some(7)),
];

/// See [`super::step4::tells_the_demo_stories`].
#[track_caller]
pub(super) fn check<P, I>(pool: impl FnOnce(usize) -> P, append: Append, index: impl FnOnce(Hash) -> I)
where
    P: ReferenceCounts + 'static,
    I: PrefixIndex + 'static,
{
    let alone = Limits { max_num_seqs: 1, ..LIMITS };
    let own = ManagerOptions { prefix_cache: false, ..ManagerOptions::default() };
    let own = |worker: &Worker| -> Box<dyn Sharing> {
        let pool = worker.runner.attention.memory().pool.expect("the attention is paged");
        Box::new(BlockManager::new(pool, &own))
    };
    let (ours, _) = write(alone, own).expect("the engine's own stories");
    let kv = Pieces::new(
        pool(BLOCKS),
        append,
        index(|parent, tokens| {
            tokens
                .iter()
                .fold(parent, |h, t| (h.rotate_left(5) ^ u64::from(*t)).wrapping_mul(0x517cc1b727220a95))
        }),
    );
    let (mine, engine) = write(LIMITS, |_| Box::new(kv))
        .unwrap_or_else(|e| panic!("the engine can't write the stories with your pieces: {e}"));
    for ((prompt, _), (ours, mine)) in REQUESTS.iter().zip(ours.iter().zip(&mine)) {
        assert_eq!(
            mine.text, ours.text,
            "the story after \"{BEGINNING}{prompt}\" is not the one that it is alone"
        );
    }
    let (stats, blocks) = (engine.stats(), engine.blocks());
    let found =
        |((_, seed), story): (&(&str, Option<u64>), &Story)| seed.is_none() && story.cached_tokens > 0;
    assert!(
        REQUESTS.iter().zip(&mine).any(found), // not the second sample: that one forks
        "nobody shared the beginning: is a published block found?"
    );
    assert!(blocks.copies > 0, "no block was copied, and two samples share one that is not full");
    assert!(stats.preemptions > 0, "nobody gave way, and the pool is too small for all");
    assert_eq!(
        (blocks.held, blocks.cached + blocks.free),
        (0, BLOCKS),
        "blocks held, and cached or free, after all have ended: is every reference given back?"
    );
}

type Worker = LocalWorker<Cpu>;

struct Story {
    text: String,
    cached_tokens: usize,
}

/// The stories as they were told, by request.
fn write(
    limits: Limits,
    kv: impl FnOnce(&Worker) -> Box<dyn Sharing>,
) -> Result<(Vec<Story>, Engine<Worker>)> {
    let tokenizer = Tokenizer::new(demo::tokenizer_files())?;
    let options = KvOptions {
        attention: Some(AttentionKind::Paged),
        block_size: Some(BLOCK_SIZE),
        budget: Some(KvBudget::Tokens(BLOCKS * BLOCK_SIZE)),
        max_num_seqs: Some(limits.max_num_seqs),
        ..KvOptions::default()
    };
    let runner =
        ModelRunner::load(&demo::directory(), LoadOptions { kv: options, ..LoadOptions::default() })?;
    let worker = LocalWorker::new(runner)?;
    let kv = kv(&worker);
    let mut engine = Engine::with_kv(worker, kv, Box::new(Continuous), limits);
    let mut like = None;
    for (prompt, seed) in REQUESTS {
        let temperature = if seed.is_some() { 1.0 } else { 0.0 };
        let sampling = SamplingParams { temperature, seed, ..SamplingParams::default() };
        let params = GenerateParams { max_tokens: TOKENS, sampling, eos_token_id: Vec::new() };
        let sharing = SharesWith { like: like.filter(|_| seed.is_some()), salt: None };
        let ids = tokenizer.encode_prompt(&format!("{BEGINNING}{prompt}"))?;
        let prompt = Prompt::new(&engine.worker.runner.config, ids)?;
        like = Some(engine.add_request(NewRequest { sharing, ..NewRequest::new(prompt, params) })?);
    }
    let mut stories = engine.run()?;
    stories.sort_by_key(|story| story.id);
    let story = |finished: &Finished| Story {
        text: tokenizer.decode(&finished.output, true).replace('\n', " "),
        cached_tokens: finished.cached_tokens,
    };
    Ok((stories.iter().map(story).collect(), engine))
}

/// A KV manager of someone's pieces.
struct Pieces<P, I> {
    pool: P,
    append: Append,
    index: I,
    tables: BTreeMap<RequestId, Table>,
    /// Published blocks, the oldest first. The index holds a reference of each.
    cached: Vec<u32>,
    moves: Vec<Move>,
    copies: u64,
}

#[derive(Default)]
struct Table {
    blocks: Vec<u32>,
    /// Tokens that there is room for, and those that are there when the next batch's attention reads them.
    tokens: usize,
    written: usize,
    /// Those that a copy made before the next batch would have.
    settled: usize,
    /// Blocks that are published, and the last one's name.
    published: (usize, Option<u64>),
}

impl<P: ReferenceCounts, I: PrefixIndex> Pieces<P, I> {
    fn new(pool: P, append: Append, index: I) -> Pieces<P, I> {
        let (tables, cached, moves) = (BTreeMap::new(), Vec::new(), Vec::new());
        Pieces { pool, append, index, tables, cached, moves, copies: 0 }
    }

    /// Makes room by forgetting the oldest block that only the index holds; false if there is none.
    fn evict(&mut self) -> bool {
        let Some(at) = self.cached.iter().position(|block| self.pool.references(*block) == 1) else {
            return false;
        };
        let block = self.cached.remove(at);
        self.index.forget(block);
        self.pool.free(block);
        true
    }

    /// The cached blocks of a sequence's beginning, and the name of each.
    fn found(&self, tokens: &[u32]) -> Vec<(u32, u64)> {
        let mut parent = None;
        let find = |tokens: &[u32]| {
            let found = self.index.find(parent, tokens)?;
            parent = Some(found.1);
            Some(found)
        };
        tokens[..tokens.len().saturating_sub(1)].chunks_exact(BLOCK_SIZE).map_while(find).collect()
    }

    /// The request that has the same prompt, and how many of its tokens another one can take over.
    fn fork(&self, prefix: &Prefix) -> Option<(&Table, usize)> {
        let (from, common) = prefix.like?;
        let common = common.min(prefix.tokens.len().saturating_sub(1));
        self.tables.get(&from).filter(|table| table.settled >= common).map(|table| (table, common))
    }
}

impl<P: ReferenceCounts, I: PrefixIndex> KvManager for Pieces<P, I> {
    fn reserve(&mut self, id: RequestId, tokens: usize) -> bool {
        let mut table = self.tables.remove(&id).unwrap_or_default();
        let growth = Growth { block_size: BLOCK_SIZE, written: table.written, tokens };
        let mut copies = Vec::new();
        let fits = loop {
            if (self.append)(&mut self.pool, &mut table.blocks, growth, &mut copies) {
                table.tokens = table.tokens.max(tokens);
                break true;
            }
            if !self.evict() {
                break false;
            }
        };
        self.copies += copies.len() as u64;
        self.moves.extend(copies.into_iter().map(|(from, to)| Move::Copy { from, to }));
        if fits || !table.blocks.is_empty() {
            self.tables.insert(id, table);
        }
        fits
    }

    fn table(&self, id: RequestId) -> &[u32] {
        self.tables.get(&id).map_or(&[], |table| &table.blocks)
    }

    fn release(&mut self, id: RequestId) {
        let Some(table) = self.tables.remove(&id) else { return };
        table.blocks.into_iter().rev().for_each(|block| self.pool.free(block));
    }

    fn max_tokens(&self) -> usize {
        BLOCKS * BLOCK_SIZE
    }

    fn usage(&self) -> KvUsage {
        let reserved = self.tables.values().map(|table| table.blocks.len() * BLOCK_SIZE).sum();
        let used = self.tables.values().map(|table| table.tokens).sum();
        KvUsage { total: self.max_tokens(), reserved, used }
    }
}

impl<P: ReferenceCounts, I: PrefixIndex> Sharing for Pieces<P, I> {
    fn cached(&self, prefix: &Prefix) -> usize {
        let found = self.found(prefix.tokens).len() * BLOCK_SIZE;
        self.fork(prefix).map_or(found, |(_, common)| found.max(common))
    }

    fn expects(&self, prefix: &Prefix) -> bool {
        let computing = |(id, common)| self.tables.get(&id).is_some_and(|table| table.settled < common);
        prefix.like.is_some_and(computing)
    }

    fn adopt(&mut self, id: RequestId, prefix: &Prefix) -> usize {
        let found = self.found(prefix.tokens);
        let fork = self.fork(prefix).filter(|(_, common)| *common > found.len() * BLOCK_SIZE);
        let table = match fork {
            Some((from, common)) => {
                let blocks = from.blocks[..common.div_ceil(BLOCK_SIZE)].to_vec();
                Table { blocks, tokens: common, written: common, settled: common, published: (0, None) }
            }
            None => {
                let (blocks, tokens) =
                    (found.iter().map(|(block, _)| *block).collect(), found.len() * BLOCK_SIZE);
                let published = (found.len(), found.last().map(|(_, name)| *name));
                Table { blocks, tokens, written: tokens, settled: 0, published }
            }
        };
        table.blocks.iter().for_each(|block| self.pool.share(*block));
        let tokens = table.tokens;
        self.tables.insert(id, table);
        tokens
    }

    fn publish(&mut self, id: RequestId, tokens: &[u32]) {
        let Some(table) = self.tables.get_mut(&id) else { return };
        let (done, mut parent) = table.published;
        let full = tokens.chunks_exact(BLOCK_SIZE);
        table.published.0 = full.len().max(done);
        for (block, tokens) in table.blocks.iter().zip(full).skip(done) {
            let before = parent;
            parent = Some(self.index.publish(before, tokens, *block));
            let is_found = self.index.find(before, tokens).is_some_and(|(found, _)| found == *block);
            if is_found && !self.cached.contains(block) {
                self.pool.share(*block);
                self.cached.push(*block);
            }
        }
        table.published.1 = parent;
    }

    fn computed(&mut self, id: RequestId, tokens: usize) {
        if let Some(table) = self.tables.get_mut(&id) {
            (table.written, table.settled) = (tokens, tokens);
        }
    }

    fn take_moves(&mut self, moves: &mut Vec<Move>) {
        moves.append(&mut self.moves);
    }

    fn counts(&self) -> BlockCounts {
        let free = self.pool.available();
        let cached = self.cached.iter().filter(|block| self.pool.references(**block) == 1).count();
        let held = BLOCKS.saturating_sub(free + cached);
        BlockCounts {
            block_size: BLOCK_SIZE,
            total: BLOCKS,
            held,
            cached,
            free,
            copies: self.copies,
            ..Default::default()
        }
    }
}
