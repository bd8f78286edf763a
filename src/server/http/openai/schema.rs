//! The bodies of requests, for `/openapi.json`. They are read by [`super::request`], which takes null for absent and more spellings.

use super::completions::Prompts;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What both kinds of requests take.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code)] // it is read by the schema alone
pub struct Sampling {
    model: Option<String>,
    /// Samples of each prompt.
    #[schema(minimum = 1, maximum = 128)]
    n: Option<u32>,
    #[schema(minimum = 0)]
    max_tokens: Option<u32>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    /// -1 and 0 keep all.
    #[schema(minimum = -1)]
    top_k: Option<i32>,
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
    /// Token ids and numbers in -100..=100.
    logit_bias: Option<BTreeMap<String, f32>>,
    /// -1 is none.
    seed: Option<i64>,
    stop: Option<Stop>,
    stop_token_ids: Option<Vec<u32>>,
    /// Tokens of an output before which nothing ends it.
    min_tokens: Option<u32>,
    ignore_eos: Option<bool>,
    include_stop_str_in_output: Option<bool>,
    skip_special_tokens: Option<bool>,
    add_special_tokens: Option<bool>,
    return_token_ids: Option<bool>,
    return_tokens_as_token_ids: Option<bool>,
    /// Only requests with the same salt share K and V.
    #[schema(max_length = 128)]
    cache_salt: Option<String>,
    /// The request's name, as for `/abort_request`.
    request_id: Option<String>,
    user: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[allow(dead_code)]
pub struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

/// A stop string, or up to four.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code)]
pub enum Stop {
    One(String),
    Many(Vec<String>),
}

/// A chat.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code)]
pub struct ChatRequest {
    #[schema(min_items = 1)]
    messages: Vec<Message>,
    #[schema(minimum = 1)]
    max_completion_tokens: Option<u32>,
    logprobs: Option<bool>,
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<u32>,
    /// Variables of the chat template.
    #[schema(value_type = Option<Object>)]
    chat_template_kwargs: Option<Value>,
    reasoning_effort: Option<String>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    #[serde(flatten)]
    sampling: Sampling,
}

#[derive(Deserialize, ToSchema)]
#[allow(dead_code)]
pub struct Message {
    role: Role,
    content: Option<Content>,
}

/// Who speaks; `developer` is OpenAI's newer name of `system`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(dead_code)]
pub enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

/// A text, or parts of it.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code)]
pub enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message, whose `type` is `text`.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code)]
pub struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: String,
}

/// Prompts to continue.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code)]
pub struct CompletionRequest {
    prompt: Prompts,
    echo: Option<bool>,
    #[schema(minimum = 0, maximum = 20)]
    logprobs: Option<u32>,
    #[schema(minimum = 1)]
    best_of: Option<u32>,
    #[serde(flatten)]
    sampling: Sampling,
}

/// SGLang's request.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct GenerateRequest {
    /// This, or `input_ids`.
    text: Option<String>,
    input_ids: Option<Vec<u32>>,
    #[schema(value_type = Option<Object>)]
    sampling_params: Option<Value>,
    stream: Option<bool>,
    return_logprob: Option<bool>,
    /// The request's name, as for `/abort_request`.
    rid: Option<String>,
}

/// A text or a chat.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct TokenizeRequest {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    add_special_tokens: Option<bool>,
    return_token_strs: Option<bool>,
}
