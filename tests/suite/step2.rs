//! Step 2: the contiguous KV cache gives what recomputing gives and what Hugging Face gives, and computes each token once.

use crate::common::{Reference, TOLERANCE, bits, distance, fixture, fixtures, greedy, load_with, run};
use crate::contracts::{
    cached,
    step2::{self as contract, KvCache, lost_key},
    story,
};
use proptest::prelude::*;
use stairwell::{
    attention::{AttentionKind, KvDtype, KvOptions},
    backend::{Backend, cpu::Cpu},
    batch::Batch,
    runner::{LoadOptions, ModelRunner},
};

/// A fixture's runner with a cache of its own making.
fn cached(name: &str, kv: KvOptions) -> ModelRunner<Cpu> {
    let runner = with_kv(name, kv);
    assert_eq!(runner.attention.name(), "contiguous");
    runner
}

fn with_kv(name: &str, kv: KvOptions) -> ModelRunner<Cpu> {
    let kv = KvOptions { attention: kv.attention.or(Some(AttentionKind::Contiguous)), ..kv };
    load_with(Cpu::default(), fixture(name), LoadOptions { kv, ..LoadOptions::default() }).unwrap()
}

/// Logits of every row of a sequence that is fed in chunks of these lengths, into slot `slot`.
fn chunked(runner: &mut ModelRunner<Cpu>, tokens: &[u32], chunks: &[usize], slot: u32) -> Vec<f32> {
    let (mut start, mut logits) = (0, Vec::new());
    for &n in chunks {
        let mut batch = Batch::default();
        batch.push(&tokens[start..start + n], start, &[slot]);
        batch.want_all_logits();
        let rows = runner.forward(&batch, None).unwrap();
        logits.extend(runner.backend.download(&rows).unwrap());
        start += n;
    }
    logits
}

#[test]
fn every_fixture_has_hugging_faces_ids_and_logits_with_one_token_a_step() {
    let mut compared = 0;
    for name in fixtures() {
        let reference = Reference::of(&name);
        let mut runner = cached(&name, KvOptions::default());
        if !reference.greedy.is_empty() {
            let ids = greedy(&mut runner, &reference.prompt, reference.greedy.len());
            assert_eq!(ids, reference.greedy, "{name}");
            let (prompt, output) = (reference.prompt.len() as u64, ids.len() as u64);
            assert_eq!(runner.tokens_computed(), prompt + output - 1, "{name}: each token once");
            compared += 1;
        }
        // Dynamic RoPE depends on the longest sequence of the run, which tests/suite/step1.rs sets.
        if name != "rope-dynamic-bf16" {
            let ones = vec![1; reference.prompt.len()];
            let error = distance(&chunked(&mut runner, &reference.prompt, &ones, 0), &reference.logits);
            assert!(error <= TOLERANCE, "{name}: logits are {error:.1e} from the reference");
        }
    }
    assert_eq!(compared, 18);
}

