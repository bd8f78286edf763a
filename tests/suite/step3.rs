//! Step 3: whatever the batch, every request gets what it gets alone; budgets hold, nobody starves, nothing leaks.

use crate::common::{Reference, bits, fixtures, greedy_params};
use crate::contracts::step3 as contract;
use crate::serving::{Ended, Recording, alone, finished, keep, run, runner};
use proptest::prelude::*;
use stairwell::engine::Slots;
use stairwell::{
    attention::{AttentionKind, KvOptions},
    demo,
    engine::{Continuous, Engine, Limits, LocalWorker, NewRequest, Policy, RequestId, Static, Worker},
    generate::{FinishReason, GenerateParams},
    runner::{LoadOptions, ModelRunner, Prompt},
    sampling::SamplingParams,
    tokenizer::{StopMatcher, Tokenizer},
};
use std::collections::BTreeMap;

const LONGEST: usize = 64;

fn engine(name: &str, limits: Limits, policy: Box<dyn Policy>) -> Engine<Recording> {
    let kv = KvOptions {
        attention: Some(AttentionKind::Contiguous), // slots, in every build
        max_model_len: Some(LONGEST),
        max_num_seqs: Some(limits.max_num_seqs),
        max_chunk: Some(limits.max_batched_tokens),
        ..KvOptions::default()
    };
    Engine::new(Recording::new(runner(name, kv)), policy, limits)
}

/// Who sampled a token in the last step, in the order of the logit rows.
fn sampled(engine: &Engine<Recording>) -> Vec<RequestId> {
    engine.last_chunks().iter().filter(|chunk| chunk.samples).map(|chunk| chunk.id).collect()
}

/// A request of a property test.
#[derive(Clone, Debug)]
struct Job {
    prompt: Vec<u32>,
    params: GenerateParams,
    /// The step before which it arrives.
    arrival: usize,
    /// The step before which it is aborted.
    abort: Option<usize>,
}

fn jobs() -> impl Strategy<Value = Vec<Job>> {
    let prompt = prop::collection::vec(0u32..90, 1..40);
    let abort = prop::option::weighted(0.15, 0usize..60);
    let job = (prompt, 1usize..24, 0usize..50, abort, 0u64..4).prop_map(
        |(prompt, max_tokens, arrival, abort, seed)| {
            // Seed 0 is greedy.
            let temperature = if seed == 0 { 0.0 } else { 1.0 };
            let sampling = SamplingParams {
                temperature,
                seed: Some(seed),
                repetition_penalty: 1.1,
                ..SamplingParams::default()
            };
            Job {
                prompt,
                params: GenerateParams { max_tokens, sampling, eos_token_id: vec![7] },
                arrival,
                abort,
            }
        },
    );
    prop::collection::vec(job, 1..20)
}

