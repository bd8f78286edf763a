//! Chapter 7 as a program: `cargo run --release --features step7 --example step7`.

use anyhow::Result;
use stairwell::{
    attention::KvOptions,
    backend::cpu::Cpu,
    demo,
    engine::{Continuous, Engine, Limits, RanksReport},
    generate::{GenerateParams, generate},
    parallel::{Setup, Topology, Workload, in_threads},
    runner::ModelRunner,
    sampling::SamplingParams,
    tokenizer::Tokenizer,
};
use std::ops::ControlFlow;

const PROMPT: &str = "Once upon a time";
const TOKENS: usize = 12;

fn main() -> Result<()> {
    let tokenizer = Tokenizer::new(demo::tokenizer_files())?;
    let prompt = tokenizer.encode_prompt(PROMPT)?;

    println!("1. One worker");
    let mut alone = ModelRunner::load(&demo::directory(), Default::default())?;
    let story = write(&mut alone, &prompt)?;
    println!("   {} bytes of weights\n   {PROMPT}{}", alone.weights.held, tokenizer.decode(&story, true));

    for (number, title, tensor, pipeline) in
        [(2, "Two slices", 2, 1), (3, "Two stages", 1, 2), (4, "Two slices of two stages", 2, 2)]
    {
        println!("\n{number}. {title}");
        let (same, report) = on_ranks(Topology { tensor, pipeline }, &prompt, alone.weights.held)?;
        println!("   {}", said(&report));
        println!("   the same story: {}", if same == story { "yes" } else { "no" });
    }
    Ok(())
}

/// Writes the story on ranks that are threads, and shows what each of them holds.
fn on_ranks(topology: Topology, prompt: &[u32], whole: u64) -> Result<(Vec<u32>, RanksReport)> {
    let workload = Workload { max_length: None, kv: KvOptions::default() };
    let leader = in_threads(Cpu::default(), &Setup::new(demo::directory(), topology), workload, None)?;
    let limits = Limits { max_num_seqs: 1, ..Limits::default() };
    let mut engine = Engine::new(leader, Box::new(Continuous), limits);
    engine.add(prompt.to_vec(), params())?;
    let story = engine.run()?.remove(0).output;
    let report = engine.worker.ranks()?;
    for rank in &report.ranks {
        println!(
            "   rank {}: layers {:?}, {:>7} bytes of weights, {:>2} %; {:>6} of them copied",
            rank.rank,
            rank.layers,
            rank.weight_bytes,
            100 * rank.weight_bytes / whole,
            rank.weight_bytes_copied
        );
    }
    Ok((story, report))
}

/// What rank 0 has said, and for how many passes.
fn said(report: &RanksReport) -> String {
    let traffic = report.ranks[0].traffic;
    format!(
        "{} passes; rank 0 was in {} all_reduces of {} bytes in all, and sent {} messages of {} bytes",
        report.passes, traffic.all_reduces, traffic.all_reduce_bytes, traffic.sends, traffic.send_bytes
    )
}

fn write(runner: &mut ModelRunner<Cpu>, prompt: &[u32]) -> Result<Vec<u32>> {
    Ok(generate(runner, prompt, &params(), &mut |_| ControlFlow::Continue(()))?.ids)
}

/// Greedy, and a few tokens.
fn params() -> GenerateParams {
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    GenerateParams { max_tokens: TOKENS, sampling, ..GenerateParams::default() }
}
