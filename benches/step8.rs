//! Step 8 by the clock, on the demo model: what each part of the server costs, from an event's bytes to a whole answer over HTTP.
//!
//! ```text
//! cargo bench --features step8 --bench step8     # measures
//! python scripts/record_step8.py                 # runs the server under load too, and writes benches/results/step8.json
//! ```
//! `parts`: writing events, passing pieces to a client's task, and making text of tokens, each for 4,096 tokens. `request`: one greedy answer of 16 tokens by the
//! engine alone, by the three components, and over HTTP on loopback, whole and streamed. The difference between two of them is what the upper one adds.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde::Serialize;
use stairwell::{
    demo,
    engine::{Continuous, Engine, Finished, Limits, LocalWorker, RequestId, Times, Update, Worker},
    generate::{FinishReason, GenerateParams},
    request::{Checkpoint, Fields},
    runner::{LoadOptions, ModelRunner},
    sampling::{Sampled, SamplingParams},
    server::{
        detokenizer::{self, OutputText, TextRules},
        http::{access::AccessOptions, sse},
        io_struct::{Address, BatchTokenIdOutput, GenerateReqInput, GroupId, Piece, PromptInput},
        lifecycle::{ServeOptions, Server},
        metrics::Metrics,
        outbox::Outbox,
        scheduler::Scheduler,
        status::{Phase, Status},
        tokenizer_manager::{RequestLimits, TokenizerManager},
    },
    tokenizer::Tokenizer,
};
use std::{
    hint::black_box,
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};
use tokio::runtime::Runtime;

const STREAMS: usize = 64;
const TOKENS: usize = 64;
const PROMPT: &str = "Once upon a time";
/// Tokens of one answer.
const ANSWER: usize = 16;

