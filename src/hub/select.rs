//! Which of a repository's files are fetched: configuration, tokenizer, chat templates, and the weights that this build reads; nothing else.

use super::api::RemoteFile;
use super::{HubError, Result};
use glob::Pattern;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeSet;
use std::path::Path;
use std::{fmt, fs};

/// Small files that a load reads, if they are there.
pub const SMALL: [&str; 14] = [
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "quant_config.json",
    "params.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "tekken.json",
    "chat_template.jinja",
];

/// Reads a file of the repository.
pub type Read<'a> = &'a dyn Fn(&RemoteFile) -> Result<Vec<u8>>;

/// The files to fetch: what a load reads, and what the patterns name.
///
/// # Errors
/// [`HubError::NoWeights`], [`HubError::WhichGguf`], [`HubError::Include`], and those of `read`.
pub fn select(model: &str, files: &[RemoteFile], include: &[String], read: Read) -> Result<Vec<RemoteFile>> {
    let included = included(files, include)?;
    let mut paths: BTreeSet<String> = included.iter().map(|file| file.path.clone()).collect();
    let template = |path: &str| path.starts_with("additional_chat_templates/") && path.ends_with(".jinja");
    let small = files.iter().filter(|file| SMALL.contains(&&*file.path) || template(&file.path));
    paths.extend(small.map(|file| file.path.clone()));
    match weights(files, read)? {
        Weights::Files(weights) => paths.extend(weights),
        // Whoever names files of weights has chosen.
        Weights::Gguf(_) | Weights::None if included.iter().any(|file| is_weights(&file.path)) => {}
        Weights::Gguf(all) => {
            let one = all.iter().min_by_key(|path| preference(path)).expect("there are several").clone();
            return Err(HubError::WhichGguf { model: model.into(), example: one, files: list(&all) });
        }
        Weights::None => {
            let files: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
            let pickled = files
                .iter()
                .any(|file| [".bin", ".gguf", ".pt", ".pth"].iter().any(|end| file.ends_with(end)));
            let hint = match cfg!(feature = "quantized") {
                false if pickled => " (those that are there need a build with --features step9)",
                _ => "",
            };
            return Err(HubError::NoWeights { model: model.into(), hint, files: list(&files) });
        }
    }
    Ok(files.iter().filter(|file| paths.contains(&file.path)).cloned().collect())
}

/// The files that `--include` names.
fn included<'a>(files: &'a [RemoteFile], include: &[String]) -> Result<Vec<&'a RemoteFile>> {
    let mut included = Vec::new();
    for pattern in include {
        let bad = |why: String| HubError::Include { pattern: pattern.clone(), why };
        // As in huggingface_hub, a folder stands for all that is in it.
        let all = if pattern.ends_with('/') { format!("{pattern}*") } else { pattern.clone() };
        let parsed = Pattern::new(&all).map_err(|error| bad(error.to_string()))?;
        let before = included.len();
        included.extend(files.iter().filter(|file| parsed.matches(&file.path)));
        if included.len() == before {
            return Err(bad(
                "no file of the model matches; write a name as on the hub, with * and ? for the rest".into(),
            ));
        }
    }
    Ok(included)
}

enum Weights {
    Files(Vec<String>),
    /// Several GGUF files: each is a model.
    Gguf(Vec<String>),
    None,
}

/// The weights of the first kind that is there, in the order in which a load looks for them.
fn weights(files: &[RemoteFile], read: Read) -> Result<Weights> {
    let find = |path: &str| files.iter().find(|file| file.path == path);
    // Files of folders within are other models' or for other programs.
    let top = |end: &str| -> Vec<String> {
        let files = files.iter().map(|file| &file.path);
        files.filter(|path| path.ends_with(end) && !path.contains('/')).cloned().collect()
    };
    let quantized = cfg!(feature = "quantized");
    let kinds: &[&str] = match quantized {
        true => &["model.safetensors", "consolidated.safetensors", "pytorch_model.bin"],
        false => &["model.safetensors"],
    };
    // A lone file of another name: AutoGPTQ writes gptq_model-4bit-128g.safetensors.
    let mut lone = top(".safetensors");
    lone.retain(|path| !["consolidated", "adapter", "model-"].iter().any(|kind| path.starts_with(kind)));
    for kind in kinds {
        if find(kind).is_some() {
            return Ok(Weights::Files(vec![kind.to_string()]));
        }
        let index = format!("{kind}.index.json");
        if let Some(file) = find(&index) {
            let shards =
                shards(&read(file)?).map_err(|why| HubError::NotTheHub { what: index.clone(), why })?;
            let known = |shard: &String| find(shard).is_some();
            if let Some(shard) = shards.iter().find(|shard| !known(shard)) {
                let why = format!("it names the shard {shard}, which the model does not have");
                return Err(HubError::NotTheHub { what: index, why });
            }
            return Ok(Weights::Files(shards.into_iter().chain([index]).collect()));
        }
        if *kind == "model.safetensors" && lone.len() == 1 {
            return Ok(Weights::Files(lone));
        }
    }
    let mut ggufs = if quantized { top(".gguf") } else { Vec::new() };
    Ok(match ggufs.len() {
        0 => {
            let torch = if quantized { [top(".pt"), top(".pth")].concat() } else { Vec::new() };
            if torch.len() == 1 { Weights::Files(torch) } else { Weights::None }
        }
        1 => Weights::Files(ggufs),
        _ => {
            ggufs.sort();
            Weights::Gguf(ggufs)
        }
    })
}

