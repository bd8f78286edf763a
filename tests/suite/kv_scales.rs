//! One scale for all K of a layer and one for all V, in fp8: from a checkpoint, or from a file.

use crate::common::{Checkpoint, distance, run, shared};
use crate::kv_scales_case::check;
use serde_json::{Value, json};
use stairwell::{
    attention::{self, AttentionKind},
    backend::cpu::{Cpu, Isa},
    tensor::{DType, HostTensor},
};

/// Every attention that keeps K and V, on every instruction set, against sums of f64 over rounded numbers.
#[test]
fn attention_reads_what_the_scales_keep() {
    for isa in Isa::supported() {
        for kind in [AttentionKind::Contiguous, AttentionKind::Paged] {
            check(&Cpu::with_isa(isa), |shape, kv| {
                let kv = attention::KvOptions { attention: Some(kind), ..kv };
                attention::build(shape, &kv).unwrap()
            });
        }
    }
}

/// A scale's tensor.
fn scale(value: f32) -> HostTensor {
    HostTensor::from_f32(&[1], &[value])
}

/// A model with scales in its checkpoint, by the names that a tool gives them.
fn with_scales(names: [&str; 2], values: [[f32; 2]; 2]) -> Checkpoint {
    let checkpoint = Checkpoint::copy("llama2");
    checkpoint.edit_tensors(|tensors| {
        for (layer, values) in values.iter().enumerate() {
            for (name, value) in names.iter().zip(values) {
                tensors.insert(format!("model.layers.{layer}.self_attn.{name}"), scale(*value));
            }
        }
    });
    checkpoint
}

/// A file of scales, by rank and layer.
fn file_of(checkpoint: &Checkpoint, ranks: &[[f64; 2]]) -> String {
    let of_rank = |scales: &[f64; 2]| json!({"0": scales[0], "1": scales[1]});
    let ranks: serde_json::Map<String, Value> =
        ranks.iter().enumerate().map(|(rank, scales)| (rank.to_string(), of_rank(scales))).collect();
    let file =
        json!({"model_type": "llama", "kv_cache": {"dtype": "float8_e4m3fn", "scaling_factor": ranks}});
    checkpoint.write("kv.json", file.to_string());
    checkpoint.file("kv.json").to_str().unwrap().to_owned()
}

/// Logits of a prompt, by the program.
fn logits(checkpoint: &Checkpoint, flags: &[&str]) -> Vec<f32> {
    let out = checkpoint.file("out.safetensors");
    let base = ["logits", "--model", checkpoint.name(), "--prompt-ids", "3,1,4,1,5,9,2,6", "--out"];
    run(&[&base[..], &[out.to_str().unwrap()], flags].concat()).good();
    crate::common::read_tensors(&out)["logits"].to_f32()
}

const FP8: [&str; 2] = ["--kv-dtype", "fp8-e4m3"];

/// The scales are used: those of a checkpoint and of a file with the same numbers give the same bits, and others than no scales do.
#[test]
fn a_checkpoint_and_a_file_give_the_same_logits() {
    let values = [0.02, 0.005];
    let both = values.map(|value| [value; 2]);
    let scaled = with_scales(["k_scale", "v_scale"], both);
    let from_checkpoint = logits(&scaled, &FP8);
    for names in [["k_proj.output_scale", "v_proj.output_scale"], ["k_proj.k_scale", "v_proj.v_scale"]] {
        assert_eq!(logits(&with_scales(names, both), &FP8), from_checkpoint, "{names:?}");
    }
    let one = with_scales(["kv_scale", "k_scale"], both);
    assert_eq!(logits(&one, &FP8), from_checkpoint, "kv_scale is for both");

    let plain = Checkpoint::copy("llama2");
    let own = logits(&plain, &FP8);
    assert!(own != from_checkpoint, "the scales changed nothing");
    let file = file_of(&plain, &[values.map(f64::from)]);
    let flags = [&FP8[..], &["--quantization-param-path", &file]].concat();
    assert_eq!(logits(&plain, &flags), from_checkpoint);
    // A file that is given counts more than the checkpoint.
    let file = file_of(&scaled, &[[0.03, 0.04]]);
    let flags = [&FP8[..], &["--quantization-param-path", &file]].concat();
    assert!(logits(&scaled, &flags) != from_checkpoint);
    // And in another dtype none of them is used.
    let bf16 = ["--kv-dtype", "bf16"];
    assert_eq!(logits(&scaled, &bf16), logits(&plain, &bf16));
}

