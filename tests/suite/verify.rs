//! `stairwell verify` names the first module that differs, whatever was changed.

use crate::common::{Checkpoint, changed, fixture, run};
use serde_json::Value;
use stairwell::{checkpoint::write_safetensors, tensor::HostTensor};
use std::collections::BTreeMap;

/// Verifies a checkpoint against a fixture's reference; returns the exit code and the JSON report.
fn verify(dir: &str, reference: &str, flags: &[&str]) -> (Option<i32>, Value) {
    let reference = fixture(reference).join("reference.safetensors");
    let args = ["verify", "--model", dir, "--reference", reference.to_str().unwrap(), "--json"];
    let ran = run(&[&args[..], flags].concat());
    (ran.code, serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}")))
}

#[test]
fn every_fixture_verifies() {
    for name in crate::common::fixtures() {
        let (code, report) = verify(fixture(&name).to_str().unwrap(), &name, &[]);
        assert_eq!(
            (code, &report["agrees"], &report["first_difference"]),
            (Some(0), &true.into(), &Value::Null),
            "{name}"
        );
        let modules = crate::common::Reference::of(&name).modules.len();
        assert_eq!(
            report["modules"].as_array().unwrap().len(),
            modules + 1,
            "{name}: all modules and the logits"
        );
    }
}

/// Changes one tensor; the first module that differs must be `module`.
fn changing(name: &str, tensor: &str, module: &str) {
    let checkpoint = Checkpoint::copy(name);
    checkpoint.edit_tensors(|tensors| {
        let new = changed(&tensors[tensor]);
        tensors.insert(tensor.into(), new);
    });
    let (code, report) = verify(checkpoint.name(), name, &[]);
    assert_eq!((code, report["first_difference"].as_str()), (Some(1), Some(module)), "{name}: {tensor}");
}

#[test]
fn a_changed_tensor_is_named_in_qwen3() {
    for (tensor, module) in [
        ("model.embed_tokens.weight", "model.embed_tokens"),
        ("model.layers.0.input_layernorm.weight", "model.layers.0.input_layernorm"),
        ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj"),
        ("model.layers.1.self_attn.k_proj.weight", "model.layers.1.self_attn.k_proj"),
        ("model.layers.1.self_attn.v_proj.weight", "model.layers.1.self_attn.v_proj"),
        ("model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn.q_norm"),
        ("model.layers.1.self_attn.k_norm.weight", "model.layers.1.self_attn.k_norm"),
        ("model.layers.0.self_attn.o_proj.weight", "model.layers.0.self_attn.o_proj"),
        ("model.layers.1.post_attention_layernorm.weight", "model.layers.1.post_attention_layernorm"),
        ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.gate_proj"),
        ("model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.up_proj"),
        ("model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.down_proj"),
        ("model.norm.weight", "model.norm"),
    ] {
        changing("qwen3", tensor, module);
    }
}

#[test]
fn a_changed_tensor_is_named_in_other_families() {
    for (name, tensor, module) in [
        ("llama2", "lm_head.weight", "lm_head"),
        ("llama2", "model.layers.1.mlp.down_proj.bias", "model.layers.1.mlp.down_proj"),
        ("llama2", "model.layers.0.self_attn.o_proj.bias", "model.layers.0.self_attn.o_proj"),
        ("qwen2", "model.layers.1.self_attn.k_proj.bias", "model.layers.1.self_attn.k_proj"),
        ("gpt2", "transformer.wte.weight", "transformer.wte"),
        ("gpt2", "transformer.wpe.weight", "transformer.wpe"),
        ("gpt2", "transformer.h.1.attn.c_attn.weight", "transformer.h.1.attn.c_attn"),
        ("gpt2", "transformer.h.0.attn.c_proj.bias", "transformer.h.0.attn.c_proj"),
        ("gpt2", "transformer.h.1.ln_2.bias", "transformer.h.1.ln_2"),
        ("gpt2", "transformer.h.1.mlp.c_fc.weight", "transformer.h.1.mlp.c_fc"),
        ("gpt2", "transformer.ln_f.weight", "transformer.ln_f"),
    ] {
        changing(name, tensor, module);
    }
}

