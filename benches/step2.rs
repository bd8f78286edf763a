//! Step 2 by the clock, on the demo model: the next token by recompute and from the cache, over sequence lengths.
//!
//! ```text
//! for i in 1 2 3 4 5; do cargo bench --features step2 --bench step2 -- --save-baseline round$i; done     # measures
//! python scripts/record_bench.py step2           # writes benches/results/step2.json: medians of the rounds
//! ```
//! In rounds, because a machine that is shared is faster in one minute than in the next, and the groups are compared.
//! A length counts the tokens that are there when the next one is wanted. Recompute runs all of them; the cache has K and V of
//! all but the last, which is the one row to run. Prefill fills an empty cache with all of them in one pass.

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use stairwell::{
    attention::{AttentionKind, KvDtype, KvOptions},
    backend::cpu::Cpu,
    batch::Batch,
    demo,
    runner::{LoadOptions, ModelRunner},
};
use std::{hint::black_box, time::Duration};

/// The last one leaves room for the next token in the demo's context of 2048.
const LENGTHS: [usize; 6] = [64, 128, 256, 512, 1024, 2047];

fn runner(kv: KvOptions) -> ModelRunner<Cpu> {
    let options = LoadOptions { kv, ..LoadOptions::default() };
    ModelRunner::load(&demo::directory(), options).expect("the demo loads")
}

fn cached(dtype: KvDtype) -> ModelRunner<Cpu> {
    let attention = Some(AttentionKind::Contiguous);
    runner(KvOptions { attention, dtype, ..KvOptions::default() })
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 3 + i % 1000).collect()
}

/// Times one forward pass.
fn forward(group: &mut BenchmarkGroup<WallTime>, n: usize, runner: &mut ModelRunner<Cpu>, batch: &Batch) {
    group.bench_function(BenchmarkId::from_parameter(n), |b| {
        b.iter(|| black_box(runner.forward(batch, None).expect("a forward pass")));
    });
}

/// All n tokens, for the logits of the last: without a cache at every token, with one once, for the prompt.
fn whole(c: &mut Criterion, name: &str, mut runner: ModelRunner<Cpu>) {
    let mut group = c.benchmark_group(name);
    for n in LENGTHS {
        forward(&mut group, n, &mut runner, &Batch::of(&tokens(n)));
    }
}

/// The last of n tokens, behind n − 1 that are kept. It is written to the same place every time.
fn decode(c: &mut Criterion, name: &str, mut runner: ModelRunner<Cpu>) {
    let mut group = c.benchmark_group(name);
    for n in LENGTHS {
        let tokens = tokens(n);
        runner.forward(&Batch::of(&tokens[..n - 1]), None).expect("a prefill");
        let mut batch = Batch::default();
        batch.push(&tokens[n - 1..], n - 1, &(0..n as u32).collect::<Vec<_>>());
        forward(&mut group, n, &mut runner, &batch);
    }
}

fn next_token(c: &mut Criterion) {
    whole(c, "next_recompute", runner(KvOptions::recompute()));
    whole(c, "prefill", cached(KvDtype::F32));
    decode(c, "next_cache_f32", cached(KvDtype::F32));
    decode(c, "next_cache_bf16", cached(KvDtype::Bf16));
}

criterion_group! {
    name = step2;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = next_token
}
criterion_main!(step2);
