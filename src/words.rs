//! Sentences that name parameters, for interfaces that spell the names in different ways.

use std::fmt;

/// How an interface spells a field: `max_model_len` is `--max-model-len` on the command line.
pub type Spelling<'a> = &'a dyn Fn(&str) -> String;

/// A sentence that names parameters by their fields. Displayed, a field is spelled as the library calls it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(Vec<Word>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Text(String),
    Field(&'static str),
}

impl Words {
    /// The sentence that begins with a field.
    pub fn of(field: &'static str) -> Words {
        Words::default().field(field)
    }

    /// The sentence goes on with a field.
    pub fn field(mut self, name: &'static str) -> Words {
        self.0.push(Word::Field(name));
        self
    }

    /// The sentence goes on with this text.
    pub fn text(mut self, text: impl Into<String>) -> Words {
        self.0.push(Word::Text(text.into()));
        self
    }

    /// The sentence goes on with these words.
    pub fn words(mut self, words: Words) -> Words {
        self.0.extend(words.0);
        self
    }

    /// The sentence in an interface's spelling.
    pub fn spelled(&self, spelling: Spelling) -> String {
        let spell = |word: &Word| match word {
            Word::Text(text) => text.clone(),
            Word::Field(name) => spelling(name),
        };
        self.0.iter().map(spell).collect()
    }
}

impl<T: Into<String>> From<T> for Words {
    fn from(text: T) -> Words {
        Words::default().text(text)
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.spelled(&str::to_owned))
    }
}
