//! Step 4: blocks change nothing but memory. Whatever is shared, copied, preempted or swapped, every request gets what it gets alone.

use crate::common::{Reference, bits, greedy, greedy_params};
use crate::contracts::step4::{self as contract, Counted};
use crate::serving::{Ended, Recording, alone, finished, keep, pool, run, runner};
use proptest::prelude::*;
use stairwell::{
    attention::{AttentionKind, KvOptions, KvSwap},
    demo,
    engine::{Continuous, Engine, Limits, LocalWorker, NewRequest, RequestId, SharesWith, Worker},
    generate::GenerateParams,
    kv::{self, ManagerOptions, Preemption},
    model::KvMemory,
    runner::{LoadOptions, ModelRunner, Prompt},
    sampling::SamplingParams,
};
use std::{collections::BTreeMap, sync::Arc};

pub const LONGEST: usize = 64;

/// How a test's engine shares its pool.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub tokens: usize,
    pub block_size: usize,
    pub swap_blocks: usize,
    pub limits: Limits,
    pub options: ManagerOptions,
}

impl Default for Setup {
    fn default() -> Setup {
        let limits = Limits { max_num_seqs: 8, max_batched_tokens: 64 };
        Setup { tokens: 256, block_size: 4, swap_blocks: 0, limits, options: ManagerOptions::default() }
    }
}

pub fn engine(name: &str, setup: Setup) -> Engine<Recording> {
    let Setup { tokens, block_size, swap_blocks, limits, options } = setup;
    let mut kv = KvOptions {
        max_model_len: Some(LONGEST),
        max_num_seqs: Some(limits.max_num_seqs),
        max_chunk: Some(limits.max_batched_tokens),
        ..pool(tokens, block_size)
    };
    let config = runner(name, kv.clone()).config;
    let elements = config.num_hidden_layers * config.num_key_value_heads * config.head_dim;
    kv.swap = KvSwap::Bytes((2 * elements * 4 * block_size * swap_blocks) as u64);
    let worker = Recording::new(runner(name, kv));
    let KvMemory { slots, pool, .. } = worker.memory();
    assert_eq!(pool.unwrap().swap_blocks, swap_blocks);
    let manager = kv::manager(slots, pool, LONGEST, &options);
    Engine::with_kv(worker, manager, Box::new(Continuous), limits)
}

/// A request of a property test.
#[derive(Clone, Debug)]
struct Job {
    prompt: Vec<u32>,
    params: GenerateParams,
    arrival: usize,
    abort: Option<usize>,
    /// The step in which its reader falls behind, and that in which it has caught up.
    hold: Option<(usize, usize)>,
    salt: Option<Arc<str>>,
    /// Another sample of the job before.
    again: bool,
}

fn jobs() -> impl Strategy<Value = Vec<Job>> {
    // A beginning that many have, and an end of one's own.
    let prompt = (0usize..4, 0usize..32, prop::collection::vec(0u32..90, 1..8));
    let rest = (1usize..24, 0usize..30, prop::option::weighted(0.1, 0usize..60), 0u64..4);
    let sharing = (prop::bool::weighted(0.2), prop::bool::weighted(0.25));
    let hold = prop::option::weighted(0.3, (0usize..50, 1usize..20));
    let job = (prompt, rest, sharing, hold).prop_map(
        |((family, common, own), (max_tokens, arrival, abort, seed), (salted, again), hold)| {
            let common = (0..common as u32).map(|i| (i * (family as u32 + 3) + 11) % 90);
            let sampling = SamplingParams {
                temperature: if seed == 0 { 0.0 } else { 1.0 },
                seed: Some(seed),
                ..SamplingParams::default()
            };
            Job {
                prompt: common.chain(own).collect(),
                params: GenerateParams { max_tokens, sampling, eos_token_id: vec![7] },
                arrival,
                abort,
                hold: hold.map(|(from, steps)| (from, (from + steps).min(60))),
                salt: salted.then(|| "tenant".into()),
                again,
            }
        },
    );
    prop::collection::vec(job, 1..20).prop_map(|mut jobs: Vec<Job>| {
        for at in 1..jobs.len() {
            if jobs[at].again {
                let before = jobs[at - 1].clone();
                jobs[at] = Job { params: jobs[at].params.clone(), abort: None, again: true, ..before };
            }
        }
        jobs
    })
}

