//! Four requests on one model, step by step: `cargo run --release --features step3 --example step3`.

use anyhow::Result;
use stairwell::{
    attention::{AttentionKind, KvOptions},
    demo,
    engine::{Chunk, Continuous, Engine, Limits, LocalWorker, Policy, RequestId, Static},
    generate::{GenerateParams, generate},
    runner::{LoadOptions, ModelRunner},
    tokenizer::Tokenizer,
};
use std::{collections::BTreeMap, ops::ControlFlow};

/// Prompt, output tokens, and the step before which it arrives.
const REQUESTS: [(&str, usize, u64); 4] = [
    ("Once upon a time", 12, 0),
    ("One day, Tom found a", 6, 0),
    ("Lily had a small red boat. She took it to the lake and put it on the water. Then", 10, 2),
    ("The dog", 5, 4),
];
const LIMITS: Limits = Limits { max_num_seqs: 3, max_batched_tokens: 8 };

/// Output tokens by request.
type Outputs = BTreeMap<RequestId, Vec<u32>>;
type DemoEngine = Engine<LocalWorker<stairwell::backend::cpu::Cpu>>;

fn main() -> Result<()> {
    let tokenizer = Tokenizer::new(demo::tokenizer_files())?;
    println!("1. The schedule: at most 3 requests and 8 tokens a step");
    let outputs = serve(&tokenizer, engine(Box::new(Continuous), LIMITS)?)?;

    println!("\n2. What each request got, and what it gets alone");
    for (at, (prompt, tokens, _)) in REQUESTS.into_iter().enumerate() {
        let together = &outputs[&RequestId(at as u64)];
        let mut runner = ModelRunner::load(&demo::directory(), LoadOptions::default())?;
        let ids = tokenizer.encode_prompt(prompt)?;
        let alone = generate(&mut runner, &ids, &params(tokens), &mut |_| ControlFlow::Continue(()))?.ids;
        let same = if *together == alone { "the same alone" } else { "NOT the same alone" };
        println!("   {}: …{} ({same})", name(at), tokenizer.decode(together, true).replace('\n', " "));
    }

    println!("\n3. Steps for the same requests, all there at the start");
    let one = Limits { max_num_seqs: 1, ..LIMITS };
    for (what, policy, limits) in [
        ("one at a time", Box::new(Continuous) as Box<dyn Policy>, one),
        ("static batches", Box::<Static>::default(), LIMITS),
        ("continuous batching", Box::new(Continuous), LIMITS),
    ] {
        let mut engine = engine(policy, limits)?;
        for (prompt, tokens, _) in REQUESTS {
            engine.add(tokenizer.encode_prompt(prompt)?, params(tokens))?;
        }
        engine.run()?;
        let stats = engine.stats();
        println!(
            "   {what:20} {:2} steps, {} tokens computed, {:2.0} % of the reserved KV memory held a token",
            stats.steps,
            stats.tokens_computed,
            100.0 * stats.kv_utilization(),
        );
    }
    Ok(())
}

fn params(max_tokens: usize) -> GenerateParams {
    let mut params = GenerateParams { max_tokens, ..GenerateParams::default() };
    params.sampling.temperature = 0.0;
    params
}

fn engine(policy: Box<dyn Policy>, limits: Limits) -> Result<DemoEngine> {
    let kv = KvOptions {
        attention: Some(AttentionKind::Contiguous), // slots, in every build
        max_num_seqs: Some(limits.max_num_seqs),
        max_model_len: Some(64),
        ..KvOptions::default()
    };
    let options = LoadOptions { kv, ..LoadOptions::default() };
    Ok(Engine::new(LocalWorker::new(ModelRunner::load(&demo::directory(), options)?)?, policy, limits))
}

/// Serves the requests as they arrive, and tells each step.
fn serve(tokenizer: &Tokenizer, mut engine: DemoEngine) -> Result<Outputs> {
    let mut outputs = Outputs::default();
    let (mut arrived, mut step) = (0, 0);
    while arrived < REQUESTS.len() || engine.queues() != (0, 0) {
        while let Some((prompt, tokens, _)) = REQUESTS.get(arrived).filter(|(_, _, at)| *at <= step) {
            let ids = tokenizer.encode_prompt(prompt)?;
            println!("   {} arrives: {} prompt tokens, {tokens} to write", name(arrived), ids.len());
            engine.add(ids, params(*tokens))?;
            arrived += 1;
        }
        let finished = engine.step()?.into_iter().filter_map(|update| update.finished);
        outputs.extend(finished.map(|finished| (finished.id, finished.output)));
        step += 1;
        println!("   step {step:2}  {:36} {} waiting", row(&engine), engine.queues().0);
    }
    Ok(outputs)
}

/// A batch as its flat row of positions: `A 3  B 0 1 2 3 4 5 6`.
fn row(engine: &DemoEngine) -> String {
    let span = |chunk: &Chunk| {
        let positions: Vec<String> = chunk.positions.clone().map(|p| p.to_string()).collect();
        format!("{} {}", name(chunk.id.0 as usize), positions.join(" "))
    };
    engine.last_chunks().iter().map(span).collect::<Vec<_>>().join(" | ")
}

fn name(at: usize) -> char {
    (b'A' + at as u8) as char
}
