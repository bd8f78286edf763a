//! SGLang's own interface: `/generate`, which takes and gives token ids; and `/tokenize` and `/detokenize`, with the fields of vLLM.

use super::{
    App, JsonBody,
    access::Tenant,
    openai::{
        answer::{Choice, Events, Usage, finite, streamed, whole},
        messages::checked,
        request::{options, refuse},
    },
    openapi::BodyErrors,
    sse,
};
use crate::{
    request::{Fields, Logprobs, Members},
    sampling::Sampled,
    server::{
        error::ApiError,
        io_struct::{GenerateReqInput, Piece, PromptInput, RequestOptions, SampleEnd},
    },
};
use axum::{
    Extension, Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Tokens of an output that asks for no length, as in SGLang.
const DEFAULT_MAX_NEW_TOKENS: usize = 128;
/// Token ids that are made a text at once.
const MAX_DETOKENIZE: usize = 1 << 18;
/// The fields of `sampling_params` that have OpenAI's names.
const SAMPLING: [&str; 11] = [
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "stop",
    "ignore_eos",
];

/// An answer, whole or so far.
#[derive(Clone, Serialize, ToSchema)]
pub struct Generated {
    text: String,
    output_ids: Vec<u32>,
    meta_info: MetaInfo,
    /// Which sample it is, in a stream of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
}

#[derive(Clone, Serialize, ToSchema)]
struct MetaInfo {
    id: String,
    /// Null while it goes on.
    #[schema(value_type = Option<Object>)]
    finish_reason: Option<Ended>,
    prompt_tokens: usize,
    completion_tokens: usize,
    cached_tokens: usize,
    /// How often the weights had been updated.
    weight_version: u64,
    /// A log-probability, a token id and null (SGLang has the token's text there on demand), for each token of the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Vec<serde_json::Value>>>)]
    output_token_logprobs: Option<Vec<(f64, u32, Option<String>)>>,
}

#[derive(Clone, Serialize, ToSchema)]
struct Ended {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The stop string that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    matched: Option<String>,
    /// The longest output.
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<usize>,
}

/// Continues a text, or token ids.
#[utoipa::path(
    post, path = "/generate", tag = "native", request_body = super::openai::schema::GenerateRequest,
    responses((status = 200, content((Generated = "application/json"), (super::sse::Event = "text/event-stream")), description = "The answer (a list of them for n above 1), or with `stream` events that each have all of it so far"),
        BodyErrors)
)]
pub async fn generate(
    State(app): State<App>,
    Extension(Tenant(tenant)): Extension<Tenant>,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let manager = app.manager()?;
    let rid = app.rid(&headers);
    let NativeRequest { mut input, stream, return_logprob } =
        app.bodies.parse(body, |members| NativeRequest::read(members, rid)).await?;
    input.tenant = tenant;
    let mut generation = manager.generate(input).await?;
    let (prepared, rid) = (&generation.prepared, &generation.rid);
    let empty = Generated::new(rid, prepared.prompts[0].request.prompt.len(), return_logprob);
    let several = prepared.n > 1;
    let max_new_tokens = prepared.prompts[0].request.params.max_tokens;
    if stream {
        let sample = |index| Generated { index: several.then_some(index), ..empty.clone() };
        let answers = (0..prepared.n).map(sample).collect();
        return Ok(streamed(generation, NativeEvents { answers, max_new_tokens }));
    }
    let (choices, _) = whole(&mut generation).await?;
    let answers = choices.into_iter().map(|Choice { text, tokens, end, .. }| {
        let mut answer = empty.clone();
        answer.add(Piece { text, tokens, end: Some(end), ..Piece::default() }, max_new_tokens);
        answer
    });
    let mut answers: Vec<Generated> = answers.collect();
    match several {
        true => Ok(Json(answers).into_response()),
        false => Ok(Json(answers.remove(0)).into_response()),
    }
}

/// What a client of `/generate` asks for.
struct NativeRequest {
    input: GenerateReqInput,
    stream: bool,
    return_logprob: bool,
}