/// Prompts of length 1 to beyond the sliding window (5 and 7), against recomputing, to the bit.
#[test]
fn every_prompt_length_gives_the_bits_of_recomputing() {
    for name in ["qwen3", "qwen2-window", "mistral-f16", "qwen2-layer-types-bf16", "gpt2"] {
        let prompt = Reference::of(name).prompt;
        let mut whole = with_kv(name, KvOptions::recompute());
        for n in 1..=prompt.len() {
            let reference = crate::common::logits(&mut whole, &prompt[..n]);
            // A ring as small as it may be: the window and the chunk.
            let mut runner = cached(name, KvOptions { max_chunk: Some(n), ..KvOptions::default() });
            let got = chunked(&mut runner, &prompt[..n], &[n], 0);
            assert_eq!(bits(&got), bits(&reference), "{name}, {n} tokens in one pass");
        }
        let mut one_by_one = cached(name, KvOptions { max_chunk: Some(1), ..KvOptions::default() });
        let got = chunked(&mut one_by_one, &prompt, &vec![1; prompt.len()], 0);
        assert_eq!(bits(&got), bits(&crate::common::logits(&mut whole, &prompt)), "{name}, one by one");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Any chunking, in any slot, beside another sequence: the same bits.
    #[test]
    fn chunking_and_neighbours_change_no_bit(
        name in prop::sample::select(vec!["qwen3-bf16", "qwen2-window", "mistral-bf16"]),
        chunks in prop::collection::vec(1usize..9, 4..7),
        slot in 0u32..3,
    ) {
        let n: usize = chunks.iter().sum();
        let tokens: Vec<u32> = (0..n as u32).map(|i| (i * 7 + 3) % 90).collect();
        let other: Vec<u32> = tokens.iter().map(|t| (t + 11) % 90).collect();
        let kv = KvOptions { max_num_seqs: Some(3), max_chunk: Some(8), max_model_len: Some(64), ..KvOptions::default() };
        let mut runner = cached(name, kv);
        let reference = crate::common::logits(&mut with_kv(name, KvOptions::recompute()), &tokens);
        let vocab = runner.config.vocab_size;

        let mut start = 0;
        for n in chunks {
            let mut batch = Batch::default();
            batch.push(&other[start..start + n], start, &[(slot + 1) % 3]);
            batch.push(&tokens[start..start + n], start, &[slot]);
            batch.want_all_logits();
            let rows = runner.forward(&batch, None).unwrap();
            let rows = runner.backend.download(&rows).unwrap();
            prop_assert_eq!(bits(&rows[n * vocab..]), bits(&reference[start * vocab..(start + n) * vocab]));
            start += n;
        }
    }
}

#[test]
fn the_cache_is_filled_to_its_last_slot_and_not_beyond() {
    let prompt = Reference::of("qwen3").prompt;
    let mut runner =
        cached("qwen3", KvOptions { max_model_len: Some(prompt.len() + 3), ..KvOptions::default() });
    // The last token that is computed has the last place; one more can be sampled after it.
    assert_eq!(greedy(&mut runner, &prompt, 100), Reference::of("qwen3").greedy[..4]);
    assert_eq!(runner.tokens_computed() as usize, prompt.len() + 3);

    let mut batch = Batch::default();
    batch.push(&[1], prompt.len() + 3, &[0]);
    let error = runner.forward(&batch, None).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("holds 24 tokens") && error.contains("max_model_len"), "{error}");

    let long = vec![1; prompt.len() + 4];
    assert!(runner.check_prompt(&long).unwrap_err().to_string().contains("room for 24"));
}

#[test]
fn a_batch_that_does_not_fit_what_is_kept_is_refused() {
    let kv = KvOptions { max_chunk: Some(4), max_model_len: Some(32), ..KvOptions::default() };
    let refused = |tokens: &[u32], start: usize, slot: u32| {
        let mut batch = Batch::default();
        batch.push(tokens, start, &[slot]);
        let error = cached("qwen3", kv.clone()).forward(&batch, None).map(|_| ());
        error.unwrap_err().to_string()
    };
    assert!(refused(&[1], 1, 0).contains("position 1 does not follow"));
    assert!(refused(&[1; 5], 0, 0).contains("takes 4 tokens"));
    assert!(refused(&[1], 0, 1).contains("has 1 slots, and a sequence names 1"));
    let mut batch = Batch::default();
    batch.push(&[1], 0, &[]);
    let error = cached("qwen3", kv.clone()).forward(&batch, None).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("names none"), "{error}");

    // Back to a position in the middle: a ring has lost what is before it. Here it has 7 + 4 − 1 places.
    let mut runner = cached("mistral-f16", kv.clone());
    let tokens: Vec<u32> = (1..13).collect();
    let first = chunked(&mut runner, &tokens, &[4, 4, 4], 0);
    let mut again = |start: usize| {
        let mut batch = Batch::default();
        batch.push(&tokens[start..start + 1], start, &[0]);
        let logits = runner.forward(&batch, None).map_err(|e| e.to_string())?;
        runner.backend.download(&logits).map_err(|e| e.to_string())
    };
    assert!(again(7).unwrap_err().contains("position 7 sees are overwritten"));
    let vocab = first.len() / tokens.len();
    assert_eq!(bits(&again(8).unwrap()), bits(&first[8 * vocab..9 * vocab]));
}