#[test]
fn one_element_is_found_and_located() {
    let checkpoint = Checkpoint::copy("qwen3");
    checkpoint.edit_tensors(|tensors| {
        let weight = tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap();
        let mut values = weight.to_f32();
        values[7 * 32 + 3] += 0.5; // output 7
        *weight = HostTensor::from_f32(&weight.shape.clone(), &values);
    });
    let (code, report) = verify(checkpoint.name(), "qwen3", &[]);
    assert_eq!((code, &report["first_difference"]), (Some(1), &"model.layers.1.mlp.up_proj".into()));
    let module = report["modules"]
        .as_array()
        .unwrap()
        .iter()
        .find(|m| m["name"] == report["first_difference"])
        .unwrap();
    assert_eq!((&module["agrees"], &module["column"]), (&false.into(), &7.into()));
    assert!(module["largest_error"].as_f64().unwrap() > 1e-3);
    // A tolerance that is wide enough forgives it.
    let (code, report) = verify(checkpoint.name(), "qwen3", &["--atol", "100"]);
    assert_eq!((code, &report["atol"]), (Some(0), &100.0.into()));
}

#[test]
fn nan_agrees_with_nothing() {
    let checkpoint = Checkpoint::copy("qwen3");
    checkpoint.edit_tensors(|tensors| {
        tensors.insert("model.norm.weight".into(), HostTensor::from_f32(&[32], &[f32::NAN; 32]));
    });
    let (code, report) = verify(checkpoint.name(), "qwen3", &["--atol", "1e9"]);
    assert_eq!((code, &report["first_difference"]), (Some(1), &"model.norm".into()));
}

#[test]
fn the_table_is_for_people() {
    let (model, reference) = (fixture("gpt2"), fixture("gpt2").join("reference.safetensors"));
    let (model, reference) = (model.to_str().unwrap(), reference.to_str().unwrap());
    let table = run(&["verify", "--model", model, "--reference", reference]).good();
    assert!(
        table.contains("transformer.h.0.attn.c_attn") && table.lines().last().unwrap().starts_with("all "),
        "{table}"
    );
    let checkpoint = Checkpoint::copy("gpt2");
    checkpoint.edit_tensors(|tensors| {
        let new = changed(&tensors["transformer.wpe.weight"]);
        tensors.insert("transformer.wpe.weight".into(), new);
    });
    let ran = run(&["verify", "--model", checkpoint.name(), "--reference", reference]);
    let last = ran.stdout.lines().last().unwrap();
    assert!(ran.code == Some(1) && last.contains("transformer.wpe") && last.contains("token"), "{ran:?}");
}

/// A reference with logits alone, such as one made with --logits-only, still verifies the logits.
#[test]
fn a_reference_may_hold_only_logits() {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = crate::common::read_tensors(&fixture("qwen2").join("reference.safetensors"));
    tensors.retain(|name, _| name == "logits" || name == "prompt_ids");
    let file = dir.path().join("reference.safetensors");
    write_safetensors(&file, &tensors.into_iter().collect::<Vec<_>>()).unwrap();
    let (model, file) = (fixture("qwen2"), file.to_str().unwrap());
    let report = run(&["verify", "--model", model.to_str().unwrap(), "--reference", file, "--json"]).json();
    assert_eq!((&report["agrees"], report["modules"].as_array().unwrap().len()), (&true.into(), 1));
}

/// Verifies a checkpoint against a reference of the fixture with massive activations, which `edit` has changed.
fn verify_massive(
    dir: &str,
    flags: &[&str],
    edit: impl FnOnce(&mut BTreeMap<String, HostTensor>),
) -> (Option<i32>, Value) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reference.safetensors");
    let mut tensors = crate::common::read_tensors(&fixture("massive").join("verify.safetensors"));
    edit(&mut tensors);
    write_safetensors(&file, &tensors.into_iter().collect::<Vec<_>>()).unwrap();
    let ran =
        run(&[&["verify", "--model", dir, "--reference", file.to_str().unwrap(), "--json"], flags].concat());
    (ran.code, serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}")))
}

