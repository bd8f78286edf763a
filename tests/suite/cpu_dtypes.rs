//! The CPU in bf16, by every instruction set that it has: judged by how far transformers itself is from f32 in bf16
//! (scripts/measure_sixteen_bits.py). Whole prompts in one pass, so nobody's error leads to other tokens.

use crate::common::{Reference, fixture, fixtures};
use stairwell::{
    backend::{
        Backend,
        cpu::{Arithmetic, Cpu, Isa},
    },
    batch::Batch,
    checkpoint::Directory,
    runner::{LoadOptions, ModelRunner},
    tensor::DType,
};

/// Root of the mean square, and the largest, of the distances of a prompt's logits to the reference.
fn errors(cpu: Cpu, name: &str, reference: &Reference) -> [f64; 2] {
    let directory = Directory::Disk(fixture(name));
    let mut runner = ModelRunner::load_on(cpu, &directory, LoadOptions::default()).unwrap();
    let mut batch = Batch::of(&reference.prompt);
    batch.want_all_logits();
    let logits = runner.forward(&batch, None).unwrap();
    let logits = runner.backend.download(&logits).unwrap();
    let distances = logits.iter().zip(&reference.logits).map(|(got, want)| f64::from((got - want).abs()));
    let (square, largest) = distances.fold((0.0, 0.0), |(sum, max): (f64, f64), e| (sum + e * e, max.max(e)));
    [(square / logits.len() as f64).sqrt(), largest]
}

#[test]
fn errors_in_bf16_are_at_most_those_of_transformers() {
    let measured = std::fs::read_to_string(fixture("sixteen_bits.json")).unwrap();
    let measured: serde_json::Value = serde_json::from_str(&measured).unwrap();
    let mut worst = 0.0f64;
    // Dynamic RoPE's frequencies are those of the longest sequence, as tests/suite/step1.rs explains.
    for name in fixtures().into_iter().filter(|name| name != "rope-dynamic-bf16") {
        let reference = Reference::of(&name);
        let theirs = ["rms", "largest"].map(|key| measured["errors"][&name]["bf16"][key].as_f64().unwrap());
        for isa in Isa::supported() {
            let [rms, largest] =
                errors(Cpu::with_isa(isa).with_arithmetic(Arithmetic::Bf16), &name, &reference);
            assert!(rms <= theirs[0], "{name}, {isa:?}: rms {rms}, transformers' {}", theirs[0]);
            assert!(largest <= theirs[1], "{name}, {isa:?}: largest {largest}, transformers' {}", theirs[1]);
            assert!(rms > theirs[0] / 100.0, "{name}, {isa:?}: an error of {rms} is none: was it f32?");
            worst = worst.max(rms / theirs[0]);
        }
    }
    println!("our error in parts of transformers', at most {worst:.2}");
}

/// `auto` takes bf16 where weights are bf16 and an instruction multiplies them, and says so; f32 keeps the proofs of step 1.
#[test]
fn auto_is_bf16_where_the_hardware_is() {
    for (name, stored) in [("qwen3-bf16", DType::BF16), ("qwen3", DType::F32)] {
        let reference = Reference::of(name);
        for isa in Isa::supported() {
            let directory = Directory::Disk(fixture(name));
            let cpu = Cpu::with_isa(isa).with_arithmetic(Arithmetic::Auto);
            let runner = ModelRunner::load_on(cpu, &directory, LoadOptions::default()).unwrap();
            let dots = isa.multiplies_bf16() && stored == DType::BF16;
            assert_eq!(
                runner.backend.dtype(),
                if dots { DType::BF16 } else { DType::F32 },
                "{name}, {isa:?}"
            );
            let of = |arithmetic| errors(Cpu::with_isa(isa).with_arithmetic(arithmetic), name, &reference);
            let same = if dots { Arithmetic::Bf16 } else { Arithmetic::F32 };
            assert_eq!(of(Arithmetic::Auto), of(same), "{name}, {isa:?}");
            assert!(of(Arithmetic::F32)[1] < 1e-4, "{name}, {isa:?}");
        }
    }
}
