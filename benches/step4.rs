//! Step 4 by the clock: what a block table costs attention, and what a block manager costs the scheduler.
//!
//! ```text
//! cargo bench --features step4 --bench step4     # measures
//! python scripts/record_bench.py step4           # runs `stairwell bench` too, and writes benches/results/step4.json
//! ```
//! `decode_…`: the next token behind n − 1 that are kept, on the demo model, from a slot and from blocks of several sizes. `large_…`:
//! the same at the shapes of Qwen3-0.6B, for a batch, in rounds: a slot and blocks of 16 take turns, since a machine that is shared
//! is faster in one minute than in the next. Tables are shuffled, so that blocks lie anywhere in the pool, as after a while of serving.
//! `manager`: operations of the block manager for a prompt of 1,000 tokens.

mod shapes;

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use shapes::QWEN3_0_6B;
use stairwell::{
    attention::{self, AttentionKind, KvOptions},
    backend::{Backend, cpu::Cpu},
    batch::Batch,
    checkpoint::Directory,
    demo,
    kv::{BlockManager, KvManager, KvPool, ManagerOptions, Prefix, RequestId, Sharing},
    model::{Attention, AttentionShape},
    runner::{LoadFormat, LoadOptions, ModelRunner},
};
use std::{fs, hint::black_box, time::Duration};

/// The last one leaves room for the next token in the demo's context of 2048.
const LENGTHS: [usize; 4] = [64, 256, 1024, 2047];
/// A slot, and blocks of so many tokens. The last holds a whole sequence: the same layout in memory, and no table to follow.
const WAYS: [Option<usize>; 6] = [None, Some(1), Some(8), Some(16), Some(32), Some(2048)];

/// Sequences at the large shapes, and tokens in each with the one that is computed.
const LARGE: [(usize, usize); 3] = [(1, 128), (1, 1024), (8, 512)];
const ROUNDS: usize = 5;

/// Tokens of the manager's prompts, 63 blocks, the last of which is half full.
const PROMPT: usize = 1000;
const BLOCKS: usize = 4096;
const BLOCK_SIZE: usize = 16;

/// A number below n that looks random and is the same on every machine (xorshift64, Marsaglia 2003).
fn below(n: usize, state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 32) as usize % n
}

/// Tables of sequences of n tokens each: slots (`block_size` is `None`), or blocks in any order.
fn tables(sequences: usize, n: usize, block_size: Option<usize>) -> Vec<Vec<u32>> {
    let Some(size) = block_size else { return (0..sequences as u32).map(|slot| vec![slot]).collect() };
    let each = n.div_ceil(size);
    let (mut ids, mut state): (Vec<u32>, _) =
        ((0..(sequences * each) as u32).collect(), 0x9e37_79b9_7f4a_7c15);
    for last in (1..ids.len()).rev() {
        ids.swap(last, below(last + 1, &mut state));
    }
    ids.chunks(each).map(<[u32]>::to_vec).collect()
}

/// An attention with exactly the room for `sequences` of n tokens, which holds all of them but the last tokens; and the batch that
/// computes those. What K and V are does not matter to the clock, so they are waves, and no model computes them.
fn filled(
    cpu: &Cpu,
    shape: &AttentionShape,
    (sequences, n): (usize, usize),
    block_size: Option<usize>,
) -> (Box<dyn Attention<Cpu>>, Batch) {
    let kind = if block_size.is_some() { AttentionKind::Paged } else { AttentionKind::Contiguous };
    let options = KvOptions {
        attention: Some(kind),
        max_model_len: Some(n),
        max_num_seqs: Some(sequences),
        block_size,
        ..KvOptions::default()
    };
    let mut attention = attention::build(shape.clone(), &options).expect("memory for K and V");
    let (mut batch, wave) = (Batch::default(), |i: usize| (i as f32 * 0.7).sin());
    for table in &tables(sequences, n, block_size) {
        batch.clear();
        batch.push(&vec![3; n - 1], 0, table);
        attention.begin(cpu, &batch).expect("room for the tokens");
        let tensor = |heads: usize| {
            let (rows, cols) = (n - 1, heads * shape.head_dim);
            let data: Vec<f32> = (0..rows * cols).map(wave).collect();
            cpu.upload(&data, rows, cols).expect("a tensor")
        };
        let (q, kv) = (tensor(shape.heads), tensor(shape.kv_heads));
        for layer in shape.layers.clone() {
            attention.attend(cpu, layer, [&q, &kv, &kv]).expect("attention");
        }
    }
    batch.clear();
    tables(sequences, n, block_size).iter().for_each(|table| batch.push(&[5], n - 1, table));
    (attention, batch)
}

/// Times one forward pass. The last tokens are written to the same places every time.
fn forward(
    group: &mut BenchmarkGroup<WallTime>,
    id: BenchmarkId,
    runner: &mut ModelRunner<Cpu>,
    batch: &Batch,
) {
    group.bench_function(id, |b| {
        b.iter(|| black_box(runner.forward(batch, None).expect("a forward pass")));
    });
}

