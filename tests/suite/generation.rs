//! From a prompt to tokens and text: the loop, its counters, batches, seeds, endings; and the demo model.

use crate::common::{Reference, bits, fixture, greedy, load, load_with, logits};
use stairwell::{
    attention::KvOptions,
    backend::{Backend, cpu::Cpu},
    batch::Batch,
    demo,
    generate::{FinishReason, GenerateParams, Generated, generate},
    runner::{LoadOptions, ModelRunner},
    sampling::SamplingParams,
    tokenizer::{Detokenizer, Emit, StopStrings, Tokenizer},
};
use std::ops::ControlFlow;

const FAMILIES: [&str; 6] =
    ["qwen3-bf16", "qwen2-window", "llama3", "mistral-f16", "gpt2-hub", "rope-yarn-bf16"];

/// A fixture's runner with step 1's attention.
fn recomputing(name: &str) -> ModelRunner<Cpu> {
    let options = LoadOptions { kv: KvOptions::recompute(), ..LoadOptions::default() };
    load_with(Cpu::default(), fixture(name), options).unwrap()
}

#[test]
fn a_sequence_does_not_see_its_neighbours_in_a_batch() {
    for name in FAMILIES {
        let (mut runner, prompt) = (recomputing(name), Reference::of(name).prompt);
        let sequences = [&prompt[..], &prompt[3..4], &prompt[5..19]];
        let alone: Vec<f32> = sequences.iter().flat_map(|s| logits(&mut runner, s)).collect();
        let mut batch = Batch::default();
        sequences.iter().for_each(|s| batch.push(s, 0, &[]));
        assert_eq!(batch.logit_rows, [20, 21, 35], "the last row of each");
        batch.want_all_logits();
        let together = runner.forward(&batch, None).unwrap();
        let together = runner.backend.download(&together).unwrap();
        assert_eq!(bits(&together), bits(&alone), "{name}");
    }
}

#[test]
fn a_token_does_not_see_what_comes_after_it() {
    for name in FAMILIES {
        let (mut runner, prompt) = (load(fixture(name)), Reference::of(name).prompt);
        let whole = logits(&mut runner, &prompt);
        for end in 1..=prompt.len() {
            let prefix = logits(&mut runner, &prompt[..end]);
            assert_eq!(bits(&prefix), bits(&whole[..prefix.len()]), "{name}: the first {end} tokens");
        }
    }
}

/// Step 1 keeps nothing: n tokens after a prompt of p cost p + (p + 1) + … + (p + n − 1).
#[test]
fn every_token_costs_the_whole_sequence() {
    let (mut runner, prompt) = (recomputing("qwen3"), Reference::of("qwen3").prompt);
    assert!(!runner.attention.remembers());
    let (p, n) = (prompt.len() as u64, 7);
    greedy(&mut runner, &prompt, n as usize);
    assert_eq!(runner.tokens_computed(), n * p + n * (n - 1) / 2);
}

#[test]
fn generation_ends_where_the_context_does() {
    let mut runner = load(fixture("gpt2-hub"));
    let context = runner.config.context();
    assert_eq!(context, 40);
    // The last position gives one more token, which is not computed.
    assert_eq!(greedy(&mut runner, &[3; 37], 100).len(), 4);
    assert_eq!(greedy(&mut runner, &[3; 40], 100).len(), 1);
    assert_eq!(runner.check_prompt(&[3; 40]).ok(), Some(()));
    assert!(runner.check_prompt(&[3; 41]).unwrap_err().to_string().contains("context of 40"));
}

/// The base of dynamic scaling is that of the run's longest sequence, and no sequence is longer than the context.
#[test]
fn dynamic_scaling_does_not_move_beyond_the_context() {
    let name = "rope-dynamic-bf16";
    let at = |max_length: Option<usize>| {
        let options = LoadOptions { max_length, ..LoadOptions::default() };
        let mut runner = crate::common::load_with(Cpu::default(), fixture(name), options).unwrap();
        bits(&logits(&mut runner, &Reference::of(name).prompt))
    };
    assert_eq!(at(Some(64)), at(None));
    assert_eq!(at(Some(300)), at(None), "the context is 64");
    assert_ne!(at(Some(40)), at(None));
}

/// The demo model and its tokenizer.
fn demo_model() -> (ModelRunner<Cpu>, Tokenizer) {
    let runner = ModelRunner::load(&demo::directory(), LoadOptions::default()).unwrap();
    (runner, Tokenizer::new(demo::tokenizer_files()).unwrap())
}

