//! The requests of `stairwell batch`: one JSON object a line, with the field names of OpenAI's API.

use super::model_args::ModelArgs;
use serde::Deserialize;
use serde_json::Value;
use stairwell::{
    config::{
        ModelConfig,
        generation::{GenerationConfig, Knobs, SamplingDefaults},
    },
    error::{Error, Result},
    generate::GenerateParams,
    runner::{check_prompt, read_config},
    sampling::SamplingParams,
    tokenizer::{ChatOptions, Tokenizer},
};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    sync::Arc,
};

/// A request that can be run.
pub struct BatchRequest {
    /// Line of the file, from 1.
    pub line: usize,
    /// As it was given, or the line's number.
    pub id: Value,
    pub prompt: Vec<u32>,
    /// The prompt is a chat: the answer is a text of its own.
    chat: bool,
    pub params: GenerateParams,
    pub n: usize,
    pub stop: Vec<String>,
    /// Only requests with the same salt share K and V.
    pub salt: Option<Arc<str>>,
}

impl BatchRequest {
    /// The prompt that the output's text continues.
    pub fn text_after(&self) -> &[u32] {
        if self.chat { &[] } else { &self.prompt }
    }
}

/// A line as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: Option<Value>,
    prompt: Option<String>,
    messages: Option<Vec<Value>>,
    prompt_ids: Option<Vec<u32>>,
    #[serde(alias = "max_completion_tokens")]
    max_tokens: Option<usize>,
    n: Option<usize>,
    seed: Option<u64>,
    #[serde(default)]
    stop: Stop,
    #[serde(default)]
    ignore_eos: bool,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    #[serde(default)]
    presence_penalty: f32,
    #[serde(default)]
    frequency_penalty: f32,
    #[serde(default)]
    logit_bias: BTreeMap<u32, f32>,
    logprobs: Option<Logprobs>,
    top_logprobs: Option<usize>,
    /// vLLM's field; it means something from step 4 on.
    cache_salt: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Stop {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

/// A number in OpenAI's completions, a switch in its chats.
#[derive(Deserialize)]
#[serde(untagged)]
enum Logprobs {
    Number(usize),
    Switch(bool),
}

/// What a line leaves out, and what turns text into ids.
pub struct Defaults {
    config: ModelConfig,
    generation: Option<GenerationConfig>,
    pub tokenizer: Option<Arc<Tokenizer>>,
    no_tokenizer: String,
}

impl Defaults {
    /// Reads config.json, generation_config.json and the tokenizer.
    ///
    /// # Errors
    /// If one of the first two is bad. A model without a tokenizer can still run `prompt_ids`.
    pub fn read(model: &ModelArgs) -> Result<Defaults> {
        let directory = model.directory()?;
        let config = read_config(&directory)?;
        let file = "generation_config.json";
        let parse = |json: Vec<u8>| GenerationConfig::parse(&json, &directory.path(file));
        let generation = directory.read(file)?.map(parse).transpose()?;
        let tokenizer = model.tokenizer();
        let no_tokenizer = tokenizer.as_ref().err().map(Error::to_string).unwrap_or_default();
        Ok(Defaults { config, generation, tokenizer: tokenizer.ok().map(Arc::new), no_tokenizer })
    }

    /// One line.
    fn request(&self, line: usize, text: &str) -> Result<BatchRequest> {
        let bad = |e: serde_json::Error| Error::Request(plain(&e.to_string()));
        let request: Line = serde_json::from_str(text).map_err(bad)?;
        let id = match &request.id {
            None | Some(Value::Null) => line.into(),
            Some(id @ (Value::String(_) | Value::Number(_))) => id.clone(),
            Some(id) => return Err(Error::Request(format!("id {id} is neither a string nor a number"))),
        };
        let (params, n) = (self.params(&request)?, request.n.unwrap_or(1));
        if !(1..=128).contains(&n) {
            return Err(Error::Request(format!("n is {n}; it must be in 1..=128")));
        }
        let chat = request.messages.is_some();
        let stop = match &request.stop {
            Stop::None => Vec::new(),
            Stop::One(stop) => vec![stop.clone()],
            Stop::Many(stops) => stops.clone(),
        };
        if !stop.is_empty() && self.tokenizer.is_none() {
            return Err(Error::Request(format!("stop needs a tokenizer: {}", self.no_tokenizer)));
        }
        let salt = request.cache_salt.as_deref().map(Arc::from);
        let prompt = self.prompt(request)?;
        check_prompt(&self.config, &prompt)?;
        Ok(BatchRequest { line, id, prompt, chat, params, n, stop, salt })
    }

    fn prompt(&self, line: Line) -> Result<Vec<u32>> {
        let tokenizer = || {
            let missing = || Error::Request(format!("text needs a tokenizer: {}", self.no_tokenizer));
            self.tokenizer.as_ref().ok_or_else(missing)
        };
        match (line.prompt, line.messages, line.prompt_ids) {
            (Some(text), None, None) => Ok(tokenizer()?.encode_prompt(&text)?),
            (None, Some(messages), None) => {
                let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
                Ok(tokenizer()?.encode_chat(&messages, &options)?)
            }
            (None, None, Some(ids)) => Ok(ids),
            _ => Err(Error::Request("give exactly one of prompt, messages and prompt_ids".into())),
        }
    }

    fn params(&self, line: &Line) -> Result<GenerateParams> {
        let top_k = match line.top_k {
            Some(-1) => Some(0), // vLLM's "keep all"
            Some(k) => {
                Some(usize::try_from(k).map_err(|_| Error::Request(format!("top_k is {k}; 0 keeps all")))?)
            }
            None => None,
        };
        let knobs = Knobs {
            temperature: line.temperature,
            top_k,
            top_p: line.top_p,
            min_p: line.min_p,
            repetition_penalty: line.repetition_penalty,
            max_tokens: line.max_tokens,
        };
        let defaults = SamplingDefaults::resolve(&knobs, self.generation.as_ref())?;
        let logprobs = match (&line.logprobs, line.top_logprobs) {
            (Some(Logprobs::Switch(false)) | None, None) => None,
            (Some(Logprobs::Number(n)), _) => Some(*n),
            (_, Some(n)) => Some(n),
            (Some(Logprobs::Switch(true)), None) => Some(0),
        };
        let sampling = SamplingParams {
            presence_penalty: line.presence_penalty,
            frequency_penalty: line.frequency_penalty,
            logit_bias: line.logit_bias.iter().map(|(id, bias)| (*id, *bias)).collect(),
            seed: line.seed,
            logprobs,
            ..defaults.params()
        };
        sampling.validate(self.config.vocab_size).map_err(|e| Error::Request(field_names(&e.to_string())))?;
        let max_tokens = defaults.max_tokens.map_or(256, |n| n.value);
        if max_tokens == 0 {
            return Err(Error::Request("max_tokens is 0; it must be at least 1".into()));
        }
        Ok(GenerateParams { max_tokens, sampling, eos_token_id: self.eos(line.ignore_eos) })
    }

    fn eos(&self, ignored: bool) -> Vec<u32> {
        match &self.generation {
            _ if ignored => Vec::new(),
            Some(g) if !g.eos_token_id.is_empty() => g.eos_token_id.clone(),
            _ => self.config.eos_token_id.clone(),
        }
    }
}

/// serde_json counts lines within the line.
fn plain(message: &str) -> String {
    let message = message.replace(" at line 1 column ", " at column ");
    match message.starts_with("EOF") {
        true => format!("the JSON ends too early ({message})"),
        false => message,
    }
}

/// A message that speaks of flags, in the words of the file: `--top-p` is `top_p`.
fn field_names(message: &str) -> String {
    let word = |word: &str| match word.strip_prefix("--") {
        Some(flag) => flag.replace('-', "_"),
        None => word.to_owned(),
    };
    message.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// The number of a line, and what is wrong with it.
pub type BadLine = (usize, String);

/// The good requests of a file, and what is wrong with the other lines.
///
/// # Errors
/// If the file can't be read.
pub fn read_requests(path: &Path, defaults: &Defaults) -> Result<(Vec<BatchRequest>, Vec<BadLine>)> {
    let bytes = fs::read(path).map_err(|error| Error::Io { path: path.into(), error })?;
    let (mut good, mut bad, mut seen) = (Vec::new(), Vec::new(), HashMap::new());
    for (line, bytes) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let text = std::str::from_utf8(bytes).map_err(|e| Error::Request(format!("not UTF-8: {e}")));
        match text.and_then(|text| defaults.request(line, text)) {
            Ok(request) => match seen.insert(request.id.to_string(), line) {
                None => good.push(request),
                Some(first) => {
                    bad.push((line, format!("id {} is already that of line {first}", request.id)));
                    seen.insert(request.id.to_string(), first);
                }
            },
            Err(error) => bad.push((line, error.to_string())),
        }
    }
    Ok((good, bad))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_speak_of_fields() {
        assert_eq!(field_names("--top-p is 2; it must be in (0, 1]"), "top_p is 2; it must be in (0, 1]");
        assert_eq!(plain("trailing comma at line 1 column 7"), "trailing comma at column 7");
    }
}