fn decode(c: &mut Criterion) {
    let mut runner = ModelRunner::load(&demo::directory(), LoadOptions::default()).expect("the demo loads");
    let shape = runner.model.attention_shape();
    for size in WAYS {
        let name = size.map_or("decode_contiguous".into(), |size| format!("decode_paged_{size}"));
        let mut group = c.benchmark_group(name);
        for n in LENGTHS {
            let (attention, batch) = filled(&runner.backend, &shape, (1, n), size);
            runner.attention = attention;
            forward(&mut group, BenchmarkId::from_parameter(n), &mut runner, &batch);
        }
    }
}

fn large(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("config.json"), QWEN3_0_6B).expect("a file");
    let kv = KvOptions { max_model_len: Some(1), ..KvOptions::default() }; // replaced below
    let options = LoadOptions { format: LoadFormat::Dummy, kv, ..LoadOptions::default() };
    let mut runner = ModelRunner::load(&Directory::Disk(folder.path().into()), options).expect("a model");
    let shape = runner.model.attention_shape();
    for (sequences, n) in LARGE {
        let ways = [("contiguous", None), ("paged", Some(BLOCK_SIZE))];
        let mut ways = ways.map(|(name, size)| (name, filled(&runner.backend, &shape, (sequences, n), size)));
        let mut group = c.benchmark_group(format!("large_{sequences}x{n}"));
        group.sampling_mode(SamplingMode::Flat).sample_size(10).measurement_time(Duration::from_millis(200));
        for round in 0..ROUNDS {
            for (name, (attention, batch)) in &mut ways {
                std::mem::swap(&mut runner.attention, attention);
                forward(&mut group, BenchmarkId::new(*name, round), &mut runner, batch);
                std::mem::swap(&mut runner.attention, attention);
            }
        }
    }
}

/// The tokens of a prompt. Prompts with another first token share no block.
fn prompt(first: u32) -> Vec<u32> {
    std::iter::once(first).chain((1..PROMPT as u32).map(|i| 3 + i % 1000)).collect()
}

fn pool() -> BlockManager {
    let pool =
        KvPool { block_size: BLOCK_SIZE, blocks: BLOCKS, swap_blocks: 0, window: None, max_chunk: PROMPT };
    BlockManager::new(pool, &ManagerOptions::default())
}

fn prefix(tokens: &[u32], like: Option<(RequestId, usize)>) -> Prefix<'_> {
    Prefix { tokens, salt: None, like }
}

/// A request whose prompt is computed.
fn admit(manager: &mut BlockManager, id: RequestId, tokens: &[u32]) {
    manager.adopt(id, &prefix(tokens, None));
    assert!(manager.reserve(id, tokens.len()), "the pool has room");
    manager.publish(id, tokens);
    manager.computed(id, tokens.len());
}

fn manager(c: &mut Criterion) {
    let (first, second) = (RequestId(1), RequestId(2));
    let mut group = c.benchmark_group("manager");
    let mut blocks = pool();
    group.bench_function("reserve_release", |b| {
        b.iter(|| {
            assert!(blocks.reserve(first, PROMPT));
            blocks.release(first);
        });
    });

    // The pool is full of what earlier prompts left after a few of these: each new block evicts an old one.
    let (mut blocks, mut tokens) = (pool(), prompt(0));
    group.bench_function("new_prompt", |b| {
        b.iter(|| {
            tokens[0] += 1;
            admit(&mut blocks, first, &tokens);
            blocks.release(first);
        });
    });

    // One token at a time, as a decoding request grows.
    let (mut blocks, mut tokens) = (pool(), prompt(0));
    group.throughput(Throughput::Elements(PROMPT as u64));
    group.bench_function("append", |b| {
        b.iter(|| {
            tokens[0] += 1;
            for n in 1..=PROMPT {
                assert!(blocks.reserve(first, n));
                blocks.publish(first, &tokens[..n]);
                blocks.computed(first, n);
            }
            blocks.release(first);
        });
    });
    group.throughput(Throughput::Elements(1));

    let (mut blocks, tokens) = (pool(), prompt(0));
    admit(&mut blocks, first, &tokens);
    group.bench_function("lookup", |b| b.iter(|| black_box(blocks.cached(&prefix(&tokens, None)))));
    group.bench_function("adopt_release", |b| {
        b.iter(|| {
            assert_eq!(blocks.adopt(second, &prefix(&tokens, None)), PROMPT / BLOCK_SIZE * BLOCK_SIZE);
            blocks.release(second);
        });
    });
    // Another sample of the same prompt: all blocks are shared, and its first token copies the last one.
    let (longer, mut moves) = ([&tokens[..], &[7]].concat(), Vec::new());
    group.bench_function("fork_write", |b| {
        b.iter(|| {
            assert_eq!(blocks.adopt(second, &prefix(&longer, Some((first, PROMPT)))), PROMPT);
            assert!(blocks.reserve(second, PROMPT + 1));
            blocks.take_moves(&mut moves);
            assert_eq!(moves.len(), 1);
            moves.clear();
            blocks.release(second);
        });
    });
}

criterion_group! {
    name = step4;
    config = Criterion::default()
        .sample_size(20)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = decode, large, manager
}
criterion_main!(step4);
