//! Text as tokens come: each push gives the text that is final now, and never half a character.
//!
//! One token may be part of a character ("é" is two bytes, and each may be a token), and what a token
//! becomes may depend on its neighbours. Decoding the whole sequence again for each token would be right
//! and cost O(n²), so what is not yet final is kept and nothing else: O(1) a token.
//!
//! Two kinds of decoder are followed exactly, and together they cover Llama, Mistral, Qwen and GPT-2:
//!
//! - *byte-level*: a token is bytes, one letter for each. Bytes are final where a character ends.
//! - *SentencePiece's*: a token is text with "▁" for a space, or a single byte "\<0xE2\>". A run of such
//!   bytes becomes text if all of it is UTF-8, and one U+FFFD for each byte if not; so a run is final when
//!   a token that is no byte follows. One leading space of the whole text is dropped.
//!
//! Any other decoder is followed through a window of the last tokens, as vLLM's `detokenize_incrementally`
//! does, which is right as long as a token's text depends on the token before it only.

use super::decoding::{Decoding, Unit, byte_of, bytes_of, token};
use super::{Tokenizer, decode};

/// Turns ids into text one at a time.
///
/// The texts of all pushes and of [`finish`](Self::finish), put together, are [`Tokenizer::decode`] of all ids.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    skip_special_tokens: bool,
    pending: Pending,
}

/// What has come in and is not final yet.
#[derive(Debug, Clone)]
enum Pending {
    /// The beginning of a character: at most three bytes.
    Character(Vec<u8>),
    /// A run of byte tokens.
    Run { bytes: Vec<u8>, strip: Strip },
    /// Tokens since the last one whose text is known, `anchor`.
    Window { anchor: Option<u32>, ids: Vec<u32> },
}

/// Drops up to `left` times `content` from the beginning of a text that comes in pieces.
#[derive(Debug, Clone)]
struct Strip {
    content: char,
    left: usize,
}

impl Strip {
    fn apply(&mut self, text: String) -> String {
        let mut rest = text.as_str();
        while self.left > 0 && !rest.is_empty() {
            match rest.strip_prefix(self.content) {
                Some(after) => (rest, self.left) = (after, self.left - 1),
                None => self.left = 0,
            }
        }
        rest.to_string()
    }
}

impl Detokenizer {
    /// For a text that begins with the next id.
    pub fn new(tokenizer: &Tokenizer, skip_special_tokens: bool) -> Self {
        let pending = match &tokenizer.shared.decoding {
            Decoding::ByteLevel => Pending::Character(Vec::new()),
            Decoding::SentencePiece(steps) => {
                let (content, left) = steps.strip.unwrap_or((' ', 0));
                Pending::Run { bytes: Vec::new(), strip: Strip { content, left } }
            }
            Decoding::Other => Pending::Window { anchor: None, ids: Vec::new() },
        };
        Self { tokenizer: tokenizer.clone(), skip_special_tokens, pending }
    }

    /// For a text that continues `prompt`: a space before its first word is kept, and a character that the
    /// prompt left unfinished is completed. The prompt's own text is not given out.
    pub fn after_prompt(tokenizer: &Tokenizer, prompt: &[u32], skip_special_tokens: bool) -> Self {
        let mut detokenizer = Self::new(tokenizer, skip_special_tokens);
        for &id in prompt {
            detokenizer.push(id);
        }
        detokenizer.end_prompt();
        detokenizer
    }

    /// Takes the next id and gives the text that is final now, which may be empty.
    pub fn push(&mut self, id: u32) -> String {
        let inner = &self.tokenizer.shared.inner;
        if self.left_out(id).is_some() {
            return String::new();
        }
        let Some(token) = token(inner, id) else { return String::new() };
        match &mut self.pending {
            Pending::Character(bytes) => {
                bytes.extend(bytes_of(&token));
                whole_characters(bytes)
            }
            Pending::Run { bytes, strip } => match self.tokenizer.shared.decoding.unit(token) {
                Unit::Byte(byte) => {
                    bytes.push(byte);
                    String::new()
                }
                Unit::Text(text) => strip.apply(end_run(bytes) + &text),
            },
            Pending::Window { anchor, ids } => {
                ids.push(id);
                let text = window_text(inner, *anchor, ids);
                if byte_of(&token).is_some() || text.ends_with(char::REPLACEMENT_CHARACTER) {
                    return String::new();
                }
                end_window(inner, anchor, ids);
                text
            }
        }
    }

