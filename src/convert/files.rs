//! The small files: config.json as the new weights need it, and what is carried along as it is.

use super::Source;
use super::folder::write_file;
use super::rope::Llama3;
use crate::checkpoint::{CheckpointError, Directory};
use crate::config::{Architecture, ModelConfig, RopeScaling};
use crate::error::{Error, Result};
use crate::quant::Quantization;
use crate::runner::read_config;
use crate::tensor::DType;
use crate::{files, json};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// Files that belong to a checkpoint and say nothing of its weights.
const CARRIED: [&str; 15] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "tekken.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
];

/// Templates beside the chat template.
const TEMPLATES: &str = "additional_chat_templates";

/// What config.json says of packed weights.
const PACKED: [&str; 2] = ["quantization_config", "compression_config"];

/// The model's configuration, and the config.json that says it. `instead` is a file that takes the place of the directory's.
///
/// # Errors
/// If there is none, or it is bad.
pub fn config(directory: &Directory, instead: Option<&Path>) -> Result<(ModelConfig, Map<String, Value>)> {
    if let Some(path) = instead {
        let bytes = files::read(path, 16 << 20).map_err(|error| Error::Io { path: path.into(), error })?;
        let mut config = ModelConfig::parse(&bytes, path)?;
        if config.quantization.is_none() {
            config.quantization = Quantization::beside(directory)?;
        }
        return Ok((config, object(&bytes, path)?));
    }
    let config = read_config(directory)?;
    let mut json = match directory.read("config.json")? {
        Some(bytes) => object(&bytes, &directory.path("config.json"))?,
        None => of_mistral(&config),
    };
    if directory.gguf().is_some() {
        for_transformers(&mut json, &config, directory)?;
    }
    Ok((config, json))
}

fn object(bytes: &[u8], path: &Path) -> Result<Map<String, Value>> {
    json::object(bytes).map_err(|reason| CheckpointError::Json { path: path.into(), reason }.into())
}

/// config.json for a checkpoint that has Mistral's params.json alone.
fn of_mistral(config: &ModelConfig) -> Map<String, Value> {
    let value = json!({
        "architectures": [config.architecture.class_name()],
        "model_type": config.architecture.names().model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "rope_theta": config.rope.as_ref().map(|rope| rope.theta),
        "sliding_window": config.sliding_windows.first().copied().flatten(),
        "tie_word_embeddings": config.tie_word_embeddings,
    });
    value.as_object().cloned().unwrap_or_default()
}

/// A GGUF file's config.json has two things that transformers does not know: factors of frequencies, and no end of text.
fn for_transformers(
    json: &mut Map<String, Value>,
    config: &ModelConfig,
    directory: &Directory,
) -> Result<()> {
    if json.get("eos_token_id").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        json.remove("eos_token_id");
    }
    json.retain(|_, value| !value.is_null());
    let Some(rope) = &config.rope else { return Ok(()) };
    if let RopeScaling::Factors(factors) = &rope.scaling {
        let llama3 = Llama3::of_factors(factors, rope.theta, config.head_dim).ok_or_else(|| {
            let path = directory.root();
            Error::Usage(format!(
                "{}: 'rope_freqs.weight' holds factors that are not Llama 3's, and config.json has no other way to say them; convert the original \
                 checkpoint instead",
                path.display()
            ))
        })?;
        let scaling = json!({
            "rope_type": "llama3",
            "factor": llama3.factor,
            "low_freq_factor": llama3.low_freq_factor,
            "high_freq_factor": llama3.high_freq_factor,
            "original_max_position_embeddings": llama3.original_max_position_embeddings,
        });
        json.insert("rope_scaling".into(), scaling);
    }
    Ok(())
}

/// Writes config.json for weights of a dtype, and the files that stay as they are.
///
/// # Errors
/// Those of the system.
pub fn carry(source: &Source, dtype: DType, into: &Path) -> Result<()> {
    let mut json = source.json.clone();
    PACKED.iter().for_each(|field| drop(json.shift_remove(*field)));
    let name = match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    };
    // The older spelling where the file has it: transformers before 4.56 knows no other.
    let field = if json.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
    json.shift_remove("dtype");
    json.insert(field.into(), name.into());
    if source.config.architecture != Architecture::Gpt2 || json.contains_key("architectures") {
        let model_type = source.config.architecture.names().model_type;
        json.entry("model_type").or_insert(model_type.into());
    }
    write_file(&into.join("config.json"), format!("{:#}\n", Value::from(json)).as_bytes())?;
    for name in CARRIED {
        if let Some(bytes) = source.directory.read(name)? {
            write_file(&into.join(name), &bytes)?;
        }
    }
    carry_templates(&source.directory, into)
}

fn carry_templates(directory: &Directory, into: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory.path(TEMPLATES)) else { return Ok(()) };
    let to = into.join(TEMPLATES);
    fs::create_dir(&to).map_err(|error| Error::Io { path: to.clone(), error })?;
    for entry in entries.flatten().filter(|entry| entry.path().is_file()) {
        let path = entry.path();
        let bytes = files::read(&path, 16 << 20).map_err(|error| Error::Io { path, error })?;
        write_file(&to.join(entry.file_name()), &bytes)?;
    }
    Ok(())
}
