//! The figures of a conversation.

use std::time::Duration;

/// The figures of one answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    /// Tokens of the prompt, which is the whole conversation.
    pub prompt: usize,
    /// Prompt tokens whose K and V were in the prefix cache; `None` if the answer was interrupted, because the engine says it at the end.
    pub cached: Option<usize>,
    /// Tokens of the answer.
    pub output: usize,
    /// From the message to the first text of the answer.
    pub first: Option<Duration>,
    /// From the message to the last text.
    pub total: Duration,
}

/// The figures of all answers together.
#[derive(Debug, Default)]
pub struct Totals {
    turns: usize,
    last: Turn,
    prompt: usize,
    cached: usize,
    output: usize,
}

impl Turn {
    /// Tokens a second, the first one aside: it has the prompt's time.
    fn rate(&self) -> Option<f64> {
        let seconds = self.total.checked_sub(self.first?)?.as_secs_f64();
        (self.output > 1).then(|| (self.output - 1) as f64 / seconds.max(1e-9))
    }
}

impl Totals {
    /// Counts an answer.
    pub fn add(&mut self, turn: Turn) {
        self.turns += 1;
        self.prompt += turn.prompt;
        self.cached += turn.cached.unwrap_or(0);
        self.output += turn.output;
        self.last = turn;
    }

    /// A line for the last answer, one for all of them, and one for the context of so many tokens, of which the conversation has `held`.
    pub fn describe(&self, held: usize, context: usize) -> String {
        let context = format!("context: {held} of {context} tokens\n");
        if self.turns == 0 {
            return format!("nothing was answered so far\n{context}");
        }
        let Turn { prompt, cached, output, first, total } = self.last;
        let cached = cached.map_or("unknown (the answer was interrupted)".into(), |n| n.to_string());
        let first = first
            .map_or(String::new(), |first| format!(", the first after {:.1} ms", first.as_secs_f64() * 1e3));
        let rate = self.last.rate().map_or(String::new(), |rate| format!(", {rate:.1} tok/s"));
        let total = total.as_secs_f64();
        let turns = if self.turns == 1 { "1 turn".into() } else { format!("{} turns", self.turns) };
        format!(
            "this turn: {prompt} prompt tokens, from the prefix cache: {cached}; {output} tokens in {total:.2} s{first}{rate}\n\
             in all: {turns}, {} prompt tokens, from the prefix cache: {}; {} tokens\n{context}",
            self.prompt, self.cached, self.output,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_add_up() {
        let mut totals = Totals::default();
        assert_eq!(totals.describe(0, 64), "nothing was answered so far\ncontext: 0 of 64 tokens\n");
        let ms = Duration::from_millis;
        let turn = Turn { prompt: 20, cached: Some(0), output: 11, first: Some(ms(50)), total: ms(1050) };
        totals.add(turn);
        totals.add(Turn { prompt: 40, cached: Some(16), ..turn });
        assert_eq!(
            totals.describe(51, 64),
            "this turn: 40 prompt tokens, from the prefix cache: 16; 11 tokens in 1.05 s, the first after 50.0 ms, 10.0 tok/s\n\
             in all: 2 turns, 60 prompt tokens, from the prefix cache: 16; 22 tokens\ncontext: 51 of 64 tokens\n"
        );
        totals.add(Turn { prompt: 5, ..Turn::default() });
        let text = totals.describe(5, 64);
        assert!(text.contains("cache: unknown (the answer was interrupted); 0 tokens in 0.00 s\n"), "{text}");
        assert!(text.contains("in all: 3 turns, 65 prompt tokens"), "{text}");
    }
}
