//! `--act-dtype int8`: packed weights by activations of 8 bits, and `--load-format gguf`.

use crate::common::{distance, load_on, logits, run, shared};
use stairwell::backend::cpu::{Cpu, Isa};
use tempfile::TempDir;

/// The demo model, packed in 4 bits.
fn packed() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    run(&["quantize", "--out", out, "--method", "gptq", "--bits", "4", "--group-size", "32"]).good();
    dir
}

/// The logits are near those of exact activations, and not the same; and they have the same bits on every instruction set that adds the rest in
/// the same order.
#[test]
fn logits_are_near_the_exact_ones() {
    let dir = packed();
    let prompt: Vec<u32> = (1..40).collect();
    for isa in Isa::supported() {
        let exact = logits(&mut load_on(Cpu::with_isa(isa), dir.path()), &prompt);
        let mut runner = load_on(Cpu::with_isa(isa).with_int8_activations(true), dir.path());
        let int8 = logits(&mut runner, &prompt);
        let apart = distance(&exact, &int8);
        assert!(apart > 1e-3 && apart < 1.0, "{isa:?}: {apart}");
        runner.backend.set_int8_activations(false);
        assert_eq!(logits(&mut runner, &prompt), exact, "{isa:?}: exact again");
    }
}

/// Speed and error stand side by side.
#[test]
fn bench_and_compare_print_the_error() {
    let dir = packed();
    let model = dir.path().to_str().unwrap();
    let bench =
        ["bench", "latency", "--model", model, "--batch-size", "2", "--output-len", "4", "--iterations", "1"];
    let report = run(&[&bench[..], &["--act-dtype", "int8", "--json"]].concat()).json();
    let kl = report["int8"]["mean_kl"].as_f64().unwrap();
    assert!(kl > 0.0 && kl < 0.01, "{kl}");
    assert!(report["int8"]["agreement"].as_f64().unwrap() > 0.9);
    assert!(run(&[&bench[..], &["--json"]].concat()).json()["int8"].is_null());
    let text = run(&[&bench[..], &["--act-dtype", "int8"]].concat()).good();
    assert!(text.contains("int8           against exact activations: mean KL 0.0"), "{text}");

    let compare = ["compare", "--models", model, "--tokens", "32", "--act-dtype", "int8"];
    let text = run(&compare).good();
    assert!(text.contains("int8 activations, against exact ones: mean KL 0.0"), "{text}");
}

#[test]
fn what_int8_can_not_multiply_is_refused() {
    let flags = ["--prompt", "Once", "--max-tokens", "2", "--act-dtype", "int8"];
    run(&[&["generate"][..], &flags].concat()).refused(&[
        "--act-dtype int8",
        "packed in 4 or 8 bits",
        "leave the flag out",
    ]);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    run(&["quantize", "--out", out, "--method", "fp8"]).good();
    run(&[&["generate", "--model", out][..], &flags].concat()).refused(&["--act-dtype int8"]);
}

/// `gguf` demands a file, and takes one.
#[test]
fn the_load_format_gguf_demands_a_file() {
    let dir = packed();
    let flags = ["--prompt-ids", "1,2", "--max-tokens", "2", "--load-format", "gguf"];
    let model = dir.path().to_str().unwrap();
    run(&[&["generate", "--model", model][..], &flags].concat()).refused(&[
        model,
        "load format gguf",
        "GGUF file",
    ]);
    let Some(file) = shared("goldens/gguf-q4_0-llama/model.gguf") else { return };
    let model = ["generate", "--model", file.to_str().unwrap()];
    run(&[&model[..], &flags].concat()).good();
    run(&[&model[..], &["--prompt-ids", "1,2", "--load-format", "safetensors"]].concat())
        .refused(&["load format safetensors", "auto and gguf"]);
    // A file is multiplied by activations of 8 bits, too.
    run(&[&model[..], &flags, &["--act-dtype", "int8"]].concat()).good();
}
