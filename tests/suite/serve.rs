//! The server in this process: its three components and its routes, without a socket.

use crate::common::{Reference, fixture};
use crate::serving::Recording;
use crate::step4::{LONGEST, Setup, engine};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use stairwell::{
    attention::KvOptions,
    checkpoint::Directory,
    demo,
    engine::{Continuous, Engine, Limits, LocalWorker, Worker},
    request::Checkpoint,
    runner::{LoadOptions, ModelRunner},
    server::{
        components::{Components, QueueOptions},
        http::{
            App, AppState,
            access::{Access, AccessOptions},
            body::BodyLimits,
            router,
        },
        metrics::Metrics,
        status::{Phase, Status},
        tokenizer_manager::TokenizerManager,
    },
};
use std::{
    net::Ipv4Addr,
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tower::ServiceExt;

const EIGHT: Limits = Limits { max_num_seqs: 8, max_batched_tokens: 64 };

/// A server without a port.
struct Served {
    routes: Router,
    manager: Arc<TokenizerManager>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    engine: Option<JoinHandle<stairwell::error::Result<()>>>,
}

impl Served {
    fn new<W: Worker + 'static>(checkpoint: Checkpoint, engine: Engine<W>) -> Served {
        let (status, metrics) = (Arc::new(Status::default()), Arc::new(Metrics::new()));
        let queue = QueueOptions { max_queued_requests: 64, request_timeout: None };
        let components =
            Components::start(checkpoint, engine, queue, status.clone(), metrics.clone()).unwrap();
        let manager = components.manager.clone();
        let engine = Some(thread::spawn(move || components.run()));
        status.enter(Phase::Serving);
        let app = App::new(AppState {
            names: vec!["model".into()],
            started: 0,
            requests: Default::default(),
            secret: Default::default(),
            status: status.clone(),
            metrics: metrics.clone(),
            bodies: BodyLimits::new(1 << 20, Duration::from_secs(30)),
            needs_key: false,
            manager: OnceLock::from(manager.clone()),
            page: OnceLock::new(),
        });
        let access = Access::new(&AccessOptions::default(), Ipv4Addr::LOCALHOST.into()).unwrap();
        Served { routes: router(app, access), manager, status, metrics, engine }
    }

    /// A fixture's model in a small pool; it has no tokenizer.
    fn fixture(name: &str, setup: Setup) -> Served {
        let checkpoint = Checkpoint::open(Directory::Disk(fixture(name))).unwrap();
        Served::new(checkpoint, engine(name, setup))
    }

    /// The demo, with its tokenizer.
    fn demo(limits: Limits) -> Served {
        let (seqs, chunk) = (Some(limits.max_num_seqs), Some(limits.max_batched_tokens));
        let kv = KvOptions { max_num_seqs: seqs, max_chunk: chunk, ..KvOptions::default() };
        let options = LoadOptions { kv, ..LoadOptions::default() };
        let worker = LocalWorker::new(ModelRunner::load(&demo::directory(), options).unwrap()).unwrap();
        let engine = Engine::new(worker, Box::new(Continuous), limits);
        Served::new(Checkpoint::open(demo::directory()).unwrap(), engine)
    }

    /// The answer's status and body, which may still be coming.
    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Body) {
        let request = Request::post(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json");
        let answer =
            self.routes.clone().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
        (answer.status(), answer.into_body())
    }

    /// The whole answer.
    async fn ask(&self, path: &str, body: Value) -> (StatusCode, Vec<u8>) {
        let (status, answer) = self.post(path, &body).await;
        (status, to_bytes(answer, 64 << 20).await.unwrap().to_vec())
    }

    async fn json(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(path, body).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        serde_json::from_slice(&answer).unwrap()
    }

    /// The events of a stream, without `[DONE]`, which must be the last.
    async fn events(&self, path: &str, mut body: Value) -> Vec<Value> {
        body["stream"] = true.into();
        let (status, answer) = self.ask(path, body).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        events(&answer)
    }

    /// Waits until nothing runs, waits, or holds K and V.
    fn idle(&self, what: &str) {
        let start = Instant::now();
        let busy = || {
            let Status { waiting, running, kv_used, .. } = &*self.status;
            [waiting, running, kv_used].map(|gauge| gauge.load(Relaxed))
        };
        while busy() != [0; 3] || self.manager.open() > 0 {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{what}: {:?}, {} open",
                busy(),
                self.manager.open()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.manager.shut_down();
        if let Some(engine) = self.engine.take() {
            _ = engine.join();
        }
    }
}

fn events(stream: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(stream).unwrap();
    let mut data: Vec<&str> =
        text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
    assert_eq!(data.pop(), Some("[DONE]"), "{text}");
    data.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn native(prompt: &[u32], tokens: usize) -> Value {
    json!({"input_ids": prompt, "sampling_params": {"max_new_tokens": tokens, "temperature": 0, "ignore_eos": true}})
}

/// More tokens than the tests wait for.
fn long(prompt: &[u32], n: usize) -> Value {
    json!({"input_ids": prompt, "stream": true,
        "sampling_params": {"max_new_tokens": 10_000, "temperature": 1, "n": n, "ignore_eos": true}})
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_those_of_transformers_alone_and_in_a_crowd() {
    for name in ["qwen3", "gpt2", "llama3"] {
        let reference = Reference::of(name);
        // A pool that is too small for all, so that some must give way.
        let served = Served::fixture(name, Setup { tokens: 96, ..Setup::default() });
        let n = reference.greedy.len().min(LONGEST - reference.prompt.len());
        let greedy = &reference.greedy[..n];
        let alone = served.json("/generate", native(&reference.prompt, n)).await;
        assert_eq!(alone["output_ids"], json!(greedy), "{name}");
        let streamed = served.events("/generate", native(&reference.prompt, n)).await;
        assert_eq!(streamed.last().unwrap()["output_ids"], json!(greedy), "{name}, streamed");
        let crowd = (0..8).map(|i| served.json("/generate", native(&reference.prompt[i % 2..], n)));
        let crowd = futures_util::future::join_all(crowd).await;
        for (i, answer) in crowd.iter().enumerate().step_by(2) {
            assert_eq!(answer["output_ids"], json!(greedy), "{name}, {i} in a crowd");
        }
        served.idle(name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_gives_everything_back() {
    let served = Served::demo(Limits { max_num_seqs: 2, max_batched_tokens: 4 });
    let prompt: Vec<u32> = (1..18).collect();
    for n in [1, 8] {
        // In decode: a stream whose first events came; the others of it wait.
        let (status, mut body) = served.post("/generate", &long(&prompt, n)).await;
        assert_eq!(status, 200);
        body.frame().await.unwrap().unwrap();
        drop(body);
        served.idle("decode");
        // In prefill: 17 tokens take five steps.
        let (_, body) = served.post("/generate", &long(&prompt, n)).await;
        drop(body);
        served.idle("prefill");
        // Not streaming, and queued behind another one.
        let (_, first) = served.post("/generate", &long(&prompt, 2)).await;
        let mut plain = long(&prompt, n);
        plain["stream"] = false.into();
        let waiting = tokio::time::timeout(Duration::from_millis(50), served.post("/generate", &plain)).await;
        assert!(waiting.is_err(), "it answered");
        drop(first);
        served.idle("queued");
    }
    // Many that come and go.
    for i in 0..200u64 {
        let (_, body) =
            served.post("/generate", &long(&prompt[..1 + i as usize % 17], 1 + i as usize % 3)).await;
        tokio::time::sleep(Duration::from_micros(300 * (i % 7))).await;
        drop(body);
    }
    served.idle("many");
    let answer = served.json("/generate", native(&prompt, 8)).await;
    assert_eq!(answer["meta_info"]["completion_tokens"], 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_engine_tells_everybody_and_ends() {
    let setup = Setup { limits: Limits { max_num_seqs: 2, max_batched_tokens: 16 }, ..Setup::default() };
    let mut engine: Engine<Recording> = engine("qwen3", setup);
    // One failed step is made again; of two in a row, nobody knows what state the machine is in.
    engine.worker.fails = vec![4, 12, 13];
    let served = Served::new(Checkpoint::open(Directory::Disk(fixture("qwen3"))).unwrap(), engine);
    let (_, streaming) = served.post("/generate", &long(&[1, 2, 3], 1)).await;
    let mut plain = long(&[1, 2], 2);
    plain["stream"] = false.into();
    let (streamed, (status, plain)) =
        tokio::join!(to_bytes(streaming, 1 << 20), served.ask("/generate", plain));
    let events = events(&streamed.unwrap());
    assert!(events.len() > 3, "it streamed over the first failure: {events:?}");
    assert!(events.last().unwrap()["error"]["message"].as_str().unwrap().contains("the machine is gone"));
    // It comes before the end or after it.
    assert!([500, 503].contains(&status.as_u16()), "{}", String::from_utf8_lossy(&plain));
    let mut served = served;
    let ended = served.engine.take().unwrap().join().unwrap();
    assert!(ended.unwrap_err().to_string().contains("the machine is gone"));
    let (status, _) = served.ask("/generate", native(&[1], 1)).await;
    assert_eq!((status, served.status.phase()), (StatusCode::SERVICE_UNAVAILABLE, Phase::Dead));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_the_text_and_the_logprobs_of_the_whole_answer() {
    let served = Served::demo(EIGHT);
    let chat = json!({"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 40, "temperature": 1, "seed": 3,
        "n": 3, "logprobs": true, "top_logprobs": 2, "stop": [" and the", "\n\n"]});
    let whole = served.json("/v1/chat/completions", chat.clone()).await;
    let events = served.events("/v1/chat/completions", chat).await;
    for i in 0..3 {
        let of = |part: fn(&Value) -> Option<&Value>| {
            let mine = events
                .iter()
                .flat_map(|event| event["choices"].as_array().unwrap())
                .filter(move |c| c["index"] == i);
            mine.filter_map(part).cloned().collect::<Vec<_>>()
        };
        let text: String =
            of(|c| c["delta"].get("content")).iter().map(|text| text.as_str().unwrap()).collect();
        assert_eq!(text, whole["choices"][i]["message"]["content"]);
        let logprobs: Vec<Value> = of(|c| c["logprobs"].get("content"))
            .into_iter()
            .flat_map(|l| l.as_array().unwrap().clone())
            .collect();
        assert_eq!(json!(logprobs), whole["choices"][i]["logprobs"]["content"]);
        assert_eq!(of(|c| Some(&c["finish_reason"])).last(), Some(&whole["choices"][i]["finish_reason"]));
    }
    served.idle("chat");
}

#[tokio::test(flavor = "multi_thread")]
async fn echo_begins_a_stream_with_the_prompt_and_its_logprobs() {
    let served = Served::demo(EIGHT);
    let body =
        json!({"prompt": "Once upon a time", "max_tokens": 6, "temperature": 0, "echo": true, "logprobs": 1});
    let whole = served.json("/v1/completions", body.clone()).await;
    let choice = &whole["choices"][0];
    let tokens: Vec<&str> =
        choice["logprobs"]["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!((tokens.len(), tokens.concat().as_str()), (10, choice["text"].as_str().unwrap()));
    let events = served.events("/v1/completions", body).await;
    assert!(events[0]["choices"][0]["text"].as_str().unwrap().starts_with("Once upon a time"));
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let joined: Vec<Value> = events
            .iter()
            .flat_map(|event| event["choices"][0]["logprobs"][list].as_array().unwrap().clone())
            .collect();
        assert_eq!(json!(joined), choice["logprobs"][list], "{list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_that_a_client_chooses() {
    let served = Served::demo(EIGHT);
    let prompt =
        json!({"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0, "return_token_ids": true});
    let with = async |more: Value| {
        let mut body = prompt.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        served.json("/v1/completions", body).await["choices"][0].clone()
    };
    let plain = with(json!({})).await;
    let ids: Vec<u64> =
        plain["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    let text = plain["text"].as_str().unwrap();
    let third = with(json!({"stop_token_ids": [ids[2]]})).await;
    assert_eq!((&third["token_ids"], &third["finish_reason"]), (&json!(ids[..3]), &json!("stop")));
    let word = &text[4..9];
    let cut = with(json!({"stop": word})).await;
    assert_eq!((&cut["text"], &cut["stop_reason"]), (&json!(text[..4]), &json!(word)));
    assert_eq!(with(json!({"stop": word, "include_stop_str_in_output": true})).await["text"], text[..9]);
    // Nothing ends an output that is shorter than asked.
    let least = with(json!({"stop": word, "stop_token_ids": [ids[2]], "min_tokens": 20})).await;
    assert!(least["token_ids"].as_array().unwrap().len() >= 20, "{least}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_share_nothing_and_metrics_add_up() {
    let served = Served::demo(EIGHT);
    let ask = async |salt: Value| {
        let prompt =
            "Once upon a time there was a little dog who lived in a small house near the river. ".repeat(3);
        let body = json!({"prompt": prompt, "max_tokens": 2, "temperature": 0, "cache_salt": salt});
        served.json("/v1/completions", body).await["usage"].clone()
    };
    let cached = |usage: &Value| usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    let mut all = Vec::new();
    for (salt, expects) in [
        (json!("a"), false),
        (json!("a"), true),
        (json!("b"), false),
        (Value::Null, false),
        (Value::Null, true),
    ] {
        let usage = ask(salt.clone()).await;
        assert_eq!(cached(&usage) > 0, expects, "{salt}: {usage}");
        all.push(usage);
    }
    served.idle("salts");
    let sum = |name: &str| all.iter().map(|usage| usage[name].as_u64().unwrap()).sum::<u64>();
    let metrics = &served.metrics;
    assert_eq!(metrics.prompt_tokens.get(), sum("prompt_tokens"));
    assert_eq!(metrics.generation_tokens.get(), sum("completion_tokens"));
    assert_eq!(metrics.prefix_cache_hits.get(), all.iter().map(cached).sum::<u64>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_held_and_loses_nothing() {
    let served = Served::demo(Limits { max_num_seqs: 2, max_batched_tokens: 64 });
    let fat = json!({"prompt": "Once upon a time", "max_tokens": 600, "temperature": 0, "logprobs": 20, "ignore_eos": true});
    let small = json!({"prompt": "The dog", "max_tokens": 50, "temperature": 0, "ignore_eos": true});
    let whole = served.json("/v1/completions", fat.clone()).await;
    let sampled = async || served.manager.internal_state().await.unwrap().stats.output_tokens;
    let settled = async || {
        let (mut last, mut same) = (sampled().await, 0);
        while same < 5 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = sampled().await;
            (last, same) = (now, if now == last { same + 1 } else { 0 });
        }
        last
    };
    let mut stream = fat.clone();
    stream["stream"] = true.into();
    let before = sampled().await;
    let (_, silent) = served.post("/v1/completions", &stream).await;
    let (_, slow) = served.post("/v1/completions", &stream).await;
    let held = settled().await;
    assert!((100..1000).contains(&(held - before)), "{} tokens for clients that don't read", held - before);
    assert_eq!(served.status.running.load(Relaxed), 2, "they hold K and V");
    served.json("/v1/completions", small).await;
    assert_eq!(settled().await, held + 50, "others have their seats, and nobody else computes");
    drop(silent);
    let read = events(&to_bytes(slow, 64 << 20).await.unwrap());
    let text: String = read.iter().map(|event| event["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(text, whole["choices"][0]["text"]);
    assert!(sampled().await < held + 50 + 600, "what was computed for the client that left");
    served.idle("slow readers");
}
