//! Layouts of other tools that are no checkpoints here: known by their files, so that a message can name them and a way out.

use super::{CheckpointError, Directory};
use serde_json::Value;

const MODEL_SCOPE: &str = "this is ModelScope's configuration, and there is no config.json beside it: ModelScope's own pipelines are not read. Most \
    of its models are there in Hugging Face's layout too; give a directory with config.json, or fetch the model of the same name from Hugging Face";

const NP_CACHE: &str = "this is vLLM's NPCACHE, numpy copies of weights that --load-format npcache made: it is not read. Give the directory that the \
    weights came from (.safetensors or .bin files); the copies can be deleted";

/// What lies in a directory that is no checkpoint, if it is known.
pub fn foreign(directory: &Directory) -> Option<CheckpointError> {
    let refuse = |file: &str, what| Some(CheckpointError::Foreign { path: directory.path(file), what });
    if !directory.has("config.json") && is_model_scope(directory) {
        return refuse("configuration.json", MODEL_SCOPE);
    }
    if directory.has("np/weight_names.json") {
        return refuse("np", NP_CACHE);
    }
    let files = directory.list().unwrap_or_default();
    refuse(files.iter().find(|file| file.ends_with(".np"))?, NP_CACHE)
}

fn is_model_scope(directory: &Directory) -> bool {
    let json = directory.read("configuration.json").ok().flatten();
    let json: Option<Value> = json.and_then(|json| serde_json::from_slice(&json).ok());
    json.is_some_and(|json| json.get("framework").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::StateDict;
    use crate::runner::read_config;
    use std::fs;

    #[test]
    fn layouts_of_other_tools_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::Disk(dir.path().into());
        let configuration = r#"{"framework": "pytorch", "task": "chat", "pipeline": {"type": "x"}}"#;
        fs::write(dir.path().join("configuration.json"), configuration).unwrap();
        let said = read_config(&directory).unwrap_err().to_string();
        assert!(said.contains("configuration.json") && said.contains("ModelScope"), "{said}");
        // Hugging Face's layout with ModelScope's file beside it is none of its business.
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        assert!(foreign(&directory).is_none());
        fs::create_dir(dir.path().join("np")).unwrap();
        fs::write(dir.path().join("np/weight_names.json"), "[]").unwrap();
        let said = StateDict::open(&directory).err().unwrap().to_string();
        assert!(said.contains("NPCACHE") && said.contains(".safetensors"), "{said}");
    }
}
