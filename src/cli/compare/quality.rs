//! How far a model's logits are from the reference's.

use super::super::divergence::Divergence;
use stairwell::checkpoint::{CheckpointError, Header};
use stairwell::error::Result;
use stairwell::tensor::convert_to_f32;
use std::{fs::File, path::Path};

/// Compares two files of logits; `None` if their vocabularies differ.
pub fn quality(reference: &Path, logits: &Path) -> Result<Option<Divergence>> {
    let ((vocabulary, reference), (other, logits)) = (read(reference)?, read(logits)?);
    let same = vocabulary == other && reference.len() == logits.len();
    Ok(same.then(|| Divergence::of(vocabulary, &reference, &logits)))
}

fn read(path: &Path) -> Result<(usize, Vec<f32>)> {
    let io = |error| CheckpointError::Io { path: path.into(), error };
    let file = File::open(path).map_err(io)?;
    // SAFETY: the file is in a directory of this process; nobody else writes it.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
    let header = Header::parse(&map, path)?;
    let info = &header.tensors["logits"];
    let mut logits = vec![0.0; info.shape.iter().product()];
    convert_to_f32(info.dtype, &map[info.range.clone()], &mut logits);
    Ok((info.shape[1], logits))
}
