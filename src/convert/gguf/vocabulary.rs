//! The tokens of tokenizer.json as GGUF lists them: a text, a kind and a score for each id.

use serde_json::Value;
use std::collections::HashMap;

/// `tokenizer.ggml.token_type` (`llama_token_type` in `llama.h`).
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The score of a token that no merge makes.
const NO_MERGE: f32 = -1e9;

/// Tokens by id, as many as the embedding has rows.
pub struct Vocabulary {
    pub tokens: Vec<String>,
    pub kinds: Vec<i32>,
}

impl Vocabulary {
    /// `size` is the embedding's. Ids that have no token get one that no text contains, as llama.cpp's converter does.
    pub fn of(tokenizer: &Value, size: usize, unknown: Option<&str>) -> Vocabulary {
        let mut tokens: Vec<String> = (0..size).map(|id| format!("[PAD{id}]")).collect();
        let mut kinds = vec![UNUSED; size];
        let mut set = |id: &Value, token: &str, kind: i32| {
            let Some(id) = id.as_u64().map(|id| id as usize).filter(|id| *id < size) else { return };
            (tokens[id], kinds[id]) = (token.to_owned(), kind);
        };
        for (token, id) in tokenizer["model"]["vocab"].as_object().into_iter().flatten() {
            set(id, token, if is_byte(token) { BYTE } else { NORMAL });
        }
        for added in tokenizer["added_tokens"].as_array().into_iter().flatten() {
            let token = added["content"].as_str().unwrap_or_default();
            let kind = match added["special"].as_bool() {
                Some(true) if Some(token) == unknown => UNKNOWN,
                Some(true) => CONTROL,
                _ => USER_DEFINED,
            };
            set(&added["id"], token, kind);
        }
        Vocabulary { tokens, kinds }
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<usize> {
        self.tokens.iter().position(|known| known == token)
    }

    /// SentencePiece's scores, such that the token of the first merge has the highest one.
    pub fn scores(&self, merges: &[(String, String)]) -> Vec<f32> {
        let mut ranks: HashMap<String, usize> = HashMap::new();
        for (rank, (left, right)) in merges.iter().enumerate() {
            ranks.entry(format!("{left}{right}")).or_insert(rank);
        }
        let score = |token: &String| ranks.get(token).map_or(NO_MERGE, |rank| -(*rank as f32));
        self.tokens.iter().map(score).collect()
    }
}

/// `<0x0A>`: a byte that no token has.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// The merges, in either of the two spellings of tokenizer.json.
pub fn merges(tokenizer: &Value) -> Vec<(String, String)> {
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
        Value::Array(pair) => Some((pair.first()?.as_str()?.into(), pair.get(1)?.as_str()?.into())),
        _ => None,
    };
    tokenizer["model"]["merges"].as_array().into_iter().flatten().filter_map(pair).collect()
}
