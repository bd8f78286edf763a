//! Whether an output has reached a stop string, told token by token.
//!
//! The engine asks this in the step that samples a token, so that a request ends in the step that completes its stop string. Text
//! for people, with its held-back tail, is made at the edge by a [`Detokenizer`] and [`super::StopStrings`].

use super::{Detokenizer, Tokenizer, stop_scan::StopScan};

/// Looks for stop strings in the bytes of an output's tokens. Cost: the same for each byte, whatever the stop strings.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    scan: StopScan,
    detokenizer: Detokenizer,
}

impl StopMatcher {
    /// A matcher for the output after `prompt` (empty for an answer in a chat); `None` without a stop string. Empty stop strings are
    /// ignored: they would stop before the first character.
    pub fn new(tokenizer: &Tokenizer, prompt: &[u32], stops: &[String]) -> Option<StopMatcher> {
        let scan = StopScan::new(stops)?;
        let detokenizer = match prompt {
            [] => Detokenizer::new(tokenizer, true),
            prompt => Detokenizer::after_prompt(tokenizer, prompt, true),
        };
        Some(StopMatcher { scan, detokenizer })
    }

    /// Takes the next token; true if it completes a stop string. The text of one that `counts` not is no part of any.
    pub fn push(&mut self, id: u32, counts: bool) -> bool {
        let bytes = self.detokenizer.push_bytes(id);
        counts && bytes.into_iter().any(|byte| self.scan.push(byte).is_some())
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
        let found = output.iter().position(|&id| matcher.push(id, true)).unwrap();
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
        assert_eq!(bytes.map(|id| matcher.push(id, true)), [false, true]);
    }
}