/// bf16 keys and values are near f32 ones, and not equal: they are really stored so.
#[test]
fn bf16_keys_and_values_are_close() {
    for name in ["qwen3", "llama3", "gpt2"] {
        let reference = Reference::of(name);
        let mut runner = cached(name, KvOptions { dtype: KvDtype::Bf16, ..KvOptions::default() });
        let ones = vec![1; reference.prompt.len()];
        let error = distance(&chunked(&mut runner, &reference.prompt, &ones, 0), &reference.logits);
        assert!(error > 1e-4 && error < 0.2, "{name}: {error:.1e}");
        let full = cached(name, KvOptions::default()).attention.memory();
        let half = runner.attention.memory();
        assert_eq!(
            (half.bytes_per_token * 2, half.reserved_bytes * 2),
            (full.bytes_per_token, full.reserved_bytes)
        );
    }
}

#[test]
fn memory_is_the_formula_less_what_rings_save() {
    let runner = cached("qwen3", KvOptions { max_model_len: Some(100), ..KvOptions::default() });
    let c = &runner.config;
    let bytes = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 4;
    let memory = runner.attention.memory();
    assert_eq!((memory.bytes_per_token, memory.reserved_bytes), (bytes as u64, 100 * bytes as u64));

    // Mistral's fixture has a window of 7 in every layer: 7 + 3 − 1 places instead of 100.
    let kv = KvOptions { max_model_len: Some(100), max_chunk: Some(3), ..KvOptions::default() };
    let memory = cached("mistral-f16", kv).attention.memory();
    assert_eq!(memory.reserved_bytes, 9 * memory.bytes_per_token);
}

#[test]
fn the_program_says_what_it_kept() {
    let dir = fixture("qwen3");
    let dir = dir.to_str().unwrap();
    let args =
        ["generate", "--model", dir, "--prompt-ids", "5,17,3", "--temperature", "0", "--max-tokens", "8"];
    let contiguous = ["--attention", "contiguous"]; // in every build
    let json = |more: &[&str]| run(&[&args[..], &["--ignore-eos", "--json"], more].concat()).json();
    let (cached, recomputed) = (json(&contiguous), json(&["--attention", "recompute"]));
    assert_eq!(cached["output_ids"], recomputed["output_ids"]);
    assert_eq!(
        (&cached["stats"]["attention"], &recomputed["stats"]["attention"]),
        (&"contiguous".into(), &"recompute".into())
    );
    assert_eq!(cached["stats"]["tokens_computed"], 3 + 7);
    assert_eq!(recomputed["stats"]["tokens_computed"], 3 * 8 + 28);
    let stat = |name: &str| cached["stats"][name].as_u64().unwrap();
    assert_eq!(stat("kv_used_bytes"), 10 * stat("kv_bytes_per_token"));
    assert_eq!(stat("kv_reserved_bytes"), 128 * stat("kv_bytes_per_token"));
    assert!(recomputed["stats"]["kv_dtype"].is_null() && cached["stats"]["kv_dtype"] == "F32");

    let note = run(&[&args[..], &contiguous].concat()).stderr;
    assert!(note.contains("note: KV cache: room for 128 tokens (the model's context)"), "{note}");
    run(&[&args[..], &["--max-model-len", "129"]].concat())
        .refused(&["--max-model-len 129", "context is 128"]);
    run(&[&args[..], &["--max-model-len", "2"]].concat()).refused(&[
        "3 tokens",
        "room for 2",
        "--max-model-len",
    ]);
    run(&[&args[..], &["--attention", "paged9"]].concat()).refused(&[
        "'paged9'",
        "--attention",
        "contiguous",
    ]);
    run(&[&args[..], &["--attention", "recompute", "--kv-dtype", "bf16"]].concat())
        .refused(&["keeps no K and V"]);
}

struct Ours;
impl KvCache for Ours {}

#[test]
fn our_pieces_keep_the_contracts() {
    contract::write(&Ours);
    contract::attend(&Ours);
    contract::ring(&Ours);
    contract::tells_the_demo_story(Ours);
    contract::tells_the_windowed_story(Ours);
}

#[test]
fn a_ring_of_the_window_loses_a_key_once_a_chunk_is_longer_than_one() {
    assert_eq!(lost_key(4, 4, 1, 20), None);
    assert_eq!(lost_key(6, 4, 3, 20), None);
    assert!(lost_key(5, 4, 3, 20).is_some() && lost_key(4, 4, 3, 20).is_some());
}

#[test]
fn no_token_of_the_windowed_story_is_a_narrow_choice() {
    story::check_margins(cached::WINDOWS, cached::WINDOWED_PROMPT);
}
