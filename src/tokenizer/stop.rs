//! Stop strings: generation ends where one of them appears, even if it is spread over several tokens.
//!
//! Text comes in pieces, and a stop string may begin in one piece and end in another. So a tail that
//! could still become a stop string is held back, and no more than that. How the text was cut into
//! pieces never changes the result.

use super::{Detokenizer, stop_scan::StopScan};

/// What to do with a piece of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Emit {
    /// This much can be printed now; it may be empty.
    Text(String),
    /// A stop string was found: print this last text, and stop.
    Stopped {
        /// The text before the stop string that was not printed yet.
        text: String,
        /// The stop string.
        stop: String,
    },
}

/// Looks for stop strings in a stream of text.
///
/// The first stop string *to be complete* wins; if two end at the same place, the one that begins
/// first. Cost: the same for each byte, whatever the stop strings.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    /// `None` without stop strings.
    scan: Option<StopScan>,
    /// Text that came in and was not given out: the beginning of a stop string, perhaps.
    held: String,
    /// For each byte of `held`, whether it is given out at all: a special token's text is not.
    shown: Vec<bool>,
    stopped: bool,
}

impl StopStrings {
    /// Empty strings are ignored: they would stop before the first character.
    pub fn new(stops: &[impl AsRef<str>]) -> Self {
        Self { scan: StopScan::new(stops), ..Self::default() }
    }

    /// Takes the next token. The text of a special token that the detokenizer leaves out can be (part of) a stop string, and is not given out.
    pub fn push_token(&mut self, detokenizer: &mut Detokenizer, id: u32) -> Emit {
        match detokenizer.left_out(id) {
            Some(text) => self.take(&text, false),
            None => self.push(&detokenizer.push(id)),
        }
    }

    /// Takes the next piece of text. After a stop nothing more comes out.
    pub fn push(&mut self, text: &str) -> Emit {
        self.take(text, true)
    }

    fn take(&mut self, text: &str, shown: bool) -> Emit {
        if self.stopped {
            return Emit::Text(String::new());
        }
        let before = self.held.len();
        self.held.push_str(text);
        self.shown.resize(self.held.len(), shown);
        let Some(scan) = &mut self.scan else { return Emit::Text(self.give(self.held.len())) };
        let found = text.bytes().zip(before + 1..).find_map(|(byte, end)| Some((end, scan.push(byte)?)));
        let open = scan.open();
        if let Some((end, length)) = found {
            let stop = self.held[end - length..end].to_owned();
            let text = self.give(end - length);
            *self = Self { stopped: true, ..Self::default() };
            return Emit::Stopped { text, stop };
        }
        Emit::Text(self.give(self.held.len() - open))
    }

    /// The text has ended: what was held back is text after all.
    pub fn finish(&mut self) -> String {
        self.give(self.held.len())
    }

    /// Takes the first bytes out of what is held; gives those that are shown.
    fn give(&mut self, length: usize) -> String {
        let shown: Vec<bool> = self.shown.drain(..length).collect();
        let text: String = self.held.drain(..length).collect();
        text.char_indices().filter(|(at, _)| shown[*at]).map(|(_, c)| c).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{StopMatcher, testing::byte_level};
    use super::*;

    /// Pushes the pieces; returns the text that came out and the stop string that ended it.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut found = StopStrings::new(stops);
        let mut out = String::new();
        for piece in pieces {
            match found.push(piece) {
                Emit::Text(text) => out += &text,
                Emit::Stopped { text, stop } => return (out + &text, Some(stop)),
            }
        }
        (out + &found.finish(), None)
    }

    #[test]
    fn without_stops_all_passes_at_once() {
        let mut none = StopStrings::new(&[""; 0]);
        assert_eq!(none.push("abc"), Emit::Text("abc".into()));
        assert_eq!(none.finish(), "");
    }

    #[test]
    fn empty_stop_is_ignored() {
        assert_eq!(run(&[""], &["ab", "c"]), ("abc".into(), None));
    }

