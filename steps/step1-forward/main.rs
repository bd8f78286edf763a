//! A forward pass told step by step, with the demo model's real numbers: `cargo run --release --example step1`.

use anyhow::Result;
use stairwell::{
    attention::KvOptions,
    backend::{
        Backend, Shaped,
        cpu::{Cpu, CpuTensor, Kernels, Standard},
    },
    batch::Batch,
    checkpoint::StateDict,
    demo,
    generate::{GenerateParams, generate},
    model::{Observer, rope::Frequencies},
    runner::{LoadOptions, ModelRunner},
    sampling::{Sampler, SamplingParams},
    tokenizer::Tokenizer,
};
use std::ops::ControlFlow;

const PROMPT: &str = "One day, Tom found a";
/// The layer whose modules are shown.
const LAYER: &str = "model.layers.3";

/// The output of a module: its columns, and all its values, row by row.
struct Output {
    name: String,
    cols: usize,
    values: Vec<f32>,
}

impl Output {
    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }
}

/// Keeps every module's output, in the order of the forward pass.
// ANCHOR: observer
#[derive(Default)]
struct Outputs(Vec<Output>);

impl Observer<Cpu> for Outputs {
    fn output(&mut self, cpu: &Cpu, name: &str, x: &CpuTensor) {
        let values = cpu.download(x).expect("the CPU's memory can be read");
        self.0.push(Output { name: name.into(), cols: x.cols(), values });
    }
}
// ANCHOR_END: observer

impl Outputs {
    fn of(&self, name: &str) -> &Output {
        self.0.iter().find(|o| o.name == name).unwrap_or_else(|| panic!("no module {name}"))
    }
}

fn main() -> Result<()> {
    let directory = demo::directory();
    let tokenizer = Tokenizer::new(demo::tokenizer_files())?;
    let options = LoadOptions { kv: KvOptions::recompute(), ..LoadOptions::default() };
    let mut runner = ModelRunner::load(&directory, options)?;

    println!("1. Text to token ids");
    let ids = tokenizer.encode_prompt(PROMPT)?;
    let piece = |id: u32| tokenizer.piece(id).unwrap_or_default();
    println!("   {PROMPT:?} = {ids:?} = {:?}", ids.iter().map(|&id| piece(id)).collect::<Vec<_>>());

    // One forward pass, watched.
    let mut outputs = Outputs::default();
    let logits = runner.forward(&Batch::of(&ids), Some(&mut outputs))?;
    let mut logits = runner.backend.download(&logits)?;

    embedding(&StateDict::open(&directory)?, &ids, &outputs);
    layer(&outputs, ids.len());
    rotation(&runner, &outputs);
    head_sharing(&runner);

    println!("\n6. The last hidden state to {} logits; the best five:", logits.len());
    let mut best: Vec<usize> = (0..logits.len()).collect();
    best.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let sum: f64 = logits.iter().map(|&l| (l as f64).exp()).sum();
    for &id in &best[..5] {
        let (text, logit) = (format!("{:?}", piece(id as u32)), logits[id]);
        println!("   {id:5}  {text:10}  logit {logit:6.2}, probability {:.3}", (logit as f64).exp() / sum);
    }

    sampling(&mut logits, &ids, piece)?;

    println!("\n8. Append it and start again: 12 greedy tokens");
    let mut params = GenerateParams { max_tokens: 12, ..GenerateParams::default() };
    params.sampling.temperature = 0.0;
    let before = runner.tokens_computed();
    let output = generate(&mut runner, &ids, &params, &mut |_| ControlFlow::Continue(()))?;
    println!("   {PROMPT}{}", tokenizer.decode(&output.ids, true));
    println!("   12 tokens out, {} tokens through the model", runner.tokens_computed() - before);
    Ok(())
}

