//! What the bodies of `/v1/completions` and `/v1/chat/completions` have in common: OpenAI's fields, and those of vLLM that clients send.
//!
//! Null is absent, and unknown fields are accepted, since clients send more of them every month. A field that is known and not served is
//! refused by its name: an answer that ignores it would be a wrong one.

use crate::{
    request::{Fields, Logprobs, Members},
    server::{
        error::ApiError,
        io_struct::{GenerateReqInput, RequestOptions},
    },
};
use serde::Deserialize;
use serde_json::Value;

/// Fields that the library's [`Fields`] read.
const FIELDS: [&str; 19] = [
    "messages",
    "chat_template_kwargs",
    "max_tokens",
    "n",
    "echo",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "logprobs",
    "top_logprobs",
    "stop",
    "ignore_eos",
    "cache_salt",
];
/// Fields that constrain the output, in the spellings of OpenAI, vLLM, SGLang and llama.cpp.
const CONSTRAINTS: [&str; 12] = [
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "json_schema",
    "regex",
    "ebnf",
    "structural_tag",
    "grammar",
    "allowed_token_ids",
    "bad_words",
];
/// Biases, or tokens that end an output, that a request may have; and the most probable tokens that are reported in a place.
const MAX_BIASES: usize = 1024;
const MAX_TOP_LOGPROBS: usize = 20;

/// A request for text.
pub struct TextRequest {
    /// The name that the answer bears.
    pub model: String,
    pub input: GenerateReqInput,
    pub stream: bool,
    /// A last chunk with the usage; and the usage in every chunk.
    pub include_usage: bool,
    pub usage_in_all: bool,
    /// The ids of prompt and output too.
    pub return_token_ids: bool,
    /// In log-probabilities, "token_id:5" in the place of a token's text.
    pub tokens_as_ids: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

impl TextRequest {
    /// Reads the fields that both kinds of requests have, and takes them out. `names` are the models that are served.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn read(mut members: Members, names: &[String], rid: String) -> Result<TextRequest, ApiError> {
        let model = match members.take::<String>("model")? {
            Some(model) if !names.contains(&model) => return Err(ApiError::model_not_found()),
            model => model.unwrap_or_else(|| names[0].clone()),
        };
        let rid = members.take("request_id")?.unwrap_or(rid);
        let stream = members.take("stream")?.unwrap_or(false);
        let streaming = members.take::<StreamOptions>("stream_options")?;
        if streaming.is_some() && !stream {
            return Err(ApiError::invalid("stream_options", "stream_options: only with `stream`: true"));
        }
        let streaming = streaming.unwrap_or_default();
        let return_token_ids = members.take("return_token_ids")?.unwrap_or(false);
        let tokens_as_ids = members.take("return_tokens_as_token_ids")?.unwrap_or(false);
        refuse(&mut members)?;
        let options = options(&mut members)?;
        let best_of = members.take::<usize>("best_of")?;
        let fields = fields(members)?;
        if best_of.is_some_and(|best_of| best_of != fields.n.unwrap_or(1)) {
            return Err(ApiError::invalid(
                "best_of",
                "best_of: it must equal `n`; answers are not compared here",
            ));
        }
        let input = GenerateReqInput { rid, prompts: Vec::new(), fields, options, tenant: None };
        let include_usage = streaming.include_usage.unwrap_or(false);
        let usage_in_all = include_usage && streaming.continuous_usage_stats.unwrap_or(false);
        Ok(TextRequest { model, input, stream, include_usage, usage_in_all, return_token_ids, tokens_as_ids })
    }
}

/// The fields of sampling.
fn fields(mut members: Members) -> Result<Fields, ApiError> {
    let longest = members.take::<usize>("max_completion_tokens")?;
    members.retain(&FIELDS);
    let fields = checked_fields(members)?;
    Ok(Fields { max_tokens: longest.or(fields.max_tokens), ..fields })
}

