//! Blocks, shared and scarce: `cargo run --release --features step4 --example step4`.

use anyhow::Result;
use stairwell::{
    attention::{KvBudget, KvOptions},
    demo,
    engine::{Continuous, Engine, KvManager, Limits, LocalWorker, NewRequest, RequestId, SharesWith, Worker},
    generate::GenerateParams,
    kv::{BlockManager, KvPool, ManagerOptions, Prefix, Sharing},
    runner::{LoadOptions, ModelRunner, Prompt},
    sampling::SamplingParams,
    tokenizer::Tokenizer,
};
use std::collections::BTreeMap;

const A: RequestId = RequestId(0);
const B: RequestId = RequestId(1);
const C: RequestId = RequestId(2);
const NEIGHBOUR: RequestId = RequestId(3);
const BLOCK_SIZE: usize = 4;

/// Requests of the last part: prompt, tokens to write, and the request whose prompt it has, for another sample.
const REQUESTS: [(&str, usize, Option<u64>); 4] = [
    ("Tell a short story for a small child. Once upon a time", 20, None),
    ("Tell a short story for a small child. One day, Tom", 20, None),
    ("Tell a short story for a small child. The little dog was", 24, None),
    ("Tell a short story for a small child. The little dog was", 24, Some(2)),
];

fn main() -> Result<()> {
    let pool = KvPool { block_size: BLOCK_SIZE, blocks: 10, swap_blocks: 0, window: None, max_chunk: 64 };
    let mut manager = BlockManager::new(pool, &ManagerOptions::default());

    println!("1. A request of 10 tokens in blocks of 4, beside another one that grows too");
    let a: Vec<u32> = (100..110).collect();
    for tokens in 1..=a.len() {
        manager.reserve(A, tokens);
        manager.reserve(NEIGHBOUR, tokens);
        let (table, last) = (manager.table(A), tokens - 1);
        let slot = table[last / BLOCK_SIZE] as usize * BLOCK_SIZE + last % BLOCK_SIZE;
        println!("   position {last}: table {:9} slot {slot}", format!("{table:?}"));
    }
    manager.release(NEIGHBOUR);
    manager.publish(A, &a);
    manager.computed(A, a.len());

    println!("\n2. Another request, whose first 8 tokens are the same");
    let b: Vec<u32> = [&a[..8], &[7, 7, 7]].concat();
    let cached = manager.adopt(B, &prefix(&b, None));
    manager.reserve(B, b.len());
    println!("   {cached} of its {} tokens are cached", b.len());
    show(&manager, &[("A", A), ("B", B)]);

    println!("\n3. A second sample of A's prompt: it shares all, and copies the block that it writes to");
    let shared = manager.adopt(C, &prefix(&a, Some((A, a.len()))));
    manager.reserve(C, a.len());
    let mut moves = Vec::new();
    manager.take_moves(&mut moves);
    println!("   {shared} of its {} tokens are there; before the next batch: {moves:?}", a.len());
    show(&manager, &[("A", A), ("B", B), ("C", C)]);

    println!("\n4. All end. What is in full blocks can still be found");
    [A, B, C].into_iter().for_each(|id| manager.release(id));
    show(&manager, &[]);
    println!("   the next request with B's tokens: {} of them are cached", manager.cached(&prefix(&b, None)));

    println!("\n5. Four stories with a common beginning, in pools of three sizes");
    println!("   blocks  steps  at a time  tokens computed  cached  copies  preemptions");
    let stories: Vec<_> = [64, 24, 15].into_iter().map(tell).collect::<Result<_>>()?;
    let same = stories.windows(2).all(|pair| pair[0] == pair[1]);
    println!("   {}", if same { "each time the same stories:" } else { "NOT the same stories:" });
    for (id, story) in &stories[0] {
        println!("   {}: …{story}", id.0);
    }
    Ok(())
}

fn prefix(tokens: &[u32], like: Option<(RequestId, usize)>) -> Prefix<'_> {
    Prefix { tokens, salt: None, like }
}

/// Each request's table, and how many blocks are held, cached and free.
fn show(manager: &BlockManager, requests: &[(&str, RequestId)]) {
    for (name, id) in requests {
        println!("   {name}: table {:?}", manager.table(*id));
    }
    let counts = manager.counts();
    println!("   blocks: {} held, {} cached, {} free", counts.held, counts.cached, counts.free);
}

/// Serves the four requests in a pool of so many blocks, and tells what it took.
fn tell(blocks: usize) -> Result<BTreeMap<RequestId, String>> {
    let tokenizer = Tokenizer::new(demo::tokenizer_files())?;
    let limits = Limits { max_num_seqs: 4, max_batched_tokens: 32 };
    let kv = KvOptions {
        block_size: Some(BLOCK_SIZE),
        budget: Some(KvBudget::Tokens(blocks * BLOCK_SIZE)),
        max_num_seqs: Some(limits.max_num_seqs),
        ..KvOptions::default()
    };
    let runner = ModelRunner::load(&demo::directory(), LoadOptions { kv, ..LoadOptions::default() })?;
    let mut engine = Engine::new(LocalWorker::new(runner)?, Box::new(Continuous), limits);
    for (seed, (prompt, max_tokens, like)) in (0..).zip(REQUESTS) {
        let sampling = SamplingParams { temperature: 0.7, seed: Some(seed), ..SamplingParams::default() };
        let params = GenerateParams { max_tokens, sampling, eos_token_id: Vec::new() };
        let sharing = SharesWith { like: like.map(RequestId), salt: None };
        let prompt = Prompt::new(engine.worker.config(), tokenizer.encode_prompt(prompt)?)?;
        engine.add_request(NewRequest { sharing, ..NewRequest::new(prompt, params) })?;
    }
    let stories = engine.run()?;
    let (stats, copies) = (engine.stats(), engine.blocks().copies);
    println!(
        "   {blocks:6} {:6} {:10.1} {:16} {:7} {copies:7} {:12}",
        stats.steps,
        stats.mean_running(),
        stats.tokens_computed,
        stats.cached_tokens,
        stats.preemptions
    );
    let text = |ids: &[u32]| tokenizer.decode(ids, true).replace('\n', " ");
    Ok(stories.iter().map(|story| (story.id, text(&story.output))).collect())
}
