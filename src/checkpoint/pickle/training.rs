//! Checkpoints of a training run: the state dict is below a key, beside the optimizer's.

use super::objects::{Objects, Value};
use super::shards_below;
use crate::checkpoint::state_dict::{FileFormat, StateDict, open_files};
use crate::checkpoint::{CheckpointError, Directory, Result, Shard};
use crate::tensor::Owner;

/// The keys below which training scripts keep a model's state dict, the usual ones first.
const KEYS: [&str; 5] = ["state_dict", "model_state_dict", "model", "module", "net"];

/// One file of PyTorch, of any name.
struct Training {
    file: String,
}

impl FileFormat for Training {
    fn single(&self) -> &str {
        &self.file
    }

    fn index(&self) -> &str {
        ""
    }

    fn open(
        &self,
        directory: &Directory,
        file: &str,
        owner: Owner,
        wanted: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Vec<Shard>> {
        shards_below((file, &directory.path(file)), &owner, wanted, model)
    }
}

/// The tensors of one file of PyTorch in a directory, whatever else is there. If the file is a training checkpoint, they are those below the key of
/// the model.
///
/// # Errors
/// As [`shards`](super::shards); and a file that is not there.
pub fn open_training(
    directory: &Directory,
    file: &str,
    wanted: impl Fn(&str) -> bool + Sync,
) -> Result<StateDict> {
    let opened = open_files(directory, &Training { file: file.into() }, &wanted)?;
    opened.ok_or_else(|| CheckpointError::NoWeights { dir: directory.root() })
}

/// The dict of the model's tensors: the one below a known key, if the outer dict has no tensor itself.
fn model(objects: &Objects, top: Value) -> Value {
    let is_tensor = |value: &Value| matches!(value, Value::Tensor(_));
    let Value::Dict(dict) = top else { return top };
    let entries = &objects.dicts[dict];
    if entries.iter().any(|(_, value)| is_tensor(value)) {
        return top;
    }
    let below = |wanted: &str| {
        entries.iter().find_map(|(key, value)| match (key, value) {
            (Value::Text(key), Value::Dict(dict)) if objects.text(*key) == wanted => {
                objects.dicts[*dict].iter().any(|(_, value)| is_tensor(value)).then_some(*value)
            }
            _ => None,
        })
    };
    KEYS.into_iter().find_map(below).unwrap_or(top)
}
