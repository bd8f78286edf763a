//! The fields of a request, with the names of OpenAI's API and of what vLLM adds to it.

use crate::json;
use clap::Args;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};
use std::{fmt, str::FromStr};

/// A request as it is written, in JSON or in flags. What is absent has the default of generation_config.json, or one that changes nothing.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Sampling")]
pub struct Fields {
    /// The caller's name for it, as it is written.
    #[arg(skip)]
    pub id: Option<Box<RawValue>>,
    /// A server's name for the model, and the caller's name for a user: there is one of each here.
    #[arg(skip)]
    pub model: IgnoredAny,
    #[arg(skip)]
    pub user: IgnoredAny,
    /// Text to continue. One of this, `messages` and `prompt_ids` is given.
    #[arg(skip)]
    pub prompt: Option<String>,
    /// A chat.
    #[arg(skip)]
    #[serde(deserialize_with = "exact")]
    pub messages: Option<Vec<Value>>,
    /// Functions that the model may call in a chat, each a JSON schema.
    #[arg(skip)]
    #[serde(deserialize_with = "exact")]
    pub tools: Option<Vec<Value>>,
    /// Further variables of the chat template.
    #[arg(skip)]
    #[serde(deserialize_with = "exact")]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Token ids to continue; they need no tokenizer.
    #[arg(skip)]
    pub prompt_ids: Option<Vec<u32>>,
    #[arg(skip)]
    #[serde(alias = "max_completion_tokens")]
    pub max_tokens: Option<usize>,
    /// Samples of the same prompt.
    #[arg(skip)]
    pub n: Option<usize>,
    /// The text begins with the prompt, and so do the log-probabilities. Then `max_tokens` may be 0.
    #[arg(skip)]
    pub echo: bool,
    /// Results in pieces: none are given.
    #[arg(skip)]
    pub stream: bool,
    /// Divides the logits; 0 is greedy
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Keep the K largest logits; 0 keeps all (vLLM writes -1)
    #[arg(long, value_name = "K")]
    pub top_k: Option<i64>,
    /// Keep the smallest set of tokens that reaches this probability
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Keep tokens at least this probable, relative to the best
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Above 1 weakens tokens that were there before
    #[arg(long, value_name = "X")]
    pub repetition_penalty: Option<f32>,
    /// Subtracted once from tokens in the output
    #[arg(long, value_name = "X", default_value_t, hide_default_value = true)]
    pub presence_penalty: f32,
    /// Subtracted from tokens for each time they are in the output
    #[arg(long, value_name = "X", default_value_t, hide_default_value = true)]
    pub frequency_penalty: f32,
    /// Added to a token's logit: 42=-100,7=1.5
    // In JSON an object, in its order.
    #[arg(long, value_name = "ID=X", value_delimiter = ',', value_parser = bias, allow_hyphen_values = true)]
    #[serde(deserialize_with = "pairs")]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the random numbers; the same seed gives the same tokens
    // In JSON -1 is none.
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "seed")]
    pub seed: Option<u64>,
    /// Report the log-probabilities of each token and of the N best (with --json)
    #[arg(long, value_name = "N")]
    pub logprobs: Option<Logprobs>,
    #[arg(skip)]
    pub top_logprobs: Option<usize>,
    /// End where this text appears; may be given several times
    // In JSON a string or a list.
    #[arg(long, value_name = "TEXT")]
    #[serde(deserialize_with = "one_or_many")]
    pub stop: Vec<String>,
    /// Do not end at the end-of-sequence token
    #[arg(long)]
    pub ignore_eos: bool,
    /// vLLM's field; it means something from step 4 on.
    #[arg(skip)]
    pub cache_salt: Option<String>,
}

/// Values for a chat template, which prints them: every number as it is written (see [`json::exact`]).
fn exact<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    let text = Box::<RawValue>::deserialize(deserializer)?;
    let value = json::exact(text.get().as_bytes()).map_err(D::Error::custom)?;
    serde_json::from_value(value).map_err(D::Error::custom)
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parsed =
        text.split_once('=').and_then(|(id, x)| Some((id.trim().parse().ok()?, x.trim().parse().ok()?)));
    parsed.ok_or_else(|| format!("'{text}' is no bias; write ID=X, such as 42=-100"))
}

/// An object's members in their order, also those that stand in it twice: the sampler's check refuses them.
fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(u32, f32)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(u32, f32)>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object of token ids and numbers")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }
    deserializer.deserialize_map(Pairs)
}

/// A seed, or -1 for none.
fn seed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match i128::deserialize(deserializer)? {
        -1 => Ok(None),
        seed => u64::try_from(seed).map(Some).map_err(|_| {
            D::Error::custom(format!("{seed} is no seed; give 0 to {}, or -1 for none", u64::MAX))
        }),
    }
}

/// One stop string or several.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "another type, expected a string or a list of strings")]
    enum Stop {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Stop::deserialize(deserializer)? {
        Stop::One(stop) => vec![stop],
        Stop::Many(stops) => stops,
    })
}

/// A number in OpenAI's completions, a switch in its chats.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "another type, expected a number or a boolean")]
pub enum Logprobs {
    Number(usize),
    Switch(bool),
}

impl FromStr for Logprobs {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Logprobs, Self::Err> {
        text.parse().map(Logprobs::Number)
    }
}

impl Fields {
    /// The most probable tokens to report for each token, if log-probabilities are wanted.
    pub(super) fn wanted_logprobs(&self) -> Option<usize> {
        match (self.logprobs, self.top_logprobs) {
            (Some(Logprobs::Switch(false)) | None, None) => None,
            (Some(Logprobs::Number(n)), _) => Some(n),
            (_, Some(n)) => Some(n),
            (Some(Logprobs::Switch(true)), None) => Some(0),
        }
    }
}
