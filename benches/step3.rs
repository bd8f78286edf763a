//! Step 3 by the clock, on the demo model: the same requests one at a time, in static batches, and in continuous batches.
//!
//! ```text
//! cargo bench --features step3 --bench step3     # measures
//! python scripts/record_bench.py step3           # runs `stairwell bench` too, and writes benches/results/step3.json
//! ```
//! `mixed`: of 64 outputs, 56 have 8 to 16 tokens and 8 have 128 to 160, in a random order. `equal`: all have 28, as many tokens in
//! all, give or take 3 in 100. An iteration serves all 64, which arrive together.

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use stairwell::{
    attention::{AttentionKind, KvOptions},
    demo,
    engine::{Continuous, Engine, Limits, LocalWorker, Policy, Static},
    generate::GenerateParams,
    runner::{LoadOptions, ModelRunner},
    sampling::SamplingParams,
};
use std::{hint::black_box, time::Duration};

const REQUESTS: usize = 64;
const MAX_NUM_SEQS: usize = 8;
const MAX_BATCHED_TOKENS: usize = 256;
/// The longest prompt and output below fit.
const MAX_MODEL_LEN: usize = 256;

/// Lengths of a prompt and its output.
type Lengths = (usize, usize);

/// A number below n that looks random and is the same on every machine (xorshift64, Marsaglia 2003).
fn below(n: usize, state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 32) as usize % n
}

fn mixed() -> Vec<Lengths> {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let output = |i: usize, state: &mut u64| if i < 8 { 128 + below(33, state) } else { 8 + below(9, state) };
    let mut lengths: Vec<Lengths> =
        (0..REQUESTS).map(|i| (8 + below(25, &mut state), output(i, &mut state))).collect();
    for last in (1..REQUESTS).rev() {
        lengths.swap(last, below(last + 1, &mut state));
    }
    lengths
}

fn equal() -> Vec<Lengths> {
    vec![(20, 28); REQUESTS]
}

type NewPolicy = fn() -> Box<dyn Policy>;

const POLICIES: [(&str, usize, NewPolicy); 3] = [
    ("one-at-a-time", 1, || Box::new(Continuous)),
    ("static", MAX_NUM_SEQS, || Box::<Static>::default()),
    ("continuous", MAX_NUM_SEQS, || Box::new(Continuous)),
];

fn engine(max_num_seqs: usize, policy: Box<dyn Policy>) -> Engine<LocalWorker<stairwell::backend::cpu::Cpu>> {
    let kv = KvOptions {
        attention: Some(AttentionKind::Contiguous), // slots, in every build
        max_model_len: Some(MAX_MODEL_LEN),
        max_num_seqs: Some(max_num_seqs),
        max_chunk: Some(MAX_BATCHED_TOKENS),
        ..KvOptions::default()
    };
    let runner = ModelRunner::load(&demo::directory(), LoadOptions { kv, ..LoadOptions::default() });
    let worker = LocalWorker::new(runner.expect("the demo loads")).expect("a worker");
    Engine::new(worker, policy, Limits { max_num_seqs, max_batched_tokens: MAX_BATCHED_TOKENS })
}

fn serve(c: &mut Criterion, name: &str, lengths: &[Lengths]) {
    let mut group = c.benchmark_group(name);
    let tokens: usize = lengths.iter().map(|(_, output)| output).sum();
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(tokens as u64));
    for (policy, max_num_seqs, new) in POLICIES {
        let mut engine = engine(max_num_seqs, new());
        group.bench_function(BenchmarkId::from_parameter(policy), |b| {
            b.iter(|| {
                for &(prompt, max_tokens) in lengths {
                    let prompt = (0..prompt as u32).map(|i| 3 + i * 7 % 1000).collect();
                    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
                    let params = GenerateParams { max_tokens, sampling, eos_token_id: Vec::new() };
                    engine.add(prompt, params).expect("a request");
                }
                engine.run().expect("a run");
                black_box(engine.stats())
            });
        });
    }
}

fn policies(c: &mut Criterion) {
    serve(c, "mixed", &mixed());
    serve(c, "equal", &equal());
}

criterion_group! {
    name = step3;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(10));
    targets = policies
}
criterion_main!(step3);
