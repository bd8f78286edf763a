//! The BPE model of a `tokenizer.json`: vocabulary and merges are checked here, then built by the `tokenizers` crate.
//!
//! Read by the crate itself, a bad merge gives "Merges text file invalid at line 18918 at line 93391 column 1",
//! or a panic when the merged token is longer than all others (0.23). So each merge is looked at first, which
//! also names the entry and, where it shows, the cause. It is faster, too: the crate copies this part twice.

use serde::Deserialize;
use serde_json::json;
use tokenizers::models::bpe::{BPE, Vocab};

use super::class::Class;
use super::special::SpecialTokens;
use crate::json;

/// The file's "model".
#[derive(Deserialize)]
pub(super) struct Model {
    #[serde(rename = "type")]
    _type: Option<Bpe>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    vocab: Vocab,
    merges: Vec<Merge>,
}

/// Old files leave `type` out; any other type is for the crate to read.
#[derive(Deserialize)]
enum Bpe {
    #[serde(rename = "BPE")]
    Bpe,
}

/// Two tokens that become one: `["a", "b"]`, or in older files `"a b"`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a merge is two tokens")]
enum Merge {
    Pair(String, String),
    Line(String),
    /// A list of another length.
    Odd(Vec<String>),
}

impl Model {
    /// transformers' classes take the vocabulary and merges, and set the options themselves.
    pub(super) fn options_of(&mut self, class: Class, special: &SpecialTokens) {
        if class != Class::File {
            let bytes = Some(class.is_sentence_piece());
            (self.dropout, self.ignore_merges) = (None, None);
            (self.continuing_subword_prefix, self.end_of_word_suffix) = (None, None);
            (self.fuse_unk, self.byte_fallback) = (bytes, bytes);
            self.unk_token = special.get("unk_token").filter(|_| class.has_unknown()).map(String::from);
        }
    }

    /// The model; the error names the merge that is wrong.
    pub(super) fn build(self) -> Result<BPE, String> {
        let prefix = self.continuing_subword_prefix.as_deref().unwrap_or("");
        let mut merges = Vec::with_capacity(self.merges.len());
        for (index, merge) in self.merges.into_iter().enumerate() {
            if matches!(&merge, Merge::Line(line) if line.starts_with("#version")) {
                continue;
            }
            let pair =
                merge.check(&self.vocab, prefix).map_err(|what| format!("merge {} {what}", index + 1))?;
            merges.push(pair);
        }
        let mut builder = BPE::builder().vocab_and_merges(self.vocab, merges);
        if let Some(dropout) = self.dropout {
            builder = builder.dropout(dropout);
        }
        if let Some(prefix) = self.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        if let Some(unk_token) = self.unk_token {
            builder = builder.unk_token(unk_token);
        }
        builder
            .fuse_unk(self.fuse_unk.unwrap_or(false))
            .byte_fallback(self.byte_fallback.unwrap_or(false))
            .ignore_merges(self.ignore_merges.unwrap_or(false))
            .build()
            .map_err(|error| error.to_string())
    }
}

/// A `tokenizer.json` of an older checkpoint, which has its vocabulary in vocab.json and a merge a line in merges.txt.
pub(super) fn file(vocab: &[u8], merges: &[u8]) -> Result<Vec<u8>, String> {
    let vocab = json::object(vocab).map_err(|error| format!("vocab.json: {error}"))?;
    let merges = str::from_utf8(merges).map_err(|error| format!("merges.txt: {error}"))?;
    let merges: Vec<&str> = merges.lines().collect();
    Ok(json!({"model": {"type": "BPE", "vocab": vocab, "merges": merges}}).to_string().into_bytes())
}

impl Merge {
    /// The two tokens, if they and the merged one are in the vocabulary.
    fn check(self, vocab: &Vocab, prefix: &str) -> Result<(String, String), String> {
        let (left, right) = match self {
            Self::Pair(left, right) => (left, right),
            Self::Odd(list) => return Err(format!("is a list of {}, not of two tokens", list.len())),
            Self::Line(line) => match *line.split(' ').collect::<Vec<_>>() {
                [left, right] => (left.into(), right.into()),
                _ => return Err(not_two_tokens(&line, vocab)),
            },
        };
        let Some(rest) = right.strip_prefix(prefix) else {
            return Err(format!("({left:?}, {right:?}): the second lacks the prefix {prefix:?}"));
        };
        let merged = format!("{left}{rest}");
        if let Some(missing) = [&left, &right, &merged].into_iter().find(|token| !vocab.contains_key(*token))
        {
            return Err(format!("({left:?}, {right:?}): the vocabulary has no token {missing:?}"));
        }
        Ok((left, right))
    }
}

