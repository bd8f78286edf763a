//! Bodies of requests to a server, from the router to the engine's door, which is closed: whatever is right with a body ends in 503.

use crate::rig::{Budget, MEMORY_FACTOR, any_json, fuzz, replaced};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use stairwell::{
    demo,
    request::Checkpoint,
    server::{
        http::{
            App, AppState,
            access::{Access, AccessOptions},
            body::BodyLimits,
            router,
        },
        status::{Phase, Status},
        tokenizer_manager::{RequestLimits, TokenizerManager},
    },
};
use std::{
    net::Ipv4Addr,
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

/// 8 MB hold the buffers of a body, what a tokenizer keeps of texts that it has split, and a template's engine.
const BODY: Budget = Budget { cases: 2_000, base: 8 << 20, factor: MEMORY_FACTOR };

/// Routes before an engine that is gone.
fn routes() -> Router {
    let status = Arc::new(Status::default());
    status.enter(Phase::Serving);
    let limits =
        RequestLimits { max_model_len: 2048, max_queued: usize::MAX / 2, max_running: 16, timeout: None };
    let checkpoint = Checkpoint::open(demo::directory()).unwrap();
    let manager = TokenizerManager::new(checkpoint, limits, status.clone(), mpsc::channel().0);
    let state = AppState {
        names: vec!["stairwell-demo".into()],
        started: 0,
        requests: Default::default(),
        secret: Default::default(),
        status,
        metrics: Arc::default(),
        bodies: BodyLimits::new(1 << 20, Duration::from_secs(30)),
        needs_key: false,
        manager: OnceLock::from(Arc::new(manager)),
        page: OnceLock::new(),
    };
    router(App::new(state), Access::new(&AccessOptions::default(), Ipv4Addr::LOCALHOST.into()).unwrap())
}

/// Whether a body was right. One that is wrong gets an error of OpenAI's shape that is short.
fn ask(runtime: &Runtime, routes: &Router, path: &str, body: &[u8]) -> bool {
    runtime.block_on(async {
        let request = Request::post(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json");
        let answer = routes.clone().oneshot(request.body(Body::from(body.to_vec())).unwrap()).await.unwrap();
        let status = answer.status();
        let text = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        match status {
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => true,
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
                let error: Value = serde_json::from_slice(&text).unwrap();
                assert!(
                    error["error"]["message"].as_str().is_some_and(|message| message.len() <= 1024),
                    "{error}"
                );
                false
            }
            other => panic!("{other}: {}", String::from_utf8_lossy(&text)),
        }
    })
}

fn bodies(name: &'static str, path: &'static str, valid: Vec<Value>) {
    const WORDS: &[&str] = &[
        "prompt",
        "messages",
        "role",
        "content",
        "user",
        "system",
        "n",
        "max_tokens",
        "stop",
        "logit_bias",
        "5",
        "seed",
        "stream",
        "stream_options",
        "include_usage",
        "logprobs",
        "top_logprobs",
        "echo",
        "temperature",
        "top_p",
        "top_k",
        "model",
        "stairwell-demo",
        "response_format",
        "type",
        "text",
        "tools",
        "tool_choice",
        "cache_salt",
        "chat_template_kwargs",
        "sampling_params",
        "input_ids",
        "rid",
        "tokens",
        "continue_final_message",
        "add_generation_prompt",
        "min_tokens",
        "stop_token_ids",
        "max_completion_tokens",
    ];
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let routes = routes();
    let structured = valid.clone().into_iter().map(|body| replaced(body, WORDS).boxed());
    let structured = structured
        .fold(any_json(WORDS).prop_map(String::into_bytes).boxed(), |all, one| prop_oneof![all, one].boxed());
    let valid = valid.iter().map(|body| body.to_string().into_bytes()).collect();
    fuzz(name, BODY, |body| ask(&runtime, &routes, path, body), valid, structured);
}

#[test]
fn chat_bodies() {
    let message = json!({"role": "user", "content": "Hello"});
    let parts = json!({"role": "developer", "content": [{"type": "text", "text": "Be brief."}]});
    let valid = vec![
        json!({"messages": [message], "max_tokens": 3, "temperature": 0}),
        json!({"messages": [parts, message], "stream": true, "stream_options": {"include_usage": true}, "n": 2, "stop": ["a", "b"],
            "logprobs": true, "top_logprobs": 3, "logit_bias": {"5": 1.5}, "seed": -4, "response_format": {"type": "text"}}),
    ];
    bodies("chat_bodies", "/v1/chat/completions", valid);
}

#[test]
fn completion_bodies() {
    let valid = vec![
        json!({"prompt": "Once", "max_tokens": 0, "echo": true, "logprobs": 2}),
        json!({"prompt": [[1, 2], [3]], "n": 3, "min_tokens": 2, "stop_token_ids": [4], "ignore_eos": true, "top_k": -1}),
    ];
    bodies("completion_bodies", "/v1/completions", valid);
}

#[test]
fn native_bodies() {
    let valid = vec![
        json!({"text": "Once", "sampling_params": {"max_new_tokens": 3, "temperature": 0, "n": 2}, "return_logprob": true}),
        json!({"input_ids": [1, 2], "rid": "a", "stream": true}),
    ];
    bodies("native_bodies", "/generate", valid);
}
