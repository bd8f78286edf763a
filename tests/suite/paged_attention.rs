//! Attention over blocks, without an engine: as exact as without them, and how close narrow K and V come.

use crate::common::{Reference, bits, distance, fixtures, greedy};
use crate::serving::{pool, runner};
use stairwell::{
    attention::{AttentionKind, KvDtype, KvOptions},
    backend::Backend,
    batch::Batch,
};

#[test]
fn recompute_contiguous_and_paged_give_hugging_faces_ids_and_the_same_bits() {
    for name in fixtures().iter().filter(|name| *name != "rope-dynamic-bf16") {
        let reference = Reference::of(name);
        let kinds = [
            KvOptions::recompute(),
            KvOptions { attention: Some(AttentionKind::Contiguous), ..KvOptions::default() },
            pool(64, 1),
            pool(64, 8),
            KvOptions { attention: Some(AttentionKind::Paged), ..KvOptions::default() },
        ];
        let mut first: Option<Vec<u32>> = None;
        for kv in kinds {
            let mut runner = runner(name, kv.clone());
            let logits = bits(&crate::common::logits(&mut runner, &reference.prompt));
            assert_eq!(first.get_or_insert(logits.clone()), &logits, "{name}: {kv:?}");
            let ids = greedy(&mut runner, &reference.prompt, reference.greedy.len());
            assert_eq!(ids, reference.greedy, "{name}: {kv:?}");
        }
    }
}

#[test]
fn fp8_is_close_and_chunking_changes_no_bit() {
    let mut worst = [0.0f32; 3];
    for name in ["qwen3", "llama3", "gpt2", "qwen2-window"] {
        let prompt = Reference::of(name).prompt;
        let logits = |dtype: KvDtype, chunk: usize| {
            let mut runner = runner(name, KvOptions { dtype, ..pool(64, 4) });
            let (mut start, mut logits) = (0, Vec::new());
            for tokens in prompt.chunks(chunk) {
                let mut batch = Batch::default();
                let table: Vec<u32> = (0..(start + tokens.len()) as u32).collect();
                batch.push(tokens, start, &table);
                batch.want_all_logits();
                let rows = runner.forward(&batch, None).unwrap();
                logits.extend(runner.backend.download(&rows).unwrap());
                start += tokens.len();
            }
            logits
        };
        let exact = logits(KvDtype::F32, 100);
        for (worst, dtype) in worst.iter_mut().zip([KvDtype::F16, KvDtype::Bf16, KvDtype::Fp8]) {
            let whole = logits(dtype, 100);
            assert_eq!(bits(&whole), bits(&logits(dtype, 3)), "{name}, {dtype}: in chunks");
            *worst = worst.max(distance(&whole, &exact));
        }
    }
    // e4m3 has four bits of mantissa less than bf16: 16 times its error, at most.
    // f16 has three more: an eighth, less what is rounded elsewhere.
    let [f16, bf16, fp8] = worst;
    assert!(bf16 > 1e-4 && fp8 > bf16 && fp8 < 16.0 * bf16, "largest distances: bf16 {bf16}, fp8 {fp8}");
    assert!(f16 > 1e-6 && f16 < bf16 / 3.0, "largest distances: f16 {f16}, bf16 {bf16}");
}