/// Runs the jobs, and compares each with what it gives alone. Gives the engine for a look at its counters.
fn check(name: &str, jobs: &[Job], setup: Setup, fails: Vec<usize>) -> Engine<Recording> {
    let mut engine = engine(name, setup);
    engine.worker.fails = fails;
    let (mut ended, mut ids): (Ended, Vec<Option<RequestId>>) = (Ended::default(), vec![None; jobs.len()]);
    let mut logits: BTreeMap<RequestId, Vec<Vec<u32>>> = BTreeMap::new();
    let vocab = engine.worker.config().vocab_size;
    let mut step = 0;
    while step <= 60 || engine.queues() != (0, 0) {
        for (at, job) in jobs.iter().enumerate() {
            if job.arrival == step {
                let like = job.again.then(|| at.checked_sub(1).and_then(|before| ids[before])).flatten();
                let sharing = SharesWith { salt: job.salt.clone(), like };
                let prompt = Prompt::new(engine.worker.config(), job.prompt.clone()).unwrap();
                let added =
                    engine.add_request(NewRequest { sharing, ..NewRequest::new(prompt, job.params.clone()) });
                ids[at] = Some(added.unwrap());
            }
            if let Some(id) = ids[at].filter(|_| job.abort == Some(step)) {
                engine.abort(id);
            }
            if let Some((id, (from, to))) = ids[at].zip(job.hold) {
                _ = (from..to).contains(&step) && engine.hold(id);
                _ = step == to && engine.unhold(id);
            }
        }
        step += 1;
        assert!(step < 10_000, "it ends");
        let steps = engine.stats().steps;
        match engine.step() {
            Ok(updates) => keep(&mut ended, finished(updates)),
            Err(error) => {
                assert!(error.to_string().contains("the machine is gone"), "{error}");
                continue;
            }
        }
        if engine.stats().steps == steps {
            continue;
        }
        let batch = engine.last_batch();
        assert!(batch.tokens.len() <= setup.limits.max_batched_tokens, "the budget");
        assert!(batch.spans.len() <= setup.limits.max_num_seqs, "requests at a time");
        let sampled = engine.last_chunks().iter().filter(|chunk| chunk.samples).map(|chunk| chunk.id);
        for (id, row) in sampled.zip(engine.worker.logits.chunks(vocab)) {
            logits.entry(id).or_default().push(bits(row));
        }
        let usage = engine.kv_usage();
        let held = jobs.iter().filter(|job| job.hold.is_some()).count();
        let most = (setup.limits.max_num_seqs + held) * (setup.block_size - 1);
        assert!(usage.reserved - usage.used <= most, "less than a block a sequence is unused: {usage:?}");
    }
    assert_eq!(engine.blocks().held, 0, "{setup:?}: every block is given back");
    let mut whole = runner(name, KvOptions::recompute());
    let mut tokens = 0;
    for (at, job) in jobs.iter().enumerate() {
        let finished = ended[&ids[at].unwrap()].clone();
        let got = logits.remove(&finished.id).unwrap_or_default();
        alone(&mut whole, &job.prompt, &job.params).check(&format!("{name}, {setup:?}"), &finished, &got);
        tokens += job.prompt.len() + job.params.max_tokens;
    }
    // As in step 3: the request that was admitted first is never preempted while another one runs, so every step brings it on.
    assert!(step <= 61 + tokens + engine.worker.fails.len() * tokens, "{step} steps for {tokens} tokens");
    engine
}

