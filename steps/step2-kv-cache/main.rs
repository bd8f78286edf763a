//! A text with a KV cache, pass by pass, with the demo model's real numbers, and what three mistakes look like:
//! `cargo run --release --features step2 --example step2`.

#[allow(dead_code, unused_imports)] // this program uses a part of it
#[path = "../contracts/mod.rs"]
mod contracts;

use crate::contracts::step2::{KvCache, Pieces};
use anyhow::Result;
use stairwell::{
    attention::{AttentionKind, KvDtype, KvOptions, Recompute},
    backend::{Backend, cpu::Cpu},
    batch::Batch,
    demo,
    generate::{GenerateParams, generate},
    model::{Attention, AttentionShape},
    runner::{LoadOptions, ModelRunner},
    tokenizer::Tokenizer,
};
use std::ops::ControlFlow;

const PROMPT: &str = "One day, Tom found a";
/// Longer than the window by far.
const LONG_PROMPT: &str = "One day, Tom found a big box in the park. He";
const WINDOW: usize = 4;
/// New tokens.
const NEW: usize = 16;

fn main() -> Result<()> {
    let tokenizer = Tokenizer::new(demo::tokenizer_files())?;
    let mut ids = tokenizer.encode_prompt(PROMPT)?;
    let piece = |id: u32| format!("{:?}", tokenizer.piece(id).unwrap_or_default());
    let cache = KvOptions { attention: Some(AttentionKind::Contiguous), ..KvOptions::default() };
    let mut cached = runner(cache)?;
    let mut recompute = runner(KvOptions::recompute())?;

    println!("1. Prefill: the whole prompt in one pass");
    println!("   {PROMPT:?} = {} rows, at positions 0 to {}", ids.len(), ids.len() - 1);
    let logits = forward(&mut cached, &ids, 0)?;
    println!("   behind {} the likeliest token is {}", piece(ids[ids.len() - 1]), piece(best(&logits)));
    memory(&cached, ids.len());

    println!("\n3. Decode: one row a pass");
    let mut next = best(&logits);
    for _ in 0..3 {
        let position = ids.len();
        ids.push(next);
        let logits = forward(&mut cached, &[next], position)?;
        let whole = forward(&mut recompute, &ids, 0)?;
        let same = logits.iter().zip(&whole).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
        assert_eq!(same, whole.len(), "a cache must not change a bit");
        println!(
            "   row {:8} at position {position}, over {} keys a head: {:9}  {same} of {} logits have the bits of computing {} rows",
            piece(next),
            position + 1,
            piece(best(&logits)),
            whole.len(),
            ids.len()
        );
        next = best(&logits);
    }

    println!("\n4. {NEW} tokens, and the rows that went through the model for them");
    for (name, runner) in [("recompute", &mut recompute), ("contiguous", &mut cached)] {
        let before = runner.tokens_computed();
        let text = text(runner, &tokenizer, PROMPT)?;
        println!("   {name:10}  {:3} rows  {text}", runner.tokens_computed() - before);
    }
    mistakes(&tokenizer)
}

fn memory(cached: &ModelRunner<Cpu>, tokens: usize) {
    let (config, kv) = (&cached.config, cached.attention.memory());
    let (layers, kv_heads, d) = (config.num_hidden_layers, config.num_key_value_heads, config.head_dim);
    println!("\n2. What is kept: K and V of every layer");
    println!(
        "   2 * {layers} layers * {kv_heads} KV heads * {d} * {} bytes = {} bytes a token",
        KvDtype::F32.stored().bytes(),
        kv.bytes_per_token
    );
    println!("   {tokens} tokens: {} bytes", tokens as u64 * kv.bytes_per_token);
    println!("   reserved from the start for {} tokens: {} bytes", cached.max_model_len(), kv.reserved_bytes);
}

// ANCHOR: mistakes
/// K of a new token is computed and not kept.
struct KLeftOut;

impl KvCache for KLeftOut {
    fn write(&self, _k_cache: &mut [f32], v_cache: &mut [f32], place: usize, _k: &[f32], v: &[f32]) {
        v_cache[place * v.len()..][..v.len()].copy_from_slice(v);
    }
}

/// Each token is kept one place behind its own, and read from its own.
struct ShiftedByOne;

