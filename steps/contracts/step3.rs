//! The contracts of step 3, for the exercises of chapter 3: the scheduler's budget, and the slots of the KV cache.

use super::manager;
use stairwell::{
    attention::{AttentionKind, KvOptions},
    demo,
    engine::{Continuous, Engine, KvManager, KvUsage, Limits, LocalWorker, Policy, Queues, RequestId},
    error::Result,
    generate::GenerateParams,
    runner::{LoadOptions, ModelRunner},
    sampling::SamplingParams,
    tokenizer::Tokenizer,
};
use std::collections::BTreeMap;

/// A state of the queues: running, waiting, `max_num_seqs`, `max_batched_tokens`.
type State = (&'static [usize], &'static [usize], usize, usize);

const STATES: &[State] = &[
    (&[], &[], 4, 10),
    (&[], &[3], 4, 10),
    (&[], &[4, 4], 4, 10),
    (&[1, 1], &[], 4, 10),
    (&[1, 1], &[3], 4, 10),
    (&[1, 1, 5], &[2], 4, 10),
    (&[1, 1], &[2, 3, 1], 4, 10), // four at a time
    (&[1], &[100, 2], 4, 10),     // a prompt longer than the budget
    (&[1, 91], &[2], 4, 10),      // the rest of that prompt
    (&[1, 1, 3], &[9, 1], 8, 10), // five fit of nine
    (&[1, 1, 1], &[5, 5], 8, 3),  // no budget is left
    (&[1, 1], &[4, 4], 8, 3),     // no more requests than tokens
];

/// `share` divides the budget as [`Continuous`] does: running requests first, then waiting ones in their order, the last one
/// cut to what is left.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn share(policy: &mut impl Policy) {
    for &(running, waiting, max_num_seqs, max_batched_tokens) in STATES {
        let limits = Limits { max_num_seqs, max_batched_tokens };
        let queues = Queues { running, waiting, limits };
        let (got, want) = (policy.share(&queues), Continuous.share(&queues));
        if got != want {
            panic!(
                "the shares are {got:?}, expected {want:?}{}\n  running {running:?}, waiting {waiting:?}, at most {max_num_seqs} \
                 requests and {max_batched_tokens} tokens",
                hint(&got, &queues)
            );
        }
    }
}

/// What is wrong with some shares.
fn hint(got: &[usize], queues: &Queues) -> &'static str {
    let Queues { running, waiting, limits } = *queues;
    let left: Vec<usize> = running.iter().chain(waiting).copied().collect();
    let total: usize = got.iter().sum();
    let admitted = got.iter().skip(running.len()).filter(|&&n| n > 0).count();
    if got.len() < running.len() || got.iter().take(running.len()).any(|&n| n == 0) {
        ": a running request gets nothing. Did you serve the waiting ones first?"
    } else if total > limits.max_batched_tokens {
        ": that is more than the budget. Did you take it off after each share?"
    } else if got.iter().zip(&left).any(|(n, left)| n > left) {
        ": a request gets more than it has left"
    } else if running.len() + admitted > limits.max_running() {
        ": too many requests run. Did you check max_running()?"
    } else if got.contains(&0) {
        ": a waiting request is admitted with no token. Did you stop where the budget ends?"
    } else if total < limits.max_batched_tokens.min(left.iter().sum()) {
        ": budget is left, and a request could use it. Did you leave a prompt out because it does not fit whole?"
    } else {
        ": the order of the queues is the order of the shares"
    }
}