const PROMPT: &str = "Once upon a time";

/// What the demo model says, and the text as it streamed. `stop` cuts the stream as the command line does.
fn tell(
    sampling: SamplingParams,
    max_tokens: usize,
    eos: &[u32],
    stop: &[&str],
) -> (Generated, String, Tokenizer) {
    let (mut runner, tokenizer) = demo_model();
    let prompt = tokenizer.encode_prompt(PROMPT).unwrap();
    let params = GenerateParams { max_tokens, sampling, eos_token_id: eos.to_vec() };
    let mut detokenizer = Detokenizer::after_prompt(&tokenizer, &prompt, false);
    let mut stops = StopStrings::new(stop);
    let mut text = String::new();
    let mut push = |piece: &str, text: &mut String| match stops.push(piece) {
        Emit::Text(piece) => {
            *text += &piece;
            ControlFlow::Continue(())
        }
        Emit::Stopped { text: piece, .. } => {
            *text += &piece;
            ControlFlow::Break(())
        }
    };
    let output = generate(&mut runner, &prompt, &params, &mut |sampled| {
        push(&detokenizer.push(sampled.token), &mut text)
    })
    .unwrap();
    let _ = push(&detokenizer.finish(), &mut text);
    (output, text + &stops.finish(), tokenizer)
}

fn at_temperature(temperature: f32, seed: Option<u64>) -> SamplingParams {
    SamplingParams { temperature, seed, ..SamplingParams::default() }
}

#[test]
fn the_demo_is_deterministic() {
    let (first, text, _) = tell(at_temperature(0.0, None), 16, &[], &[]);
    let (second, ..) = tell(at_temperature(0.0, None), 16, &[], &[]);
    assert_eq!((first.ids.len(), first.finish_reason, first.seed), (16, FinishReason::Length, None));
    assert_eq!(first.ids, second.ids);
    assert!(!text.trim().is_empty());
}

#[test]
fn the_same_seed_gives_the_same_tokens() {
    let ids = |seed| tell(at_temperature(1.5, Some(seed)), 10, &[], &[]).0.ids;
    assert_eq!(ids(7), ids(7));
    assert_ne!(ids(7), ids(8));
    // A seed that was drawn is reported, and gives the same tokens again.
    let (drawn, ..) = tell(at_temperature(1.5, None), 10, &[], &[]);
    assert_eq!(ids(drawn.seed.unwrap()), drawn.ids);
}

#[test]
fn an_end_of_sequence_token_ends_the_output_and_is_part_of_it() {
    let ids = tell(at_temperature(0.0, None), 16, &[], &[]).0.ids;
    let last = ids[12];
    let first_time = ids.iter().position(|&id| id == last).unwrap();
    let (ended, ..) = tell(at_temperature(0.0, None), 16, &[u32::MAX, last], &[]);
    assert_eq!(ended.ids, ids[..=first_time]);
    assert_eq!(ended.finish_reason, FinishReason::Stop);
}

#[test]
fn streamed_text_is_the_text_of_the_ids() {
    for seed in 0..2 {
        // Hot enough for tokens that are half a character.
        let (output, text, tokenizer) = tell(at_temperature(2.0, Some(seed)), 24, &[], &[]);
        let prompt = tokenizer.encode_prompt(PROMPT).unwrap();
        let whole = tokenizer.decode(&[&prompt[..], &output.ids].concat(), false);
        assert_eq!(text, whole[tokenizer.decode(&prompt, false).len()..]);
    }
}

#[test]
fn a_stop_string_is_found_across_tokens() {
    let (output, text, tokenizer) = tell(at_temperature(0.0, None), 16, &[], &[]);
    let pieces: Vec<String> = output.ids.iter().map(|&id| tokenizer.decode(&[id], false)).collect();
    assert_eq!(pieces.concat(), text, "these tokens are whole characters");
    // The end of one token, a whole one, and the beginning of the next.
    let (from, to) = (pieces[..8].concat().len() - 1, pieces[..9].concat().len() + 1);
    let stop = text.get(from..to).expect("the story is ASCII");
    let (stopped, cut, _) = tell(at_temperature(0.0, None), 16, &[], &["not in the story", stop]);
    assert_eq!(cut, text[..text.find(stop).unwrap()]);
    assert_eq!(stopped.finish_reason, FinishReason::Stop);
    assert!(stopped.ids.len() <= 10 && output.ids.starts_with(&stopped.ids));
}
