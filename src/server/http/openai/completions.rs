//! `POST /v1/completions`: OpenAI's older interface, which takes token ids and gives the prompt's log-probabilities. lm-eval needs both.

use super::{
    super::{App, JsonBody, access::Tenant, openapi::BodyErrors, sse},
    answer::{Choice, Events, Head, TokenNames, Usage, finite, streamed, whole},
    request::TextRequest,
};
use crate::{
    request::{Logprobs, Members},
    sampling::Sampled,
    server::{
        error::ApiError,
        io_struct::{Piece, PromptInput},
        prepare::{Prepared, PreparedPrompt},
    },
};
use axum::{
    Extension, Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Tokens of an output that asks for no length, as in OpenAI's API.
const DEFAULT_MAX_TOKENS: usize = 16;

/// A whole answer.
#[derive(Serialize, ToSchema)]
pub struct Completion {
    #[serde(flatten)]
    head: Head,
    choices: Vec<CompletionChoice>,
    usage: Usage,
}

#[derive(Serialize, ToSchema)]
struct CompletionChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
    /// vLLM's: the stop string that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

/// Four lists with an entry a token.
#[derive(Default, Serialize, ToSchema)]
struct CompletionLogprobs {
    tokens: Vec<String>,
    /// Null for a prompt's first token: nothing stands before it.
    token_logprobs: Vec<Option<f64>>,
    #[schema(value_type = Vec<Option<Object>>)]
    top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Where the token begins, in Unicode code points.
    text_offset: Vec<usize>,
}

/// A piece of a stream, after the head.
#[derive(Serialize)]
struct CompletionChunk {
    choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

/// A prompt or several, as texts or as token ids.
#[derive(Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "another type, expected a text, a list of texts, token ids, or a list of lists of token ids"
)]
pub enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<u32>),
    ManyIds(Vec<Vec<u32>>),
}

impl Prompts {
    fn into_inputs(self) -> Vec<PromptInput> {
        match self {
            Prompts::Text(text) => vec![PromptInput::Text(text)],
            Prompts::Texts(texts) => texts.into_iter().map(PromptInput::Text).collect(),
            Prompts::Ids(ids) => vec![PromptInput::Ids(ids)],
            Prompts::ManyIds(many) => many.into_iter().map(PromptInput::Ids).collect(),
        }
    }
}

/// Continues prompts.
#[utoipa::path(
    post, path = "/v1/completions", tag = "OpenAI", request_body = super::schema::CompletionRequest,
    responses((status = 200, content((Completion = "application/json"), (crate::server::http::sse::Event = "text/event-stream")), description = "The answer, or with `stream` its chunks as server-sent events"),
        BodyErrors)
)]
pub async fn completions(
    State(app): State<App>,
    Extension(Tenant(tenant)): Extension<Tenant>,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let manager = app.manager()?;
    let (shared, rid) = (app.clone(), app.rid(&headers));
    let mut request = app.bodies.parse(body, move |members| read(members, &shared.names, rid)).await?;
    request.input.tenant = tenant;
    let (echo, wants_logprobs) = (request.input.fields.echo, request.input.fields.logprobs.is_some());
    let head = Head::new("cmpl", "text_completion", &request, &manager);
    let names = TokenNames { manager: manager.clone(), as_ids: request.tokens_as_ids };
    let format = Format { wants_logprobs, echo, names, token_ids: request.return_token_ids };
    let mut generation = manager.generate(request.input).await?;
    if request.stream {
        let (include_usage, usage_in_all) = (request.include_usage, request.usage_in_all);
        let (opening, prepared) = (sse::Opening::new(&head), generation.prepared.clone());
        let progress = vec![Progress::default(); prepared.prompts.len() * prepared.n];
        let events = CompletionEvents { opening, format, prepared, progress, include_usage, usage_in_all };
        return Ok(streamed(generation, events));
    }
    let (choices, usage) = whole(&mut generation).await?;
    let choices = choices.into_iter().enumerate();
    let choices =
        choices.map(|(index, choice)| format.choice(index, choice, generation.prepared.of(index))).collect();
    Ok(Json(Completion { head, choices, usage }).into_response())
}