/// Reads the library's fields, within the bounds of a server.
///
/// # Errors
/// The field that is wrong.
pub fn checked_fields(mut members: Members) -> Result<Fields, ApiError> {
    let seed = seed(&mut members)?;
    let fields = Fields { seed, ..members.read()? };
    if fields.logit_bias.len() > MAX_BIASES {
        return Err(ApiError::invalid(
            "logit_bias",
            format!("logit_bias: give at most {MAX_BIASES} entries"),
        ));
    }
    if fields.stop.iter().any(String::is_empty) {
        return Err(ApiError::invalid("stop", "stop: an empty string is in every text; leave it out"));
    }
    let tops = match fields.logprobs {
        Some(Logprobs::Number(tops)) => Some(("logprobs", tops)),
        _ => fields.top_logprobs.map(|tops| ("top_logprobs", tops)),
    };
    if let Some((field, _)) = tops.filter(|(_, tops)| *tops > MAX_TOP_LOGPROBS) {
        return Err(ApiError::invalid(field, format!("{field}: it must be in 0..={MAX_TOP_LOGPROBS}")));
    }
    Ok(fields)
}

/// OpenAI's seeds are any 64 bits; -1 is none, as in vLLM.
fn seed(members: &mut Members) -> Result<Option<u64>, ApiError> {
    let Some(seed) = members.take::<i128>("seed")?.filter(|seed| *seed != -1) else { return Ok(None) };
    let signed = || i64::try_from(seed).map(i64::cast_unsigned);
    let wrong = |_| ApiError::invalid("seed", "seed: a whole number of 64 bits is expected");
    u64::try_from(seed).or_else(|_| signed()).map(Some).map_err(wrong)
}

/// The fields that OpenAI does not have.
///
/// # Errors
/// The field that is wrong.
pub fn options(members: &mut Members) -> Result<RequestOptions, ApiError> {
    let given = RequestOptions::default();
    let options = RequestOptions {
        add_special_tokens: members.take("add_special_tokens")?.unwrap_or(given.add_special_tokens),
        skip_special_tokens: members.take("skip_special_tokens")?.unwrap_or(given.skip_special_tokens),
        include_stop: members.take("include_stop_str_in_output")?.unwrap_or(given.include_stop),
        stop_token_ids: members.take("stop_token_ids")?.unwrap_or_default(),
        min_tokens: members.take("min_tokens")?.unwrap_or(0),
        continue_final_message: members.take("continue_final_message")?.unwrap_or(false),
        add_generation_prompt: members.take("add_generation_prompt")?.unwrap_or(true),
    };
    if options.stop_token_ids.len() > MAX_BIASES {
        return Err(ApiError::invalid(
            "stop_token_ids",
            format!("stop_token_ids: give at most {MAX_BIASES}"),
        ));
    }
    Ok(options)
}

/// Refuses what is known and not served.
///
/// # Errors
/// The field.
pub fn refuse(members: &mut Members) -> Result<(), ApiError> {
    let not_served = |field: &str, why: &str| Err(ApiError::invalid(field, format!("{field}: {why}")));
    let format = members.take::<Value>("response_format")?;
    if format.is_some_and(|format| format["type"] != "text") {
        return not_served(
            "response_format",
            "only {\"type\": \"text\"} is served; the output can't be constrained",
        );
    }
    for field in CONSTRAINTS {
        let empty = |value: &Value| *value == "" || value.as_array().is_some_and(Vec::is_empty);
        if members.take::<Value>(field)?.is_some_and(|value| !empty(&value)) {
            return not_served(field, "the output can't be constrained by this server");
        }
    }
    for field in ["tools", "functions"] {
        if members.take::<Vec<Value>>(field)?.is_some_and(|tools| !tools.is_empty()) {
            return not_served(field, "this server calls no tools; leave it out");
        }
    }
    for field in ["tool_choice", "function_call"] {
        let choice = members.take::<Value>(field)?;
        if choice.is_some_and(|choice| choice != "none" && choice != "auto") {
            return not_served(field, "this server calls no tools; leave it out");
        }
    }
    if members.take::<Value>("chat_template")?.is_some() {
        return not_served("chat_template", "the template comes with the model; leave it out");
    }
    if members.take::<Vec<String>>("modalities")?.is_some_and(|kinds| kinds.iter().any(|kind| kind != "text"))
    {
        return not_served("modalities", "this server answers with text alone");
    }
    if members.take::<String>("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
        return not_served("suffix", "this server continues texts and does not fill them in");
    }
    if members.take::<i64>("priority")?.is_some_and(|priority| priority != 0) {
        return not_served("priority", "requests are served in the order in which they come; leave it out");
    }
    if members.take::<Value>("prompt_logprobs")?.is_some() {
        return not_served("prompt_logprobs", "use /v1/completions with `echo` and `logprobs`");
    }
    Ok(())
}