/// Whether a file may hold weights.
fn is_weights(path: &str) -> bool {
    [".gguf", ".safetensors", ".bin", ".pt", ".pth"].iter().any(|end| path.ends_with(end))
}

/// GGUF files to propose come first: packed to about four bits, then to eight.
fn preference(path: &str) -> usize {
    let wanted = ["Q4_K_M", "Q4_0", "Q4", "Q8_0"];
    wanted.iter().position(|kind| path.to_uppercase().contains(kind)).unwrap_or(wanted.len())
}

fn list(files: &[String]) -> String {
    let more = if files.len() > 20 { format!(", and {} more", files.len() - 20) } else { String::new() };
    files.iter().take(20).cloned().collect::<Vec<_>>().join(", ") + &more
}

/// The shards that an index names. The index of a large model names a hundred thousand tensors, of which nothing is kept.
///
/// # Errors
/// What is wrong with it.
pub fn shards(index: &[u8]) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: Shards,
    }
    let index: Index =
        serde_json::from_slice(index).map_err(|error| format!("it is no index of shards: {error}"))?;
    Ok(index.weight_map.0)
}

/// The same of a file.
pub fn shards_of_file(path: &Path) -> Result<BTreeSet<String>, String> {
    shards(&fs::read(path).map_err(|error| error.to_string())?)
}

/// The values of a map, each once.
struct Shards(BTreeSet<String>);

impl<'de> Deserialize<'de> for Shards {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shards, D::Error> {
        struct Values;
        impl<'de> Visitor<'de> for Values {
            type Value = Shards;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map from tensors to shards")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shards, A::Error> {
                let mut shards = BTreeSet::new();
                while let Some((IgnoredAny, shard)) = map.next_entry::<IgnoredAny, String>()? {
                    shards.insert(shard);
                }
                Ok(Shards(shards))
            }
        }
        deserializer.deserialize_map(Values)
    }
}

#[cfg(test)]
mod tests {
    use super::super::blob_id::BlobId;
    use super::*;

    fn chosen(files: &[&str], include: &[&str]) -> Result<Vec<String>, String> {
        let file = |path: &&str| RemoteFile {
            path: path.to_string(),
            size: 1,
            id: BlobId::of_name(&"0".repeat(40)).unwrap(),
        };
        let files: Vec<RemoteFile> = files.iter().map(file).collect();
        let include: Vec<String> = include.iter().map(|pattern| pattern.to_string()).collect();
        let index = br#"{"metadata": {}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-1.safetensors"}}"#;
        let chosen = select("org/x", &files, &include, &|_| Ok(index.to_vec()));
        chosen.map(|files| files.into_iter().map(|file| file.path).collect()).map_err(|e| e.to_string())
    }

    #[test]
    fn only_what_a_load_reads_is_fetched() {
        let files = [
            ".gitattributes",
            "README.md",
            "config.json",
            "model.safetensors",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "tf_model.h5",
            "tokenizer.json",
            "additional_chat_templates/tools.jinja",
            "x/model.safetensors",
        ];
        let want =
            ["config.json", "model.safetensors", "tokenizer.json", "additional_chat_templates/tools.jinja"];
        assert_eq!(chosen(&files, &[]).unwrap(), want);
        let with_readme = chosen(&files, &["*.md", "onnx/"]).unwrap();
        assert_eq!(with_readme.len(), want.len() + 2);
        assert!(chosen(&files, &["*.xyz"]).unwrap_err().contains("*.xyz"));
    }

    #[test]
    fn shards_are_those_of_the_index() {
        let files = [
            "config.json",
            "m-1.safetensors",
            "m-2.safetensors",
            "m-3.safetensors",
            "model.safetensors.index.json",
        ];
        let want = ["config.json", "m-1.safetensors", "m-2.safetensors", "model.safetensors.index.json"];
        assert_eq!(chosen(&files, &[]).unwrap(), want);
        assert!(chosen(&files[2..], &[]).unwrap_err().contains("m-1.safetensors"));
        assert_eq!(chosen(&["gptq_model-4bit-128g.safetensors"], &[]).unwrap().len(), 1);
    }

    #[test]
    fn a_model_without_weights_is_refused() {
        assert!(
            chosen(&["config.json", "flax_model.msgpack"], &[]).unwrap_err().contains("flax_model.msgpack")
        );
    }

    #[cfg(feature = "quantized")]
    #[test]
    fn of_several_gguf_files_one_is_chosen() {
        let files = ["README.md", "a.Q2_K.gguf", "a.Q4_K_M.gguf", "a.Q8_0.gguf"];
        assert!(chosen(&files, &[]).unwrap_err().contains("--include 'a.Q4_K_M.gguf'"));
        assert_eq!(chosen(&files, &["*Q8_0*"]).unwrap(), ["a.Q8_0.gguf"]);
        assert_eq!(chosen(&files[..2], &[]).unwrap(), ["a.Q2_K.gguf"]);
        assert_eq!(chosen(&["pytorch_model.bin", "config.json"], &[]).unwrap().len(), 2);
    }
}