/// The request of a body's members.
fn read(mut members: Members, names: &[String], rid: String) -> Result<TextRequest, ApiError> {
    let prompts =
        members.take::<Prompts>("prompt")?.ok_or_else(|| ApiError::invalid("prompt", "prompt: give one"))?;
    let mut request = TextRequest::read(members, names, rid)?;
    let fields = &mut request.input.fields;
    if let Some(Logprobs::Switch(_)) = fields.logprobs {
        return Err(ApiError::invalid("logprobs", "logprobs: a whole number, 0 or more, is expected"));
    }
    (fields.messages, fields.top_logprobs) = (None, None);
    fields.max_tokens.get_or_insert(DEFAULT_MAX_TOKENS);
    request.input.prompts = prompts.into_inputs();
    Ok(request)
}

/// What choices have in them.
struct Format {
    wants_logprobs: bool,
    echo: bool,
    names: TokenNames,
    token_ids: bool,
}

impl Format {
    fn choice(&self, index: usize, choice: Choice, prompt: &PreparedPrompt) -> CompletionChoice {
        let Choice { text, tokens, prompt_logprobs, end } = choice;
        let piece = Piece { index, text, tokens, prompt_logprobs, end: Some(end) };
        self.piece(piece, prompt, &mut Progress::default())
    }

    /// A piece as a choice; the first one of its sample begins with the prompt, if that is wanted.
    fn piece(&self, piece: Piece, prompt: &PreparedPrompt, progress: &mut Progress) -> CompletionChoice {
        let is_first = !std::mem::replace(&mut progress.begun, true);
        let Piece { index, mut text, tokens, prompt_logprobs, end } = piece;
        let mut logprobs = CompletionLogprobs::default();
        if is_first && self.echo {
            text.insert_str(0, prompt.request.echo.as_deref().unwrap_or_default());
            let ids = &prompt.request.prompt;
            self.add(&mut logprobs, ids[0], None, None, progress);
            prompt_logprobs.iter().for_each(|sampled| self.add_sampled(&mut logprobs, sampled, progress));
        }
        tokens.iter().for_each(|sampled| self.add_sampled(&mut logprobs, sampled, progress));
        CompletionChoice {
            index,
            text,
            logprobs: self.wants_logprobs.then_some(logprobs),
            finish_reason: end.as_ref().map(|end| end.reason),
            stop_reason: end.and_then(|end| end.matched_stop),
            token_ids: self.token_ids.then(|| tokens.iter().map(|sampled| sampled.token).collect()),
            prompt_token_ids: (self.token_ids && is_first).then(|| prompt.request.prompt.to_vec()),
        }
    }

    fn add_sampled(&self, to: &mut CompletionLogprobs, sampled: &Sampled, progress: &mut Progress) {
        let own = sampled.logprob.map(|logprob| (sampled.token, logprob));
        let all = own.into_iter().chain(sampled.top_logprobs.iter().copied());
        let top = all.map(|(token, logprob)| (self.names.name(token), finite(logprob).into())).collect();
        self.add(to, sampled.token, sampled.logprob, Some(top), progress);
    }

    fn add(
        &self,
        to: &mut CompletionLogprobs,
        token: u32,
        logprob: Option<f32>,
        top: Option<Map<String, Value>>,
        progress: &mut Progress,
    ) {
        if !self.wants_logprobs {
            return;
        }
        let name = self.names.name(token);
        to.text_offset.push(progress.offset);
        progress.offset += name.chars().count();
        to.tokens.push(name);
        to.token_logprobs.push(logprob.map(finite));
        to.top_logprobs.push(top);
    }
}

/// How far a choice has come.
#[derive(Clone, Default)]
struct Progress {
    begun: bool,
    /// Code points so far.
    offset: usize,
}

/// The chunks of a stream; the last one of each choice has the reason of its end.
struct CompletionEvents {
    opening: sse::Opening,
    format: Format,
    prepared: Prepared,
    progress: Vec<Progress>,
    include_usage: bool,
    usage_in_all: bool,
}

impl Events for CompletionEvents {
    fn piece(&mut self, piece: Piece, usage: &mut Usage, out: &mut Vec<u8>) {
        let index = piece.index;
        let choice = self.format.piece(piece, self.prepared.of(index), &mut self.progress[index]);
        let usage = self.usage_in_all.then(|| usage.clone());
        self.opening.event_into(out, &CompletionChunk { choices: vec![choice], usage });
    }

    fn end(&mut self, usage: &Usage, out: &mut Vec<u8>) {
        if self.include_usage {
            let usage = Some(usage.clone());
            self.opening.event_into(out, &CompletionChunk { choices: Vec::new(), usage });
        }
    }
}