/// The usual cause of a merge that is all spaces: no-break spaces were replaced by plain ones.
fn not_two_tokens(line: &str, vocab: &Vocab) -> String {
    let blank = line.chars().all(|c| c == ' ' || c == '▁');
    let cause = if blank && vocab.contains_key(" ") {
        ": the no-break spaces (U+00A0) in this file were turned into plain spaces, as some editors and ways of \
         copying do"
    } else {
        ""
    };
    format!(
        "is {line:?}, not two tokens separated by one space{cause}; the copy is damaged, download it again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use tokenizers::Model as _;

    fn build(vocab: Value, merges: Value) -> Result<BPE, String> {
        let model = json!({"type": "BPE", "vocab": vocab, "merges": merges});
        serde_json::from_value::<Model>(model).map_err(|error| error.to_string())?.build()
    }

    #[test]
    fn both_spellings_of_merges() {
        for merges in [json!(["#version: 0.2", "a b"]), json!([["a", "b"]])] {
            let bpe = build(json!({"a": 0, "b": 1, "ab": 2}), merges).expect("a model");
            assert_eq!(bpe.tokenize("ab").expect("tokens")[0].id, 2);
        }
    }

    #[test]
    fn no_break_spaces_lost() {
        let said = build(json!({"a": 0, " ": 1, "  ": 2, "ab": 3, "b": 4}), json!(["a b", "   "]))
            .expect_err("broken");
        assert!(said.contains("merge 2 is \"   \"") && said.contains("U+00A0"), "{said}");
    }

    #[test]
    fn merges_of_unknown_tokens() {
        // The crate panics on this one: "ab" is longer than every token.
        let said = build(json!({"a": 0, "b": 1}), json!([["a", "b"]])).expect_err("broken");
        assert!(said.contains("merge 1 (\"a\", \"b\")") && said.contains("no token \"ab\""), "{said}");
        let said = build(json!({"a": 0, "b": 1, "ab": 2}), json!(["a b", "a c"])).expect_err("broken");
        assert!(said.contains("merge 2") && said.contains("no token \"c\""), "{said}");
    }

    #[test]
    fn a_class_sets_the_options() {
        let options = |class| {
            let model = json!({"type": "BPE", "vocab": {"?": 0}, "merges": [], "unk_token": "?", "ignore_merges": true});
            let mut model: Model = serde_json::from_value(model).expect("a model");
            model.options_of(class, &SpecialTokens::of(&serde_json::Map::new(), class));
            let bpe = model.build().expect("a model");
            (bpe.unk_token, bpe.ignore_merges, bpe.fuse_unk, bpe.byte_fallback)
        };
        let unknown = |token: &str| Some(String::from(token));
        assert_eq!(options(Class::File), (unknown("?"), true, false, false));
        assert_eq!(options(Class::Llama), (None, false, true, true));
        assert_eq!(options(Class::CodeLlama), (unknown("<unk>"), false, true, true));
        assert_eq!(options(Class::Qwen2), (None, false, false, false));
    }

    #[test]
    fn a_vocabulary_and_merges_in_files_of_their_own() {
        let read = |vocab: &str, merges: &str| file(vocab.as_bytes(), merges.as_bytes());
        let json = read(r#"{"a": 0, "b": 1, "ab": 2}"#, "#version: 0.2\r\na b\r\n").expect("a file");
        let file: Value = serde_json::from_slice(&json).expect("JSON");
        let bpe = build(file["model"]["vocab"].clone(), file["model"]["merges"].clone()).expect("a model");
        assert_eq!(bpe.tokenize("ab").expect("tokens")[0].id, 2);
        assert!(read("[]", "").unwrap_err().contains("vocab.json"));
    }

    #[test]
    fn merges_of_other_lengths() {
        for merges in [json!([["a"]]), json!([["a", "b", "c"]]), json!(["a b c"]), json!([[]]), json!([7])] {
            assert!(build(json!({"a": 0, "b": 1, "ab": 2}), merges).expect_err("broken").contains("merge"));
        }
    }
}
