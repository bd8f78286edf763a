//! safetensors: the shards' headers are known before the first number is read, so each is written from its beginning to its end.

use super::folder::write_file;
use super::rows::Tensor;
use super::{Source, Target, Written};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Bytes that are written at a time.
pub const BUFFER: usize = 1 << 20;

/// A shard's tensors, as a range of all of them.
struct Shard {
    tensors: std::ops::Range<usize>,
    bytes: u64,
}

/// Writes `model.safetensors`, or shards and their index.
///
/// # Errors
/// Those of [`Source::each`], numbers that the dtype does not hold, a disk that is full.
pub fn write(
    target: &Target,
    source: &mut Source,
    into: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<Written> {
    let tensors: Vec<Tensor> = source
        .parameters
        .iter()
        .map(|parameter| Tensor {
            parameter: parameter.name.clone(),
            name: parameter.name.clone(),
            dtype: target.dtype,
            shape: parameter.shape.clone(),
            half: None,
            transposed: parameter.transposed,
        })
        .collect();
    let shards = shards(&tensors, target.shard_size);
    let total: u64 = shards.iter().map(|shard| shard.bytes).sum();
    let path = |shard: usize| into.join(shard_name(shard, shards.len()));
    let (mut at, mut shard, mut file) = (0, 0, begin(&path(0), &tensors[shards[0].tensors.clone()])?);
    source.each(|_, matrix| {
        if at == shards[shard].tensors.end {
            finish(file.take(), &path(shard))?;
            shard += 1;
            file = begin(&path(shard), &tensors[shards[shard].tensors.clone()])?;
        }
        let out = file.as_mut().expect("a shard is open");
        let written = tensors[at].write(&matrix, out, &|bytes| progress(bytes, total));
        at += 1;
        written.map_err(|wrong| wrong.of(&tensors[at - 1], &path(shard)))
    })?;
    finish(file.take(), &path(shard))?;
    if shards.len() > 1 {
        write_index(into, &tensors, &shards, total)?;
    }
    Ok(Written { tensors: tensors.len(), bytes: total, files: shards.len() })
}

/// Cuts the list of tensors: a shard has at most `most` bytes, or one tensor.
fn shards(tensors: &[Tensor], most: u64) -> Vec<Shard> {
    let mut shards = vec![Shard { tensors: 0..0, bytes: 0 }];
    for (at, tensor) in tensors.iter().enumerate() {
        let last = shards.last_mut().expect("there is one");
        match last.bytes == 0 || last.bytes.saturating_add(tensor.bytes()) <= most {
            true => (last.tensors.end, last.bytes) = (at + 1, last.bytes + tensor.bytes()),
            false => shards.push(Shard { tensors: at..at + 1, bytes: tensor.bytes() }),
        }
    }
    shards
}

/// As transformers calls them.
fn shard_name(shard: usize, of: usize) -> String {
    match of {
        1 => "model.safetensors".into(),
        _ => format!("model-{:05}-of-{of:05}.safetensors", shard + 1),
    }
}

/// Opens a shard and writes its header, filled up to 8 bytes.
fn begin(path: &Path, tensors: &[Tensor]) -> Result<Option<BufWriter<File>>> {
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.bytes();
        let entry =
            json!({"dtype": tensor.dtype.to_string(), "shape": tensor.shape, "data_offsets": [at, end]});
        header.insert(tensor.name.clone(), entry);
        at = end;
    }
    let mut header = Value::from(header).to_string();
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let io = |error| Error::Io { path: PathBuf::from(path), error };
    let mut file = BufWriter::with_capacity(BUFFER, File::create(path).map_err(io)?);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    file.write_all(header.as_bytes()).map_err(io)?;
    Ok(Some(file))
}

/// Everything is on the disk.
pub fn finish(file: Option<BufWriter<File>>, path: &Path) -> Result<()> {
    let Some(mut file) = file else { return Ok(()) };
    let written = file.flush().and_then(|()| file.get_ref().sync_all());
    written.map_err(|error| Error::Io { path: path.into(), error })
}

fn write_index(into: &Path, tensors: &[Tensor], shards: &[Shard], total: u64) -> Result<()> {
    let mut map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let file = shard_name(i, shards.len());
        map.extend(
            tensors[shard.tensors.clone()].iter().map(|t| (t.name.clone(), Value::from(file.clone()))),
        );
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    write_file(&into.join("model.safetensors.index.json"), format!("{index:#}\n").as_bytes())
}