#[test]
fn a_note_says_which_scales_are_used() {
    let said = |checkpoint: &Checkpoint, flags: &[&str]| {
        let args = ["generate", "--model", checkpoint.name(), "--prompt-ids", "1,2,3", "--max-tokens", "2"];
        run(&[&args[..], flags].concat()).stderr
    };
    let (plain, scaled) = (Checkpoint::copy("llama2"), with_scales(["k_scale", "v_scale"], [[0.02; 2]; 2]));
    assert!(said(&plain, &FP8).contains("K and V in fp8: one scale for each token and head"));
    assert!(said(&scaled, &FP8).contains("K and V in fp8: the checkpoint's scales"));
    assert!(!said(&scaled, &[]).contains("K and V in fp8"));
    let file = file_of(&plain, &[[0.02, 0.03]]);
    let flags = [&FP8[..], &["--quantization-param-path", &file]].concat();
    assert!(said(&plain, &flags).contains(&format!("K and V in fp8: the scales of {file}")));
}

/// What is wrong with a file or a checkpoint is said with the file, the key, and what to do.
#[test]
fn bad_scales_are_refused() {
    let checkpoint = Checkpoint::copy("llama2");
    let path = checkpoint.file("kv.json").to_str().unwrap().to_owned();
    let base = ["generate", "--model", checkpoint.name(), "--prompt-ids", "1,2,3", "--max-tokens", "2"];
    let flag = ["--quantization-param-path", &path];
    let refused = |parts: &[&str]| run(&[&base[..], &FP8, &flag].concat()).refused(parts);
    let leave = "or leave --quantization-param-path out";
    refused(&["--quantization-param-path", "kv.json", "No such file", leave]);

    let factors = |factors: Value| json!({"model_type": "llama", "kv_cache": {"dtype": "float8_e4m3fn", "scaling_factor": factors}});
    let one = json!({"0": 0.1, "1": 0.2});
    let of_zero = |value: Value| factors(json!({"0": {"0": 0.1, "1": value}}));
    for (file, key, why) in [
        (
            factors(json!({"0": {"0": 0.1}})),
            "kv_cache.scaling_factor.0.1",
            "it is missing, and the model has 2 layers",
        ),
        (
            factors(json!({"0": {"0": 0.1, "1": 0.2, "2": 0.3}})),
            "kv_cache.scaling_factor.0",
            "it has 3 scales",
        ),
        (factors(json!({"1": one})), "kv_cache.scaling_factor.0", "it is missing"),
        (factors(json!({})), "kv_cache.scaling_factor", "it is empty"),
        (
            factors(json!({"0": one, "1": one})),
            "kv_cache.scaling_factor",
            "2 tensor parallel ranks, and there are 1",
        ),
        (of_zero(json!("0.2")), "kv_cache.scaling_factor.0.1", "is not a number"),
        (of_zero(json!(null)), "kv_cache.scaling_factor.0.1", "is not a number"),
        (of_zero(json!(0)), "kv_cache.scaling_factor.0.1", "it is 0"),
        (of_zero(json!(-0.5)), "kv_cache.scaling_factor.0.1", "it is -0.5"),
        (of_zero(json!(1e-60)), "kv_cache.scaling_factor.0.1", "a number above 0"),
        (
            json!({"model_type": "qwen2", "kv_cache": {"scaling_factor": {"0": one}}}),
            "model_type",
            "this model is 'llama'",
        ),
        (
            json!({"kv_cache": {"dtype": "float8_e5m2", "scaling_factor": {"0": one}}}),
            "kv_cache.dtype",
            "float8_e4m3fn",
        ),
        (json!({"kv_cache": [1]}), "kv_cache", "it is no object"),
        (json!({}), "kv_cache", "it is missing"),
    ] {
        checkpoint.write("kv.json", file.to_string());
        refused(&["--quantization-param-path", "kv.json", key, why]);
    }
    for (text, why) in
        [("", "the file is empty"), ("[1]", "not a JSON object"), ("{\"kv_cache\": ", "not JSON")]
    {
        checkpoint.write("kv.json", text);
        refused(&["kv.json", why, leave]);
    }
    checkpoint.write("kv.json", of_zero(json!(0.2)).to_string().replace("0.2", "NaN"));
    refused(&["kv_cache.scaling_factor.0.1", "is not a number"]);

    checkpoint.write("kv.json", factors(json!({"0": one})).to_string());
    run(&[&base[..], &FP8, &flag].concat()).good();
    run(&[&base[..], &flag].concat()).refused(&[
        "kv.json",
        "--kv-dtype fp8-e4m3",
        "K and V are f32",
        "leave the flag out",
    ]);
}