/// BOS carries 20,000 through layers 0 and 1, and layer 2 takes it away: f32 is 3e-3 off where 30 is left.
/// scripts/make_massive_fixture.py says how.
#[test]
fn massive_activations_are_right_though_their_rounding_stays() {
    let dir = fixture("massive");
    let (code, report) = verify_massive(dir.to_str().unwrap(), &[], |_| ());
    assert_eq!((code, &report["first_difference"]), (Some(0), &Value::Null), "{report}");
    let layer = report["modules"].as_array().unwrap().iter().find(|m| m["name"] == "model.layers.2").unwrap();
    assert!(layer["largest_error"].as_f64().unwrap() > 1e-3, "more than atol and rtol allow: {layer}");
    // Old rounding is counted in rtol, so a reference must be met exactly if nothing is allowed.
    let (code, _) = verify_massive(dir.to_str().unwrap(), &["--atol", "1e-4", "--rtol", "0"], |_| ());
    assert_eq!(code, Some(1));
}

#[test]
fn faults_are_named_beside_massive_activations() {
    let named = |checkpoint: &Checkpoint, edit: &dyn Fn(&mut BTreeMap<String, HostTensor>)| {
        let (code, report) = verify_massive(checkpoint.name(), &[], edit);
        assert_eq!(code, Some(1), "{report}");
        report["first_difference"].as_str().unwrap().to_owned()
    };
    let checkpoint = || {
        let checkpoint = Checkpoint::copy("massive");
        checkpoint.remove("verify.safetensors");
        checkpoint
    };
    // Norm weights that are 1 % off, before, in, and behind the layers that carry.
    let layers = (0..4).map(|layer| format!("model.layers.{layer}"));
    let norms =
        layers.flat_map(|l| [format!("{l}.input_layernorm"), format!("{l}.post_attention_layernorm")]);
    for norm in norms.chain(["model.norm".to_owned()]) {
        let checkpoint = checkpoint();
        checkpoint.edit_tensors(|tensors| {
            let weight = tensors.get_mut(&format!("{norm}.weight")).unwrap();
            let values: Vec<f32> = weight.to_f32().iter().map(|w| w * 1.01).collect();
            *weight = HostTensor::from_f32(&weight.shape.clone(), &values);
        });
        assert_eq!(named(&checkpoint, &|_| ()), norm);
    }
    let other_rope = checkpoint();
    other_rope.set_config(serde_json::json!({"rope_theta": 11000.0}));
    assert_eq!(named(&other_rope, &|_| ()), "model.layers.0.self_attn.o_proj");

    // Heads of queries that read the wrong head of K and V: as if both were exchanged, and seen in their order.
    for layer in 0..4 {
        let module = |name: &str| format!("model.layers.{layer}.self_attn.{name}");
        let checkpoint = checkpoint();
        checkpoint.edit_tensors(|tensors| {
            for name in ["k_proj", "v_proj"] {
                let weight = tensors.get_mut(&format!("{}.weight", module(name))).unwrap();
                let mut values = weight.to_f32();
                let half = values.len() / 2;
                values.rotate_left(half);
                *weight = HostTensor::from_f32(&weight.shape.clone(), &values);
            }
        });
        let exchanged = |reference: &mut BTreeMap<String, HostTensor>| {
            for name in ["k_proj", "v_proj"] {
                let rows = reference.get_mut(&module(name)).unwrap();
                let mut values = rows.to_f32();
                let width = rows.shape[1];
                values.chunks_mut(width).for_each(|row| row.rotate_left(width / 2));
                *rows = HostTensor::from_f32(&rows.shape.clone(), &values);
            }
        };
        assert_eq!(named(&checkpoint, &exchanged), module("o_proj"));
    }
}
