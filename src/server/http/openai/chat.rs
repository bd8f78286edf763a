//! `POST /v1/chat/completions`.

use super::{
    super::{App, JsonBody, access::Tenant, openapi::BodyErrors, sse},
    answer::{Choice, Events, Head, TokenNames, Usage, finite, streamed, whole},
    messages::checked,
    reasoning::{Split, Splitter},
    request::TextRequest,
};
use crate::{
    request::{Logprobs, Members},
    sampling::Sampled,
    server::{
        error::ApiError,
        io_struct::{GenerateReqInput, Piece, PromptInput},
    },
};
use axum::{
    Extension, Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::mem;
use utoipa::ToSchema;

/// A whole answer.
#[derive(Serialize, ToSchema)]
pub struct ChatCompletion {
    #[serde(flatten)]
    head: Head,
    choices: Vec<ChatChoice>,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

#[derive(Serialize, ToSchema)]
struct ChatChoice {
    index: usize,
    message: ChatMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
    /// vLLM's: the stop string that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Serialize, ToSchema)]
struct ChatMessage {
    role: &'static str,
    content: String,
    /// What the model thought before it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    /// Always null; OpenAI's schema asks for it.
    refusal: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct ChatLogprobs {
    content: Vec<ChatLogprob>,
    refusal: Option<String>,
}

/// A token of the answer.
#[derive(Serialize, ToSchema)]
struct ChatLogprob {
    #[serde(flatten)]
    token: TopLogprob,
    top_logprobs: Vec<TopLogprob>,
}

#[derive(Serialize, ToSchema)]
struct TopLogprob {
    token: String,
    logprob: f64,
    /// UTF-8, of which a token may be half a character.
    bytes: Option<Vec<u8>>,
}

/// A piece of a stream, after the head.
#[derive(Serialize, ToSchema)]
struct ChatChunk {
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Default, Serialize, ToSchema)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Default, Serialize, ToSchema)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
}

/// Answers a chat.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "OpenAI", request_body = super::schema::ChatRequest,
    responses((status = 200, content((ChatCompletion = "application/json"), (crate::server::http::sse::Event = "text/event-stream")), description = "The answer, or with `stream` its chunks as server-sent events"),
        BodyErrors)
)]
pub async fn chat_completions(
    State(app): State<App>,
    Extension(Tenant(tenant)): Extension<Tenant>,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let manager = app.manager()?;
    let (shared, rid) = (app.clone(), app.rid(&headers));
    let read = move |members| read(members, &shared.names, rid);
    let (mut request, splits) = app.bodies.parse(body, read).await?;
    request.input.tenant = tenant;
    let wants_logprobs = matches!(request.input.fields.logprobs, Some(Logprobs::Switch(true)));
    let object = if request.stream { "chat.completion.chunk" } else { "chat.completion" };
    let head = Head::new("chatcmpl", object, &request, &manager);
    let names = TokenNames { manager: manager.clone(), as_ids: request.tokens_as_ids };
    let mut generation = manager.generate(request.input).await?;
    let prompt = &generation.prepared.prompts[0].request.prompt;
    let splitter = manager.checkpoint.tokenizer().ok().and_then(|tokenizer| Splitter::new(tokenizer, prompt));
    let splitter = splitter.filter(|_| splits);
    let format = Format { wants_logprobs, names, token_ids: request.return_token_ids, splitter };
    if request.stream {
        let (include_usage, usage_in_all) = (request.include_usage, request.usage_in_all);
        let opening = sse::Opening::new(&head);
        let samples = vec![(false, format.splitter.clone()); generation.prepared.n];
        return Ok(streamed(
            generation,
            ChatEvents { opening, format, samples, include_usage, usage_in_all },
        ));
    }
    let (choices, mut usage) = whole(&mut generation).await?;
    let choices = choices.into_iter().enumerate();
    let choices = choices.map(|(index, choice)| format.choice(index, choice, &mut usage)).collect();
    let ids = || generation.prepared.prompts[0].request.prompt.to_vec();
    let prompt_token_ids = format.token_ids.then(ids);
    Ok(Json(ChatCompletion { head, choices, usage, prompt_token_ids }).into_response())
}

/// The request of a body's members, and whether its answer's reasoning is given apart.
fn read(mut members: Members, names: &[String], rid: String) -> Result<(TextRequest, bool), ApiError> {
    let splits = members.take("separate_reasoning")?.unwrap_or(true);
    let effort = members.take::<String>("reasoning_effort")?;
    let mut request = TextRequest::read(members, names, rid)?;
    prepare(&mut request.input, effort)?;
    Ok((request, splits))
}

/// Checks what only chats have.
fn prepare(input: &mut GenerateReqInput, reasoning_effort: Option<String>) -> Result<(), ApiError> {
    let fields = &mut input.fields;
    match fields.logprobs {
        Some(Logprobs::Number(_)) => {
            let message = "logprobs: true or false is expected; `top_logprobs` takes the number";
            return Err(ApiError::invalid("logprobs", message));
        }
        Some(Logprobs::Switch(true)) => {}
        _ if fields.top_logprobs.is_some() => {
            return Err(ApiError::invalid("top_logprobs", "top_logprobs: only with `logprobs`: true"));
        }
        _ => {}
    }
    if let Some(effort) = reasoning_effort {
        // A variable of the templates that know it.
        let variables = fields.chat_template_kwargs.get_or_insert_default();
        variables.entry("reasoning_effort").or_insert_with(|| effort.into());
    }
    fields.echo = false;
    let messages = fields.messages.take().unwrap_or_default();
    input.prompts = vec![PromptInput::Chat(checked(messages)?)];
    Ok(())
}

