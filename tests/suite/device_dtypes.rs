//! The device in bf16 and f16, linear layers and kept K and V: judged by how far transformers itself is from double precision in that dtype
//! (scripts/measure_sixteen_bits.py). Whole prompts in one pass, so nobody's error leads to other tokens.

use crate::common::{Reference, fixture, fixtures};
use crate::device::device;
use stairwell::{
    attention::{KvDtype, KvOptions},
    backend::{
        Backend,
        cuda::{Cuda, CudaOptions},
    },
    batch::Batch,
    checkpoint::Directory,
    runner::{LoadOptions, ModelRunner},
    tensor::DType,
};

#[test]
fn errors_are_at_most_twice_those_of_transformers() {
    let measured = std::fs::read_to_string(fixture("sixteen_bits.json")).unwrap();
    let measured: serde_json::Value = serde_json::from_str(&measured).unwrap();
    let mut worst = [0.0f64; 2];
    // Dynamic RoPE's frequencies are those of the longest sequence, as tests/suite/step1.rs explains.
    for name in fixtures().into_iter().filter(|name| name != "rope-dynamic-bf16") {
        let reference = Reference::of(&name);
        for (at, (dtype, kv)) in
            [(DType::BF16, KvDtype::Bf16), (DType::F16, KvDtype::F16)].into_iter().enumerate()
        {
            let cuda =
                Cuda::with_options(device(), CudaOptions { dtype: Some(dtype), ..CudaOptions::default() });
            let kv = KvOptions { dtype: kv, ..KvOptions::default() };
            let options = LoadOptions { kv, ..LoadOptions::default() };
            let mut runner = ModelRunner::load_on(cuda, &Directory::Disk(fixture(&name)), options).unwrap();
            let mut batch = Batch::of(&reference.prompt);
            batch.want_all_logits();
            let logits = runner.forward(&batch, None).unwrap();
            let logits = runner.backend.download(&logits).unwrap();
            let errors: Vec<f64> = logits
                .iter()
                .zip(&reference.logits)
                .map(|(got, want)| f64::from((got - want).abs()))
                .collect();
            let rms = (errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64).sqrt();
            let largest = errors.iter().copied().fold(0.0, f64::max);
            let theirs = &measured["errors"][&name][if dtype == DType::BF16 { "bf16" } else { "f16" }];
            let [their_rms, their_largest] = ["rms", "largest"].map(|key| theirs[key].as_f64().unwrap());
            assert!(rms <= 2.0 * their_rms, "{name}, {dtype}: rms {rms}, transformers' {their_rms}");
            assert!(
                largest <= 2.0 * their_largest,
                "{name}, {dtype}: largest {largest}, transformers' {their_largest}"
            );
            assert!(
                rms > their_rms / 100.0,
                "{name}, {dtype}: an error of {rms} is none: was it computed in f32?"
            );
            worst[at] = worst[at].max(rms / their_rms);
        }
    }
    println!("our error in parts of transformers', at most: bf16 {:.2}, f16 {:.2}", worst[0], worst[1]);
}