    #[test]
    fn stop_across_pieces() {
        assert_eq!(run(&["User:"], &["Hi.\nUs", "er", ": no"]), ("Hi.\n".into(), Some("User:".into())));
    }

    #[test]
    fn holds_back_only_a_possible_beginning() {
        let mut stops = StopStrings::new(&["aab"]);
        assert_eq!(stops.push("xaaa"), Emit::Text("xa".into()));
        assert_eq!(stops.push("c"), Emit::Text("aac".into()));
        assert_eq!(stops.push("a"), Emit::Text("".into()));
        assert_eq!(stops.finish(), "a");
    }

    #[test]
    fn beginning_inside_a_beginning() {
        assert_eq!(run(&["ababc"], &["aba", "bab", "c"]), ("ab".into(), Some("ababc".into())));
    }

    #[test]
    fn overlapping_stops_first_complete_wins() {
        assert_eq!(run(&["abcd", "bc"], &["xabcd"]), ("xa".into(), Some("bc".into())));
        assert_eq!(run(&["bc", "abc"], &["xabc"]), ("x".into(), Some("abc".into())));
    }

    #[test]
    fn unicode() {
        assert_eq!(run(&["終わり"], &["はい、終", "わ", "り。"]), ("はい、".into(), Some("終わり".into())));
        assert_eq!(run(&["é!"], &["caf", "é", "?"]), ("café?".into(), None));
        // 'é' and 'è' share their first byte: only whole characters are held back.
        let mut stops = StopStrings::new(&["è"]);
        assert_eq!(stops.push("é"), Emit::Text("é".into()));
    }

    /// Their text is not in the output, but it can end the output.
    #[test]
    fn special_tokens_are_found_and_not_shown() {
        let tokenizer = byte_level();
        let ids = |text: &str| tokenizer.encode(text, false).unwrap();
        let run = |stop: &str, text: &str| {
            let mut detokenizer = Detokenizer::new(&tokenizer, true);
            let mut stops = StopStrings::new(&[stop]);
            let mut matcher = StopMatcher::new(&tokenizer, &[], &[stop.into()]).unwrap();
            let mut out = String::new();
            for id in ids(text) {
                let (emit, stopped) = (stops.push_token(&mut detokenizer, id), matcher.push(id, true));
                assert_eq!(matches!(emit, Emit::Stopped { .. }), stopped, "{stop} in {text}");
                let (Emit::Text(text) | Emit::Stopped { text, .. }) = emit;
                out += &text;
                if stopped {
                    return (out, true);
                }
            }
            (out + &stops.finish(), false)
        };
        assert_eq!(run("<s>", "ab<s>a"), ("ab".into(), true));
        assert_eq!(run("b<s>a", "ab<s>a"), ("a".into(), true));
        assert_eq!(run("b<s>b", "ab<s>a"), ("aba".into(), false));
        assert_eq!(run("x", "a<s>b"), ("ab".into(), false));
    }

    #[test]
    fn nothing_after_the_stop() {
        let mut stops = StopStrings::new(&["."]);
        assert_eq!(stops.push("a.b"), Emit::Stopped { text: "a".into(), stop: ".".into() });
        assert_eq!(stops.push("c"), Emit::Text(String::new()));
        assert_eq!(stops.finish(), "");
    }

    /// Every way to cut a text in two or into characters gives the same result as the whole.
    #[test]
    fn cuts_do_not_matter() {
        let text = "aabaacaabaabcé日aab";
        for stops in [&["aabc"][..], &["é日", "bcé"], &["b"], &["zz"], &["aab", "ba"]] {
            let whole = run(stops, &[text]);
            let chars: Vec<String> = text.chars().map(String::from).collect();
            assert_eq!(run(stops, &chars.iter().map(String::as_str).collect::<Vec<_>>()), whole);
            for (cut, _) in text.char_indices() {
                assert_eq!(run(stops, &[&text[..cut], &text[cut..]]), whole, "{stops:?} cut at {cut}");
            }
        }
    }
}
