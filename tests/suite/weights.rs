//! Weights on their way into a model: names, tied embeddings, dummies, and replacing them while the model is loaded.

use crate::common::{
    Checkpoint, Reference, bits, changed, distance, fixture, greedy, load, load_with, logits,
};
use serde_json::json;
use stairwell::{
    backend::cpu::Cpu,
    checkpoint::LoadRules,
    model::LoadEvent,
    runner::{LoadFormat, LoadOptions, ModelRunner},
    tensor::{DType, HostTensor},
};
use std::collections::BTreeMap;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

type Tensors = BTreeMap<String, HostTensor>;

/// Bits of the logits after the fixture's own prompt.
fn run(runner: &mut ModelRunner<Cpu>, fixture: &str) -> Vec<u32> {
    bits(&logits(runner, &Reference::of(fixture).prompt))
}

/// The same for a changed copy of the fixture.
fn run_with(name: &str, config: serde_json::Value, edit: impl FnOnce(&mut Tensors)) -> Vec<u32> {
    let checkpoint = Checkpoint::copy(name);
    checkpoint.set_config(config);
    checkpoint.edit_tensors(edit);
    run(&mut load(checkpoint.path()), name)
}

fn rename(tensors: &mut Tensors, new_name: impl Fn(&str) -> String) {
    *tensors = std::mem::take(tensors).into_iter().map(|(name, tensor)| (new_name(&name), tensor)).collect();
}

#[test]
fn a_tied_checkpoint_may_hold_either_tensor_or_both() {
    let tied = || json!({"tie_word_embeddings": true});
    let stored = run(&mut load(fixture("qwen3")), "qwen3");
    let only_head = run_with("qwen3", tied(), |t| rename(t, |name| name.replace(EMBEDDING, HEAD)));
    let both = run_with("qwen3", tied(), |t| {
        t.insert(HEAD.into(), t[EMBEDDING].clone());
    });
    assert_eq!(only_head, stored, "only lm_head.weight");
    assert_eq!(both, stored, "both, equal");
}

/// transformers 5 uses two tensors that differ as they are stored, whatever config.json says of tying.
#[test]
fn two_different_tensors_are_used_as_they_are_stored() {
    let stored = run(&mut load(fixture("qwen3")), "qwen3");
    let add_head = |t: &mut Tensors| {
        t.insert(HEAD.into(), changed(&t[EMBEDDING]));
    };
    let called_tied = run_with("qwen3", json!({"tie_word_embeddings": true}), add_head);
    let untied = run_with("qwen3", json!({"tie_word_embeddings": false}), add_head);
    assert_eq!(called_tied, untied);
    assert_ne!(called_tied, stored);
}

#[test]
fn a_tied_gpt2_may_hold_only_the_head() {
    let stored = run(&mut load(fixture("gpt2")), "gpt2");
    let only_head =
        run_with("gpt2", json!({}), |t| rename(t, |name| name.replace("transformer.wte.weight", HEAD)));
    assert_eq!(only_head, stored);
}

#[test]
fn gpt2_loads_with_and_without_its_prefix_and_its_masks() {
    let bare = |name: &str| name.trim_start_matches("transformer.").to_owned();
    let prefixed = |name: &str| {
        if name.starts_with("transformer.") { name.into() } else { format!("transformer.{name}") }
    };
    for name in ["gpt2", "gpt2-hub"] {
        let stored = run(&mut load(fixture(name)), name);
        let with_masks = |t: &mut Tensors, prefix: &str| {
            for layer in 0..2 {
                let mask = HostTensor::from_bytes(DType::U8, &[1, 1, 4, 4], vec![1; 16]);
                t.insert(format!("{prefix}h.{layer}.attn.bias"), mask);
                t.insert(format!("{prefix}h.{layer}.attn.masked_bias"), HostTensor::from_f32(&[], &[-1e4]));
            }
        };
        assert_eq!(run_with(name, json!({}), |t| rename(t, bare)), stored, "{name}, bare");
        assert_eq!(run_with(name, json!({}), |t| rename(t, prefixed)), stored, "{name}, prefixed");
        let bare_masks = run_with(name, json!({}), |t| {
            rename(t, bare);
            with_masks(t, "");
        });
        let prefixed_masks = run_with(name, json!({}), |t| {
            rename(t, prefixed);
            with_masks(t, "transformer.");
        });
        assert_eq!((&bare_masks, &prefixed_masks), (&stored, &stored), "{name}, with masks");
    }
}

#[test]
fn a_decoder_loads_without_its_prefix_too() {
    let bare = run_with("qwen2", json!({}), |t| rename(t, |name| name.trim_start_matches("model.").into()));
    assert_eq!(bare, run(&mut load(fixture("qwen2")), "qwen2"));
}

#[test]
fn a_mapper_renames_and_drops() {
    let checkpoint = Checkpoint::copy("qwen3");
    checkpoint.edit_tensors(|t| {
        rename(t, |name| format!("language_model.{name}"));
        t.insert("vision.patch.weight".into(), HostTensor::from_f32(&[2], &[0.0; 2]));
    });
    let mut rules = LoadRules::default();
    rules.mapper.prefixes = vec![("language_model.".into(), Some(String::new())), ("vision.".into(), None)];
    let mut skipped = Vec::new();
    let mut events = |event: LoadEvent| {
        if let LoadEvent::Skipped { name } = event {
            skipped.push(name.to_owned());
        }
    };
    let options = LoadOptions { rules, events: Some(&mut events), ..LoadOptions::default() };
    let mut runner = load_with(Cpu::default(), checkpoint.path(), options).unwrap();
    assert_eq!(run(&mut runner, "qwen3"), run(&mut load(fixture("qwen3")), "qwen3"));
    assert_eq!(skipped, ["vision.patch.weight"]);
}

