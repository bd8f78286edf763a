//! Wrong answers to the fourth exercise of chapter 1.

use crate::contracts::{Outcome, TensorReader};
use serde_json::Value;
use std::{fs, path::Path};

/// Takes `data_offsets` for positions in the file.
pub struct WithoutHeader;

impl TensorReader for WithoutHeader {
    fn read(&self, directory: &Path, name: &str) -> Outcome<Vec<u8>> {
        let (file, _, [start, end]) = locate(directory, &shard_of(directory, name)?, name)?;
        Ok(file[start..end].to_vec())
    }
}

/// Takes the first shard, in the order of the names, that has a tensor of this name.
pub struct IgnoresTheIndex;

impl TensorReader for IgnoresTheIndex {
    fn read(&self, directory: &Path, name: &str) -> Outcome<Vec<u8>> {
        let entries =
            fs::read_dir(directory)?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        let mut shards: Vec<String> = entries.filter(|file| file.ends_with(".safetensors")).collect();
        shards.sort();
        let found = shards.iter().find_map(|shard| locate(directory, shard, name).ok());
        let (file, data, [start, end]) = found.ok_or("no shard has it")?;
        Ok(file[data + start..data + end].to_vec())
    }
}

/// Forgets that the length of the header is not part of the header.
pub struct ForgetsTheLength;

impl TensorReader for ForgetsTheLength {
    fn read(&self, directory: &Path, name: &str) -> Outcome<Vec<u8>> {
        let (file, data, [start, end]) = locate(directory, &shard_of(directory, name)?, name)?;
        Ok(file[data - 8 + start..data - 8 + end].to_vec())
    }
}

fn shard_of(directory: &Path, name: &str) -> Outcome<String> {
    let index: Value = serde_json::from_slice(&fs::read(directory.join("model.safetensors.index.json"))?)?;
    Ok(index["weight_map"][name].as_str().ok_or("not in the index")?.to_owned())
}

/// The file, where its data starts, and the tensor's data_offsets.
fn locate(directory: &Path, shard: &str, name: &str) -> Outcome<(Vec<u8>, usize, [usize; 2])> {
    let file = fs::read(directory.join(shard))?;
    let data = 8 + u64::from_le_bytes(file[..8].try_into()?) as usize;
    let header: Value = serde_json::from_slice(&file[8..data])?;
    let offsets = serde_json::from_value(header[name]["data_offsets"].clone())?;
    Ok((file, data, offsets))
}
