//! candle on the CPU in bf16: MODEL is a folder with config.json and model.safetensors of a Qwen3. Arguments and output are those of driver.py.

use anyhow::Result;
use candle_core::{D, DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::qwen3::{Config, ModelForCausalLM};
use clap::Parser;
use std::{fs, path::PathBuf, time::Instant};

#[derive(Parser)]
struct Arguments {
    model: PathBuf,
    #[arg(long, default_value_t = 1)]
    sequences: usize,
    /// Tokens of each prompt.
    #[arg(long, default_value_t = 128)]
    prompt: usize,
    /// Tokens after the first one.
    #[arg(long, default_value_t = 0)]
    tokens: usize,
    /// Told by RAYON_NUM_THREADS.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Stop at the first token, without warming up.
    #[arg(long)]
    first: bool,
}

fn main() -> Result<()> {
    let args = Arguments::parse();
    let config: Config = serde_json::from_str(&fs::read_to_string(args.model.join("config.json"))?)?;
    // SAFETY: nobody changes the file meanwhile.
    let weights = unsafe {
        VarBuilder::from_mmaped_safetensors(&[args.model.join("model.safetensors")], DType::BF16, &Device::Cpu)?
    };
    let mut model = ModelForCausalLM::new(&config, weights)?;
    let id = |i: usize| ((7919 * i + 13) % config.vocab_size) as u32;
    let ids: Vec<u32> = (0..args.sequences * args.prompt).map(id).collect();
    let rows = Tensor::from_vec(ids, (args.sequences, args.prompt), &Device::Cpu)?;
    if !args.first {
        timed(&mut model, &rows, args.tokens.min(2))?;
        model.clear_kv_cache();
    }
    let (first, step) = timed(&mut model, &rows, args.tokens)?;
    let report = serde_json::json!({"version": "candle 0.11.1", "prefill_seconds": first, "step_seconds": step});
    println!("{report}");
    Ok(())
}

/// Seconds until the first token, and on average from each to the next.
fn timed(model: &mut ModelForCausalLM, rows: &Tensor, count: usize) -> Result<(f64, Option<f64>)> {
    let start = Instant::now();
    let mut next = likeliest(model, rows, 0)?;
    let first = start.elapsed().as_secs_f64();
    for at in 0..count {
        next = likeliest(model, &next, rows.dim(1)? + at)?;
    }
    let rest = start.elapsed().as_secs_f64() - first;
    Ok((first, (count > 0).then(|| rest / count as f64)))
}

/// The likeliest next token of each sequence, [sequences, 1].
fn likeliest(model: &mut ModelForCausalLM, rows: &Tensor, position: usize) -> Result<Tensor> {
    let logits = model.forward(rows, position)?;
    let last = logits.i((.., logits.dim(1)? - 1))?;
    Ok(last.argmax(D::Minus1)?.unsqueeze(1)?)
}
