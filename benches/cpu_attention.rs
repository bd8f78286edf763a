//! Attention on the CPU over a contiguous cache: each instruction set against what the machine can do, measured in the same run.
//!
//! ```text
//! cargo bench --features step2 --bench cpu_attention                   # a table, and target/cpu_attention.json
//! cargo bench --features step2 --bench cpu_attention -- decode_bf16    # some of it
//! cargo bench --features step2 --bench cpu_attention -- --test         # whether it runs
//! python scripts/record_cpu.py                                         # writes benches/results/cpu_attention.json
//! ```
//! The shapes are those of Qwen3-0.6B: 16 query heads on 8 of K and V, 128 wide. `prompt`: all tokens of a sequence. `decode`: one more, which
//! sees so many keys with itself. A call is one layer's attention, with its K and V written. Rows that decode take so many layers in turn that no
//! cache holds their K and V, as none holds a model's; a prompt's are written by the call itself, so there a few layers do. All layers compute
//! the sequence once beforehand, which takes a minute or two where prompts are slow.
//!
//! Operations are two products, 4 · head_dim for a query head and a key that it sees; the exponentials are not counted. Bytes are those of K and
//! V, once. Each figure in the table is the fastest of criterion's samples: other programs can only make it worse.

mod roofline;
mod shapes;

use criterion::BenchmarkId;
use roofline::{BEYOND_CACHES, Report, Work};
use serde_json::{Value, json};
use shapes::QWEN3_0_6B;
use stairwell::{
    attention::{self, AttentionKind, KvDtype, KvOptions},
    backend::{
        Backend,
        cpu::{Arithmetic, Cpu, CpuTensor, Isa},
    },
    batch::Batch,
    model::{Attention, AttentionShape},
};
use std::hint::black_box;

/// Tokens of a prompt.
const PROMPTS: [usize; 3] = [128, 512, 2048];
/// Layers that prompts take in turn.
const PROMPT_LAYERS: usize = 8;
/// Keys that a token of its own sees.
const KEYS: [usize; 3] = [128, 1024, 4096];

/// Rows that attend, the last of them to so many keys.
struct Case {
    name: &'static str,
    rows: usize,
    keys: usize,
    dtype: KvDtype,
}

fn main() {
    let mut report = Report::new("cpu_attention");
    let lengths = if report.quick() { 1 } else { PROMPTS.len() };
    for dtype in [KvDtype::F32, KvDtype::Bf16] {
        for tokens in &PROMPTS[..lengths] {
            compare(&mut report, &Case { name: "prompt", rows: *tokens, keys: *tokens, dtype });
        }
        for keys in &KEYS[..lengths] {
            compare(&mut report, &Case { name: "decode", rows: 1, keys: *keys, dtype });
        }
    }
    report.finish();
}

/// The model's attention, with so many layers.
fn shape(layers: usize, context: usize) -> AttentionShape {
    let config: Value = serde_json::from_str(QWEN3_0_6B).expect("a config.json");
    let n = |name: &str| config[name].as_u64().expect("a number") as usize;
    let head_dim = n("head_dim");
    AttentionShape {
        layers: 0..layers,
        heads: n("num_attention_heads"),
        kv_heads: n("num_key_value_heads"),
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        windows: vec![None; layers],
        context,
    }
}

impl Case {
    /// What one call does at least.
    fn work(&self, shape: &AttentionShape, isa: Isa) -> Work {
        let seen: usize = (self.keys + 1 - self.rows..=self.keys).sum();
        let bytes = 2 * self.keys * shape.kv_heads * self.dtype.vector_bytes(shape.head_dim);
        // AVX-512's dot products of bf16 have no part in attention: it multiplies f32 there.
        let peak = if isa.name() == "avx512bf16" { Isa::Avx512 } else { isa }.name();
        Work { operations: (4 * shape.head_dim * shape.heads * seen) as f64, bytes: bytes as f64, peak }
    }

    /// An attention that has computed all of the sequence in each of its layers, so that the memory for K and V is there and filled.
    fn filled(&self, shape: &AttentionShape) -> Box<dyn Attention<Cpu>> {
        let options = KvOptions {
            attention: Some(AttentionKind::Contiguous),
            dtype: self.dtype,
            max_model_len: Some(self.keys),
            ..KvOptions::default()
        };
        let mut attention = attention::build(shape.clone(), &options).expect("memory for K and V");
        let cpu = cpu(Isa::detect());
        let mut batch = Batch::default();
        batch.push(&vec![3; self.keys], 0, &[0]);
        attention.begin(&cpu, &batch).expect("room for the tokens");
        let [q, k, v] = tensors(&cpu, shape, self.keys);
        for layer in shape.layers.clone() {
            attention.attend(&cpu, layer, [&q, &k, &v]).expect("attention");
        }
        attention
    }
}

fn cpu(isa: Isa) -> Cpu {
    let arithmetic = if isa.multiplies_bf16() { Arithmetic::Bf16 } else { Arithmetic::F32 };
    Cpu::with_isa(isa).with_arithmetic(arithmetic)
}

/// q, k and v of some rows: waves, since what they are does not matter to the clock.
fn tensors(cpu: &Cpu, shape: &AttentionShape, rows: usize) -> [CpuTensor; 3] {
    [shape.heads, shape.kv_heads, shape.kv_heads].map(|heads| {
        let cols = heads * shape.head_dim;
        let data: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.7).sin()).collect();
        cpu.upload(&data, rows, cols).expect("a tensor")
    })
}

/// The same K and V, with each instruction set.
fn compare(report: &mut Report, case: &Case) {
    let bytes = shape(1, case.keys).bytes_per_token(case.dtype) as usize * case.keys;
    let layers = match case.rows {
        _ if report.quick() => 1,
        1 => BEYOND_CACHES.div_ceil(bytes),
        _ => PROMPT_LAYERS,
    };
    let shape = shape(layers, case.keys);
    let mut attention = case.filled(&shape);
    let mut batch = Batch::default();
    batch.push(&vec![3; case.rows], case.keys - case.rows, &[0]);
    let mut layers = shape.layers.clone().cycle();
    for isa in Isa::supported() {
        let cpu = cpu(isa);
        attention.begin(&cpu, &batch).expect("room for the rows");
        let [q, k, v] = tensors(&cpu, &shape, case.rows);
        let group = format!("{}_{}", case.name, case.dtype);
        let row = json!({
            "variant": isa.name(), "case": case.name, "kv_dtype": case.dtype.to_string(), "rows": case.rows, "keys": case.keys,
        });
        report.bench(&group, BenchmarkId::new(isa.name(), case.keys), row, case.work(&shape, isa), || {
            let layer = layers.next().expect("a cycle has no end");
            drop(black_box(attention.attend(&cpu, layer, [&q, &k, &v]).expect("attention")));
        });
    }
}