/// A chunk of a stream, in the shape of a completion's.
#[derive(Serialize)]
struct Chunk {
    id: &'static str,
    object: &'static str,
    created: u64,
    model: &'static str,
    choices: [Choice; 1],
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    text: &'static str,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

fn sampled(token: u32) -> Sampled {
    Sampled { token, logprob: None, top_logprobs: Vec::new() }
}

fn parts(c: &mut Criterion) {
    let mut group = c.benchmark_group("parts");
    group.throughput(Throughput::Elements((STREAMS * TOKENS) as u64));
    let choice = Choice { index: 0, text: " village", logprobs: None, finish_reason: None };
    let chunk = Chunk {
        id: "cmpl-0123456789abcdef00000001",
        object: "text_completion",
        created: 1_800_000_000,
        model: "stairwell-demo",
        choices: [choice],
    };
    group.bench_function("events", |b| {
        let mut out = Vec::with_capacity(1 << 20);
        b.iter(|| {
            out.clear();
            (0..STREAMS * TOKENS).for_each(|_| sse::event_into(&mut out, black_box(&chunk)));
            black_box(out.len())
        });
    });
    let runtime = Runtime::new().expect("a runtime");
    group.bench_function("outbox", |b| {
        b.iter(|| {
            for _ in 0..STREAMS {
                let outbox = Outbox::default();
                for token in 0..TOKENS as u32 {
                    let piece =
                        Piece { text: " village".into(), tokens: vec![sampled(token)], ..Piece::default() };
                    outbox.push(piece);
                }
                black_box(runtime.block_on(outbox.take()).expect("a reader in time"));
            }
        });
    });
    let tokenizer = Tokenizer::new(demo::tokenizer_files()).expect("the demo's tokenizer");
    group.bench_function("detokenizer", |b| b.iter(|| detokenize(&tokenizer)));
    group.finish();
}

/// The detokenizer's thread from its start to its end: 64 outputs of 64 tokens, a step at a time.
fn detokenize(tokenizer: &Tokenizer) {
    let (to_detokenizer, steps) = mpsc::sync_channel(64);
    let (to_scheduler, _aborts) = mpsc::channel();
    let texts = thread::spawn(move || detokenizer::run(steps, to_scheduler, Arc::new(Metrics::new())));
    let after = tokenizer.encode_prompt(PROMPT).expect("a prompt");
    let rules = TextRules {
        tokenizer: Some(tokenizer),
        after: &after,
        stop: &[],
        skip_special_tokens: true,
        include_stop: false,
        min_tokens: 0,
        only_prompt: false,
    };
    let output = |stream: u64| {
        let address = Address { outbox: Arc::default(), index: 0, group: GroupId(stream) };
        (RequestId(stream), OutputText::new(address, after.len(), &rules))
    };
    let new = (0..STREAMS as u64).map(output).collect();
    to_detokenizer.send(BatchTokenIdOutput { new, ..BatchTokenIdOutput::default() }).expect("a thread");
    for step in 0..TOKENS {
        let update = |stream: u64| {
            let id = RequestId(stream);
            let finished = (step + 1 == TOKENS).then(|| finished(id));
            let token = Some(sampled(300 + (step as u32 * 7 + stream as u32) % 600));
            Update { id, token, prompt_logprobs: Vec::new(), finished }
        };
        let updates = (0..STREAMS as u64).map(update).collect();
        to_detokenizer
            .send(BatchTokenIdOutput { updates, ..BatchTokenIdOutput::default() })
            .expect("a thread");
    }
    drop(to_detokenizer);
    texts.join().expect("texts");
}

fn finished(id: RequestId) -> Finished {
    Finished {
        id,
        output: vec![0; TOKENS],
        reason: FinishReason::Length,
        error: None,
        seed: None,
        times: Times::default(),
        cached_tokens: 0,
        preemptions: 0,
        weight_version: 0,
    }
}

fn engine() -> Engine<LocalWorker<stairwell::backend::cpu::Cpu>> {
    let runner = ModelRunner::load(&demo::directory(), LoadOptions::default()).expect("the demo loads");
    let limits = Limits { max_num_seqs: 1, max_batched_tokens: 256 };
    Engine::new(LocalWorker::new(runner).expect("a worker"), Box::new(Continuous), limits)
}

/// The three components, whose threads live as long as this process.
fn components() -> Arc<TokenizerManager> {
    let checkpoint = Checkpoint::open(demo::directory()).expect("the demo's files");
    let engine = engine();
    let max_model_len = engine.worker.max_model_len();
    let limits = RequestLimits { max_model_len, max_queued: 64, max_running: 1, timeout: None };
    let (to_scheduler, from_manager) = mpsc::channel();
    let (to_detokenizer, from_scheduler) = mpsc::sync_channel(64);
    let (status, aborts) = (Arc::new(Status::default()), to_scheduler.clone());
    let scheduler = Scheduler::new(engine, from_manager, to_detokenizer, status.clone());
    thread::spawn(move || scheduler.run());
    thread::spawn(move || detokenizer::run(from_scheduler, aborts, Arc::new(Metrics::new())));
    status.enter(Phase::Serving);
    Arc::new(TokenizerManager::new(checkpoint, limits, status, to_scheduler))
}

/// A server on a thread that lives as long as this process: its host and port.
fn server() -> String {
    let options = ServeOptions {
        host: "127.0.0.1".into(),
        port: 0,
        names: vec!["stairwell-demo".into()],
        access: AccessOptions::default(),
        max_queued_requests: 64,
        max_body_bytes: 1 << 20,
        request_timeout: None,
        slow_reader_timeout: Duration::from_secs(60),
        shutdown_timeout: Duration::from_secs(1),
        log_json: false,
    };
    let (ready, started) = mpsc::channel();
    thread::spawn(move || {
        let server = Server::bind(options).expect("a free port");
        let checkpoint = Checkpoint::open(demo::directory()).expect("the demo's files");
        server.serve(checkpoint, engine(), |url, _| {
            ready.send(url.trim_start_matches("http://").to_owned()).expect("the bench waits");
        })
    });
    started.recv().expect("a server")
}

async fn answer(manager: &Arc<TokenizerManager>) -> usize {
    let fields = Fields { temperature: Some(0.0), max_tokens: Some(ANSWER), ..Fields::default() };
    let prompts = vec![PromptInput::Text(PROMPT.into())];
    let input = GenerateReqInput { prompts, fields, ..GenerateReqInput::default() };
    let mut generation = manager.generate(input).await.expect("a request");
    let mut bytes = 0;
    while let Some(pieces) = generation.next().await.expect("an answer") {
        bytes += pieces.iter().map(|piece| piece.text.len()).sum::<usize>();
    }
    bytes
}

/// Sends a request, and reads until its answer is whole: up to the last chunk of a stream, or as many bytes as its head says.
fn over_http(connection: &mut TcpStream, stream: bool) -> usize {
    let body = format!(r#"{{"prompt":"{PROMPT}","max_tokens":{ANSWER},"temperature":0,"stream":{stream}}}"#);
    let length = body.len();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    connection.write_all((head + &body).as_bytes()).expect("a connection");
    let (mut got, mut buffer) = (Vec::new(), [0; 16 << 10]);
    while !is_whole(&got) {
        let n = connection.read(&mut buffer).expect("an answer");
        assert!(n > 0, "the server has closed the connection: {}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&buffer[..n]);
    }
    assert!(got.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&got));
    got.len()
}

fn is_whole(got: &[u8]) -> bool {
    let text = String::from_utf8_lossy(got);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    length.map_or_else(|| body.ends_with("0\r\n\r\n"), |length: usize| body.len() >= length)
}

fn request(c: &mut Criterion) {
    let mut group = c.benchmark_group("request");
    let by = BenchmarkId::from_parameter;
    let mut alone = engine();
    let prompt =
        Tokenizer::new(demo::tokenizer_files()).and_then(|t| t.encode_prompt(PROMPT)).expect("a prompt");
    group.bench_function(by("engine"), |b| {
        b.iter(|| {
            let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
            let params = GenerateParams { max_tokens: ANSWER, sampling, eos_token_id: Vec::new() };
            alone.add(prompt.clone(), params).expect("a request");
            black_box(alone.run().expect("a run"))
        });
    });
    let manager = components();
    let runtime = Runtime::new().expect("a runtime");
    group.bench_function(by("components"), |b| b.iter(|| black_box(runtime.block_on(answer(&manager)))));
    let mut connection = TcpStream::connect(server()).expect("a connection");
    connection.set_nodelay(true).expect("a socket");
    for (name, stream) in [("http", false), ("http-stream", true)] {
        group.bench_function(by(name), |b| b.iter(|| black_box(over_http(&mut connection, stream))));
    }
    group.finish();
}

criterion_group! {
    name = step8;
    config = Criterion::default().sample_size(50).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(5));
    targets = parts, request
}
criterion_main!(step8);