    /// The text of a token that the output leaves out: a special one, if these are skipped.
    pub(super) fn left_out(&self, id: u32) -> Option<String> {
        let skips = self.skip_special_tokens && self.tokenizer.is_special(id);
        token(&self.tokenizer.shared.inner, id).filter(|_| skips)
    }

    /// Takes the next id and gives the bytes in which a stop string may lie: also those of a character that is not complete yet, and those of
    /// a special token that the text leaves out.
    pub(super) fn push_bytes(&mut self, id: u32) -> Vec<u8> {
        let shared = self.tokenizer.shared.clone();
        if let Some(text) = self.left_out(id) {
            return text.into_bytes();
        }
        match (&mut self.pending, token(&shared.inner, id)) {
            (_, None) => Vec::new(),
            (Pending::Character(_), Some(token)) => bytes_of(&token),
            (Pending::Run { strip, .. }, Some(token)) => match shared.decoding.unit(token) {
                Unit::Byte(byte) => vec![byte],
                Unit::Text(text) => strip.apply(text).into_bytes(),
            },
            (Pending::Window { .. }, Some(_)) => self.push(id).into_bytes(),
        }
    }

    /// The text has ended: gives what was still open; bytes that are no character become U+FFFD.
    pub fn finish(&mut self) -> String {
        match &mut self.pending {
            Pending::Character(bytes) => String::from_utf8_lossy(&std::mem::take(bytes)).into_owned(),
            Pending::Run { bytes, strip } => strip.apply(end_run(bytes)),
            Pending::Window { anchor, ids } => {
                let inner = &self.tokenizer.shared.inner;
                let text = window_text(inner, *anchor, ids);
                end_window(inner, anchor, ids);
                text
            }
        }
    }

    /// What a prompt left open is its own, but for the beginning of a character that may still be completed.
    fn end_prompt(&mut self) {
        let open = match &self.pending {
            Pending::Character(_) => return,
            Pending::Run { bytes, .. } => unfinished(bytes).to_vec(),
            Pending::Window { .. } => Vec::new(),
        };
        self.finish();
        if let Pending::Run { bytes, .. } = &mut self.pending {
            *bytes = open;
        }
    }
}

/// Takes the whole characters out of `bytes`, U+FFFD for what can be none, and leaves the beginning of one.
fn whole_characters(bytes: &mut Vec<u8>) -> String {
    let open = bytes.split_off(bytes.len() - unfinished(bytes).len());
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = open;
    text
}

/// The end of `bytes` that more bytes could make a character.
fn unfinished(bytes: &[u8]) -> &[u8] {
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    match std::str::from_utf8(last) {
        Err(error) if error.error_len().is_none() => last,
        _ => &[],
    }
}

/// The text of a run of byte tokens.
fn end_run(bytes: &mut Vec<u8>) -> String {
    String::from_utf8(std::mem::take(bytes))
        .unwrap_or_else(|error| char::REPLACEMENT_CHARACTER.to_string().repeat(error.as_bytes().len()))
}

/// What `ids` add to the text of `anchor`.
fn window_text(tokenizer: &tokenizers::Tokenizer, anchor: Option<u32>, ids: &[u32]) -> String {
    let decode = |ids: &[u32]| decode(tokenizer, ids, false);
    let before = decode(anchor.as_slice());
    let all = decode(&[anchor.as_slice(), ids].concat());
    all.strip_prefix(&before).map_or_else(|| decode(ids), String::from)
}

/// The last token that has a text of its own becomes the anchor.
fn end_window(tokenizer: &tokenizers::Tokenizer, anchor: &mut Option<u32>, ids: &mut Vec<u32>) {
    let has_text = |id: &u32| !decode(tokenizer, &[*id], false).is_empty();
    *anchor = ids.iter().copied().rfind(has_text).or(*anchor);
    ids.clear();
}

#[cfg(test)]
mod tests {
    use super::super::testing::{byte_level, random, sentence_piece, without_decoder};
    use super::*;

