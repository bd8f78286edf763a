//! What a wrong engine says: the demo model with RoPE's two conventions. `cargo run --release --example step1_wrong_rope`

use stairwell::{
    backend::{
        Backend, Shaped,
        cpu::{Cpu, CpuTensor, Kernels, Standard},
    },
    batch::Batch,
    demo,
    error::Result,
    generate::{GenerateParams, generate},
    kv,
    model::{Observer, rope::Frequencies},
    runner::{LoadOptions, ModelRunner},
    tokenizer::Tokenizer,
};
use std::{collections::BTreeMap, ops::ControlFlow};

const PROMPT: &str = "Once upon a time";
const TOKENS: usize = 80;

// ANCHOR: interleaved
/// The paper's convention: neighbours are a pair. Right for llama2.c's files, wrong for Hugging Face's.
struct Interleaved;

impl Kernels for Interleaved {
    fn rotate_half(&self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        for (([a, b], cos), sin) in head.as_chunks_mut().0.iter_mut().zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
// ANCHOR_END: interleaved

fn main() -> Result<()> {
    let tokenizer = Tokenizer::new(demo::tokenizer_files())?;
    let prompt = tokenizer.encode_prompt(PROMPT)?;
    let right = story(Box::new(Standard), &prompt)?;
    let wrong = story(Box::new(Interleaved), &prompt)?;
    println!("halves (right):\n{PROMPT}{}\n", tokenizer.decode(&right, true));
    println!("neighbours (wrong):\n{PROMPT}{}\n", tokenizer.decode(&wrong, true));
    let same = right.iter().zip(&wrong).take_while(|(a, b)| a == b).count();
    println!("the first {same} of {TOKENS} tokens are the same\n");

    println!("distance of the key  pairs that turned by over 30 degrees  mean change of a score");
    let sequence = [prompt, right].concat();
    for (distance, turned, change) in changes(&sequence)? {
        println!("{distance:19}  {turned:37}  {change:22.2}");
    }
    Ok(())
}

/// Greedy tokens with these kernels.
fn story(kernels: Box<dyn Kernels>, prompt: &[u32]) -> Result<Vec<u32>> {
    let cpu = Cpu::with_kernels(kernels);
    let mut runner = ModelRunner::load_with(cpu, &demo::directory(), LoadOptions::default(), kv::best)?;
    let mut params = GenerateParams { max_tokens: TOKENS, ..GenerateParams::default() };
    params.sampling.temperature = 0.0;
    Ok(generate(&mut runner, prompt, &params, &mut |_| ControlFlow::Continue(()))?.ids)
}

/// The queries and keys of every layer, before they are turned.
#[derive(Default)]
struct QueriesAndKeys(BTreeMap<String, Vec<f32>>);

impl Observer<Cpu> for QueriesAndKeys {
    fn output(&mut self, cpu: &Cpu, name: &str, x: &CpuTensor) {
        if name.ends_with("q_norm") || name.ends_with("k_norm") {
            assert!(x.cols() > 0);
            self.0.insert(name.into(), cpu.download(x).expect("the CPU's memory can be read"));
        }
    }
}

/// (distance, pairs that turned, mean |score with halves − score with neighbours|), over all layers, heads and tokens.
fn changes(sequence: &[u32]) -> Result<Vec<(usize, usize, f32)>> {
    let mut runner = ModelRunner::load(&demo::directory(), LoadOptions::default())?;
    let mut seen = QueriesAndKeys::default();
    runner.forward(&Batch::of(sequence), Some(&mut seen))?;
    let (config, scale) = (&runner.config, runner.model.attention_shape().scale);
    let (heads, kv_heads, d) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
    let frequencies = Frequencies::new(config, config.context()).expect("the demo has RoPE").inv_freq;

    let score = |kernels: &dyn Kernels, distance: usize, q: &[f32], k: &[f32]| -> f32 {
        let angles = frequencies.iter().map(|f| distance as f32 * f);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.cos(), a.sin())).unzip();
        let mut q = q.to_vec();
        kernels.rotate_half(&mut q, &cos, &sin);
        q.iter().zip(k).map(|(a, b)| a * b).sum::<f32>() * scale
    };
    let mut rows = Vec::new();
    for distance in [0, 1, 2, 4, 8, 16, 32, 64] {
        let (mut sum, mut n) = (0.0, 0);
        for layer in 0..config.num_hidden_layers {
            let of = |module: &str| &seen.0[&format!("model.layers.{layer}.self_attn.{module}")];
            for (t, head) in (distance..sequence.len()).flat_map(|t| (0..heads).map(move |h| (t, h))) {
                let q = &of("q_norm")[(t * heads + head) * d..][..d];
                let kv_head = Standard.kv_head(head, heads, kv_heads);
                let k = &of("k_norm")[((t - distance) * kv_heads + kv_head) * d..][..d];
                sum += (score(&Standard, distance, q, k) - score(&Interleaved, distance, q, k)).abs();
                n += 1;
            }
        }
        let turned = frequencies.iter().filter(|f| (distance as f32 * **f).to_degrees() > 30.0).count();
        rows.push((distance, turned, sum / n as f32));
    }
    Ok(rows)
}
