//! The text of one output as its tokens come, cut at stop strings.

use serde::Serialize;
use stairwell::{
    sampling::Sampled,
    tokenizer::{Detokenizer, Emit, StopStrings, Tokenizer},
};

/// One output.
pub struct Text {
    tokenizer: Option<Tokenizer>,
    detokenizer: Option<Detokenizer>,
    stop: StopStrings,
    /// All of it so far.
    pub text: String,
    /// One entry a token, if log-probabilities are asked for.
    pub logprobs: Vec<TokenLogprobs>,
}

/// A token of the output, and the most probable tokens in its place.
#[derive(Clone, Serialize)]
pub struct TokenLogprobs {
    #[serde(flatten)]
    token: TokenLogprob,
    top: Vec<TokenLogprob>,
}

#[derive(Clone, Serialize)]
struct TokenLogprob {
    id: u32,
    token: Option<String>,
    /// UTF-8, of which a token may be half a character.
    bytes: Option<Vec<u8>>,
    logprob: Option<f64>,
}

impl Text {
    /// The output after a prompt, or after nothing for an answer in a chat. Without a tokenizer it is token ids.
    pub fn new(tokenizer: Option<Tokenizer>, prompt: &[u32], stop: &[String]) -> Text {
        let detokenizer = tokenizer.as_ref().map(|t| match prompt {
            [] => Detokenizer::new(t, true),
            prompt => Detokenizer::after_prompt(t, prompt, true),
        });
        let stop = StopStrings::new(stop);
        Text { tokenizer, detokenizer, stop, text: String::new(), logprobs: Vec::new() }
    }

    /// Takes a token; gives the text that is final now. Nothing comes after a stop string.
    pub fn push(&mut self, sampled: &Sampled) -> String {
        if sampled.logprob.is_some() {
            self.logprobs.push(self.logprob_entry(sampled));
        }
        let text = match &mut self.detokenizer {
            None => format!("{} ", sampled.token),
            Some(detokenizer) => {
                let (Emit::Text(text) | Emit::Stopped { text, .. }) =
                    self.stop.push_token(detokenizer, sampled.token);
                text
            }
        };
        self.text.push_str(&text);
        text
    }

    /// The text that was held back.
    pub fn finish(&mut self) -> String {
        let rest = self.detokenizer.as_mut().map(Detokenizer::finish).unwrap_or_default();
        let (Emit::Text(mut text) | Emit::Stopped { mut text, .. }) = self.stop.push(&rest);
        text += &self.stop.finish();
        self.text.push_str(&text);
        text
    }

    /// What is reported of a token, of the prompt or the output.
    pub fn logprob_entry(&self, sampled: &Sampled) -> TokenLogprobs {
        let entry = |id: u32, logprob: Option<f32>| {
            let tokenizer = self.tokenizer.as_ref();
            let (token, bytes) = (tokenizer.and_then(|t| t.piece(id)), tokenizer.and_then(|t| t.bytes(id)));
            TokenLogprob { id, token, bytes, logprob: logprob.map(f64::from) }
        };
        let token = entry(sampled.token, sampled.logprob);
        let top = sampled.top_logprobs.iter().map(|(id, logprob)| entry(*id, Some(*logprob))).collect();
        TokenLogprobs { token, top }
    }
}
