//! What a wrong engine says: the demo model with the exercises' wrong answers in it. `cargo run --release --example step1_traps`

use anyhow::Result;
use stairwell::{
    attention::{self, KvOptions},
    backend::{
        Backend,
        cpu::{Cpu, CpuTensor, Kernels, Standard},
    },
    batch::Batch,
    demo,
    generate::{GenerateParams, generate},
    model::{Observer, rope::Frequencies},
    runner::{LoadOptions, ModelRunner},
    tokenizer::Tokenizer,
};
use std::{collections::BTreeMap, ops::ControlFlow};

#[allow(dead_code)]
#[path = "wrong_kv_head.rs"]
mod wrong_kv_head;
#[allow(dead_code)]
#[path = "wrong_rms_norm.rs"]
mod wrong_rms_norm;
#[allow(dead_code)]
#[path = "wrong_rotate_half.rs"]
mod wrong_rotate_half;

const PROMPT: &str = "Once upon a time";
const TOKENS: usize = 80;

fn main() -> Result<()> {
    let tokenizer = Tokenizer::new(demo::tokenizer_files())?;
    let prompt = tokenizer.encode_prompt(PROMPT)?;
    let (_, right) = story(Box::new(Standard::default()), &prompt)?;
    let (_, wrong) = story(Box::new(wrong_rotate_half::Interleaved), &prompt)?;
    println!("RoPE by halves (right):\n{PROMPT}{}\n", tokenizer.decode(&right, true));
    println!("RoPE by neighbours (wrong):\n{PROMPT}{}\n", tokenizer.decode(&wrong, true));

    println!("                           same greedy    probability of a right token, at place");
    println!("                           tokens of {TOKENS}     1-5  6-10  11-20  21-40  41-80");
    let stories = (0..16).map(|seed| sampled_story(&prompt, seed)).collect::<Result<Vec<_>>>()?;
    let traps: [(&str, Box<dyn Kernels>); 6] = [
        ("(the right engine)", Box::new(Standard::default())),
        ("RoPE by neighbours", Box::new(wrong_rotate_half::Interleaved)),
        ("RoPE turned backwards", Box::new(wrong_rotate_half::TurnedBackwards)),
        ("kv_head = head % kv_heads", Box::new(wrong_kv_head::HeadModuloKvHeads)),
        ("norm subtracts the mean", Box::new(wrong_rms_norm::MeanSubtracted)),
        ("norm without epsilon", Box::new(wrong_rms_norm::WithoutEps)),
    ];
    for (name, kernels) in traps {
        let (mut runner, ids) = story(kernels, &prompt)?;
        let same = right.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        let [a, b, c, d, e] = probabilities(&mut runner, &prompt, &stories)?;
        println!("{name:25}  {same:12}    {a:.2}  {b:.2}   {c:.2}   {d:.2}   {e:.2}");
    }

    println!(
        "\ndistance of the key   pairs turned by over 30 degrees   mean change of a score with neighbours"
    );
    for (distance, turned, change) in changes(&[prompt, right].concat())? {
        println!("{distance:19}   {turned:31}   {change:38.2}");
    }
    Ok(())
}

/// A model on these kernels, and its greedy tokens.
fn story(kernels: Box<dyn Kernels>, prompt: &[u32]) -> Result<(ModelRunner<Cpu>, Vec<u32>)> {
    let cpu = Cpu::with_kernels(kernels);
    let options = LoadOptions { kv: KvOptions::recompute(), ..LoadOptions::default() };
    let mut runner = ModelRunner::load_with(cpu, &demo::directory(), options, attention::build)?;
    let mut params = GenerateParams { max_tokens: TOKENS, ..GenerateParams::default() };
    params.sampling.temperature = 0.0;
    let ids = generate(&mut runner, prompt, &params, &mut |_| ControlFlow::Continue(()))?.ids;
    Ok((runner, ids))
}

/// A story of the right engine, drawn from its own probabilities.
fn sampled_story(prompt: &[u32], seed: u64) -> Result<Vec<u32>> {
    let mut runner = ModelRunner::load(&demo::directory(), LoadOptions::default())?;
    let mut params = GenerateParams { max_tokens: TOKENS, ..GenerateParams::default() };
    params.sampling.seed = Some(seed);
    Ok(generate(&mut runner, prompt, &params, &mut |_| ControlFlow::Continue(()))?.ids)
}

/// How probable the next token of a right story is, given the story so far: the geometric mean over all stories, by place.
fn probabilities(runner: &mut ModelRunner<Cpu>, prompt: &[u32], stories: &[Vec<u32>]) -> Result<[f64; 5]> {
    let places = [0..5, 5..10, 10..20, 20..40, 40..TOKENS];
    let mut logs = vec![0.0; TOKENS];
    for story in stories {
        let mut batch = Batch::of(&[prompt, story].concat());
        batch.want_all_logits();
        let logits = runner.forward(&batch, None)?;
        let logits = runner.backend.download(&logits)?;
        let rows = logits.chunks_exact(runner.config.vocab_size).skip(prompt.len() - 1);
        for ((log, row), &token) in logs.iter_mut().zip(rows).zip(story) {
            let sum: f64 = row.iter().map(|&l| (l as f64).exp()).sum();
            *log += (row[token as usize] as f64 - sum.ln()) / stories.len() as f64;
        }
    }
    Ok(places.map(|place| (logs[place.clone()].iter().sum::<f64>() / place.len() as f64).exp()))
}

/// The queries and keys of every layer, before they are turned.
#[derive(Default)]
struct QueriesAndKeys(BTreeMap<String, Vec<f32>>);

impl Observer<Cpu> for QueriesAndKeys {
    fn output(&mut self, cpu: &Cpu, name: &str, x: &CpuTensor) {
        if name.ends_with("q_norm") || name.ends_with("k_norm") {
            self.0.insert(name.into(), cpu.download(x).expect("the CPU's memory can be read"));
        }
    }
}

/// (distance, pairs that turned, mean |score by halves − score by neighbours|), over all layers, heads and tokens.
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
                let kv_head = Standard::default().kv_head(head, heads, kv_heads);
                let k = &of("k_norm")[((t - distance) * kv_heads + kv_head) * d..][..d];
                let neighbours = score(&wrong_rotate_half::Interleaved, distance, q, k);
                sum += (score(&Standard::default(), distance, q, k) - neighbours).abs();
                n += 1;
            }
        }
        let turned = frequencies.iter().filter(|f| (distance as f32 * **f).to_degrees() > 30.0).count();
        rows.push((distance, turned, sum / n as f32));
    }
    Ok(rows)
}
