//! A tokenizer's files are data from elsewhere, and the `tokenizers` crate trusts them: some make it panic, and some steps make of a
//! short text one that fills the memory. Here a panic becomes an error, and such steps are refused before they run.
//!
//! Patterns are bounded by the crate's own engine: a search gives up after a million steps back, and then the rest is one piece.

use serde_json::Value;
pub(super) use stairwell_jinja::caught;

/// How many times as long a step of the file may make a text. Real files replace a space by one "▁", or a few characters by others.
const MOST_GROWTH: f64 = 128.0;

/// Refuses a normalizer or a decoder, as the file has it, that can make a text much longer.
pub(super) fn check_growth(step: &Value, name: &str) -> Result<(), String> {
    match growth(step) {
        times if times <= MOST_GROWTH => Ok(()),
        f64::INFINITY => Err(format!("its {name} replaces an empty text, which is everywhere")),
        times => Err(format!(
            "its {name} can make a text {times:.3e} times as long; real ones stay below {MOST_GROWTH}"
        )),
    }
}

/// How many characters a step can make of one. A pattern that is a regular expression may match before and after each character.
fn growth(step: &Value) -> f64 {
    let steps = ["normalizers", "decoders"].iter().filter_map(|list| step[list].as_array()).flatten();
    let length = |text: &Value| text.as_str().map(|text| text.chars().count() as f64);
    let own = match (step["type"].as_str(), length(&step["pattern"]["String"])) {
        (Some("Replace"), Some(0.0)) => f64::INFINITY,
        (Some("Replace"), Some(pattern)) => length(&step["content"]).unwrap_or(0.0) / pattern,
        (Some("Replace"), None) => 1.0 + length(&step["content"]).unwrap_or(0.0),
        _ => 1.0,
    };
    own.max(1.0) * steps.map(growth).product::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn steps_that_blow_a_text_up_are_refused() {
        let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let string = |pattern: &str, content: &str| replace(json!({"String": pattern}), content);
        let nested = |step: Value, times| json!({"type": "Sequence", "normalizers": vec![step; times]});
        let fifty = "a".repeat(50);
        for step in [
            string("", "x"),
            string("a", &"a".repeat(129)),
            nested(string("a", &fifty), 8),
            nested(nested(string("a", &fifty), 2), 2),
            nested(replace(json!({"Regex": "b*"}), "b"), 40),
            json!({"type": "Sequence", "decoders": [string("a", &fifty), string("a", &fifty)]}),
        ] {
            assert!(check_growth(&step, "normalizer").unwrap_err().contains("its normalizer"), "{step}");
        }
        for step in [
            Value::Null,
            json!({"type": "NFC"}),
            nested(string(" ", "▁"), 100),
            nested(replace(json!({"Regex": " {2,}"}), " "), 4),
            string("<|long|>", &"a".repeat(1000)),
        ] {
            assert_eq!(check_growth(&step, "normalizer"), Ok(()), "{step}");
        }
    }
}