#[test]
fn bad_scales_of_a_checkpoint_are_refused() {
    let base = ["generate", "--prompt-ids", "1,2,3", "--max-tokens", "2", "--model"];
    let cases: [(&str, Option<HostTensor>, &str); 5] = [
        ("v_scale", None, "there is no v_scale for layer 1"),
        ("k_scale", Some(scale(0.0)), "it is 0"),
        ("k_scale", Some(scale(f32::NAN)), "it is NaN"),
        ("v_scale", Some(scale(-1.0)), "it is -1"),
        ("v_scale", Some(HostTensor::from_f32(&[2], &[1.0, 2.0])), "is one number"),
    ];
    for (name, tensor, why) in cases {
        let checkpoint = with_scales(["k_scale", "v_scale"], [[0.02; 2]; 2]);
        checkpoint.edit_tensors(|tensors| {
            let name = format!("model.layers.1.self_attn.{name}");
            tensors.remove(&name);
            tensors.extend(tensor.map(|tensor| (name, tensor)));
        });
        let args = [&base[..], &[checkpoint.name()]].concat();
        let parts = ["--kv-dtype fp8-e4m3", "model.safetensors", "_scale", why, "--quantization-param-path"];
        run(&[&args[..], &FP8].concat()).refused(&parts);
        run(&args).good();
        let file = file_of(&checkpoint, &[[0.02, 0.02]]);
        run(&[&args[..], &FP8, &["--quantization-param-path", &file]].concat()).good();
    }
    let f16 = with_scales(["k_scale", "v_scale"], [[0.02; 2]; 2]);
    f16.edit_tensors(|tensors| {
        let half = HostTensor::from_bytes(DType::F16, &[], half::f16::from_f32(0.02).to_le_bytes().to_vec());
        tensors.insert("model.layers.0.self_attn.k_scale".into(), half);
    });
    run(&[&base[..], &[f16.name()], &FP8].concat()).good();
}

/// A checkpoint as llm-compressor writes it.
#[test]
fn a_tools_own_scales_are_read() {
    let Some(model) = shared("goldens/ct-fp8-static-kv-llama") else { return };
    let args = ["generate", "--prompt-ids", "1,2,3", "--max-tokens", "4", "--model", model.to_str().unwrap()];
    let ran = run(&[&args[..], &FP8].concat());
    assert!(ran.stderr.contains("K and V in fp8: the checkpoint's scales"), "{}", ran.stderr);
    ran.good();
}

/// Scales that fit cost little, and scales that are too small cut K and V off.
#[test]
fn scales_must_fit() {
    let exact = logits(&Checkpoint::copy("llama2"), &[]);
    let apart = |value: f32| {
        let checkpoint = with_scales(["k_scale", "v_scale"], [[value; 2]; 2]);
        distance(&logits(&checkpoint, &FP8), &exact)
    };
    let (fits, too_small) = (apart(0.02), apart(0.00002));
    assert!(4.0 * fits < too_small, "{fits} and {too_small}");
}
