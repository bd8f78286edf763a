//! How far a model's logits are from the reference's.

use super::measure::log_sum_exp;
use serde::Serialize;
use stairwell::checkpoint::{CheckpointError, Header};
use stairwell::error::Result;
use stairwell::tensor::convert_to_f32;
use std::{fs::File, path::Path};

/// The distance of next-token distributions, over all positions of the text.
#[derive(Serialize)]
pub struct Quality {
    /// The mean of Σ p ln(p / q), p the reference's.
    pub mean_kl: f64,
    /// How often the likeliest token is the same.
    pub agreement: f64,
}

/// Compares two files of logits; `None` if their vocabularies differ.
pub fn quality(reference: &Path, logits: &Path) -> Result<Option<Quality>> {
    let ((vocabulary, reference), (other, logits)) = (read(reference)?, read(logits)?);
    if vocabulary != other || reference.len() != logits.len() {
        return Ok(None);
    }
    let (mut kl, mut same) = (0.0, 0);
    for (p, q) in reference.chunks_exact(vocabulary).zip(logits.chunks_exact(vocabulary)) {
        let (of_p, of_q) = (log_sum_exp(p), log_sum_exp(q));
        kl += p.iter().zip(q).fold(0.0, |sum, (p, q)| {
            let (p, q) = (*p as f64 - of_p, *q as f64 - of_q);
            sum + p.exp() * (p - q)
        });
        same += usize::from(likeliest(p) == likeliest(q));
    }
    let positions = reference.len() / vocabulary;
    Ok(Some(Quality { mean_kl: (kl / positions as f64).max(0.0), agreement: same as f64 / positions as f64 }))
}

fn likeliest(row: &[f32]) -> Option<usize> {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]))
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
