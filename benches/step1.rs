//! Step 1 by the clock, on the demo model: a whole forward pass, and its parts, over sequence lengths.
//!
//! ```text
//! cargo bench --bench step1                 # measures
//! python scripts/record_bench.py step1      # writes benches/results/step1.json
//! ```
//! A part is all of its kind in one forward pass: every norm of every layer, every linear layer, and so on.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use stairwell::{
    attention::{self, KvOptions},
    backend::{
        Backend, PartShape, Rope, Shaped, Slice,
        cpu::{Cpu, CpuTensor, CpuWeight},
    },
    batch::Batch,
    checkpoint::dummy_tensor,
    config::ModelConfig,
    demo,
    model::{AttentionShape, Rank, Stage, rope::Frequencies},
    runner::{LoadOptions, ModelRunner, read_config},
    tensor::{DType, HostTensor},
};
use std::{hint::black_box, time::Duration};

const LENGTHS: [usize; 6] = [64, 128, 256, 512, 1024, 2048];

/// One token by recomputing: a forward pass over n tokens for the logits of the last.
fn recompute(c: &mut Criterion) {
    let options = LoadOptions { kv: KvOptions::recompute(), ..LoadOptions::default() };
    let mut runner = ModelRunner::load(&demo::directory(), options).expect("the demo loads");
    let mut group = c.benchmark_group("recompute");
    for n in LENGTHS {
        let tokens: Vec<u32> = (0..n as u32).map(|i| 3 + i % 1000).collect();
        let batch = Batch::of(&tokens);
        group.bench_with_input(BenchmarkId::from_parameter(n), &n, |b, _| {
            b.iter(|| black_box(runner.forward(&batch, None).expect("a forward pass")));
        });
    }
}

/// A weight of random bf16 values.
fn weight(cpu: &Cpu, outputs: usize, inputs: usize) -> CpuWeight {
    let shape = if inputs == 1 { vec![outputs] } else { vec![outputs, inputs] };
    let tensor = dummy_tensor("bench", DType::BF16, &shape).unwrap();
    loaded(cpu, tensor, outputs, inputs)
}

fn loaded(cpu: &Cpu, tensor: HostTensor, outputs: usize, inputs: usize) -> CpuWeight {
    let slice = Slice { tensor, rows: 0..outputs, cols: 0..inputs, transposed: false };
    let mut weight = cpu.weight(&[PartShape { outputs, inputs }]).expect("a weight");
    cpu.load(&mut weight, 0, &slice.into()).expect("a load");
    weight
}

fn activation(cpu: &Cpu, rows: usize, cols: usize) -> CpuTensor {
    let values: Vec<f32> = (0..rows * cols).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect();
    cpu.upload(&values, rows, cols).expect("an upload")
}

fn parts(c: &mut Criterion) {
    let config = read_config(&demo::directory()).expect("the demo's config");
    for n in LENGTHS {
        embedding_and_head(c, &config, n);
        norms(c, &config, n);
        linear(c, &config, n);
        attention(c, &config, n);
    }
}

fn measure(c: &mut Criterion, part: &str, n: usize, body: impl FnMut()) {
    let mut body = body;
    c.bench_function(&format!("parts/{part}/{n}"), |b| b.iter(&mut body));
}

fn embedding_and_head(c: &mut Criterion, config: &ModelConfig, n: usize) {
    let cpu = Cpu::default();
    let table = weight(&cpu, config.vocab_size, config.hidden_size);
    let ids: Vec<u32> = (0..n as u32).map(|i| i % config.vocab_size as u32).collect();
    measure(c, "embedding", n, || drop(black_box(cpu.embed(&table, 0, &ids))));
    let last = activation(&cpu, 1, config.hidden_size);
    measure(c, "head", n, || drop(black_box(cpu.matmul(&last, &table))));
}

fn norms(c: &mut Criterion, config: &ModelConfig, n: usize) {
    let cpu = Cpu::default();
    let (hidden, head_dim) = (config.hidden_size, config.head_dim);
    let (wide, narrow) = (weight(&cpu, hidden, 1), weight(&cpu, head_dim, 1));
    let x = activation(&cpu, n, hidden);
    let q = activation(&cpu, n, config.num_attention_heads * head_dim);
    let k = activation(&cpu, n, config.num_key_value_heads * head_dim);
    measure(c, "norms", n, || {
        for _ in 0..config.num_hidden_layers {
            for (x, weight, group) in
                [(&x, &wide, hidden), (&q, &narrow, head_dim), (&k, &narrow, head_dim), (&x, &wide, hidden)]
            {
                drop(black_box(cpu.rms_norm(x, weight, group, config.norm_eps)));
            }
        }
    });
}

fn linear(c: &mut Criterion, config: &ModelConfig, n: usize) {
    let cpu = Cpu::default();
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let q = config.num_attention_heads * config.head_dim;
    let kv = config.num_key_value_heads * config.head_dim;
    let shapes = [(q + 2 * kv, hidden), (hidden, q), (2 * inner, hidden), (hidden, inner)];
    let layers = shapes.map(|(outputs, inputs)| (weight(&cpu, outputs, inputs), activation(&cpu, n, inputs)));
    measure(c, "linear", n, || {
        for _ in 0..config.num_hidden_layers {
            for (weight, x) in &layers {
                drop(black_box(cpu.matmul(x, weight)));
            }
        }
    });
}

fn attention(c: &mut Criterion, config: &ModelConfig, n: usize) {
    let cpu = Cpu::default();
    let frequencies = Frequencies::new(config, n).expect("the demo has RoPE");
    let table = HostTensor::from_f32(&[frequencies.inv_freq.len()], &frequencies.inv_freq);
    let inv_freq = loaded(&cpu, table, frequencies.inv_freq.len(), 1);
    let rope = Rope { inv_freq, head_dim: config.head_dim, scaling: 1.0 };
    let mut attention = attention::build(
        AttentionShape::new(config, Rank::ALONE, &Stage::whole(config)),
        &KvOptions::recompute(),
    )
    .expect("attention");
    let batch = Batch::of(&vec![3; n]);
    let (q, kv) =
        (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
    let (q, kv) = (activation(&cpu, n, q), activation(&cpu, n, kv));
    let copy = |x: &CpuTensor| cpu.upload(x.data(), n, x.cols()).expect("an upload"); // rotation works in place
    measure(c, "attention", n, || {
        let _ = attention.begin(&cpu, &batch);
        for layer in 0..config.num_hidden_layers {
            let (q, k, v) = (copy(&q), copy(&kv), copy(&kv));
            let y = attention.rotate_and_attend(&cpu, layer, &rope, &batch.positions, q, k, &v);
            drop(black_box(y));
        }
    });
}

criterion_group! {
    name = step1;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = recompute, parts
}
criterion_main!(step1);
