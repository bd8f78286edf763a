//! Chapter 8 as a program, the three components without HTTP: `cargo run --release --features step8 --example step8`.

use anyhow::{Result, anyhow};
use stairwell::{
    demo,
    engine::{Continuous, Engine, Limits, LocalWorker, Worker},
    request::{Checkpoint, Fields},
    runner::{LoadOptions, ModelRunner},
    server::{
        detokenizer,
        io_struct::{GenerateReqInput, Piece, PromptInput},
        metrics::Metrics,
        scheduler::Scheduler,
        status::{Phase, Status},
        tokenizer_manager::{Generation, RequestLimits, TokenizerManager},
    },
};
use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

const TOKENS: usize = 24;
/// After so many tokens, the reader of request C leaves.
const PATIENCE: usize = 8;
const PROMPTS: [(&str, &str); 4] = [
    ("A", "Once upon a time"),
    ("B", "One day, Tom and his dog"),
    ("C", "The little girl was"),
    ("D", "In a big house there lived"),
];

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let manager = start(Limits { max_num_seqs: 4, max_batched_tokens: 64 })?;
    runtime.block_on(tell(&manager))?;
    manager.shut_down();
    Ok(())
}

// ANCHOR: start
/// The Scheduler and the Detokenizer, each on a thread of its own, and the TokenizerManager before them.
fn start(limits: Limits) -> Result<Arc<TokenizerManager>> {
    let checkpoint = Checkpoint::open(demo::directory())?;
    let runner = ModelRunner::load(&demo::directory(), LoadOptions::default())?;
    let mut engine = Engine::new(LocalWorker::new(runner)?, Box::new(Continuous), limits);
    let limits = RequestLimits {
        max_model_len: engine.worker.max_model_len(),
        max_queued: 8,
        max_running: limits.max_num_seqs,
        timeout: None,
    };
    engine.queue_limits.requests = limits.max_queued;

    let (to_scheduler, from_manager) = mpsc::channel();
    let (to_detokenizer, from_scheduler) = mpsc::sync_channel(64);
    let (status, aborts) = (Arc::new(Status::default()), to_scheduler.clone());
    let scheduler = Scheduler::new(engine, from_manager, to_detokenizer, status.clone());
    thread::spawn(move || scheduler.run());
    thread::spawn(move || detokenizer::run(from_scheduler, aborts, Arc::new(Metrics::new())));
    status.enter(Phase::Serving);
    Ok(Arc::new(TokenizerManager::new(checkpoint, limits, status, to_scheduler)))
}
// ANCHOR_END: start

async fn tell(manager: &Arc<TokenizerManager>) -> Result<()> {
    println!("1. One request, piece by piece");
    let generation = ask(manager, PROMPTS[0].1, Fields::default()).await?;
    let pieces = read(generation, usize::MAX).await?;
    let texts: Vec<&str> = pieces.iter().map(|piece| piece.text.as_str()).collect();
    println!("   {}", texts.join("|"));

    println!("\n2. The same with the stop string \"lake, there\": what may begin it waits");
    let stop = Fields { stop: vec!["lake, there".into()], ..Fields::default() };
    let generation = ask(manager, PROMPTS[0].1, stop).await?;
    let pieces = read(generation, usize::MAX).await?;
    let texts: Vec<&str> = pieces.iter().map(|piece| piece.text.as_str()).collect();
    println!("   {}", texts.join("|"));

    println!("\n3. Four at a time; C's reader leaves after {PATIENCE} tokens");
    let answers: Vec<_> =
        PROMPTS.map(|(name, prompt)| tokio::spawn(answer(manager.clone(), name, prompt))).into();
    for (answer, (name, prompt)) in answers.into_iter().zip(PROMPTS) {
        println!("   {name}: {prompt}{}", answer.await??);
    }
    let left = Instant::now();
    while manager.status.kv_used.load(std::sync::atomic::Ordering::Relaxed) > 0 {
        anyhow::ensure!(left.elapsed() < Duration::from_secs(5), "blocks are held");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("   then {} requests are open, and 0 places of K and V are in use", manager.open());

    println!("\n4. A request that no queue could take is refused before it costs anything");
    let many = Fields { n: Some(16), ..Fields::default() };
    match ask(manager, PROMPTS[0].1, many).await {
        Ok(_) => println!("   it was taken"),
        Err(why) => println!("   {why}"),
    }
    Ok(())
}

/// A request's text, or what C's reader saw of it.
async fn answer(manager: Arc<TokenizerManager>, name: &str, prompt: &'static str) -> Result<String> {
    let generation = ask(&manager, prompt, Fields::default()).await?;
    let most = if name == "C" { PATIENCE } else { usize::MAX };
    let pieces = read(generation, most).await?;
    Ok(pieces.into_iter().map(|piece| piece.text.replace('\n', " ")).collect())
}

/// Greedy, and a few tokens.
async fn ask(manager: &Arc<TokenizerManager>, prompt: &str, fields: Fields) -> Result<Generation> {
    let fields = Fields { temperature: Some(0.0), max_tokens: Some(TOKENS), ..fields };
    let prompts = vec![PromptInput::Text(prompt.into())];
    let input = GenerateReqInput { prompts, fields, ..GenerateReqInput::default() };
    let refused =
        |error: stairwell::server::error::ApiError| anyhow!("{}: {}", error.status.as_u16(), error.message);
    manager.generate(input).await.map_err(refused)
}

/// The pieces up to the end, or until they have so many tokens. Then `generation` is dropped: before its end, so the request is taken back.
async fn read(mut generation: Generation, most: usize) -> Result<Vec<Piece>> {
    let (mut pieces, mut tokens): (Vec<Piece>, usize) = (Vec::new(), 0);
    while let Some(more) = generation.next().await.map_err(|error| anyhow!(error.message))? {
        for piece in more {
            tokens += piece.tokens.len();
            pieces.push(piece);
            if tokens >= most {
                return Ok(pieces);
            }
        }
    }
    Ok(pieces)
}
