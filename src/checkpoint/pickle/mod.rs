//! PyTorch's own files (`.bin`, `.pt`, `.pth`), of which nothing is ever executed.
//!
//! ```text
//! bytes ─ zip ─▶ data.pkl ─ machine ─▶ names, storages, sizes, strides ─ tensors ─▶ Shard, as of safetensors
//!       └ legacy: five pickles, then the storages ┘
//! ```
//! The list of tensors is a pickle, a program that Python would run: [`machine`] knows the few operations that build a state dict, and refuses
//! all others. The numbers lie in the file as they are, so the tensors are views of its map.

mod legacy;
mod machine;
mod names;
mod objects;
mod tensors;
mod training;
mod zip;

use super::{CheckpointError, Directory, FileFormat, Result, Shard, directory::refuse_lfs_pointer};
use crate::tensor::Owner;
use machine::Machine;
use objects::{Objects, Storage, Tensor, Value};
use std::{ops::Range, path::Path};
pub use training::open_training;
use zip::{Archive, shown};

pub(super) const SINGLE: &str = "pytorch_model.bin";
pub(super) const INDEX: &str = "pytorch_model.bin.index.json";

/// Files that `torch.save` wrote.
pub(super) struct Torch {
    /// The file of a checkpoint that has one.
    pub single: String,
}

impl Torch {
    /// `pytorch_model.bin`; or the only file of PyTorch in the directory that is not known to hold something else.
    ///
    /// # Errors
    /// If there are several.
    pub(super) fn of(directory: &Directory) -> Result<Torch> {
        if directory.has(SINGLE) || directory.has(INDEX) {
            return Ok(Torch { single: SINGLE.into() });
        }
        let mut files: Vec<String> =
            directory.list()?.into_iter().filter(|file| may_be_weights(file)).collect();
        match files.len() {
            0 => Ok(Torch { single: SINGLE.into() }),
            1 => Ok(Torch { single: files.remove(0) }),
            _ => Err(CheckpointError::ManyTorchFiles { dir: directory.root(), files: files.join(", ") }),
        }
    }
}

/// Whether a file may be a checkpoint's only one. The others are those of a training run.
fn may_be_weights(file: &str) -> bool {
    const OTHERS: [&str; 5] = ["training_args", "optimizer", "scheduler", "scaler", "rng_state"];
    let ending = [".bin", ".pt", ".pth"].iter().any(|ending| file.ends_with(ending));
    ending && !OTHERS.iter().any(|other| file.starts_with(other))
}

impl FileFormat for Torch {
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
        wanted: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Vec<Shard>> {
        shards((file, &directory.path(file)), &owner, wanted)
    }
}

/// The tensors of a file of PyTorch, given its name and its path for messages: views of its bytes, and in a second shard those that must be
/// copied, if they are wanted.
///
/// # Errors
/// [`CheckpointError::Torch`] and [`CheckpointError::Tensor`], for files that are damaged, or ask for anything but tensors.
pub fn shards(file: (&str, &Path), owner: &Owner, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Shard>> {
    shards_below(file, owner, wanted, |_, top| top)
}

/// The same, of the dict that `find` picks in the file's own.
fn shards_below(
    (file, path): (&str, &Path),
    owner: &Owner,
    wanted: &dyn Fn(&str) -> bool,
    find: impl Fn(&Objects, Value) -> Value,
) -> Result<Vec<Shard>> {
    let bytes: &[u8] = (**owner).as_ref();
    refuse_lfs_pointer(bytes, path)?;
    let bad = |reason: String| CheckpointError::Torch { path: path.into(), reason };
    let mut objects = Objects::new(bytes);
    if Archive::is(bytes) {
        let archive = Archive::parse(bytes).map_err(bad)?;
        check_archive(&archive, bytes).map_err(bad)?;
        let pickle = archive.get("data.pkl").ok_or_else(|| bad("its zip archive has no data.pkl".into()))?;
        let (top, _) = Machine::run(&mut objects, pickle.start, pickle.end).map_err(bad)?;
        let top = find(&objects, top);
        let tensors = tensors::state_dict(&mut objects, top).map_err(bad)?;
        let storage = |objects: &Objects, tensor: &Tensor| stored(&archive, objects, tensor);
        return tensors::shards((file, path), owner, &mut objects, tensors, storage, wanted);
    }
    if legacy::is(bytes) {
        let (top, storages) = legacy::read(&mut objects, bytes).map_err(bad)?;
        let top = find(&objects, top);
        let tensors = tensors::state_dict(&mut objects, top).map_err(bad)?;
        let storage = |objects: &Objects, tensor: &Tensor| storages.get(objects, tensor);
        return tensors::shards((file, path), owner, &mut objects, tensors, storage, wanted);
    }
    Err(bad("it begins neither as a zip archive nor as the files of PyTorch before 1.6".into()))
}

/// Refuses archives that hold a program, or numbers in another order of bytes.
fn check_archive(archive: &Archive, file: &[u8]) -> Result<(), String> {
    if archive.get("constants.pkl").is_some() {
        return Err(
            "this is a TorchScript archive, which holds a program; save the model's state dict instead"
                .into(),
        );
    }
    match archive.get("byteorder").map(|range| &file[range]) {
        None | Some(b"little") => Ok(()),
        Some(other) => {
            let order = shown(&String::from_utf8_lossy(&other[..other.len().min(80)]));
            Err(format!("its numbers are in the byte order '{order}'; save it on a little-endian machine"))
        }
    }
}

/// The bytes of a tensor's storage in an archive: the file that the storage's key names, which must have the size that the pickle says.
fn stored(archive: &Archive, objects: &Objects, tensor: &Tensor) -> Result<Range<usize>, String> {
    let storage = objects.storages[tensor.storage];
    let key = objects.text(storage.key);
    let range = archive.get(&format!("data/{key}"));
    let range = range.ok_or_else(|| format!("its storage '{}' is not in the file", shown(key)))?;
    check_size(&storage, range.len() as u128)?;
    Ok(range)
}

/// Whether a storage has the bytes that the pickle says.
fn check_size(storage: &Storage, held: u128) -> Result<(), String> {
    let size = storage.dtype.map_or(1, |dtype| dtype.bytes()) as u128;
    let said = u128::try_from(storage.numbers)
        .map_err(|_| format!("its storage has {} numbers", storage.numbers))?;
    if said * size == held {
        return Ok(());
    }
    Err(format!("its storage should have {said} numbers of {size} bytes, and has {held} bytes"))
}
