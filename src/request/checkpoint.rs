//! What requests need of a checkpoint, read once: config.json, generation_config.json and the tokenizer.

use crate::{
    checkpoint::{Directory, LoadFormat},
    config::{ModelConfig, generation::GenerationConfig},
    error::{Error, Result},
    runner::read_config_for,
    tokenizer::{StepsFrom, Tokenizer, TokenizerError, TokenizerFiles},
};
use std::sync::OnceLock;

/// A directory, and what stands in its small files.
pub struct Checkpoint {
    pub directory: Directory,
    pub config: ModelConfig,
    pub generation: Option<GenerationConfig>,
    from: Option<StepsFrom>,
    /// Read when it is asked for: token ids can be served without one. Or why there is none.
    tokenizer: OnceLock<Result<Tokenizer, String>>,
}

impl Checkpoint {
    /// Reads config.json and generation_config.json.
    ///
    /// # Errors
    /// If one of the first two is bad, or config.json is absent.
    pub fn open(directory: Directory) -> Result<Checkpoint> {
        Checkpoint::open_with(directory, LoadFormat::Auto, None)
    }

    /// The same for weights of a format, with a choice whose steps the tokenizer takes.
    ///
    /// # Errors
    /// As [`open`](Checkpoint::open).
    pub fn open_with(
        directory: Directory,
        format: LoadFormat,
        from: Option<StepsFrom>,
    ) -> Result<Checkpoint> {
        let config = read_config_for(&directory, format)?;
        let file = "generation_config.json";
        let parse = |json: Vec<u8>| GenerationConfig::parse(&json, &directory.path(file));
        let generation = directory.read(file)?.map(parse).transpose()?;
        Ok(Checkpoint { directory, config, generation, from, tokenizer: OnceLock::new() })
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// Why there is none.
    pub fn tokenizer(&self) -> Result<&Tokenizer, &str> {
        let read = || {
            let model_type = self.config.architecture.names().model_type.to_owned();
            let class = self.config.tokenizer_class.clone();
            let files = TokenizerFiles::for_model(&self.directory, Some(model_type), class)?;
            Tokenizer::new(TokenizerFiles { from: self.from, ..files })
        };
        let read = || read().map_err(|error: TokenizerError| error.to_string());
        self.tokenizer.get_or_init(read).as_ref().map_err(String::as_str)
    }

    /// The tokenizer, for `what` of a request that can't do without.
    pub(super) fn tokenizer_for(&self, what: &str) -> Result<&Tokenizer> {
        self.tokenizer().map_err(|why| Error::Request(format!("{what} needs a tokenizer: {why}")))
    }

    /// Tokens that end an output: those of generation_config.json, or else those of config.json; and the tokenizer's EOS, as in vLLM. A base
    /// model that was tuned for chats often has its new end of a turn in the tokenizer's files alone.
    pub fn eos_token_id(&self) -> Vec<u32> {
        let mut ids = match &self.generation {
            Some(generation) if !generation.eos_token_id.is_empty() => generation.eos_token_id.clone(),
            _ => self.config.eos_token_id.clone(),
        };
        let of_tokenizer = self.tokenizer().ok().and_then(Tokenizer::eos_token).map(|(_, id)| id);
        ids.extend(of_tokenizer.filter(|id| !ids.contains(id)));
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A base model that was tuned for chats: only the tokenizer knows of the new end of a turn.
    #[test]
    fn the_tokenizers_eos_ends_an_output_too() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, json: serde_json::Value| {
            std::fs::write(dir.path().join(name), json.to_string()).unwrap()
        };
        let eos = |eos: &str| {
            write(
                "tokenizer_config.json",
                json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos}),
            );
            Checkpoint::open(Directory::Disk(dir.path().into())).unwrap().eos_token_id()
        };
        write(
            "config.json",
            json!({"architectures": ["LlamaForCausalLM"], "vocab_size": 4, "hidden_size": 8, "intermediate_size": 8,
                "num_hidden_layers": 1, "num_attention_heads": 1, "eos_token_id": 3}),
        );
        let added = |id: u32, content: &str| {
            json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false})
        };
        write(
            "tokenizer.json",
            json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": [added(1, "<end>"), added(2, "<turn>")]}),
        );
        assert_eq!(eos("<turn>"), [3, 2]);
        write("generation_config.json", json!({"eos_token_id": [1]}));
        assert_eq!(eos("<turn>"), [1, 2]);
        assert_eq!(eos("<end>"), [1]);
    }
}