/// Runs the jobs; checks after every step what must hold then, and at the end what each gave.
fn check(name: &str, jobs: &[Job], limits: Limits, policy: Box<dyn Policy>) {
    let mut engine = engine(name, limits, policy);
    let (mut ended, mut ids): (Ended, Vec<Option<RequestId>>) = (Ended::default(), vec![None; jobs.len()]);
    // Logits by request, as they were sampled from.
    let mut logits: BTreeMap<RequestId, Vec<Vec<u32>>> = BTreeMap::new();
    let mut step = 0;
    let vocab = engine.worker.config().vocab_size;
    while step <= 60 || engine.queues() != (0, 0) {
        for (at, job) in jobs.iter().enumerate() {
            if job.arrival == step {
                ids[at] = Some(engine.add(job.prompt.clone(), job.params.clone()).unwrap());
            }
            if job.abort == Some(step) && ids[at].is_some() {
                let running = !ended.contains_key(&ids[at].unwrap());
                assert_eq!(engine.abort(ids[at].unwrap()), running);
            }
        }
        let decoding = engine.decoding();
        let steps = engine.stats().steps;
        keep(&mut ended, finished(engine.step().unwrap()));
        step += 1;
        if engine.stats().steps == steps {
            continue;
        }
        let batch = engine.last_batch();
        assert!(batch.tokens.len() <= limits.max_batched_tokens, "the budget");
        assert!(batch.spans.len() <= limits.max_num_seqs, "requests at a time");
        assert_eq!(engine.worker.logits.len(), batch.logit_rows.len() * vocab, "logits of wanted rows only");
        let sampled = sampled(&engine);
        assert_eq!(sampled.len(), batch.logit_rows.len());
        assert!(decoding.iter().all(|id| sampled.contains(id)), "nobody stalls between two tokens");
        for (id, row) in sampled.iter().zip(engine.worker.logits.chunks(vocab)) {
            logits.entry(*id).or_default().push(bits(row));
        }
        assert!(step < 10_000, "it ends");
    }

    let usage = engine.kv_usage();
    assert_eq!((usage.reserved, usage.used), (0, 0), "every slot is free again");
    let mut whole = runner(name, KvOptions::recompute());
    let mut work_before = 0;
    for (at, job) in jobs.iter().enumerate() {
        let finished = ended[&ids[at].unwrap()].clone();
        let got = logits.remove(&finished.id).unwrap_or_default();
        alone(&mut whole, &job.prompt, &job.params).check(name, &finished, &got);
        work_before += job.prompt.len() + job.params.max_tokens;
    }
    // The bound on waiting: every step computes a token of each running request, so all that has arrived is done after as many
    // steps as there are tokens.
    assert!(step <= 61 + work_before, "{step} steps for {work_before} tokens");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn nobody_changes_anybody(
        name in prop::sample::select(vec!["qwen3", "qwen3-bf16", "qwen2-window", "mistral-bf16", "gpt2-bf16", "llama3-bf16"]),
        jobs in jobs(),
        max_num_seqs in 1usize..9,
        max_batched_tokens in prop::sample::select(vec![1usize, 2, 5, 16, 64, 1000]),
        is_static in prop::bool::weighted(0.25),
    ) {
        let policy: Box<dyn Policy> = if is_static { Box::<Static>::default() } else { Box::new(Continuous) };
        check(name, &jobs, Limits { max_num_seqs, max_batched_tokens }, policy);
    }
}

#[test]
fn hugging_faces_ids_from_a_shared_batch() {
    for name in fixtures().iter().filter(|name| *name != "rope-dynamic-bf16") {
        let reference = Reference::of(name);
        let limits = Limits { max_num_seqs: 4, max_batched_tokens: 9 };
        let mut engine = engine(name, limits, Box::new(Continuous));
        for n in [reference.prompt.len(), 3, reference.prompt.len(), 1, 5] {
            engine.add(reference.prompt[..n].to_vec(), greedy_params(16)).unwrap();
        }
        let ended = run(&mut engine);
        for id in [0, 2].map(RequestId) {
            assert_eq!(ended[&id].output, reference.greedy, "{name}");
        }
        assert_eq!(engine.stats().output_tokens, 5 * 16);
    }
}

#[test]
fn a_long_prompt_stalls_nobody() {
    let limits = Limits { max_num_seqs: 4, max_batched_tokens: 8 };
    let mut engine = engine("qwen3", limits, Box::new(Continuous));
    let params = |max_tokens| GenerateParams { max_tokens, ..GenerateParams::default() };
    let mut ended = Ended::default();
    let short = engine.add(vec![1, 2, 3], params(30)).unwrap();
    engine.step().unwrap();
    let long = engine.add(vec![5; 60], params(1)).unwrap();
    let mut chunks = Vec::new();
    while !ended.contains_key(&long) {
        keep(&mut ended, finished(engine.step().unwrap()));
        assert!(sampled(&engine).contains(&short), "a token at every step");
        chunks.push(engine.last_batch().tokens.len() - 1);
    }
    assert_eq!(chunks, [7, 7, 7, 7, 7, 7, 7, 7, 4], "60 tokens in what one decode leaves of 8");
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    let mut engine = engine("qwen3", Limits::default(), Box::new(Continuous));
    let mut refused = |prompt: Vec<u32>| {
        let added = engine.add(prompt, GenerateParams { max_tokens: 1, ..Default::default() });
        added.unwrap_err().to_string()
    };
    let long = refused(vec![1; LONGEST + 1]);
    assert!(long.contains("65 tokens") && long.contains("room for 64"), "{long}");
    assert!(refused(Vec::new()).contains("empty"));
    assert!(refused(vec![10_000]).contains("vocabulary"));
    assert_eq!(engine.queues(), (0, 0));
}