fn embedding(state_dict: &StateDict, ids: &[u32], outputs: &Outputs) {
    let table = state_dict.tensor("model.embed_tokens.weight").expect("the demo has an embedding");
    let x = outputs.of("model.embed_tokens");
    println!("\n2. Ids to vectors: [{}] -> [{}, {}]", ids.len(), ids.len(), x.cols);
    let row = &table.to_f32()[ids[0] as usize * x.cols..][..x.cols];
    assert_eq!(row, x.row(0), "the vector of a token is its row of the table");
    println!("   row {} of the table {:?}: {}", ids[0], table.shape, start(row));
}

fn layer(outputs: &Outputs, tokens: usize) {
    println!("\n3. {LAYER}, module by module; the numbers are the last token's first ones");
    for o in &outputs.0 {
        if let Some(name) = o.name.strip_prefix(LAYER) {
            let name = if name.is_empty() { "(the layer)" } else { &name[1..] };
            println!("   {name:24}  [{tokens}, {:3}]  {}", o.cols, start(o.row(tokens - 1)));
        }
    }
}

/// Queries and keys are turned to their positions; their product then depends on the distance alone.
fn rotation(runner: &ModelRunner<Cpu>, outputs: &Outputs) {
    let d = runner.config.head_dim;
    let rope = Frequencies::new(&runner.config, runner.config.context()).expect("the demo has RoPE");
    let head =
        |module: &str, row: usize| outputs.of(&format!("{LAYER}.self_attn.{module}")).row(row)[..d].to_vec();
    let (q, k) = (head("q_norm", 3), head("k_norm", 0));
    let at = |head: &[f32], position: usize| {
        let angle = |f: &f32| position as f32 * f;
        let (cos, sin): (Vec<f32>, Vec<f32>) =
            rope.inv_freq.iter().map(|f| (angle(f).cos(), angle(f).sin())).unzip();
        let mut head = head.to_vec();
        Standard::default().rotate_half(&mut head, &cos, &sin);
        head
    };
    println!("\n4. RoPE turns the {} pairs of a head; pair 1 is elements 1 and {}:", d / 2, 1 + d / 2);
    for position in [0, 1, 3] {
        let turned = at(&q, position);
        let angle = position as f32 * rope.inv_freq[1];
        let (a, b) = (turned[1], turned[1 + d / 2]);
        println!("   q at position {position}, {angle:.3} radians: ({a:6.3}, {b:6.3})");
    }
    let score = |p: usize, t: usize| -> f32 { at(&q, p).iter().zip(&at(&k, t)).map(|(a, b)| a * b).sum() };
    for (p, t) in [(3, 0), (1003, 1000), (3, 3)] {
        println!("   q at {p:4}, k at {t:4}, {} apart: q . k = {:.2}", p - t, score(p, t));
    }
}

fn head_sharing(runner: &ModelRunner<Cpu>) {
    let (heads, kv_heads) = (runner.config.num_attention_heads, runner.config.num_key_value_heads);
    println!("\n5. {heads} query heads share {kv_heads} heads of K and V");
    for head in 0..heads {
        println!(
            "   query head {head} reads K and V of head {}",
            Standard::default().kv_head(head, heads, kv_heads)
        );
    }
}

fn sampling(logits: &mut [f32], prompt: &[u32], piece: impl Fn(u32) -> String) -> Result<()> {
    println!("\n7. Logits to one token: greedy, then at temperature 0.7 with three seeds");
    let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let warm = |seed| SamplingParams {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.95,
        seed: Some(seed),
        ..SamplingParams::default()
    };
    for params in [greedy, warm(1), warm(2), warm(3)] {
        let how = params.seed.map_or("greedy".into(), |seed| format!("seed {seed}"));
        let sampled = Sampler::new(params, prompt, logits.len())?.sample(logits)?;
        println!("   {how}: {} {:?}", sampled.token, piece(sampled.token));
    }
    Ok(())
}

fn start(row: &[f32]) -> String {
    let shown: Vec<String> = row[..4].iter().map(|v| format!("{v:7.3}")).collect();
    format!("[{}, ...]", shown.join(", "))
}
