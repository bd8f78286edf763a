//! The table of tensors: where each one lies, checked against the file and against the others.

use super::super::{CheckpointError, Header, Result, TensorInfo};
use super::cursor::Cursor;
use super::names::{self, Rotated};
use crate::tensor::DType;
use std::{collections::btree_map::Entry, ops::Range, path::Path};

/// The most extents that ggml knows (`GGML_MAX_DIMS`).
const MAX_DIMS: u32 = 4;

/// A llama's factors on the frequencies of RoPE. They are no parameter of the model: see [`super::config`].
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Heads of q and of k, where their rows are in pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub query: usize,
    pub key: usize,
}

/// What the table says.
#[derive(Default)]
pub struct Tensors {
    /// By Hugging Face's names, in its order of extents.
    pub header: Header,
    pub rope_factors: Option<TensorInfo>,
}

/// A tensor's dtype by its number (`ggml_type` in `ggml.h`), or the name of one that is not read.
fn dtype(number: u32) -> Result<DType, &'static str> {
    Ok(match number {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::Q4_0,
        3 => DType::Q4_1,
        6 => DType::Q5_0,
        7 => DType::Q5_1,
        8 => DType::Q8_0,
        10 => DType::Q2_K,
        11 => DType::Q3_K,
        12 => DType::Q4_K,
        13 => DType::Q5_K,
        14 => DType::Q6_K,
        20 => DType::IQ4_NL,
        23 => DType::IQ4_XS,
        24 => DType::I8,
        25 => DType::I16,
        26 => DType::I32,
        27 => DType::I64,
        28 => DType::F64,
        30 => DType::BF16,
        4 => return Err("Q4_2"),
        5 => return Err("Q4_3"),
        9 => return Err("Q8_1"),
        15 => return Err("Q8_K"),
        16 => return Err("IQ2_XXS"),
        17 => return Err("IQ2_XS"),
        18 => return Err("IQ3_XXS"),
        19 => return Err("IQ1_S"),
        21 => return Err("IQ3_S"),
        22 => return Err("IQ2_S"),
        29 => return Err("IQ1_M"),
        31 => return Err("Q4_0_4_4"),
        32 => return Err("Q4_0_4_8"),
        33 => return Err("Q4_0_8_8"),
        34 => return Err("TQ1_0"),
        35 => return Err("TQ2_0"),
        39 => return Err("MXFP4"),
        40 => return Err("NVFP4"),
        _ => return Err("unknown"),
    })
}

/// One entry of the table.
struct Listed<'a> {
    name: &'a str,
    dtype: DType,
    /// Outermost first: the file's order, reversed.
    shape: Vec<usize>,
    /// Bytes from the start of the data.
    offset: usize,
    bytes: usize,
}

