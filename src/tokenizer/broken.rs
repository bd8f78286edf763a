//! Finds out what is wrong with a `tokenizer.json` that could not be read: the `tokenizers` crate's own message
//! names a Rust type at most.

use serde_json::Value;

use super::files::not_json;

/// One line that says what is wrong; `error` is what the `tokenizers` crate said.
pub(super) fn explain(bytes: &[u8], error: &str) -> String {
    let file: Value = match serde_json::from_slice(bytes) {
        Ok(file) => file,
        Err(error) => return not_json(bytes, &error),
    };
    if !file["model"].is_object() {
        return "it has no \"model\" (vocabulary and merges): is it another kind of file?".into();
    }
    unknown_part(&file, error).unwrap_or_else(|| one_line(error))
}

/// A part of a kind that the crate does not know: its message names only the Rust type.
fn unknown_part(file: &Value, error: &str) -> Option<String> {
    let wrapper = error.split("untagged enum ").nth(1)?;
    let part = match wrapper.split(|c: char| !c.is_alphanumeric()).next()? {
        "ModelWrapper" | "ModelUntagged" => "model",
        "NormalizerWrapper" | "NormalizerUntagged" => "normalizer",
        "PreTokenizerWrapper" | "PreTokenizerUntagged" => "pre_tokenizer",
        "PostProcessorWrapper" | "PostProcessorUntagged" => "post_processor",
        "DecoderWrapper" | "DecoderUntagged" => "decoder",
        _ => return None,
    };
    let kind = file[part]["type"].as_str().unwrap_or("(no type)");
    Some(format!(
        "its {part} of type {kind:?} is not one that can be read, or lacks a field: {}",
        one_line(error)
    ))
}

fn one_line(error: &str) -> String {
    error.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_json() {
        assert!(explain(b"", "").contains("empty"));
        assert!(explain(b"version https://git-lfs.github.com/spec/v1\n", "").contains("git lfs pull"));
        assert!(explain(b"{\"model\": ", "").contains("line 1 column"));
        assert!(explain(b"{}", "").contains("no \"model\""));
    }

    #[test]
    fn a_part_of_an_unknown_kind() {
        let file = json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "decoder": {"type": "Crystal"}});
        let bytes = file.to_string().into_bytes();
        let error = tokenizers::Tokenizer::from_bytes(&bytes).expect_err("it is broken").to_string();
        let said = explain(&bytes, &error);
        assert!(said.contains("decoder") && said.contains("Crystal"), "{said}");
        assert!(!said.contains('\n'));
    }
}
