//! What a server needs of the engine: new weights under load, bounds, deadlines, failures, and log-probabilities of prompts.

use crate::common::{Checkpoint, Reference, changed, greedy, greedy_params};
use crate::serving::{Ended, Recording, finished, keep, run, runner};
use crate::step4::{Setup, engine};
use stairwell::{
    attention::KvOptions,
    demo,
    engine::{Engine, Limits, NewRequest, PauseMode, QueueLimits, RequestId, Worker},
    error::Error,
    generate::FinishReason,
    kv::{ManagerOptions, Preemption},
    runner::Prompt,
    sampling::Sampled,
    tensor::HostTensor,
    tokenizer::{StopMatcher, Tokenizer},
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// 17 tokens, more than four blocks.
fn prompt() -> Vec<u32> {
    (1..18).collect()
}

fn two_at_a_time() -> Setup {
    Setup { limits: Limits { max_num_seqs: 2, max_batched_tokens: 64 }, ..Setup::default() }
}

fn request(engine: &Engine<Recording>, prompt: &[u32], max_tokens: usize) -> NewRequest {
    let prompt = Prompt::new(engine.worker.config(), prompt.to_vec()).unwrap();
    NewRequest::new(prompt, greedy_params(max_tokens))
}

/// Other weights for the fixture qwen3.
fn new_weights() -> Vec<(String, HostTensor)> {
    let old = Checkpoint::copy("qwen3").tensors();
    old.into_iter().map(|(name, tensor)| (name, changed(&tensor))).collect()
}

/// What the old and the new weights give after a prompt.
fn before_and_after(prompt: &[u32], max_tokens: usize) -> (Vec<u32>, Vec<u32>) {
    let mut model = runner("qwen3", KvOptions::recompute());
    let before = greedy(&mut model, prompt, max_tokens);
    model.update_weights(new_weights()).unwrap();
    (before, greedy(&mut model, prompt, max_tokens))
}

/// An engine with two running requests that have three tokens each, and a third that waits; and who has ended.
fn busy(setup: Setup) -> (Engine<Recording>, Ended) {
    let (mut engine, mut ended) = (engine("qwen3", setup), Ended::default());
    (0..3).for_each(|_| _ = engine.add(prompt(), greedy_params(8)).unwrap());
    (0..3).for_each(|_| keep(&mut ended, finished(engine.step().unwrap())));
    (engine, ended)
}

fn step_until_paused(engine: &mut Engine<Recording>, ended: &mut Ended) {
    while !engine.is_paused() {
        keep(ended, finished(engine.step().unwrap()));
    }
}

#[test]
fn weights_are_swapped_between_old_and_new_requests() {
    let (before, after) = before_and_after(&prompt(), 8);
    assert_ne!(before, after);
    for mode in [PauseMode::Drain, PauseMode::Abort] {
        let (mut engine, mut ended) = busy(two_at_a_time());
        engine.pause(mode);
        step_until_paused(&mut engine, &mut ended);
        engine.swap_weights(new_weights()).unwrap();
        assert_eq!(engine.blocks().cached, 0, "nothing is cached");
        engine.resume();
        keep(&mut ended, engine.run().unwrap());

        for id in [0, 1].map(RequestId) {
            let (finished, whole) = (&ended[&id], mode == PauseMode::Drain);
            assert_eq!(finished.reason == FinishReason::Length, whole);
            assert_eq!(finished.output, before[..if whole { 8 } else { 3 }]);
        }
        let third = &ended[&RequestId(2)];
        assert_eq!((third.weight_version, third.cached_tokens, &third.output), (1, 0, &after));
    }
}

#[test]
fn weights_that_do_not_fit_change_nothing() {
    let (mut engine, _) = busy(two_at_a_time());
    engine.pause(PauseMode::Retract);
    let nobody = ("nobody".to_owned(), HostTensor::from_f32(&[1], &[0.0]));
    let error = engine.swap_weights([nobody]).unwrap_err().to_string();
    assert!(error.contains("nobody") && engine.weight_version() == 0, "{error}");
    engine.resume();
    let (before, _) = before_and_after(&prompt(), 8);
    assert!(run(&mut engine).values().all(|finished| finished.output == before));
}

#[test]
fn requests_arrive_and_leave_while_weights_are_about_to_be_swapped() {
    let (mut engine, mut ended) = busy(two_at_a_time());
    engine.pause(PauseMode::Drain);
    assert!(matches!(engine.swap_weights(new_weights()), Err(Error::Refused(_))), "requests run");
    let late = engine.add(prompt(), greedy_params(4)).unwrap();
    keep(&mut ended, finished(engine.step().unwrap()));
    assert!(engine.abort(RequestId(2)) && engine.abort(RequestId(1)));
    step_until_paused(&mut engine, &mut ended);
    assert!(!engine.has_work(), "a caller that steps while there is work does not spin");
    assert!(engine.step().unwrap().is_empty() && engine.queues() == (1, 0));
    engine.swap_weights(new_weights()).unwrap();
    engine.resume();
    keep(&mut ended, engine.run().unwrap());
    let (before, after) = before_and_after(&prompt(), 8);
    assert_eq!(ended[&RequestId(0)].output, before);
    assert_eq!(ended[&RequestId(1)].reason, FinishReason::Abort);
    assert_eq!(ended[&late].output, after[..4]);
}

#[test]
fn retracted_requests_go_on_with_the_new_weights() {
    let (mut engine, mut ended) = busy(two_at_a_time());
    engine.pause(PauseMode::Retract);
    assert!(engine.is_paused() && !engine.has_work());
    engine.swap_weights(new_weights()).unwrap();
    engine.resume();
    keep(&mut ended, engine.run().unwrap());
    let (before, _) = before_and_after(&prompt(), 8);
    let so_far = [&prompt()[..], &before[..3]].concat();
    let (_, rest) = before_and_after(&so_far, 5);
    for id in [0, 1].map(RequestId) {
        assert_eq!(ended[&id].output, [&before[..3], &rest].concat());
    }
}

#[test]
fn old_k_and_v_are_kept_in_place_and_found_by_nobody() {
    let (_, after) = before_and_after(&prompt(), 8);
    // In the pool, or in host memory: the second request is swapped out where the pool is too small for two.
    for (tokens, swap_blocks) in [(256, 0), (28, 16)] {
        let options = ManagerOptions { preemption: Preemption::Swap, ..ManagerOptions::default() };
        let (mut engine, mut ended) = busy(Setup { tokens, swap_blocks, options, ..two_at_a_time() });
        while swap_blocks > 0 && engine.blocks().swapped_out == 0 {
            assert!(engine.has_work(), "the pool is too small for two");
            keep(&mut ended, finished(engine.step().unwrap()));
        }
        engine.pause(PauseMode::InPlace);
        engine.swap_weights(new_weights()).unwrap();
        engine.resume();
        let like = engine.queues().1 > 0;
        let mut again = request(&engine, &prompt(), 8);
        again.sharing.like = like.then_some(RequestId(0));
        let again = engine.add_request(again).unwrap();
        keep(&mut ended, engine.run().unwrap());
        assert_eq!(ended[&RequestId(0)].output.len(), 8);
        assert_eq!(ended[&again].output, after, "{tokens} tokens");
    }
}

#[test]
fn a_step_that_fails_twice_ends_all_requests_with_the_error() {
    let (before, _) = before_and_after(&prompt(), 8);
    let (mut engine, mut ended) = busy(two_at_a_time());
    engine.worker.fails = vec![4]; // once: nobody notices
    keep(&mut ended, engine.run().unwrap());
    assert!(ended.len() == 3 && ended.values().all(|finished| finished.output == before));

    let (mut engine, mut ended) = busy(two_at_a_time());
    engine.worker.fails = vec![4, 5];
    keep(&mut ended, finished(engine.step().unwrap()));
    assert_eq!((ended.len(), engine.queues(), engine.blocks().held), (3, (0, 0), 0));
    for finished in ended.values() {
        assert_eq!(finished.reason, FinishReason::Error);
        assert_eq!(finished.error.as_deref(), Some("the machine is gone"));
    }
    assert_eq!(ended[&RequestId(0)].output, before[..3], "what it had is not lost");
    assert!(matches!(engine.alive(), Err(Error::Dead(why)) if why == "the machine is gone"));
    assert!(matches!(engine.step(), Err(Error::Dead(_))) && matches!(engine.run(), Err(Error::Dead(_))));
    assert!(matches!(engine.add(prompt(), greedy_params(1)), Err(Error::Dead(_))));
}

#[test]
fn the_queue_refuses_at_its_bound() {
    let mut engine = engine("qwen3", two_at_a_time());
    engine.queue_limits = QueueLimits { requests: 1, tokens: 30 };
    engine.add(prompt(), greedy_params(2)).unwrap();
    let refused = engine.add(prompt(), greedy_params(2)).unwrap_err();
    assert!(matches!(&refused, Error::Refused(why) if why.contains("17 tokens of 30")), "{refused}");
    // Two of them have a seat in the next step.
    engine.add(vec![1], greedy_params(2)).unwrap();
    engine.add(vec![1], greedy_params(2)).unwrap();
    let refused = engine.add(vec![1], greedy_params(2)).unwrap_err();
    assert!(matches!(&refused, Error::Refused(why) if why.contains("3 requests wait")), "{refused}");
    engine.step().unwrap();
    let refused = engine.add(vec![1], greedy_params(2)).unwrap_err();
    assert!(matches!(&refused, Error::Refused(why) if why.contains("1 requests wait")), "{refused}");
    assert_eq!(run(&mut engine).len(), 3);
    engine.add(prompt(), greedy_params(2)).unwrap();
}

#[test]
fn a_request_ends_at_its_deadline() {
    let mut engine = engine("qwen3", two_at_a_time());
    let now = Instant::now();
    let with = |engine: &Engine<Recording>, deadline| NewRequest {
        deadline: Some(deadline),
        ..request(engine, &prompt(), 40)
    };
    let [late, on_time] = [now, now + Duration::from_secs(3600)];
    let (late, on_time) = (with(&engine, late), with(&engine, on_time));
    let [late, on_time] = [late, on_time].map(|new| engine.add_request(new).unwrap());
    let ended = run(&mut engine);
    assert_eq!((ended[&late].reason, ended[&late].output.len()), (FinishReason::Abort, 0));
    assert_eq!(ended[&late].error.as_deref(), Some("its deadline has passed"));
    assert_eq!((ended[&on_time].reason, ended[&on_time].output.len()), (FinishReason::Length, 40));
}

/// A held request's tokens so far: those of `steps` steps.
fn tokens_of(engine: &mut Engine<Recording>, id: RequestId, steps: usize) -> usize {
    let updates = (0..steps).flat_map(|_| engine.step().unwrap());
    updates.filter(|update| update.id == id && update.token.is_some()).count()
}

#[test]
fn a_held_request_gets_no_tokens_and_goes_on_where_it_was() {
    let (before, _) = before_and_after(&prompt(), 8);
    let (mut engine, mut ended) = busy(two_at_a_time());
    let [first, second, third] = [0, 1, 2].map(RequestId);
    assert!(!engine.hold(third), "it waits, and has nothing that anybody could read");
    let blocks = engine.blocks().held;
    assert!(engine.hold(first) && !engine.hold(first));
    assert_eq!((engine.queues(), engine.blocks().held), ((1, 2), blocks), "it keeps its K and V");
    assert_eq!(tokens_of(&mut engine, first, 2), 0);
    assert_eq!(engine.queues(), (0, 3), "the third has its seat");
    assert!(engine.hold(second) && engine.hold(third) && !engine.has_work(), "all are held");
    assert!(engine.step().unwrap().is_empty() && engine.queues() == (0, 3));
    assert!(!engine.unhold(RequestId(9)) && engine.unhold(first) && engine.has_work());
    assert_eq!(tokens_of(&mut engine, first, 1), 1);
    assert!(engine.unhold(third) && engine.unhold(second));
    keep(&mut ended, engine.run().unwrap());
    assert!(ended.len() == 3 && ended.values().all(|f| f.output == before && f.preemptions == 0));
    assert_eq!((engine.queues(), engine.blocks().held), ((0, 0), 0));
}

#[test]
fn a_held_request_gives_its_memory_to_whoever_needs_it() {
    for preemption in [Preemption::Recompute, Preemption::Swap] {
        let options = ManagerOptions { preemption, prefix_cache: false };
        let setup = Setup { tokens: 32, swap_blocks: 8, options, ..two_at_a_time() };
        let mut engine = engine("qwen3", setup);
        let slow = engine.add(prompt(), greedy_params(8)).unwrap();
        assert_eq!(tokens_of(&mut engine, slow, 3), 3);
        assert!(engine.hold(slow));
        // 17 + 14 tokens fill the pool.
        let other = engine.add(prompt(), greedy_params(14)).unwrap();
        let mut ended = run(&mut engine);
        assert_eq!((ended[&other].output.len(), engine.queues()), (14, (0, 1)));
        assert!(engine.unhold(slow));
        keep(&mut ended, engine.run().unwrap());
        assert_eq!(ended[&slow].output, before_and_after(&prompt(), 8).0);
        assert_eq!((ended[&slow].preemptions, ended[&other].preemptions), (1, 0), "{preemption:?}");
    }
}

#[test]
fn a_held_request_can_be_ended_and_new_weights_do_not_wait_for_its_reader() {
    let (mut engine, mut ended) = busy(two_at_a_time());
    assert!(engine.hold(RequestId(0)) && engine.abort(RequestId(0)) && engine.has_work());
    assert!(engine.hold(RequestId(1)));
    engine.pause(PauseMode::Drain);
    assert!(!engine.hold(RequestId(1)), "the pause waits for it");
    step_until_paused(&mut engine, &mut ended);
    assert_eq!(ended[&RequestId(0)].reason, FinishReason::Abort);
    assert_eq!((ended[&RequestId(1)].output.len(), engine.queues()), (8, (1, 0)));
    engine.resume();

    let deadline = Instant::now() + Duration::from_secs(1);
    let new = NewRequest { deadline: Some(deadline), ..request(&engine, &prompt(), 40) };
    let late = engine.add_request(new).unwrap();
    (0..3).for_each(|_| keep(&mut ended, finished(engine.step().unwrap())));
    assert!(engine.hold(late));
    keep(&mut ended, engine.run().unwrap());
    assert!(!engine.has_work() && engine.next_deadline() == Some(deadline));
    std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
    keep(&mut ended, engine.run().unwrap());
    assert_eq!(ended[&late].error.as_deref(), Some("its deadline has passed"));
    assert_eq!((ended.len(), engine.queues(), engine.blocks().held), (4, (0, 0), 0));
}

/// transformers' log-probabilities of the prompt's tokens from the second on, from its logits.
fn logprobs_of(reference: &Reference) -> Vec<f64> {
    let vocab = reference.logits.len() / reference.prompt.len();
    let rows = reference.logits.chunks(vocab).zip(&reference.prompt[1..]);
    let logprob = |(row, &token): (&[f32], &u32)| {
        let max = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
        let sum: f64 = row.iter().map(|l| (f64::from(*l) - max).exp()).sum();
        f64::from(row[token as usize]) - max - sum.ln()
    };
    rows.map(logprob).collect()
}

#[test]
fn prompt_logprobs_are_those_of_transformers() {
    for name in ["qwen3", "gpt2", "llama3"] {
        let reference = Reference::of(name);
        let expected = logprobs_of(&reference);
        // Whole, and in chunks of three; with the prompt in the cache, which must not be read; and among others, in a pool that is too
        // small for all.
        for (tokens, max_batched_tokens) in [(256, 64), (256, 3), (64, 16)] {
            let limits = Limits { max_num_seqs: 4, max_batched_tokens };
            let mut engine = engine(name, Setup { tokens, limits, ..Setup::default() });
            engine.add(reference.prompt.clone(), greedy_params(2)).unwrap();
            run(&mut engine);
            engine.add(reference.prompt.clone(), greedy_params(20)).unwrap();
            let new = request(&engine, &reference.prompt, 20);
            let id = engine.add_request(NewRequest { prompt_logprobs: Some(2), ..new }).unwrap();
            engine.add(reference.prompt.clone(), greedy_params(20)).unwrap();
            let (mut ended, mut told) = (HashMap::new(), Vec::new());
            while engine.has_work() {
                for update in engine.step().unwrap() {
                    assert!(update.id == id || update.prompt_logprobs.is_empty());
                    told.extend(update.prompt_logprobs);
                    ended.extend(update.finished.map(|finished| (finished.id, finished)));
                }
            }
            let found = ended.remove(&id).unwrap();
            assert_eq!(found.cached_tokens, 0);
            assert_eq!(found.output, ended[&RequestId(1)].output);
            assert_eq!(told.len(), expected.len());
            for (at, (Sampled { token, logprob, top_logprobs }, expected)) in
                told.iter().zip(&expected).enumerate()
            {
                assert_eq!(*token, reference.prompt[at + 1]);
                let difference = (f64::from(logprob.unwrap()) - expected).abs();
                assert!(difference < 1e-4, "{name}, token {at}: {difference}");
                assert!(top_logprobs.len() == 2 && top_logprobs[0].1 >= top_logprobs[1].1);
            }
        }
    }
}

#[test]
fn a_default_length_is_cut_to_the_room_there_is() {
    let mut engine = engine("qwen3", Setup { tokens: 32, ..Setup::default() });
    let asked = request(&engine, &prompt(), 40);
    let refused = engine.add_request(asked.clone()).unwrap_err().to_string();
    assert!(refused.contains("32"), "{refused}");
    let id = engine.add_request(NewRequest { may_shorten: true, ..asked }).unwrap();
    assert_eq!(run(&mut engine)[&id].output.len(), 32 + 1 - 17);
}

/// Each byte goes through one automaton, whose cost is the same for any number of strings; making it is the work of whoever has the request.
#[test]
fn many_stop_strings_cost_other_requests_nothing() {
    let tokenizer = Tokenizer::new(demo::tokenizer_files()).unwrap();
    let many: Vec<String> = (0..200_000).map(|n| format!("{n} of many stop strings")).collect();
    let output =
        tokenizer.encode("Once upon a time, 7 of many stop strin, and 123456 of many", false).unwrap();
    let seconds = |stops: &[String]| {
        let mut matcher = StopMatcher::new(&tokenizer, &[], stops).unwrap();
        let started = Instant::now();
        (0..200).for_each(|_| assert!(!output.iter().any(|&id| matcher.push(id, true))));
        started.elapsed().as_secs_f64()
    };
    let (few, many) = (seconds(&many[..1]), seconds(&many));
    assert!(many < 50.0 * few, "{many} s with 200,000 stop strings, {few} s with one");
}

/// The rule: first come, first served. A request that finds no room waits, nobody behind it overtakes, and it gets its room at the latest
/// when those before it have ended; so everyone is served within the tokens of those before.
#[test]
fn a_large_request_starves_nobody() {
    let limits = Limits { max_num_seqs: 3, max_batched_tokens: 16 };
    let mut engine = engine("qwen3", Setup { tokens: 64, limits, ..Setup::default() });
    let (mut bounds, mut tokens) = (Vec::new(), 0);
    for at in 0..12 {
        let (prompt, max_tokens): (Vec<u32>, usize) =
            if at % 4 == 1 { ((1..50).collect(), 12) } else { (vec![at, 2, 3], 20) };
        tokens += prompt.len() + max_tokens;
        bounds.push((engine.add(prompt, greedy_params(max_tokens)).unwrap(), tokens));
    }
    let mut ended = Ended::default();
    for step in 1.. {
        keep(&mut ended, finished(engine.step().unwrap()));
        let waits = |(id, bound): &&(RequestId, usize)| !ended.contains_key(id) && step > *bound;
        assert_eq!(bounds.iter().find(waits), None, "after {step} steps");
        if !engine.has_work() {
            break;
        }
    }
    assert_eq!(ended.len(), 12);
}