impl<'a> Listed<'a> {
    fn read(cursor: &mut Cursor<'a>, path: &Path) -> Result<Listed<'a>> {
        let name = cursor.text("a tensor's name")?;
        let bad = |reason: String| CheckpointError::Tensor { path: path.into(), tensor: name.into(), reason };
        let dims = cursor.u32("a tensor's extents")?;
        if !(1..=MAX_DIMS).contains(&dims) {
            return Err(bad(format!("it has {dims} extents; the format has 1 to {MAX_DIMS}")));
        }
        let extent = |_| cursor.size("a tensor's extents");
        let mut shape = (0..dims).map(extent).collect::<Result<Vec<usize>>>()?;
        let (number, offset) = (cursor.u32("a tensor's type")?, cursor.size("a tensor's offset")?);
        let dtype = dtype(number).map_err(|known| {
            bad(format!(
                "its type is {known} ({number}), which is not read; quantize the model to Q4_K_M, Q8_0 or another type of Q4_0 … Q6_K, \
                 IQ4_NL and IQ4_XS (llama-quantize does)"
            ))
        })?;
        let (inputs, (block, _)) = (shape[0], dtype.block());
        if !inputs.is_multiple_of(block) {
            return Err(bad(format!("its rows have {inputs} numbers, and {dtype} has blocks of {block}")));
        }
        let numbers = shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent)).filter(|n| *n > 0);
        let bytes = numbers.and_then(|numbers| dtype.bytes_of(numbers));
        let bytes = bytes.ok_or_else(|| bad(format!("the extents {shape:?} are impossible")))?;
        shape.reverse();
        Ok(Listed { name, dtype, shape, offset, bytes })
    }

    /// Its bytes in the file.
    fn range(&self, data: usize, alignment: usize, file_len: usize, path: &Path) -> Result<Range<usize>> {
        let bad = |reason| CheckpointError::Tensor { path: path.into(), tensor: self.name.into(), reason };
        if !self.offset.is_multiple_of(alignment) {
            return Err(bad(format!(
                "its offset {} is no multiple of the alignment {alignment}",
                self.offset
            )));
        }
        let start = data.saturating_add(self.offset);
        let end = start.saturating_add(self.bytes);
        if end > file_len {
            let (needed, actual) = (end as u64, file_len as u64);
            let what = format!("tensor '{}'", self.name);
            return Err(CheckpointError::Truncated { path: path.into(), what, needed, actual });
        }
        Ok(start..end)
    }

    /// The shape, in which rows that are in pairs have extents of their own: [heads, half, 2, inputs].
    fn shape(&self, heads: Option<Heads>, path: &Path) -> Result<Vec<usize>> {
        let (Some(heads), Some(rotated)) = (heads, Rotated::of(self.name)) else {
            return Ok(self.shape.clone());
        };
        let heads = if rotated == Rotated::Query { heads.query } else { heads.key };
        let rows = self.shape[0];
        if self.shape.len() > 2 || heads == 0 || !rows.is_multiple_of(2 * heads) {
            let reason =
                format!("its shape {:?} does not give pairs of rows in each of {heads} heads", self.shape);
            return Err(CheckpointError::Tensor { path: path.into(), tensor: self.name.into(), reason });
        }
        Ok([&[heads, rows / heads / 2, 2], &self.shape[1..]].concat())
    }
}

impl Tensors {
    /// Reads `count` entries. The cursor stands where the table begins, and `heads` are there if rows of q and k are in pairs.
    pub fn read(
        mut cursor: Cursor,
        count: usize,
        alignment: usize,
        heads: Option<Heads>,
        path: &Path,
    ) -> Result<Tensors> {
        let file_len = cursor.at + cursor.left();
        // What is kept of a tensor is larger than its entry. Real ones have kilobytes of data to justify it.
        if count > 2048 + file_len / 256 {
            return Err(cursor.bad(format!("it claims {count} tensors in {file_len} bytes")));
        }
        // Read twice, because the data begins where the table ends.
        let mut end = cursor;
        (0..count).try_for_each(|_| Listed::read(&mut end, path).map(drop))?;
        let data = end.at.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
        let (mut tensors, mut ranges) = (Tensors::default(), Vec::with_capacity(count));
        for _ in 0..count {
            let tensor = Listed::read(&mut cursor, path)?;
            let range = tensor.range(data, alignment, file_len, path)?;
            ranges.push((range.start, range.end, tensor.name));
            tensors.add(&tensor, range, heads, path)?;
        }
        ranges.sort_unstable();
        match ranges.windows(2).find(|pair| pair[1].0 < pair[0].1) {
            None => Ok(tensors),
            Some(pair) => {
                let reason = format!("its bytes overlap those of '{}'", pair[0].2);
                Err(CheckpointError::Tensor { path: path.into(), tensor: pair[1].2.into(), reason })
            }
        }
    }

    fn add(&mut self, tensor: &Listed, range: Range<usize>, heads: Option<Heads>, path: &Path) -> Result<()> {
        let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape(heads, path)?, range };
        let twice = || CheckpointError::Tensor {
            path: path.into(),
            tensor: tensor.name.into(),
            reason: "it is there twice".into(),
        };
        if tensor.name == ROPE_FACTORS {
            return if self.rope_factors.replace(info).is_none() { Ok(()) } else { Err(twice()) };
        }
        match self.header.tensors.entry(names::hugging_face(tensor.name)) {
            Entry::Vacant(place) => drop(place.insert(info)),
            Entry::Occupied(_) => return Err(twice()),
        }
        Ok(())
    }
}