#[test]
fn an_attention_that_forgets_is_refused() {
    let error = LocalWorker::new(runner("qwen3", KvOptions::recompute())).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("'recompute' keeps no K and V"), "{error}");
}

#[test]
fn a_slot_is_held_by_one_request_and_most_of_it_is_empty() {
    let limits = Limits { max_num_seqs: 2, max_batched_tokens: 64 };
    let mut engine = engine("qwen3", limits, Box::new(Continuous));
    let params = GenerateParams { max_tokens: 4, ..GenerateParams::default() };
    for _ in 0..3 {
        engine.add(vec![1; 8], params.clone()).unwrap();
    }
    engine.step().unwrap();
    assert_eq!(engine.queues(), (1, 2), "the third waits for a slot");
    let usage = engine.kv_usage();
    assert_eq!((usage.total, usage.reserved, usage.used), (128, 128, 16));
    engine.run().unwrap();
    let stats = engine.stats();
    assert!(stats.kv_utilization() < 0.2 && stats.peak_running == 2, "{stats:?}");
    assert_eq!(stats.tokens_computed, 3 * (8 + 3));
}

/// A stop string ends a request in the step that completes it; the tokens are told as they come, and the end with the last.
#[test]
fn a_stop_string_ends_a_request() {
    let tokenizer = Tokenizer::new(demo::tokenizer_files()).unwrap();
    let kv = KvOptions { attention: Some(AttentionKind::Contiguous), ..KvOptions::default() };
    let options = LoadOptions { kv, ..LoadOptions::default() };
    let worker = LocalWorker::new(ModelRunner::load(&demo::directory(), options).unwrap()).unwrap();
    let mut engine = Engine::new(worker, Box::new(Continuous), Limits::default());
    let prompt = tokenizer.encode_prompt("Once upon a time").unwrap();
    engine.add(prompt.clone(), greedy_params(40)).unwrap();
    let whole = run(&mut engine).pop_first().unwrap().1.output;

    let text = |n: usize| tokenizer.decode(&[&prompt[..], &whole[..n]].concat(), true);
    // What the tokens 8 to 10 add, which are not there before.
    let stop = text(10)[text(7).len()..].to_owned();
    let first = (0..=40).find(|&n| text(n)[text(0).len()..].contains(&stop)).unwrap();
    let matcher = StopMatcher::new(&tokenizer, &prompt, &["nowhere".into(), stop]);
    let new =
        NewRequest::new(Prompt::new(engine.worker.config(), prompt.clone()).unwrap(), greedy_params(40));
    engine.add_request(NewRequest { stop: matcher, ..new }).unwrap();
    let mut tokens = Vec::new();
    let finished = loop {
        let update = engine.step().unwrap().pop().unwrap();
        tokens.extend(update.token.map(|sampled| sampled.token));
        if let Some(finished) = update.finished {
            break finished;
        }
    };
    assert_eq!((tokens.len(), finished.reason), (first, FinishReason::Stop));
    assert_eq!((&tokens, &finished.output[..]), (&finished.output, &whole[..first]));
    let times = finished.times;
    assert!(times.admitted <= times.first_token && times.first_token <= times.last_token);
    assert!(times.per_token(3).is_some() && times.per_token(1).is_none());
    assert!(!engine.has_work());
}

#[test]
fn ours_keep_the_contracts() {
    contract::share(&mut Continuous);
    contract::slots(Slots::new);
    contract::tells_the_demo_stories(Continuous);
    contract::tells_the_demo_stories_in_slots(Slots::new);
}