impl NativeRequest {
    /// The request of a body's members.
    fn read(mut members: Members, rid: String) -> Result<NativeRequest, ApiError> {
        let rid = members.take::<String>("rid")?.unwrap_or(rid);
        let stream = members.take("stream")?.unwrap_or(false);
        let return_logprob = members.take("return_logprob")?.unwrap_or(false);
        let cache_salt = members.take("cache_salt")?;
        let prompt = match (members.take::<String>("text")?, members.take::<Vec<u32>>("input_ids")?) {
            (Some(text), None) => PromptInput::Text(text),
            (None, Some(ids)) => PromptInput::Ids(ids),
            _ => return Err(ApiError::invalid("text", "text: give exactly one of `text` and `input_ids`")),
        };
        let (fields, options) =
            sampling(members.take::<Members>("sampling_params")?.unwrap_or_default(), return_logprob)?;
        let fields = Fields { cache_salt, ..fields };
        let input = GenerateReqInput { rid, prompts: vec![prompt], fields, options, tenant: None };
        Ok(NativeRequest { input, stream, return_logprob })
    }
}

/// The fields of `sampling_params`.
fn sampling(mut members: Members, return_logprob: bool) -> Result<(Fields, RequestOptions), ApiError> {
    refuse(&mut members)?;
    let max_tokens = members.take::<usize>("max_new_tokens")?.unwrap_or(DEFAULT_MAX_NEW_TOKENS);
    if max_tokens == 0 {
        return Err(ApiError::invalid("max_new_tokens", "max_new_tokens: it must be at least 1"));
    }
    let seed = members.take::<u64>("sampling_seed")?;
    let options = options(&mut members)?;
    members.retain(&SAMPLING);
    let fields = Fields {
        max_tokens: Some(max_tokens),
        seed,
        logprobs: return_logprob.then_some(Logprobs::Number(0)),
        ..super::openai::request::checked_fields(members)?
    };
    Ok((fields, options))
}

impl Generated {
    fn new(rid: &str, prompt_tokens: usize, logprobs: bool) -> Generated {
        let meta_info = MetaInfo {
            id: rid.into(),
            finish_reason: None,
            prompt_tokens,
            completion_tokens: 0,
            cached_tokens: 0,
            weight_version: 0,
            output_token_logprobs: logprobs.then(Vec::new),
        };
        Generated { text: String::new(), output_ids: Vec::new(), meta_info, index: None }
    }

    fn add(&mut self, piece: Piece, max_new_tokens: usize) {
        self.text += &piece.text;
        self.output_ids.extend(piece.tokens.iter().map(|sampled| sampled.token));
        let meta = &mut self.meta_info;
        meta.completion_tokens = self.output_ids.len();
        if let Some(logprobs) = &mut meta.output_token_logprobs {
            let entry = |s: &Sampled| (finite(s.logprob.unwrap_or(f32::NEG_INFINITY)), s.token, None);
            logprobs.extend(piece.tokens.iter().map(entry));
        }
        let Some(SampleEnd { reason, matched_stop, cached_tokens, weight_version, .. }) = piece.end else {
            return;
        };
        let length = (reason == "length").then_some(max_new_tokens);
        meta.finish_reason = Some(Ended { kind: reason, matched: matched_stop, length });
        (meta.cached_tokens, meta.weight_version) = (cached_tokens, weight_version);
    }
}

/// Events that each have all of an answer so far, as SGLang's.
struct NativeEvents {
    answers: Vec<Generated>,
    max_new_tokens: usize,
}

impl Events for NativeEvents {
    fn piece(&mut self, piece: Piece, _: &mut Usage, out: &mut Vec<u8>) {
        let answer = &mut self.answers[piece.index];
        answer.add(piece, self.max_new_tokens);
        sse::event_into(out, answer);
    }

    fn end(&mut self, _: &Usage, _: &mut Vec<u8>) {}
}

