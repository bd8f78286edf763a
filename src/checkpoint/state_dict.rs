//! The state dict: every tensor of a checkpoint, and where it lies.

use super::{CheckpointError, Directory, Header, Index, Result, TensorInfo};
use crate::tensor::{Bytes, HostTensor, Owner};
use rayon::prelude::*;
use std::{collections::BTreeMap, path::PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// One mapped file.
pub struct Shard {
    /// Its name in the directory.
    pub file: String,
    /// The whole file.
    pub owner: Owner,
    /// What its header says.
    pub header: Header,
}

/// Where one tensor lies.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Index into [`StateDict::shards`].
    pub shard: usize,
    /// dtype, shape and byte range in that file.
    pub info: &'a TensorInfo,
}

/// All tensors of a checkpoint by name. Opening it reads headers only.
pub struct StateDict {
    directory: Directory,
    shards: Vec<Shard>,
    /// name → shard
    names: BTreeMap<String, usize>,
}

impl StateDict {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names. Other files are ignored.
    ///
    /// # Errors
    /// [`CheckpointError`], naming the file.
    pub fn open(directory: &Directory) -> Result<StateDict> {
        StateDict::open_some(directory, |_| true)
    }

    /// The same, of which only some tensors are wanted: those of other names are not there, and a shard that holds none is not opened.
    ///
    /// # Errors
    /// As [`open`](StateDict::open), for the shards that are opened.
    pub fn open_some(directory: &Directory, wanted: impl Fn(&str) -> bool) -> Result<StateDict> {
        let single = single_file(directory)?;
        if let Some(owner) = directory.map(&single)? {
            let shard = open_shard(directory, &single, owner)?;
            let names = shard.header.tensors.keys().filter(|name| wanted(name));
            let names = names.map(|name| (name.clone(), 0)).collect();
            return Ok(StateDict { directory: directory.clone(), shards: vec![shard], names });
        }
        let Some(bytes) = directory.read(INDEX)? else { return Err(no_weights(directory)?) };
        let path = directory.path(INDEX);
        let mut index = Index::parse(&bytes, &path)?;
        index.weight_map.retain(|name, _| wanted(name));
        let open = |file: &&str| match directory.map(file)? {
            Some(owner) => open_shard(directory, file, owner),
            None => {
                let (tensor, shard) =
                    index.weight_map.iter().find(|(_, s)| s == file).expect("shards come from the map");
                let (index, tensor, shard) = (path.clone(), tensor.clone(), shard.clone());
                Err(CheckpointError::MissingShard { index, tensor, shard })
            }
        };
        let shards = index.shards().par_iter().map(open).collect::<Result<Vec<Shard>, _>>()?;
        let mut names = resolve(&index, &shards, path)?;
        names.retain(|name, _| wanted(name));
        Ok(StateDict { directory: directory.clone(), shards, names })
    }

    /// The mapped files.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The directory that it came from.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Where a tensor lies.
    pub fn entry(&self, name: &str) -> Option<Entry<'_>> {
        let &shard = self.names.get(name)?;
        Some(Entry { shard, info: self.shards[shard].header.tensors.get(name)? })
    }

    /// The path of the file that holds a tensor, for messages.
    pub fn file_of(&self, name: &str) -> PathBuf {
        let shard = self.names.get(name).map_or("", |&i| &self.shards[i].file);
        self.directory.path(shard)
    }

    // ANCHOR: view
    /// A view of a tensor.
    pub fn tensor(&self, name: &str) -> Option<HostTensor> {
        let Entry { shard, info } = self.entry(name)?;
        let data = Bytes::new(self.shards[shard].owner.clone(), info.range.clone());
        Some(HostTensor { dtype: info.dtype, shape: info.shape.clone(), data })
    }
    // ANCHOR_END: view

    /// Views of all tensors, file by file, in the order of their bytes.
    pub fn tensors(&self) -> impl Iterator<Item = (String, HostTensor)> {
        let entries = self.names().filter_map(|name| Some((self.entry(name)?, name)));
        let mut order: Vec<_> = entries.map(|(e, name)| (e.shard, e.info.range.start, name)).collect();
        order.sort_unstable();
        order.into_iter().filter_map(|(_, _, name)| Some((name.to_owned(), self.tensor(name)?)))
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.names().filter_map(|n| self.entry(n)).map(|e| e.info.range.len() as u64).sum()
    }
}

/// `model.safetensors`, or what it is called if it is the only one of its kind: AutoGPTQ writes `gptq_model-4bit-128g.safetensors`.
fn single_file(directory: &Directory) -> Result<String> {
    if directory.has(SINGLE) || directory.has(INDEX) {
        return Ok(SINGLE.into());
    }
    let model = |file: &String| {
        let other = ["consolidated", "adapter"].iter().any(|kind| file.starts_with(kind));
        file.ends_with(".safetensors") && !other
    };
    let mut files = directory.list()?;
    files.retain(model);
    Ok(if files.len() == 1 { files.remove(0) } else { SINGLE.into() })
}

fn open_shard(directory: &Directory, file: &str, owner: Owner) -> Result<Shard> {
    let header = Header::parse((*owner).as_ref(), &directory.path(file))?;
    Ok(Shard { file: file.into(), owner, header })
}

/// The index decides where a name is. Tensors that only a shard's header names are there too, as for transformers.
fn resolve(index: &Index, shards: &[Shard], path: PathBuf) -> Result<BTreeMap<String, usize>> {
    let mut names = BTreeMap::new();
    for (i, shard) in shards.iter().enumerate() {
        names.extend(shard.header.tensors.keys().map(|name| (name.clone(), i)));
    }
    for (tensor, file) in &index.weight_map {
        let i = shards.iter().position(|s| s.file == *file).expect("every shard of the map was opened");
        if !shards[i].header.tensors.contains_key(tensor) {
            let (tensor, shard) = (tensor.clone(), file.clone());
            return Err(CheckpointError::NotInShard { index: path, tensor, shard });
        }
        names.insert(tensor.clone(), i);
    }
    Ok(names)
}

/// Why a directory without safetensors can't be used.
fn no_weights(directory: &Directory) -> Result<CheckpointError> {
    let files = directory.list()?;
    let ending = |e: &str| files.iter().find(|f| f.ends_with(e));
    let pickle = files.iter().find(|f| {
        (f.ends_with(".bin") || f.ends_with(".pt") || f.ends_with(".pth"))
            && (f.starts_with("pytorch_model") || f.starts_with("consolidated") || f.starts_with("model"))
    });
    let dir = directory.root();
    Ok(match (pickle, ending(".gguf")) {
        (Some(file), _) => CheckpointError::OnlyPickle { dir, file: file.clone() },
        (None, Some(file)) => CheckpointError::Gguf { path: directory.path(file) },
        (None, None) => CheckpointError::NoWeights { dir },
    })
}