fn setups() -> impl Strategy<Value = Setup> {
    let size = prop::sample::select(vec![1usize, 2, 8, 16, 32]);
    let budget = prop::sample::select(vec![1usize, 5, 16, 64, 1000]);
    (size, 64usize..130, 0usize..20, 1usize..9, budget, any::<bool>(), any::<bool>()).prop_map(
        |(block_size, tokens, swap_blocks, max_num_seqs, max_batched_tokens, swap, prefix_cache)| Setup {
            tokens,
            block_size,
            swap_blocks,
            limits: Limits { max_num_seqs, max_batched_tokens },
            options: ManagerOptions {
                prefix_cache,
                preemption: if swap { Preemption::Swap } else { Preemption::Recompute },
            },
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Pools for one or two requests of the longest kind: preemption is constant.
    #[test]
    fn nobody_changes_anybody_in_a_small_pool(
        name in prop::sample::select(vec!["qwen3", "qwen2-window", "mistral-bf16", "gpt2-bf16", "llama3-bf16"]),
        jobs in jobs(),
        setup in setups(),
        fails in prop::collection::vec(1usize..80, 0..2),
    ) {
        check(name, &jobs, setup, fails);
    }
}

#[test]
fn preemption_is_constant_in_both_ways_and_nothing_changes() {
    let prompt = |i: u32| (0..20).map(|t| (t * 7 + i / 4) % 90).chain([i]).collect();
    let job = |i: u32| Job {
        prompt: prompt(i),
        params: greedy_params(24),
        arrival: i as usize / 2,
        abort: None,
        hold: None,
        salt: None,
        again: false,
    };
    let jobs: Vec<Job> = (0..16).map(job).collect();
    for (preemption, prefix_cache) in [
        (Preemption::Recompute, false),
        (Preemption::Recompute, true),
        (Preemption::Swap, false),
        (Preemption::Swap, true),
    ] {
        let options = ManagerOptions { prefix_cache, preemption };
        let setup = Setup { tokens: 96, swap_blocks: 12, options, ..Setup::default() };
        let engine = check("qwen3", &jobs, setup, Vec::new());
        let (stats, blocks) = (engine.stats(), engine.blocks());
        assert!(stats.preemptions > 10, "{} preemptions", stats.preemptions);
        assert_eq!(stats.cached_tokens > 100, prefix_cache, "{stats:?}");
        assert_eq!(blocks.swapped_out > 20, preemption == Preemption::Swap, "{blocks:?}");
        assert_eq!(blocks.swapped_out, blocks.swapped_in);
    }
}

/// Is it really used?
#[test]
fn a_long_system_prompt_is_computed_once() {
    let kv = KvOptions {
        attention: Some(AttentionKind::Paged),
        max_num_seqs: Some(4),
        max_model_len: Some(1100),
        ..KvOptions::default()
    };
    let runner = ModelRunner::load(&demo::directory(), LoadOptions { kv, ..LoadOptions::default() }).unwrap();
    let limits = Limits { max_num_seqs: 4, max_batched_tokens: 256 };
    let mut engine = Engine::new(LocalWorker::new(runner).unwrap(), Box::new(Continuous), limits);
    let system: Vec<u32> = (0..1000).map(|i| 3 + i * 7 % 1000).collect();
    let (mut ended, mut computed) = (Ended::default(), Vec::new());
    for own in [[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]] {
        let before = engine.stats().tokens_computed;
        engine.add([&system[..], &own].concat(), greedy_params(1)).unwrap();
        keep(&mut ended, engine.run().unwrap());
        computed.push(engine.stats().tokens_computed - before);
    }
    assert_eq!(computed[0], 1005);
    assert!(computed[1] <= 16 + 5, "{} tokens were computed", computed[1]);
    let cached = |id| ended[&RequestId(id)].cached_tokens;
    assert_eq!((cached(0), cached(1) as u64), (0, 1005 - computed[1]));
}

#[test]
fn samples_share_the_prompt_and_copy_one_block_each() {
    let mut engine = engine("qwen3", Setup::default());
    let prompt: Vec<u32> = (1..11).collect();
    let first = engine.add(prompt.clone(), greedy_params(4)).unwrap();
    for _ in 0..3 {
        let sharing = SharesWith { like: Some(first), salt: None };
        let prompt = Prompt::new(engine.worker.config(), prompt.clone()).unwrap();
        engine.add_request(NewRequest { sharing, ..NewRequest::new(prompt, greedy_params(4)) }).unwrap();
    }
    let ended = run(&mut engine);
    let stats = engine.stats();
    assert_eq!(stats.tokens_computed, (10 + 3) + 3 * (1 + 3), "the prompt once, and its last token for each");
    assert_eq!(engine.blocks().copies, 3, "10 tokens are two blocks and a half");
    assert!(ended.values().all(|finished| finished.output == ended[&first].output));
    assert_eq!(ended.values().map(|f| f.cached_tokens).collect::<Vec<_>>(), [0, 9, 9, 9]);
}

#[test]
fn what_can_never_fit_is_refused_with_the_numbers() {
    let mut engine = engine("qwen3", Setup { tokens: 40, ..Setup::default() });
    let refused = |engine: &mut Engine<Recording>, prompt: usize, max_tokens: usize| {
        let added = engine.add(vec![1; prompt], greedy_params(max_tokens));
        added.unwrap_err().to_string()
    };
    let error = refused(&mut engine, 30, 12);
    assert!(
        error.contains("30 tokens") && error.contains("up to 12") && error.contains("holds 40"),
        "{error}"
    );
    assert!(refused(&mut engine, 41, 1).contains("--kv-memory"));
    assert_eq!(engine.queues(), (0, 0));
    engine.add(vec![1; 30], greedy_params(11)).unwrap(); // the last token is not run
    assert_eq!(run(&mut engine)[&RequestId(0)].output.len(), 11);
}

#[test]
fn a_window_in_every_layer_needs_no_more_than_the_window() {
    // Mistral's fixture has a window of 7; 24 tokens of room serve 60.
    let limits = Limits { max_num_seqs: 1, max_batched_tokens: 8 };
    let mut engine = engine("mistral-f16", Setup { tokens: 24, limits, ..Setup::default() });
    let mut ended = Ended::default();
    let prompt = Reference::of("mistral-f16").prompt;
    let id = engine.add(prompt.clone(), greedy_params(64 - prompt.len())).unwrap();
    let mut held = 0;
    while engine.has_work() {
        keep(&mut ended, finished(engine.step().unwrap()));
        held = held.max(engine.blocks().held);
    }
    assert!(held <= 5, "{held} blocks of 4");
    let alone = greedy(&mut runner("mistral-f16", KvOptions::recompute()), &prompt, 64 - prompt.len());
    assert_eq!(ended[&id].output, alone);
}

#[test]
fn our_pool_keeps_the_contract() {
    contract::pool(Counted::new);
}
