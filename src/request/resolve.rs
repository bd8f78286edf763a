//! From the fields of a request to what an engine runs.

use super::{Checkpoint, Fields};
use crate::{
    config::generation::{Knobs, SamplingDefaults},
    error::{Error, Result},
    generate::GenerateParams,
    runner::Prompt,
    sampling::SamplingParams,
    tokenizer::{ChatOptions, StopMatcher},
};

/// The longest output in tokens, if neither the request nor generation_config.json says.
pub const DEFAULT_MAX_TOKENS: usize = 256;
/// Stop strings that a request may have, as in OpenAI's API.
pub const MAX_STOPS: usize = 4;
/// Bytes that a stop string may have.
pub const MAX_STOP_BYTES: usize = 256;

/// A request that was checked, with everything that it leaves out filled in.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub prompt: Prompt,
    /// The prompt is a chat: the answer is a text of its own.
    pub chat: bool,
    pub params: GenerateParams,
    /// Samples of the prompt, 1..=128.
    pub n: usize,
    pub stop: Vec<String>,
    /// What the output's text begins with, if the prompt is to be echoed. Then `max_tokens` may be 0.
    pub echo: Option<String>,
    /// The length is a default that nobody asked for.
    pub may_shorten: bool,
    /// Only requests with the same salt share K and V. (Step 4.)
    pub salt: Option<String>,
    /// Where the sampling parameters are from.
    pub defaults: SamplingDefaults,
}

impl Resolved {
    /// The prompt that the output's text continues; nothing before an answer in a chat.
    pub fn text_after(&self) -> &[u32] {
        if self.chat { &[] } else { &self.prompt }
    }
}

impl Checkpoint {
    /// Checks a request and fills in its defaults.
    ///
    /// # Errors
    /// Whatever is wrong with it: the field, its value and what would do.
    pub fn resolve(&self, fields: Fields) -> Result<Resolved> {
        let (defaults, n) = (self.defaults(&fields)?, fields.n.unwrap_or(1));
        let params = self.params(&fields, &defaults)?;
        if !(1..=128).contains(&n) {
            return Err(Error::Request(format!("n is {n}; it must be in 1..=128")));
        }
        if fields.stream {
            return Err(Error::Request("stream is true, and results are given whole; leave it out".into()));
        }
        let stop = fields.stop.clone();
        check_stop(&stop)?;
        if !stop.is_empty() {
            self.tokenizer_for("stop")?;
        }
        let (chat, salt) = (fields.messages.is_some(), fields.cache_salt.clone());
        let (echo, text) = (fields.echo, fields.prompt.clone());
        let may_shorten = fields.max_tokens.is_none();
        let prompt = Prompt::new(&self.config, self.prompt_ids(fields)?)?;
        let echo = match (echo, text) {
            (true, _) if chat => {
                return Err(Error::Request("echo is true, and a chat has no prompt to echo".into()));
            }
            (true, None) => Some(self.tokenizer_for("echo")?.decode(&prompt, false)),
            (true, text) => text,
            (false, _) => None,
        };
        Ok(Resolved { prompt, chat, params, n, stop, echo, may_shorten, salt, defaults })
    }

    /// What ends the output of a request in the step that completes a stop string; `None` without a stop string.
    pub fn stop_matcher(&self, request: &Resolved) -> Option<StopMatcher> {
        StopMatcher::new(self.tokenizer().ok()?, request.text_after(), &request.stop)
    }

    fn prompt_ids(&self, fields: Fields) -> Result<Vec<u32>> {
        match (fields.prompt, fields.messages, fields.prompt_ids) {
            (Some(text), None, None) => Ok(self.tokenizer_for("text")?.encode_prompt(&text)?),
            (None, Some(messages), None) => {
                let extra = fields.chat_template_kwargs.unwrap_or_default();
                let options = ChatOptions { tools: fields.tools, add_generation_prompt: true, extra };
                Ok(self.tokenizer_for("text")?.encode_chat(&messages, &options)?)
            }
            (None, None, Some(ids)) => Ok(ids),
            _ => Err(Error::Request("give exactly one of prompt, messages and prompt_ids".into())),
        }
    }

    /// How a request is sampled that leaves it to the model.
    ///
    /// # Errors
    /// A value of generation_config.json that is out of range.
    pub fn sampling_defaults(&self) -> Result<SamplingDefaults> {
        self.defaults(&Fields::default())
    }

    fn defaults(&self, fields: &Fields) -> Result<SamplingDefaults> {
        let top_k = match fields.top_k {
            Some(-1) => Some(0), // vLLM's "keep all"
            Some(k) => Some(usize::try_from(k).map_err(|_| Error::Parameter {
                field: "top_k",
                value: k.to_string(),
                why: "it must be at least 0; 0 keeps all".into(),
            })?),
            None => None,
        };
        let knobs = Knobs {
            temperature: fields.temperature,
            top_k,
            top_p: fields.top_p,
            min_p: fields.min_p,
            repetition_penalty: fields.repetition_penalty,
            max_tokens: fields.max_tokens,
        };
        Ok(SamplingDefaults::resolve(&knobs, self.generation.as_ref())?)
    }

    fn params(&self, fields: &Fields, defaults: &SamplingDefaults) -> Result<GenerateParams> {
        let sampling = SamplingParams {
            presence_penalty: fields.presence_penalty,
            frequency_penalty: fields.frequency_penalty,
            logit_bias: fields.logit_bias.clone(),
            seed: fields.seed,
            logprobs: fields.wanted_logprobs(),
            ..defaults.params()
        };
        sampling.validate(self.config.vocab_size)?;
        let max_tokens = defaults.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
        if max_tokens == 0 && !fields.echo {
            return Err(Error::Request("max_tokens is 0; it must be at least 1, or echo be true".into()));
        }
        let eos_token_id = if fields.ignore_eos { Vec::new() } else { self.eos_token_id() };
        Ok(GenerateParams { max_tokens, sampling, eos_token_id })
    }
}

/// A server's clients choose the stop strings, and every token is compared with them.
fn check_stop(stop: &[String]) -> Result<()> {
    let longest = stop.iter().map(String::len).max().unwrap_or(0);
    let (value, why) = match stop.len() {
        count if count > MAX_STOPS => (format!("of {count} strings"), format!("give at most {MAX_STOPS}")),
        _ if longest > MAX_STOP_BYTES => {
            (format!("of {longest} bytes"), format!("give at most {MAX_STOP_BYTES} for each string"))
        }
        _ => return Ok(()),
    };
    Err(Error::Parameter { field: "stop", value, why: why.into() })
}