/// What choices have in them.
struct Format {
    wants_logprobs: bool,
    names: TokenNames,
    token_ids: bool,
    /// For a model that thinks, at the beginning of an answer.
    splitter: Option<Splitter>,
}

impl Format {
    fn choice(&self, index: usize, choice: Choice, usage: &mut Usage) -> ChatChoice {
        let (mut content, mut reasoning_content) = (choice.text, None);
        if let Some(mut splitter) = self.splitter.clone() {
            usage.reason(splitter.count(&choice.tokens));
            let (first, rest) = (splitter.push(&content), splitter.finish());
            content = first.content + &rest.content;
            let reasoning = first.reasoning + &rest.reasoning;
            reasoning_content = Some(reasoning).filter(|reasoning| !reasoning.is_empty());
        }
        ChatChoice {
            index,
            logprobs: self.wants_logprobs.then(|| self.logprobs(&choice.tokens)),
            token_ids: self.token_ids.then(|| ids(&choice.tokens)),
            message: ChatMessage { role: "assistant", content, reasoning_content, refusal: None },
            finish_reason: choice.end.reason,
            stop_reason: choice.end.matched_stop,
        }
    }

    fn logprobs(&self, tokens: &[Sampled]) -> ChatLogprobs {
        let entry = |token: u32, logprob: f32| TopLogprob {
            token: self.names.name(token),
            logprob: finite(logprob),
            bytes: self.names.bytes(token),
        };
        let content = tokens.iter().map(|sampled| ChatLogprob {
            token: entry(sampled.token, sampled.logprob.unwrap_or(f32::NEG_INFINITY)),
            top_logprobs: sampled
                .top_logprobs
                .iter()
                .map(|(token, logprob)| entry(*token, *logprob))
                .collect(),
        });
        ChatLogprobs { content: content.collect(), refusal: None }
    }
}

fn ids(tokens: &[Sampled]) -> Vec<u32> {
    tokens.iter().map(|sampled| sampled.token).collect()
}

/// The chunks of a stream: for each choice one with the role, those with text, and one with the reason of the end.
struct ChatEvents {
    opening: sse::Opening,
    format: Format,
    /// For each choice, whether its role was sent, and what splits its text.
    samples: Vec<(bool, Option<Splitter>)>,
    include_usage: bool,
    usage_in_all: bool,
}

impl ChatEvents {
    fn chunk(&self, choice: Option<ChunkChoice>, usage: Option<&Usage>, out: &mut Vec<u8>) {
        let usage = usage.cloned();
        self.opening.event_into(out, &ChatChunk { choices: choice.into_iter().collect(), usage });
    }

    /// A piece's text, split.
    fn split(&mut self, piece: &mut Piece, usage: &mut Usage) -> Split {
        let content = mem::take(&mut piece.text);
        let Some(splitter) = &mut self.samples[piece.index].1 else {
            return Split { content, reasoning: String::new() };
        };
        usage.reason(splitter.count(&piece.tokens));
        let mut split = splitter.push(&content);
        if piece.is_last() {
            let rest = splitter.finish();
            split.content += &rest.content;
            split.reasoning += &rest.reasoning;
        }
        split
    }
}

impl Events for ChatEvents {
    fn piece(&mut self, mut piece: Piece, usage: &mut Usage, out: &mut Vec<u8>) {
        let Split { reasoning, content } = self.split(&mut piece, usage);
        let usage = self.usage_in_all.then_some(&*usage);
        let choice = |delta| ChunkChoice { index: piece.index, delta, ..ChunkChoice::default() };
        if !mem::replace(&mut self.samples[piece.index].0, true) {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            self.chunk(Some(choice(delta)), usage, out);
        }
        let tokens = (self.format.wants_logprobs || self.format.token_ids) && !piece.tokens.is_empty();
        if !content.is_empty() || !reasoning.is_empty() || tokens {
            let logprobs = self.format.wants_logprobs.then(|| self.format.logprobs(&piece.tokens));
            let token_ids = self.format.token_ids.then(|| ids(&piece.tokens));
            let reasoning_content = Some(reasoning).filter(|reasoning| !reasoning.is_empty());
            let content = Some(content).filter(|content| reasoning_content.is_none() || !content.is_empty());
            let delta = Delta { role: None, content, reasoning_content };
            self.chunk(Some(ChunkChoice { logprobs, token_ids, ..choice(delta) }), usage, out);
        }
        if let Some(end) = &piece.end {
            let (finish_reason, stop_reason) = (Some(end.reason), end.matched_stop.clone());
            self.chunk(
                Some(ChunkChoice { finish_reason, stop_reason, ..choice(Delta::default()) }),
                usage,
                out,
            );
        }
    }

    fn end(&mut self, usage: &Usage, out: &mut Vec<u8>) {
        if self.include_usage {
            self.chunk(None, Some(usage), out);
        }
    }
}
