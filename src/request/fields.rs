//! The fields of a request, with the names of OpenAI's API and of what vLLM adds to it.

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;
use std::fmt;

/// A request as it is written. What is absent has the default of generation_config.json, or one that changes nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    /// The caller's name for it: a string or a number.
    pub id: Option<Value>,
    /// Text to continue. One of this, `messages` and `prompt_ids` is given.
    pub prompt: Option<String>,
    /// A chat.
    pub messages: Option<Vec<Value>>,
    /// Token ids to continue; they need no tokenizer.
    pub prompt_ids: Option<Vec<u32>>,
    #[serde(alias = "max_completion_tokens")]
    pub max_tokens: Option<usize>,
    /// Samples of the same prompt.
    pub n: Option<usize>,
    pub seed: Option<u64>,
    #[serde(default)]
    pub stop: Stop,
    #[serde(default)]
    pub ignore_eos: bool,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    /// 0 and vLLM's -1 keep all.
    pub top_k: Option<i64>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    #[serde(default)]
    pub presence_penalty: f32,
    #[serde(default)]
    pub frequency_penalty: f32,
    /// Token ids and what is added to their logits; a JSON object, or pairs.
    #[serde(default, deserialize_with = "pairs")]
    pub logit_bias: Vec<(u32, f32)>,
    pub logprobs: Option<Logprobs>,
    pub top_logprobs: Option<usize>,
    /// vLLM's field; it means something from step 4 on.
    pub cache_salt: Option<String>,
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

/// One stop string, or several.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(untagged)]
pub enum Stop {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

impl Stop {
    /// As a list.
    pub fn strings(&self) -> Vec<String> {
        match self {
            Stop::None => Vec::new(),
            Stop::One(stop) => vec![stop.clone()],
            Stop::Many(stops) => stops.clone(),
        }
    }
}

/// A number in OpenAI's completions, a switch in its chats.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub enum Logprobs {
    Number(usize),
    Switch(bool),
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
