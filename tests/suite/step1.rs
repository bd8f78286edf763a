//! Step 1 against Hugging Face: every fixture's logits, greedy ids and modules, RoPE's frequencies, the module trees.
//!
//! The fixtures and what they are there for: tests/fixtures/README.md.

use crate::common::{
    Checkpoint, Reference, TOLERANCE, bits, distance, fixture, fixtures, greedy, load, load_on, logits,
    shared,
};
use crate::contracts::{step1 as contract, story};
use serde_json::Value;
use stairwell::backend::cpu::Standard;
use stairwell::{
    backend::{
        Backend, Shaped,
        cpu::{Cpu, Kernels},
    },
    batch::Batch,
    config::ModelConfig,
    model::{Observer, module_tree, rope::Frequencies},
    runner::ModelRunner,
    tensor::HostTensor,
};
use std::{collections::BTreeMap, fs, path::Path};

#[test]
fn every_fixture_has_hugging_faces_logits() {
    let names = fixtures();
    assert_eq!(names.len(), 19, "{names:?}");
    for name in names {
        let reference = Reference::of(&name);
        // Dynamic scaling depends on the longest sequence of the run: here the prompt itself.
        let options =
            stairwell::runner::LoadOptions { max_length: Some(reference.prompt.len()), ..Default::default() };
        let mut runner = crate::common::load_with(Cpu::default(), fixture(&name), options).unwrap();
        let error = distance(&logits(&mut runner, &reference.prompt), &reference.logits);
        assert!(error <= TOLERANCE, "{name}: logits are {error:.1e} from the reference");
    }
}

#[test]
fn every_fixture_has_hugging_faces_greedy_ids() {
    let mut compared = 0;
    for name in fixtures() {
        let reference = Reference::of(&name);
        let ids = greedy(&mut load(fixture(&name)), &reference.prompt, reference.greedy.len());
        assert_eq!(ids, reference.greedy, "{name}");
        compared += ids.len();
    }
    assert_eq!(compared, 18 * 16, "all but rope-dynamic-bf16 have 16 ids");
}

/// Every module's output, by name.
#[derive(Default)]
struct Outputs(BTreeMap<String, HostTensor>);

impl<B: Backend> Observer<B> for Outputs {
    fn output(&mut self, backend: &B, name: &str, output: &B::Tensor) {
        let values = backend.download(output).unwrap();
        let tensor = HostTensor::from_f32(&[output.rows(), output.cols()], &values);
        assert!(self.0.insert(name.into(), tensor).is_none(), "{name} was shown twice");
    }
}

fn outputs(runner: &mut ModelRunner<Cpu>, prompt: &[u32]) -> BTreeMap<String, HostTensor> {
    let (mut batch, mut outputs) = (Batch::of(prompt), Outputs::default());
    batch.want_all_logits();
    runner.forward(&batch, Some(&mut outputs)).unwrap();
    outputs.0
}

#[test]
fn every_module_gives_what_it_gives_in_hugging_face() {
    let mut fixtures_with_modules = 0;
    for name in fixtures() {
        let reference = Reference::of(&name);
        if reference.modules.is_empty() {
            continue;
        }
        fixtures_with_modules += 1;
        let ours = outputs(&mut load(fixture(&name)), &reference.prompt);
        assert!(ours.keys().eq(reference.modules.keys()), "{name}: {:?}", ours.keys());
        for (module, theirs) in &reference.modules {
            let ours = &ours[module];
            assert_eq!(ours.shape, theirs.shape, "{name}: {module}");
            for (a, b) in ours.to_f32().iter().zip(theirs.to_f32()) {
                assert!((a - b).abs() <= 1e-4 + 1e-5 * b.abs(), "{name}: {module}: {a} for {b}");
            }
        }
    }
    assert_eq!(fixtures_with_modules, 9);
}

#[test]
fn an_observer_changes_nothing() {
    let prompt = Reference::of("qwen3").prompt;
    let mut runner = load(fixture("qwen3"));
    let seen = outputs(&mut runner, &prompt)["lm_head"].to_f32();
    assert_eq!(bits(&seen), bits(&logits(&mut runner, &prompt)));
}

#[test]
fn rope_frequencies_are_transformers_in_every_scaling() {
    let golden: Value = serde_json::from_slice(&fs::read(fixture("rope.json")).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 45);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let json = serde_json::to_vec(&case["config"]).unwrap();
        let parsed = ModelConfig::parse(&json, Path::new("config.json"));
        if name == "rope_scaling without a type is default" {
            // transformers warns and leaves the factor out; a wrong answer is worse than none.
            assert!(parsed.unwrap_err().to_string().contains("'rope_scaling.rope_type'"));
            continue;
        }
        let config = parsed.unwrap_or_else(|e| panic!("{name}: {e}"));
        // A model that was just built has seen nothing.
        let length = case["seq_len"].as_u64().unwrap_or(0) as usize;
        let ours = Frequencies::new(&config, length).unwrap();
        let near = |got: f32, want: f64| (got as f64 - want).abs() <= 1e-6 * want.abs();
        let theirs: Vec<f64> =
            case["inv_freq"].as_array().unwrap().iter().map(|f| f.as_f64().unwrap()).collect();
        assert_eq!(ours.inv_freq.len(), theirs.len(), "{name}");
        for (got, want) in ours.inv_freq.iter().zip(&theirs) {
            assert!(near(*got, *want), "{name}: {got} for {want}");
        }
        let scaling = case["attention_scaling"].as_f64().unwrap();
        assert!(
            near(ours.attention_scaling, scaling),
            "{name}: scaling {} for {scaling}",
            ours.attention_scaling
        );
    }
}

