//! `POST /v1/chat/completions`.

use super::{
    super::{App, JsonBody, access::Tenant, openapi::BodyErrors, sse},
    answer::{Choice, Events, Head, TokenNames, Usage, finite, streamed, whole},
    messages::checked,
    request::TextRequest,
};
use crate::{
    request::{Logprobs, Members},
    sampling::Sampled,
    server::{
        error::ApiError,
        io_struct::{Piece, PromptInput},
    },
};
use axum::{
    Extension, Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde::Serialize;
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

/// A piece of a stream.
#[derive(Serialize, ToSchema)]
struct ChatChunk<'a> {
    #[serde(flatten)]
    head: &'a Head,
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize, ToSchema)]
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
}

/// Answers a chat.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "OpenAI", request_body = super::schema::ChatRequest,
    responses((status = 200, body = ChatCompletion, description = "The answer, or with `stream` its chunks as server-sent events"),
        BodyErrors)
)]
pub async fn chat_completions(
    State(app): State<App>,
    Extension(Tenant(tenant)): Extension<Tenant>,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let manager = app.manager()?;
    let mut request = TextRequest::read(Members::parse(&body)?, &app.names, app.rid(&headers))?;
    let fields = &mut request.input.fields;
    match fields.logprobs {
        Some(Logprobs::Number(_)) => {
            return Err(ApiError::invalid(
                "logprobs",
                "logprobs: true or false is expected; `top_logprobs` takes the number",
            ));
        }
        Some(Logprobs::Switch(true)) => {}
        _ if fields.top_logprobs.is_some() => {
            return Err(ApiError::invalid("top_logprobs", "top_logprobs: only with `logprobs`: true"));
        }
        _ => {}
    }
    fields.echo = false;
    let messages = fields.messages.take().unwrap_or_default();
    request.input.prompts = vec![PromptInput::Chat(checked(messages)?)];
    request.input.tenant = tenant;
    let wants_logprobs = matches!(request.input.fields.logprobs, Some(Logprobs::Switch(true)));
    let object = if request.stream { "chat.completion.chunk" } else { "chat.completion" };
    let head = Head::new("chatcmpl", object, &request, &manager);
    let names = TokenNames { manager: manager.clone(), as_ids: request.tokens_as_ids };
    let format = Format { wants_logprobs, names, token_ids: request.return_token_ids };
    let mut generation = manager.generate(request.input).await?;
    if request.stream {
        let (include_usage, usage_in_all) = (request.include_usage, request.usage_in_all);
        let begun = vec![false; generation.prepared.n];
        return Ok(streamed(generation, ChatEvents { head, format, begun, include_usage, usage_in_all }));
    }
    let (choices, usage) = whole(&mut generation).await?;
    let choices =
        choices.into_iter().enumerate().map(|(index, choice)| format.choice(index, choice)).collect();
    let ids = || generation.prepared.prompts[0].request.prompt.to_vec();
    let prompt_token_ids = format.token_ids.then(ids);
    Ok(Json(ChatCompletion { head, choices, usage, prompt_token_ids }).into_response())
}

/// What choices have in them.
struct Format {
    wants_logprobs: bool,
    names: TokenNames,
    token_ids: bool,
}

impl Format {
    fn choice(&self, index: usize, choice: Choice) -> ChatChoice {
        ChatChoice {
            index,
            logprobs: self.wants_logprobs.then(|| self.logprobs(&choice.tokens)),
            token_ids: self.token_ids.then(|| ids(&choice.tokens)),
            message: ChatMessage { role: "assistant", content: choice.text, refusal: None },
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
    head: Head,
    format: Format,
    /// The choices whose role was sent.
    begun: Vec<bool>,
    include_usage: bool,
    usage_in_all: bool,
}

impl ChatEvents {
    fn chunk(&self, choice: Option<ChunkChoice>, usage: Option<&Usage>, out: &mut Vec<u8>) {
        let usage = usage.cloned();
        sse::event_into(out, &ChatChunk { head: &self.head, choices: choice.into_iter().collect(), usage });
    }
}

impl Events for ChatEvents {
    fn piece(&mut self, piece: Piece, usage: &Usage, out: &mut Vec<u8>) {
        let usage = self.usage_in_all.then_some(usage);
        let choice = |delta| ChunkChoice {
            index: piece.index,
            delta,
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
            token_ids: None,
        };
        if !std::mem::replace(&mut self.begun[piece.index], true) {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
            self.chunk(Some(choice(delta)), usage, out);
        }
        let extra = self.format.wants_logprobs || self.format.token_ids;
        if !piece.text.is_empty() || (extra && !piece.tokens.is_empty()) {
            let logprobs = self.format.wants_logprobs.then(|| self.format.logprobs(&piece.tokens));
            let token_ids = self.format.token_ids.then(|| ids(&piece.tokens));
            let delta = Delta { role: None, content: Some(piece.text.clone()) };
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
