//! What a thinking model writes before its answer, apart from the answer: `<think>…</think>`.
//!
//! The text goes to `reasoning_content`, the name of DeepSeek, SGLang and llama.cpp. Some templates write `<think>` themselves, so that an
//! answer begins within it. A model whose vocabulary lacks the two marks writes no reasoning.

use crate::{sampling::Sampled, tokenizer::Tokenizer};

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A text that is split as it comes.
#[derive(Clone, Debug, Default)]
pub struct Splitter {
    state: State,
    /// The beginning of a mark, perhaps.
    held: String,
    open: u32,
    close: u32,
    /// Whether the next token belongs to the reasoning, and how many have.
    thinks: bool,
    tokens: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nothing but white space came.
    #[default]
    Before,
    Inside,
    /// The white space that separates the answer.
    Between,
    After,
}

/// A piece of text: what belongs to the reasoning, and what to the answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Split {
    pub reasoning: String,
    pub content: String,
}

impl Splitter {
    /// For an answer after a prompt; `None` if the model does not think.
    pub fn new(tokenizer: &Tokenizer, prompt: &[u32]) -> Option<Splitter> {
        let mark = |text| tokenizer.encode(text, false).ok().filter(|ids| ids.len() == 1).map(|ids| ids[0]);
        let (open, close) = (mark(OPEN)?, mark(CLOSE)?);
        let last = prompt.iter().rev().find(|id| [open, close].contains(id));
        // What earlier answers thought is closed, or left out by the template.
        let thinks = last == Some(&open);
        let state = if thinks { State::Inside } else { State::Before };
        Some(Splitter { state, held: String::new(), open, close, thinks, tokens: 0 })
    }

    /// Takes the output's next tokens; says how many of them belong to the reasoning, its marks included.
    pub fn count(&mut self, tokens: &[Sampled]) -> usize {
        let before = self.tokens;
        for Sampled { token, .. } in tokens {
            self.thinks |= self.tokens == 0 && *token == self.open;
            self.tokens += usize::from(self.thinks);
            self.thinks &= *token != self.close;
        }
        self.tokens - before
    }

    /// Takes the next text; gives what is certain now.
    pub fn push(&mut self, text: &str) -> Split {
        self.held += text;
        let mut split = Split::default();
        while self.go_on(&mut split) {}
        split
    }

    /// The text has ended.
    pub fn finish(&mut self) -> Split {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Inside => Split { reasoning: held, content: String::new() },
            _ => Split { reasoning: String::new(), content: held },
        }
    }

    /// Moves what is certain out of what is held; true if there may be more.
    fn go_on(&mut self, split: &mut Split) -> bool {
        match self.state {
            State::Before => {
                let text = self.held.trim_start();
                if let Some(rest) = text.strip_prefix(OPEN) {
                    (self.held, self.state) = (rest.to_owned(), State::Inside);
                    return true;
                }
                if OPEN.starts_with(text) {
                    return false;
                }
                self.state = State::After;
                true
            }
            State::Inside => {
                if let Some(at) = self.held.find(CLOSE) {
                    split.reasoning += &self.held[..at];
                    (self.held, self.state) = (self.held[at + CLOSE.len()..].to_owned(), State::Between);
                    return true;
                }
                let open = (1..CLOSE.len()).rev().find(|n| self.held.ends_with(&CLOSE[..*n])).unwrap_or(0);
                split.reasoning.extend(self.held.drain(..self.held.len() - open));
                false
            }
            State::Between => {
                self.held = self.held.trim_start().to_owned();
                self.state = if self.held.is_empty() { State::Between } else { State::After };
                self.state == State::After
            }
            State::After => {
                split.content += &std::mem::take(&mut self.held);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(inside: bool, pieces: &[&str]) -> (String, String) {
        let state = if inside { State::Inside } else { State::Before };
        let mut splitter = Splitter { state, ..Splitter::default() };
        let mut whole = Split::default();
        let mut add = |split: Split| {
            whole.reasoning += &split.reasoning;
            whole.content += &split.content;
        };
        pieces.iter().for_each(|piece| add(splitter.push(piece)));
        add(splitter.finish());
        (whole.reasoning, whole.content)
    }

    #[test]
    fn tokens_are_counted_by_their_marks() {
        let token = |token| Sampled { token, logprob: None, top_logprobs: Vec::new() };
        let count = |thinks, ids: &[u32]| {
            let mut splitter = Splitter { open: 1, close: 2, thinks, ..Splitter::default() };
            ids.iter().map(|id| splitter.count(&[token(*id)])).sum::<usize>()
        };
        assert_eq!(count(false, &[1, 7, 7, 2, 7, 1, 7]), 4);
        assert_eq!(count(true, &[7, 7, 2, 7]), 3);
        assert_eq!(count(false, &[7, 7]), 0);
    }

    /// Every way to cut a text gives the same.
    #[test]
    fn cuts_do_not_matter() {
        for (inside, text, reasoning, content) in [
            (false, "\n<think>\nHm. 1 < 2 </thin\n</think>\n\nYes.\n", "\nHm. 1 < 2 </thin\n", "Yes.\n"),
            (true, "a</think>b</think>", "a", "b</think>"),
            (false, " <thin is no mark", "", " <thin is no mark"),
            (false, "Yes. <think>no</think>", "", "Yes. <think>no</think>"),
            (true, "it never ends </think", "it never ends </think", ""),
            (false, "<think></think>", "", ""),
            (false, "  ", "", "  "),
        ] {
            let want = (reasoning.to_owned(), content.to_owned());
            assert_eq!(split(inside, &[text]), want, "{text:?}");
            let cuts = 1..text.len();
            for (a, b) in cuts.clone().flat_map(|a| (a..text.len()).map(move |b| (a, b))) {
                assert_eq!(
                    split(inside, &[&text[..a], &text[a..b], &text[b..]]),
                    want,
                    "{text:?} at {a}, {b}"
                );
            }
        }
    }
}
