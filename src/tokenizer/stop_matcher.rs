//! Whether an output has reached a stop string, told token by token.
//!
//! The engine asks this in the step that samples a token, so that a request ends in the step that completes its stop string. Text
//! for people, with its held-back tail, is made at the edge by a [`Detokenizer`] and [`super::StopStrings`].

use super::{Detokenizer, Tokenizer};

/// Looks for stop strings in the bytes of an output's tokens.
///
/// Cost: each token's bytes are searched once for each stop string, with the longest stop string's length of bytes before them.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<Vec<u8>>,
    detokenizer: Detokenizer,
    /// The last bytes of the output: a stop string may begin in them.
    tail: Vec<u8>,
}

impl StopMatcher {
    /// A matcher for the output after `prompt` (empty for an answer in a chat); `None` without a stop string. Empty stop strings are
    /// ignored: they would stop before the first character.
    pub fn new(tokenizer: &Tokenizer, prompt: &[u32], stops: &[String]) -> Option<StopMatcher> {
        let stops: Vec<Vec<u8>> = stops.iter().filter(|s| !s.is_empty()).map(|s| s.clone().into()).collect();
        let detokenizer = match prompt {
            [] => Detokenizer::new(tokenizer, true),
            prompt => Detokenizer::after_prompt(tokenizer, prompt, true),
        };
        (!stops.is_empty()).then(|| StopMatcher { stops, detokenizer, tail: Vec::new() })
    }

    /// Takes the next token; true if it completes a stop string.
    pub fn push(&mut self, id: u32) -> bool {
        self.tail.extend(self.detokenizer.push_bytes(id));
        let found = |stop: &Vec<u8>| self.tail.windows(stop.len()).any(|bytes| bytes == stop);
        let stopped = self.stops.iter().any(found);
        let longest = self.stops.iter().map(Vec::len).max().unwrap_or(0);
        self.tail.drain(..self.tail.len().saturating_sub(longest.saturating_sub(1)));
        stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{demo, tokenizer::testing};

    #[test]
    fn a_stop_string_is_found_in_the_token_that_completes_it() {
        let tokenizer = Tokenizer::new(demo::tokenizer_files()).unwrap();
        let prompt = tokenizer.encode("Once upon a time", false).unwrap();
        let output = tokenizer.encode(" there was a little girl. She", false).unwrap();
        let mut matcher = StopMatcher::new(&tokenizer, &prompt, &["girl.".into(), String::new()]).unwrap();
        let found = output.iter().position(|&id| matcher.push(id)).unwrap();
        assert!(tokenizer.decode(&output[..=found], true).contains("girl."));
        assert!(!tokenizer.decode(&output[..found], true).contains("girl."));
        assert!(StopMatcher::new(&tokenizer, &prompt, &[String::new()]).is_none());
    }

    #[test]
    fn a_character_of_several_byte_tokens_is_complete_with_its_last_byte() {
        let tokenizer = testing::sentence_piece();
        let id = |token: &str| tokenizer.shared.inner.token_to_id(token).unwrap();
        let bytes = [id("<0xC3>"), id("<0xA9>")];
        let mut matcher = StopMatcher::new(&tokenizer, &[], &["é".into()]).unwrap();
        assert_eq!(bytes.map(|id| matcher.push(id)), [false, true]);
    }
}