impl KvCache for ShiftedByOne {
    fn write(&self, k_cache: &mut [f32], v_cache: &mut [f32], place: usize, k: &[f32], v: &[f32]) {
        k_cache[(place + 1) * k.len()..][..k.len()].copy_from_slice(k);
        v_cache[(place + 1) * v.len()..][..v.len()].copy_from_slice(v);
    }
}

/// A prompt's last tokens overwrite keys that its first ones still see.
struct WindowAlone;

impl KvCache for WindowAlone {
    fn ring_tokens(&self, window: usize, _max_chunk: usize, _max_tokens: usize) -> usize {
        window
    }
}
// ANCHOR_END: mistakes

/// A cache without a mistake.
struct Ours;

impl KvCache for Ours {}

fn mistakes(tokenizer: &Tokenizer) -> Result<()> {
    let none = |_: &mut AttentionShape| {};
    let windows = |shape: &mut AttentionShape| shape.windows.fill(Some(WINDOW));
    let show = |what: &str, prompt: &str, mut runner: ModelRunner<Cpu>| -> Result<()> {
        println!("   {what:28}  {}", text(&mut runner, tokenizer, prompt)?);
        Ok(())
    };
    println!("\n5. Three mistakes, each beside the right text");
    show("right", PROMPT, pieces(Ours, 1, none)?)?;
    show("the write of K left out", PROMPT, pieces(KLeftOut, 1, none)?)?;
    show("written one place behind", PROMPT, pieces(ShiftedByOne, 1, none)?)?;

    println!("\n   The same model with windows of {WINDOW} tokens, and a prompt that is longer:");
    let options = LoadOptions { kv: KvOptions::recompute(), ..LoadOptions::default() };
    let recompute = ModelRunner::load_with(Cpu::default(), &demo::directory(), options, |mut shape, _| {
        windows(&mut shape);
        Ok(Box::new(Recompute::new(shape)) as Box<dyn Attention<Cpu>>)
    })?;
    show("right, without a cache", LONG_PROMPT, recompute)?;
    let chunk = tokenizer.encode_prompt(LONG_PROMPT)?.len();
    show("ring of window + chunk - 1", LONG_PROMPT, pieces(Ours, chunk, windows)?)?;
    show("ring of the window alone", LONG_PROMPT, pieces(WindowAlone, chunk, windows)?)
}

/// The demo model on a cache that is put together from pieces; only rings must know the longest chunk.
fn pieces(
    cache: impl KvCache + 'static,
    max_chunk: usize,
    change: impl Fn(&mut AttentionShape),
) -> Result<ModelRunner<Cpu>> {
    let options = LoadOptions::default();
    let runner = ModelRunner::load_with(Cpu::default(), &demo::directory(), options, |mut shape, _| {
        change(&mut shape);
        Ok(Box::new(Pieces::new(cache, shape, max_chunk, 100)) as Box<dyn Attention<Cpu>>)
    })?;
    Ok(runner)
}

fn runner(kv: KvOptions) -> Result<ModelRunner<Cpu>> {
    Ok(ModelRunner::load(&demo::directory(), LoadOptions { kv, ..LoadOptions::default() })?)
}

/// One pass over the tokens from position `start` on; the logits of the last.
fn forward(runner: &mut ModelRunner<Cpu>, tokens: &[u32], start: usize) -> Result<Vec<f32>> {
    let mut batch = Batch::default();
    batch.push(tokens, start, &[0]); // it has slot 0
    let logits = runner.forward(&batch, None)?;
    Ok(runner.backend.download(&logits)?)
}

fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0) as u32
}

/// The first greedy tokens behind a prompt, on one line.
fn text(runner: &mut ModelRunner<Cpu>, tokenizer: &Tokenizer, prompt: &str) -> Result<String> {
    let mut params = GenerateParams { max_tokens: NEW, ..GenerateParams::default() };
    params.sampling.temperature = 0.0;
    let ids = tokenizer.encode_prompt(prompt)?;
    let output = generate(runner, &ids, &params, &mut |_| ControlFlow::Continue(()))?;
    Ok(format!("…{}", tokenizer.decode(&output.ids, true).replace('\n', " ").trim_end()))
}
