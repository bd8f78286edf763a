//! Sentences that name parameters, for interfaces that spell the names in different ways.

use std::fmt;

/// How an interface spells a field: `max_model_len` is `--max-model-len` on the command line.
pub type Spelling<'a> = &'a dyn Fn(&str) -> String;

/// A sentence that names parameters by their fields, as [`field`] writes them. Displayed, a field is spelled as the library calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(String);

/// Stands before and behind a field's name. No message has this control character otherwise.
const MARK: char = '\u{1}';

/// A field's name within [`Words`].
pub fn field(name: &str) -> String {
    format!("{MARK}{name}{MARK}")
}

impl Words {
    /// The sentence in an interface's spelling.
    pub fn spelled(&self, spelling: Spelling) -> String {
        // Between two fields there is text, if only an empty one: every second part is a field.
        let parts = self.0.split(MARK).enumerate();
        parts.map(|(i, part)| if i % 2 == 1 { spelling(part) } else { part.to_owned() }).collect()
    }
}

impl<T: Into<String>> From<T> for Words {
    fn from(text: T) -> Words {
        Words(text.into())
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.spelled(&str::to_owned))
    }
}
