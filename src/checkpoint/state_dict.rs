//! The state dict: every tensor of a checkpoint, and where it lies.

use super::{
    CheckpointError, Directory, Header, Index, LoadFormat, Result, TensorInfo, directory, foreign, gguf,
};
use crate::tensor::{Bytes, HostTensor, Owner};
use rayon::prelude::*;
use std::{collections::BTreeMap, path::PathBuf};

/// One file, or the tensors of it that were copied.
pub struct Shard {
    /// Its name in the directory.
    pub file: String,
    /// The whole file, mapped; or memory of its own.
    pub owner: Owner,
    /// What its header says.
    pub header: Header,
    /// Whether the tensors had to be copied, since the file has their numbers in another order.
    pub copied: bool,
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
    /// The file that says which shard holds what.
    index: Option<String>,
}

/// How one kind of files holds a checkpoint: in one file, or in shards that an index names.
pub(super) trait FileFormat: Sync {
    /// The file that a small checkpoint is.
    fn single(&self) -> &str;

    /// The index of a large one.
    fn index(&self) -> &str;

    /// Hugging Face's name of a tensor; `None` for one that no load needs.
    fn name(&self, name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    /// The tensors of a file, under Hugging Face's names. Tensors that must be copied are there only if they are wanted.
    fn open(
        &self,
        directory: &Directory,
        file: &str,
        owner: Owner,
        wanted: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Vec<Shard>>;
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// `model.safetensors` and its shards.
pub(super) struct Safetensors {
    single: String,
}

impl Safetensors {
    /// `model.safetensors`, or what it is called if it is the only one of its kind: AutoGPTQ writes `gptq_model-4bit-128g.safetensors`.
    ///
    /// # Errors
    /// If the directory can't be listed.
    pub(super) fn of(directory: &Directory) -> Result<Safetensors> {
        if directory.has(SINGLE) || directory.has(INDEX) {
            return Ok(Safetensors { single: SINGLE.into() });
        }
        let model = |file: &String| {
            let other = ["consolidated", "adapter"].iter().any(|kind| file.starts_with(kind));
            file.ends_with(".safetensors") && !other
        };
        let mut files = directory.list()?;
        files.retain(model);
        Ok(Safetensors { single: if files.len() == 1 { files.remove(0) } else { SINGLE.into() } })
    }
}

impl FileFormat for Safetensors {
    fn single(&self) -> &str {
        &self.single
    }

    fn index(&self) -> &str {
        INDEX
    }

    fn open(
        &self,
        directory: &Directory,
        file: &str,
        owner: Owner,
        _: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Vec<Shard>> {
        Ok(vec![Shard::safetensors(directory, file, owner)?])
    }
}

/// One GGUF file. None has an index.
struct GgufFile {
    name: String,
}

impl FileFormat for GgufFile {
    fn single(&self) -> &str {
        &self.name
    }

    fn index(&self) -> &str {
        ""
    }

    fn open(
        &self,
        directory: &Directory,
        file: &str,
        owner: Owner,
        _: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Vec<Shard>> {
        let header = gguf::header((*owner).as_ref(), &directory.path(file))?;
        Ok(vec![Shard { file: file.into(), owner, header, copied: false }])
    }
}

impl Shard {
    /// A mapped safetensors file.
    pub(super) fn safetensors(directory: &Directory, file: &str, owner: Owner) -> Result<Shard> {
        let header = Header::parse((*owner).as_ref(), &directory.path(file))?;
        Ok(Shard { file: file.into(), owner, header, copied: false })
    }
}

impl StateDict {
    /// Opens the weights of a directory: `model.safetensors`, or the shards that `model.safetensors.index.json` names, or what else
    /// [`LoadFormat::Auto`] finds; or those of a GGUF file. Other files are ignored.
    ///
    /// # Errors
    /// [`CheckpointError`], naming the file.
    pub fn open(directory: &Directory) -> Result<StateDict> {
        StateDict::open_some(directory, LoadFormat::Auto, |_| true)
    }

    /// The same for one kind of files, and of the tensors only some are wanted: those of other names are not there, and a shard that holds
    /// none is not opened.
    ///
    /// # Errors
    /// As [`open`](StateDict::open), for the shards that are opened; and a directory that has no files of this kind.
    pub fn open_some(
        directory: &Directory,
        format: LoadFormat,
        wanted: impl Fn(&str) -> bool + Sync,
    ) -> Result<StateDict> {
        if let Some(name) = directory.gguf() {
            let found = match format.reads_gguf() {
                true => open_files(directory, &GgufFile { name }, &wanted)?,
                false => None,
            };
            return found.map_or_else(|| Err(no_weights(directory, format)?), Ok);
        }
        for kind in format.order() {
            if let Some(files) = kind.files(directory)?
                && let Some(found) = open_files(directory, &*files, &wanted)?
            {
                return Ok(found);
            }
        }
        Err(no_weights(directory, format)?)
    }

    /// The mapped files.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The directory that it came from.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The index file, if the weights are in several files.
    pub fn index(&self) -> Option<&str> {
        self.index.as_deref()
    }

    /// Whether a tensor is in memory of its own, since its file has the numbers in another order.
    pub fn is_copied(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(|&shard| self.shards[shard].copied)
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

/// A checkpoint of one kind of files; `None` if there are none.
pub(super) fn open_files(
    directory: &Directory,
    format: &dyn FileFormat,
    wanted: &(dyn Fn(&str) -> bool + Sync),
) -> Result<Option<StateDict>> {
    let directory = directory.clone();
    if let Some(owner) = directory.map(format.single())? {
        let shards = format.open(&directory, format.single(), owner, wanted)?;
        let names = names(&shards).filter(|(name, _)| wanted(name)).collect();
        return Ok(Some(StateDict { directory, shards, names, index: None }));
    }
    let Some(bytes) = directory.read(format.index())? else { return Ok(None) };
    let path = directory.path(format.index());
    let index = Index::parse(&bytes, &path)?.renamed(|name| format.name(name).filter(|name| wanted(name)));
    let open = |file: &&str| match directory.map(file)? {
        Some(owner) => format.open(&directory, file, owner, wanted),
        None => {
            let (tensor, shard) =
                index.weight_map.iter().find(|(_, s)| s == file).expect("shards come from the map");
            let (index, tensor, shard) = (path.clone(), tensor.clone(), shard.clone());
            Err(CheckpointError::MissingShard { index, tensor, shard })
        }
    };
    let shards = index.shards().par_iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let shards: Vec<Shard> = shards.into_iter().flatten().collect();
    let mut names = resolve(&index, &shards, path)?;
    names.retain(|name, _| wanted(name));
    Ok(Some(StateDict { directory, shards, names, index: Some(format.index().into()) }))
}

/// Every name, with the shard that holds it.
fn names(shards: &[Shard]) -> impl Iterator<Item = (String, usize)> {
    let of = |(i, shard): (usize, &Shard)| {
        shard.header.tensors.keys().map(move |name| (name.clone(), i)).collect::<Vec<_>>()
    };
    shards.iter().enumerate().flat_map(of)
}

/// The index decides where a name is. Tensors that only a shard's header names are there too, as for transformers.
fn resolve(index: &Index, shards: &[Shard], path: PathBuf) -> Result<BTreeMap<String, usize>> {
    let mut names: BTreeMap<String, usize> = names(shards).collect();
    for (tensor, file) in &index.weight_map {
        let holds = |shard: &Shard| shard.file == *file && shard.header.tensors.contains_key(tensor);
        let Some(i) = shards.iter().position(holds) else {
            let (tensor, shard) = (tensor.clone(), file.clone());
            return Err(CheckpointError::NotInShard { index: path, tensor, shard });
        };
        names.insert(tensor.clone(), i);
    }
    Ok(names)
}

/// Why a directory without weights of this format can't be used.
fn no_weights(directory: &Directory, format: LoadFormat) -> Result<CheckpointError> {
    let dir = directory.root();
    if let Some(files) = format.needs() {
        return Ok(CheckpointError::NoFilesOf { dir, format: format.to_string(), files });
    }
    if directory.gguf().is_some() {
        let files = "other files than this GGUF file, which auto and gguf read";
        return Ok(CheckpointError::NoFilesOf { dir, format: format.to_string(), files });
    }
    let files = directory.list()?;
    let pickle = files.iter().find(|f| {
        (f.ends_with(".bin") || f.ends_with(".pt") || f.ends_with(".pth"))
            && (f.starts_with("pytorch_model") || f.starts_with("consolidated") || f.starts_with("model"))
    });
    Ok(match (pickle.filter(|_| !cfg!(feature = "quantized")), &directory::ggufs(&files)[..]) {
        (Some(file), _) => CheckpointError::OnlyPickle { dir, file: file.clone() },
        (None, []) => foreign(directory).unwrap_or(CheckpointError::NoWeights { dir }),
        (None, files) => CheckpointError::WhichGguf { dir, files: files.join(", ") },
    })
}