/// A KV manager of slots gives each slot to one request, takes it back, and counts what is reserved and used. `new` makes one with
/// that many slots of that many tokens.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn slots<M: KvManager>(new: impl Fn(usize, usize) -> M) {
    let [a, b, c] = [10, 11, 12].map(RequestId);
    let mut kv = new(2, 8);
    assert_eq!(kv.max_tokens(), 8, "max_tokens() is the length of a slot");
    let usage = |reserved, used| KvUsage { total: 16, reserved, used };
    assert_eq!(kv.usage(), usage(0, 0), "of a cache that nobody uses");

    assert!(kv.reserve(a, 3), "a slot is free, and 3 tokens fit into 8: reserve() must be true");
    let slot = kv.table(a).to_vec();
    assert!(slot.len() == 1 && slot[0] < 2, "the table of a request is its slot, 0 or 1; it is {slot:?}");
    assert_eq!(
        kv.usage(),
        usage(8, 3),
        "a request with 3 tokens reserves its whole slot: did you count both?"
    );
    assert!(kv.reserve(a, 4), "a request that has a slot keeps it");
    assert_eq!(kv.table(a), slot, "did you give a request a second slot for its next token?");

    assert!(kv.reserve(b, 8), "the second slot is free");
    assert_ne!(kv.table(b), kv.table(a), "two requests have the same slot: each would read the other's keys");
    assert!(!kv.reserve(c, 1), "both slots are taken: reserve() must be false, and the request waits");
    assert_eq!(kv.usage(), usage(16, 12), "a request that got no slot reserves nothing");
    assert!(!kv.reserve(b, 9), "9 tokens do not fit into a slot of 8");

    kv.release(a);
    assert!(kv.reserve(c, 1), "a slot was given back, and nobody gets it: did you forget to keep it?");
    kv.release(c);
    kv.release(c);
    assert!(kv.reserve(a, 1), "a slot was given back");
    let twice = kv.reserve(c, 1) && kv.table(c) == kv.table(a);
    assert!(!twice, "a slot that is released twice is there twice: did you check that the request has one?");
}

const PROMPTS: [&str; 4] =
    ["Once upon a time", "One day, Tom found a", "The", "A small dog went to the park. It was"];
const TOKENS: usize = 24;
const LIMITS: Limits = Limits { max_num_seqs: 3, max_batched_tokens: 6 };

/// Four stories of the demo model, three at a time, six tokens a step: each is the one that it is alone.
///
/// # Panics
/// If a story differs, or the schedule takes more steps than ours.
#[track_caller]
pub fn tells_the_demo_stories(policy: impl Policy + 'static) {
    check_stories(|worker| Engine::new(worker, Box::new(policy), LIMITS));
}

/// The same with someone's KV manager.
///
/// # Panics
/// As [`tells_the_demo_stories`].
#[track_caller]
pub fn tells_the_demo_stories_in_slots<M: KvManager + 'static>(new: impl FnOnce(usize, usize) -> M) {
    check_stories(|worker| {
        let kv = new(LIMITS.max_num_seqs, worker.runner.max_model_len());
        Engine::with_kv(worker, manager::of(kv), Box::new(Continuous), LIMITS)
    });
}

type DemoEngine = Engine<LocalWorker<stairwell::backend::cpu::Cpu>>;

#[track_caller]
fn check_stories(mine: impl FnOnce(LocalWorker<stairwell::backend::cpu::Cpu>) -> DemoEngine) {
    let one_at_a_time = Limits { max_num_seqs: 1, ..LIMITS };
    let ours = write(|worker| Engine::new(worker, Box::new(Continuous), one_at_a_time));
    let (ours, _) = ours.expect("the engine's own stories");
    let (_, most) =
        write(|worker| Engine::new(worker, Box::new(Continuous), LIMITS)).expect("the same, together");
    let (mine, steps) =
        write(mine).unwrap_or_else(|e| panic!("the engine can't write the stories with your piece: {e}"));
    for (prompt, (ours, mine)) in PROMPTS.iter().zip(ours.iter().zip(&mine)) {
        assert_eq!(mine, ours, "the story after {prompt:?} is not the one that it is alone");
    }
    assert!(
        steps <= most,
        "your schedule takes {steps} steps, and {most} would do: does everybody go on at every step?"
    );
}

/// The stories, and the steps that they took.
fn write(
    engine: impl FnOnce(LocalWorker<stairwell::backend::cpu::Cpu>) -> DemoEngine,
) -> Result<(Vec<String>, u64)> {
    let tokenizer = Tokenizer::new(demo::tokenizer_files())?;
    let kv = KvOptions {
        attention: Some(AttentionKind::Contiguous), // slots, in every build
        max_num_seqs: Some(LIMITS.max_num_seqs),
        max_model_len: Some(128),
        ..KvOptions::default()
    };
    let options = LoadOptions { kv, ..LoadOptions::default() };
    let mut engine = engine(LocalWorker::new(ModelRunner::load(&demo::directory(), options)?)?);
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let params = GenerateParams { max_tokens: TOKENS, sampling, eos_token_id: Vec::new() };
    for prompt in PROMPTS {
        engine.add(tokenizer.encode_prompt(prompt)?, params.clone())?;
    }
    let mut stories = engine.run()?;
    stories.sort_by_key(|story| story.id);
    let texts =
        stories.iter().map(|story| tokenizer.decode(&story.output, true).replace('\n', " ")).collect();
    Ok((texts, engine.stats().steps))
}