/// A text as token ids.
#[derive(Serialize, ToSchema)]
pub struct Tokens {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    /// With `return_token_strs`.
    token_strs: Option<Vec<String>>,
}

/// Makes a text or a chat token ids.
#[utoipa::path(
    post, path = "/tokenize", tag = "native", request_body = super::openai::schema::TokenizeRequest,
    responses((status = 200, body = Tokens), BodyErrors)
)]
pub async fn tokenize(State(app): State<App>, JsonBody(body): JsonBody) -> Result<Json<Tokens>, ApiError> {
    let manager = app.manager()?;
    let (prompt, fields, options, strings) = app.bodies.parse(body, text_or_chat).await?;
    let bytes = prompt.bytes();
    let tokens = manager.blocking(bytes, move |manager| manager.encode(prompt, &fields, &options)).await??;
    let name = |id: &u32| Some(manager.tokenizer().ok()?.piece(*id).unwrap_or_default());
    let token_strs = if strings { tokens.iter().map(name).collect() } else { None };
    Ok(Json(Tokens { count: tokens.len(), max_model_len: manager.limits.max_model_len, tokens, token_strs }))
}

/// What `/tokenize` is asked for, and whether the tokens' texts are wanted too.
fn text_or_chat(mut members: Members) -> Result<(PromptInput, Fields, RequestOptions, bool), ApiError> {
    let strings = members.take("return_token_strs")?.unwrap_or(false);
    // vLLM's fields, and llama.cpp's.
    let add_special_tokens = match members.take("add_special_tokens")? {
        Some(add) => add,
        None => members.take("add_special")?.unwrap_or(true),
    };
    let text = match members.take::<String>("prompt")? {
        None => members.take::<String>("content")?,
        text => text,
    };
    let (prompt, fields) = match text {
        Some(text) => (PromptInput::Text(text), Fields::default()),
        None => {
            members.retain(&["messages", "chat_template_kwargs"]);
            let mut fields: Fields = members.read()?;
            let messages = fields
                .messages
                .take()
                .ok_or_else(|| ApiError::invalid("prompt", "prompt: give `prompt` or `messages`"))?;
            (PromptInput::Chat(checked(messages)?), fields)
        }
    };
    let options = RequestOptions { add_special_tokens, ..RequestOptions::default() };
    Ok((prompt, fields, options, strings))
}

/// Token ids to make a text of.
#[derive(Deserialize, ToSchema)]
pub struct DetokenizeRequest {
    pub tokens: Vec<u32>,
}

/// A text.
#[derive(Serialize, ToSchema)]
pub struct Text {
    prompt: String,
}

/// Makes token ids a text.
#[utoipa::path(
    post, path = "/detokenize", tag = "native", request_body = DetokenizeRequest,
    responses((status = 200, body = Text), BodyErrors)
)]
pub async fn detokenize(State(app): State<App>, JsonBody(body): JsonBody) -> Result<Json<Text>, ApiError> {
    let manager = app.manager()?;
    let tokens = app.bodies.parse(body, |mut members| Ok(members.take::<Vec<u32>>("tokens")?)).await?;
    let tokens =
        tokens.ok_or_else(|| ApiError::invalid("tokens", "tokens: a list of token ids is expected"))?;
    if tokens.len() > MAX_DETOKENIZE {
        return Err(ApiError::invalid("tokens", format!("tokens: give at most {MAX_DETOKENIZE}")));
    }
    let vocab = manager.checkpoint.config.vocab_size;
    if let Some(at) = tokens.iter().position(|&id| id as usize >= vocab) {
        return Err(ApiError::invalid(
            "tokens",
            format!("tokens: number {} is outside the vocabulary of {vocab}", at + 1),
        ));
    }
    let prompt =
        manager.blocking(tokens.len(), move |manager| manager.tokenizer().map(|t| t.decode(&tokens, false)));
    let prompt = prompt.await??;
    Ok(Json(Text { prompt }))
}