    /// Pushes all ids; the texts of the pushes, then that of `finish`.
    fn stream(mut detokenizer: Detokenizer, ids: &[u32]) -> Vec<String> {
        let mut texts: Vec<String> = ids.iter().map(|&id| detokenizer.push(id)).collect();
        texts.push(detokenizer.finish());
        texts
    }

    fn id(tokenizer: &Tokenizer, token: &str) -> u32 {
        tokenizer.shared.inner.token_to_id(token).expect("a token")
    }

    #[test]
    fn half_a_character_waits() {
        let tokenizer = byte_level();
        let ids = tokenizer.encode("a€b", false).expect("ids");
        assert_eq!(stream(Detokenizer::new(&tokenizer, false), &ids), ["a", "", "", "€", "b", ""]);
        assert_eq!(stream(Detokenizer::new(&tokenizer, false), &ids[..3]), ["a", "", "", "\u{fffd}"]);
    }

    #[test]
    fn bytes_of_sentence_piece_wait_for_the_end_of_the_run() {
        let tokenizer = sentence_piece();
        let ids: Vec<u32> = ["▁a", "<0xE2>", "<0x82>", "<0xAC>", "b"].map(|t| id(&tokenizer, t)).into();
        assert_eq!(stream(Detokenizer::new(&tokenizer, false), &ids), ["a", "", "", "", "€b", ""]);
        let broken: Vec<u32> = ["<0xE2>", "<0x82>", "<0xAC>", "<0xE2>"].map(|t| id(&tokenizer, t)).into();
        assert_eq!(stream(Detokenizer::new(&tokenizer, false), &broken).concat(), "\u{fffd}".repeat(4));
    }

    /// Any ids: half characters, special tokens, ids that do not exist.
    #[test]
    fn a_stream_is_the_decoded_whole() {
        for tokenizer in [byte_level(), sentence_piece(), without_decoder()] {
            let mut random = random();
            let size = u32::try_from(tokenizer.vocab_size()).expect("it is small");
            for round in 0..2000 {
                let ids: Vec<u32> = (0..round % 23).map(|_| random(size + 3)).collect();
                for skip in [false, true] {
                    let text = stream(Detokenizer::new(&tokenizer, skip), &ids).concat();
                    assert_eq!(text, tokenizer.decode(&ids, skip), "{:?} {ids:?}", tokenizer.shared.decoding);
                }
            }
        }
    }

    /// The text of prompt and answer, less the prompt's, wherever the cut leaves whole characters.
    #[test]
    fn an_answer_continues_the_prompt() {
        let prompts = ["", "a", "a b", "€", " "];
        for tokenizer in [byte_level(), sentence_piece()] {
            for prompt in prompts {
                let prompt = tokenizer.encode(prompt, true).expect("ids");
                let answer = tokenizer.encode(" b€ a", false).expect("ids");
                let whole = tokenizer.decode(&[prompt.clone(), answer.clone()].concat(), true);
                let before = tokenizer.decode(&prompt, true);
                let text = stream(Detokenizer::after_prompt(&tokenizer, &prompt, true), &answer).concat();
                assert_eq!(before + &text, whole);
            }
        }
        let tokenizer = sentence_piece();
        let a = id(&tokenizer, "▁a");
        assert_eq!(Detokenizer::new(&tokenizer, false).push(a), "a");
        assert_eq!(Detokenizer::after_prompt(&tokenizer, &[a], false).push(a), " a");
    }

    #[test]
    fn an_answer_completes_the_prompts_character() {
        for tokenizer in [byte_level(), sentence_piece()] {
            let euro = tokenizer.encode("€", false).expect("ids");
            let (prompt, answer) = euro.split_at(euro.len() - 1);
            assert_eq!(stream(Detokenizer::after_prompt(&tokenizer, prompt, false), answer).concat(), "€");
        }
    }

    #[test]
    fn pending_text_stays_small() {
        let tokenizer = byte_level();
        let mut detokenizer = Detokenizer::new(&tokenizer, false);
        let half = tokenizer.encode("€", false).expect("ids")[0];
        for _ in 0..1000 {
            detokenizer.push(half);
            assert!(matches!(&detokenizer.pending, Pending::Character(bytes) if bytes.len() <= 3));
        }
    }
}