#[test]
fn module_trees_are_what_print_model_shows() {
    let mut compared = Vec::new();
    for name in fixtures() {
        let Ok(theirs) = fs::read_to_string(fixture(&name).join("module_tree.txt")) else { continue };
        let config = fixture(&name).join("config.json");
        let config = ModelConfig::parse(&fs::read(&config).unwrap(), &config).unwrap();
        assert_eq!(module_tree(&config) + "\n", theirs, "{name}");
        compared.push(name);
    }
    for family in ["gpt2", "llama2", "llama3", "mistral-f16", "qwen2", "qwen3"] {
        assert!(compared.iter().any(|name| name == family), "{family} has no module_tree.txt");
    }
}

/// RoPE as the paper and llama2.c have it: the pairs are neighbours.
struct Interleaved;
impl Kernels for Interleaved {
    fn rotate_half(&self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        for ((pair, cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
            *pair = [pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin];
        }
    }
}

/// The other RoPE convention is plausible code, and these tests would not let it pass.
#[test]
fn interleaved_rope_is_far_from_the_reference() {
    for name in ["qwen3", "qwen2", "llama2", "llama3", "mistral-f16"] {
        let reference = Reference::of(name);
        let mut runner = load_on(Cpu::with_kernels(Box::new(Interleaved)), fixture(name));
        let error = distance(&logits(&mut runner, &reference.prompt), &reference.logits);
        assert!(error > 1.0, "{name}: only {error:.1e} from the reference");
        assert_ne!(
            greedy(&mut runner, &reference.prompt, reference.greedy.len()),
            reference.greedy,
            "{name}"
        );
    }
    // GPT-2 has learned positions, so there is nothing to rotate.
    let reference = Reference::of("gpt2");
    let mut runner = load_on(Cpu::with_kernels(Box::new(Interleaved)), fixture("gpt2"));
    assert!(distance(&logits(&mut runner, &reference.prompt), &reference.logits) <= TOLERANCE);
}

#[test]
fn shards_and_one_file_give_the_same_bits() {
    for name in ["qwen3", "qwen3-bf16"] {
        let prompt = Reference::of(name).prompt;
        let single = Checkpoint::copy(name);
        single.edit_tensors(|_| ());
        assert!(
            single.file("model.safetensors").is_file()
                && !single.file("model.safetensors.index.json").exists()
        );
        let one_file = logits(&mut load(single.path()), &prompt);
        assert_eq!(bits(&one_file), bits(&logits(&mut load(fixture(name)), &prompt)), "{name}");
    }
}

/// The first 200 greedy ids after "Once upon a time" of a Llama of 656 thousand parameters, trained on TinyStories. By
/// transformers 5.23.0 and torch 2.15.0 at f32, no cache, EOS ignored; the two largest logits are at least 0.004 apart.
const STORY_PROMPT: [u32; 6] = [1, 80, 147, 201, 282, 57];
#[rustfmt::skip]
const STORY: [u32; 200] = [
    313, 598, 303, 1049, 1468, 267, 628, 333, 94, 1210, 263, 251, 604, 94, 1030, 94, 1030, 94, 436, 220, 1053,
    615, 303, 328, 552, 319, 1269, 163, 1945, 897, 645, 1188, 108, 319, 135, 448, 563, 1799, 1380, 1067, 163,
    1855, 325, 825, 1896, 274, 108, 521, 1858, 204, 1803, 94, 1252, 444, 666, 309, 448, 825, 266, 243, 104,
    342, 521, 336, 303, 1015, 1621, 319, 135, 204, 1803, 94, 1252, 444, 666, 309, 448, 825, 266, 243, 358, 303,
    761, 251, 1115, 135, 489, 342, 1333, 98, 123, 114, 163, 823, 280, 319, 98, 695, 108, 1071, 100, 167, 396,
    221, 298, 53, 89, 119, 163, 421, 544, 733, 521, 228, 532, 309, 93, 521, 89, 396, 221, 298, 53, 58, 244,
    240, 98, 467, 119, 10, 208, 183, 209, 210, 2, 990, 119, 94, 923, 825, 217, 348, 134, 513, 1794, 80, 98,
    123, 114, 10, 208, 183, 209, 210, 2, 990, 119, 94, 923, 825, 217, 1454, 712, 98, 123, 114, 10, 208, 183,
    209, 210, 2, 990, 334, 1423, 2040, 89, 353, 10, 208, 183, 209, 210, 2, 990, 334, 1423, 2040, 89, 353, 10,
    208, 183, 209, 210, 2, 990, 334, 1423, 2040,
];

/// Both checkpoints hold the same weights, as f32 and as bf16, and only `lm_head.weight` of the tied pair.
#[test]
fn a_real_checkpoint_tells_transformers_story() {
    for name in ["story-656k-hf", "story-656k-bf16-hf"] {
        let Some(dir) = shared("models").map(|models| models.join(name)) else { return };
        let mut runner = load(dir);
        assert_eq!(greedy(&mut runner, &STORY_PROMPT, 40), STORY[..40], "{name}");
        // All 200 at once: after each beginning, the largest logit is the next id.
        let text = [&STORY_PROMPT[..], &STORY[..199]].concat();
        let rows = logits(&mut runner, &text);
        let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
        let ids: Vec<u32> =
            rows.chunks(runner.config.vocab_size).skip(STORY_PROMPT.len() - 1).map(best).collect();
        assert_eq!(ids, STORY, "{name}");
    }
}

#[test]
fn the_standard_kernels_keep_the_contracts() {
    contract::rms_norm(&Standard::default());
    contract::rotate_half(&Standard::default());
    contract::kv_head(&Standard::default());
    contract::tells_the_demo_story(Standard::default());
}

#[test]
fn no_token_of_the_story_is_a_narrow_choice() {
    story::check_margins(story::NO_WINDOWS, story::PROMPT);
}