#[test]
fn dummy_weights_need_only_config_json() {
    for name in ["qwen3", "qwen2-window", "llama2", "mistral-bf16", "gpt2"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(fixture(name).join("config.json"), dir.path().join("config.json")).unwrap();
        let dummy = || {
            let options = LoadOptions { format: LoadFormat::Dummy, ..LoadOptions::default() };
            load_with(Cpu::default(), dir.path(), options).unwrap()
        };
        let first = logits(&mut dummy(), &[5, 17, 3]);
        assert!(first.iter().all(|v| v.is_finite()) && first.iter().any(|v| *v != first[0]), "{name}");
        assert_eq!(
            bits(&first),
            bits(&logits(&mut dummy(), &[5, 17, 3])),
            "{name}: other weights the second time"
        );
        assert_eq!(greedy(&mut dummy(), &[5, 17, 3], 3).len(), 3);
    }
}

/// A tensor of each kind that the fixture has.
fn kinds(name: &str) -> &'static [&'static str] {
    match name {
        "gpt2" => &[
            "transformer.wpe.weight",
            "transformer.h.1.attn.c_attn.weight",
            "transformer.h.0.attn.c_attn.bias",
        ],
        "llama2" => &[HEAD, "model.layers.0.self_attn.k_proj.bias", "model.layers.1.mlp.up_proj.weight"],
        _ => &[
            "model.layers.1.self_attn.q_norm.weight",
            "model.layers.0.self_attn.v_proj.weight",
            "model.norm.weight",
        ],
    }
}

#[test]
fn an_update_gives_what_a_load_of_the_new_weights_gives() {
    for name in ["gpt2", "llama2", "qwen3"] {
        let checkpoint = Checkpoint::copy(name);
        let mut runner = load(checkpoint.path());
        let before = run(&mut runner, name);
        let old = checkpoint.tensors();
        let new: Tensors = kinds(name).iter().map(|kind| (kind.to_string(), changed(&old[*kind]))).collect();
        runner.update_weights(new.clone()).unwrap();
        let updated = run(&mut runner, name);
        assert_ne!(updated, before, "{name}");
        checkpoint.edit_tensors(|t| t.extend(new));
        assert_eq!(updated, run(&mut load(checkpoint.path()), name), "{name}");
        runner.update_weights(old).unwrap();
        assert_eq!(run(&mut runner, name), before, "{name}: the old weights again");
    }
}

#[test]
fn one_part_of_a_stacked_parameter_may_have_another_dtype() {
    let (name, kind) = ("qwen3", "model.layers.0.self_attn.k_proj.weight");
    let mut runner = load(fixture(name));
    let before = run(&mut runner, name);
    let old = Checkpoint::copy(name).tensors()[kind].clone();
    let halved: Vec<u8> =
        old.to_f32().iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect();
    let bf16 = HostTensor::from_bytes(DType::BF16, &old.shape, halved);
    let widened = HostTensor::from_f32(&old.shape, &bf16.to_f32());
    runner.update_weights([(kind.to_owned(), bf16)]).unwrap();
    let as_bf16 = run(&mut runner, name);
    runner.update_weights([(kind.to_owned(), widened)]).unwrap();
    let values = |bits: &[u32]| -> Vec<f32> { bits.iter().map(|b| f32::from_bits(*b)).collect() };
    assert!(distance(&values(&as_bf16), &values(&run(&mut runner, name))) < 1e-4);
    assert_ne!(as_bf16, before);
}

#[test]
fn a_bad_update_changes_nothing() {
    let good = "model.norm.weight";
    let (mut runner, tensors) = (load(fixture("qwen3")), Checkpoint::copy("qwen3").tensors());
    let before = run(&mut runner, "qwen3");
    let shorter = HostTensor::from_f32(&[31], &[1.0; 31]);
    let integers = HostTensor::from_bytes(DType::I64, &[32], vec![0; 256]);
    let same = changed(&tensors[good]);
    let layer_norm = "model.layers.1.input_layernorm.weight";
    let bad = [
        ("model.nrom.weight", same.clone(), "nearest: 'model.norm.weight'"),
        (layer_norm, shorter, "shape [31]"),
        (layer_norm, integers, "dtype I64"),
        ("norm.weight", same.clone(), "are both the parameter"),
        (HEAD, changed(&tensors[EMBEDDING]), "one tensor"),
    ];
    for (name, tensor, want) in bad {
        // A good one first, which must not be taken, and for the tied pair the other half of it.
        let embedding = (name == HEAD).then(|| (EMBEDDING.to_owned(), tensors[EMBEDDING].clone()));
        let good = [(good.to_owned(), same.clone())].into_iter().chain(embedding);
        let update = good.chain([(name.to_owned(), tensor)]);
        let error = runner.update_weights(update).expect_err(name).to_string();
        assert!(error.contains(want) && error.contains(name) && !error.contains('\n'), "{error}");
        assert_eq!(run(&mut runner, "qwen3"), before, "{name} was refused and the model is another");
    }
}

#[test]
fn a_tied_parameter_is_updated_by_either_name() {
    let tensors = Checkpoint::copy("qwen3").tensors();
    let new = changed(&tensors[EMBEDDING]);
    let update = |names: &[&str]| {
        let mut runner = load(fixture("qwen3"));
        runner.update_weights(names.iter().map(|name| (name.to_string(), new.clone()))).unwrap();
        run(&mut runner, "qwen3")
    };
    let both = run_with("qwen3", json!({}), |t| {
        t.insert(EMBEDDING.into(), new.clone());
    });
    for names in [&[EMBEDDING][..], &[HEAD], &[HEAD, EMBEDDING]] {
        assert_eq!(update(names), both, "{names:?}");
    }
}
