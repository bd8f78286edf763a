//! What a wrong engine says: the demo model with the exercises' wrong answers in it. `cargo run --release --example step1_traps`

use stairwell::{
    backend::{
        Backend,
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
    let (_, right) = story(Box::new(Standard), &prompt)?;
    let (_, wrong) = story(Box::new(wrong_rotate_half::Interleaved), &prompt)?;
    println!("RoPE by halves (right):\n{PROMPT}{}\n", tokenizer.decode(&right, true));
    println!("RoPE by neighbours (wrong):\n{PROMPT}{}\n", tokenizer.decode(&wrong, true));

    println!(
        "{TOKENS} greedy tokens          the same up to  the right choice, given the right story so far"
    );
    println!("                          token           tokens 1-10  11-20  21-40  41-80");
    let traps: [(&str, Box<dyn Kernels>); 5] = [
        ("RoPE by neighbours", Box::new(wrong_rotate_half::Interleaved)),
        ("RoPE turned backwards", Box::new(wrong_rotate_half::TurnedBackwards)),
        ("kv_head = head % kv_heads", Box::new(wrong_kv_head::HeadModuloKvHeads)),
        ("norm subtracts the mean", Box::new(wrong_rms_norm::MeanSubtracted)),
        ("norm without epsilon", Box::new(wrong_rms_norm::WithoutEps)),
    ];
    for (name, kernels) in traps {
        let (mut runner, ids) = story(kernels, &prompt)?;
        let same = right.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        let choices = choices(&mut runner, &prompt, &right)?;
        let percent = |tokens: std::ops::Range<usize>| {
            let n = tokens.len();
            100 * tokens.filter(|&i| choices[i] == right[i]).count() / n
        };
        let [a, b, c, d] = [0..10, 10..20, 20..40, 40..80].map(percent);
        println!("{name:25} {same:5}           {a:10} %  {b:3} %  {c:3} %  {d:3} %");
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
    let mut runner = ModelRunner::load_with(cpu, &demo::directory(), LoadOptions::default(), kv::best)?;
    let mut params = GenerateParams { max_tokens: TOKENS, ..GenerateParams::default() };
    params.sampling.temperature = 0.0;
    let ids = generate(&mut runner, prompt, &params, &mut |_| ControlFlow::Continue(()))?.ids;
    Ok((runner, ids))
}

/// The model's best token at each place of a given story.
fn choices(runner: &mut ModelRunner<Cpu>, prompt: &[u32], story: &[u32]) -> Result<Vec<u32>> {
    let mut batch = Batch::of(&[prompt, story].concat());
    batch.want_all_logits();
    let logits = runner.forward(&batch, None)?;
    let logits = runner.backend.download(&logits)?;
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as u32;
    let rows = logits.chunks_exact(runner.config.vocab_size).skip(prompt.len() - 1);
    Ok(rows.take(story.len()).map(best).collect())
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
                let kv_head = Standard.kv_head(head, heads, kv_heads);
                let k = &of("k_norm")[((t - distance) * kv_heads + kv_head) * d..][..d];
                let neighbours = score(&wrong_rotate_half::Interleaved, distance, q, k);
                sum += (score(&Standard, distance, q, k) - neighbours).abs();
                n += 1;
            }
        }
        let turned = frequencies.iter().filter(|f| (distance as f32 * **f).to_degrees() > 30.0).count();
        rows.push((distance, turned, sum / n as f32));
    }
    Ok(rows)
}
