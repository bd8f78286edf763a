//! `model.safetensors.index.json`: which shard holds which tensor.
//!
//! ```json
//! {"metadata": {"total_size": 1192099840}, "weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors", …}}
//! ```

use super::{CheckpointError, Result};
use crate::json;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A parsed index. Its shard names are plain file names.
#[derive(Debug, Default, PartialEq)]
pub struct Index {
    /// Tensor name → shard file name.
    pub weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Parses an index and refuses shard names that would leave the directory.
    ///
    /// # Errors
    /// [`CheckpointError::Json`] or [`CheckpointError::UnsafeShardName`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Index> {
        let bad = |reason: String| CheckpointError::Json { path: path.into(), reason };
        let index = json::object(bytes).map_err(bad)?;
        let map = index.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| bad("there is no 'weight_map' object in it".into()))?;
        if map.is_empty() {
            return Err(bad("its 'weight_map' is empty".into()));
        }
        let mut index = Index::default();
        for (tensor, shard) in map {
            let shard =
                shard.as_str().ok_or_else(|| bad(format!("the shard of '{tensor}' is not a string")))?;
            if !is_plain_file_name(shard) {
                let (tensor, shard) = (tensor.clone(), shard.to_owned());
                return Err(CheckpointError::UnsafeShardName { index: path.into(), tensor, shard });
            }
            index.weight_map.insert(tensor.clone(), shard.to_owned());
        }
        Ok(index)
    }

    /// The same with other names of tensors, without those that have none.
    pub fn renamed(self, name: impl Fn(&str) -> Option<String>) -> Index {
        let renamed = self.weight_map.into_iter().filter_map(|(tensor, shard)| Some((name(&tensor)?, shard)));
        Index { weight_map: renamed.collect() }
    }

    /// The shards' file names, each once, sorted.
    pub fn shards(&self) -> Vec<&str> {
        let shards: BTreeSet<&str> = self.weight_map.values().map(String::as_str).collect();
        shards.into_iter().collect()
    }
}

/// A name in this directory: no separators of any system, no drive, no `..`.
fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Index, String> {
        Index::parse(json.as_bytes(), Path::new("dir/index.json")).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_the_map_and_ignores_the_rest() {
        let index = parse(
            r#"{"metadata":{"total_size":3},"weight_map":{"b":"2.safetensors","a":"1.safetensors","c":"2.safetensors"}}"#,
        );
        assert_eq!(index.unwrap().shards(), ["1.safetensors", "2.safetensors"]);
    }

    #[test]
    fn refuses_names_outside_the_directory() {
        for shard in ["../x.safetensors", "/etc/passwd", "a/b", r"..\\x", "..", "", "c:x"] {
            let e = parse(&format!(r#"{{"weight_map":{{"w":"{shard}"}}}}"#)).unwrap_err();
            assert!(e.contains("'w'") && e.contains("index.json"), "{shard}: {e}");
        }
        assert!(parse(r#"{"weight_map":{"w":"..model..safetensors"}}"#).is_ok());
    }

    #[test]
    fn refuses_what_is_no_index() {
        for (json, want) in [
            ("", "not JSON"),
            ("[]", "object"),
            ("{}", "weight_map"),
            (r#"{"weight_map":{}}"#, "empty"),
            (r#"{"weight_map":{"w":1}}"#, "'w'"),
        ] {
            assert!(parse(json).unwrap_err().contains(want), "{json}");
        }
    }
}
