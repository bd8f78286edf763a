//! From what a pickle describes to tensors: every size, offset and stride is compared with the bytes that are there.
//!
//! ```text
//! storage   0 1 2 3 4 5 6 7 8 9 10 11       offset 0, size [3, 4], stride [4, 1]: a view of its bytes
//!           ▲       ▲       ▲               offset 0, size [4, 3], stride [1, 4]: the transposed, copied once
//! ```
//! A tensor is a part of a storage: number (i, j, …) is at offset + i · stride₀ + j · stride₁ + … If the numbers follow each other, the tensor
//! is a view of the mapped file. Otherwise they are copied in their order. Storages may be shared, and then tensors are views of the same bytes.

use super::objects::{Objects, Tensor, Value};
use super::zip::shown;
use crate::checkpoint::{CheckpointError, Header, Result, Shard, TensorInfo, dummy::memory};
use crate::tensor::{DType, Owner};
use std::{ops::Range, path::Path, sync::Arc};

/// A state dict's tensors by name. Values that are no tensors, such as counters, are left out.
///
/// # Errors
/// For an object that holds no tensors: its keys are named, because a checkpoint of a training run has the state dict below one of them.
pub(super) fn state_dict<'a>(
    objects: &mut Objects<'a>,
    top: Value,
) -> Result<Vec<(&'a str, Tensor)>, String> {
    let Value::Dict(dict) = top else { return Err("its pickle holds no dict of tensors".into()) };
    objects.count::<(&str, Tensor)>(objects.dicts[dict].len())?;
    let entries = objects.dicts[dict].iter();
    let tensors = entries.filter_map(|(key, value)| match (key, value) {
        (Value::Text(name), Value::Tensor(tensor)) => Some((objects.text(*name), objects.tensors[*tensor])),
        _ => None,
    });
    let tensors: Vec<_> = tensors.collect();
    if !tensors.is_empty() {
        return Ok(tensors);
    }
    let keys = objects.dicts[dict].iter().take(20).map(|(key, _)| match key {
        Value::Text(text) => format!("'{}'", shown(objects.text(*text))),
        other => format!("{other:?}"),
    });
    let keys = keys.collect::<Vec<_>>().join(", ");
    Err(format!(
        "this is no state dict, but perhaps a training checkpoint that has one below a key: its keys are {keys}, and no value is a tensor. \
         Save the state dict alone: torch.save(torch.load(FILE, weights_only=True)[KEY], 'pytorch_model.bin')"
    ))
}

/// Where a tensor's numbers are.
struct Layout {
    dtype: DType,
    shape: Vec<usize>,
    stride: Vec<usize>,
    /// The first byte of the first number in the file.
    start: usize,
}

impl Layout {
    /// Checks a tensor against its storage, of which these are the bytes.
    fn of(objects: &Objects, tensor: &Tensor, storage: Range<usize>) -> Result<Layout, String> {
        let dtype = tensor.dtype.ok_or("its storage is bytes, and no type says what they mean")?;
        let extents = |tuple: usize, what: &str| -> Result<Vec<usize>, String> {
            let extent = |value: &Value| match value {
                Value::Int(n) => usize::try_from(*n).map_err(|_| format!("its {what} has {n}")),
                _ => Err(format!("its {what} holds what is no integer")),
            };
            objects.sequences[tuple].iter().map(extent).collect()
        };
        let (shape, stride) = (extents(tensor.size, "size")?, extents(tensor.stride, "stride")?);
        if shape.len() != stride.len() {
            return Err(format!("it has {} extents and {} strides", shape.len(), stride.len()));
        }
        let held = (storage.len() / dtype.bytes()) as u128;
        let offset = u128::try_from(tensor.offset).map_err(|_| format!("its offset is {}", tensor.offset))?;
        let empty = shape.contains(&0);
        let most = if empty { isize::MAX as u128 } else { held };
        let numbers = shape.iter().try_fold(1u128, |n, &extent| n.checked_mul(extent.max(1) as u128));
        if numbers.is_none_or(|numbers| numbers > most) {
            return Err(format!("its size {shape:?} is more than the {held} numbers of its storage"));
        }
        let steps = shape
            .iter()
            .zip(&stride)
            .map(|(&extent, &stride)| (extent as u128).saturating_sub(1) * stride as u128);
        let end = if empty {
            Some(offset)
        } else {
            steps.fold(offset.checked_add(1), |end, step| end?.checked_add(step))
        };
        if end.is_none_or(|end| end > held) {
            return Err(format!(
                "offset {offset}, size {shape:?} and stride {stride:?} lead out of its storage, which has {held} numbers"
            ));
        }
        Ok(Layout { dtype, shape, stride, start: storage.start + offset as usize * dtype.bytes() })
    }

    /// Bytes of the tensor.
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bytes()
    }

    /// Whether the numbers follow each other. The stride of an extent of 1 leads nowhere.
    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        let mut follows = |(&extent, &stride)| {
            let follows = extent == 1 || stride == expected;
            expected *= extent;
            follows
        };
        self.shape.contains(&0) || self.shape.iter().zip(&self.stride).rev().all(&mut follows)
    }

    /// Copies the numbers into `out`, the last extent fastest.
    fn copy(&self, file: &[u8], out: &mut [u8]) {
        let size = self.dtype.bytes();
        let (Some((&row, outer)), Some((&step, strides))) =
            (self.shape.split_last(), self.stride.split_last())
        else {
            return; // a scalar is contiguous
        };
        let mut index = vec![0; outer.len()];
        for out in out.chunks_exact_mut(row * size) {
            let first: usize = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
            for (i, number) in out.chunks_exact_mut(size).enumerate() {
                let at = self.start + (first + i * step) * size;
                number.copy_from_slice(&file[at..at + size]);
            }
            for (i, &extent) in index.iter_mut().zip(outer).rev() {
                *i += 1;
                if *i < extent {
                    break;
                }
                *i = 0;
            }
        }
    }
}

/// The file as shards: one of the views, and if there are tensors that had to be copied, one of these. `storage` finds the bytes of a storage.
pub(super) fn shards(
    (file, path): (&str, &Path),
    owner: &Owner,
    objects: &mut Objects,
    tensors: Vec<(&str, Tensor)>,
    storage: impl Fn(&Objects, &Tensor) -> Result<Range<usize>, String>,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Vec<Shard>> {
    let bytes: &[u8] = (**owner).as_ref();
    let (mut header, mut to_copy) = (Header::default(), Vec::new());
    header.metadata.insert("format".into(), "pt".into());
    for (name, tensor) in tensors {
        let bad = |reason: String| CheckpointError::Tensor { path: path.into(), tensor: shown(name), reason };
        objects.count::<[u8; 128]>(1).and_then(|()| objects.count::<u8>(name.len())).map_err(bad)?;
        objects.count::<usize>(2 * objects.sequences[tensor.size].len()).map_err(bad)?;
        let layout =
            storage(objects, &tensor).and_then(|range| Layout::of(objects, &tensor, range)).map_err(bad)?;
        let range = layout.start..layout.start + layout.bytes();
        header.tensors.remove(name); // the last one of a name counts, as in Python
        if layout.is_contiguous() {
            header
                .tensors
                .insert(name.into(), TensorInfo { dtype: layout.dtype, shape: layout.shape, range });
        } else if wanted(name) {
            to_copy.push((name, layout));
        }
    }
    let copies = copies(file, path, bytes, to_copy)?;
    let mapped = Shard { file: file.into(), owner: owner.clone(), header, copied: false };
    Ok([mapped].into_iter().chain(copies).collect())
}

/// Copies tensors into memory of their own, one behind the other.
fn copies(file: &str, path: &Path, bytes: &[u8], tensors: Vec<(&str, Layout)>) -> Result<Option<Shard>> {
    if tensors.is_empty() {
        return Ok(None);
    }
    let total = tensors.iter().fold(0usize, |total, (_, layout)| total.saturating_add(layout.bytes()));
    if total > bytes.len() {
        let reason =
            format!("its transposed and sliced tensors would take {total} bytes, more than the file has");
        return Err(CheckpointError::Torch { path: path.into(), reason });
    }
    let mut memory = memory(total)?;
    let mut header = Header::default();
    let mut at = 0;
    for (name, layout) in tensors {
        let range = at..at + layout.bytes();
        layout.copy(bytes, &mut memory[range.clone()]);
        at = range.end;
        header.tensors.insert(name.into(), TensorInfo { dtype: layout.dtype, shape: layout.shape, range });
    }
    Ok(Some(Shard { file: file.into(), owner: Arc::new(memory), header, copied: true }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(shape: &[usize], stride: &[usize]) -> Layout {
        Layout { dtype: DType::U8, shape: shape.into(), stride: stride.into(), start: 0 }
    }

    #[test]
    fn numbers_that_follow_each_other_are_a_view() {
        for (shape, stride, view) in [
            (&[3, 4][..], &[4, 1][..], true),
            (&[1, 4], &[99, 1], true),
            (&[3, 1], &[1, 7], true),
            (&[4, 3], &[1, 4], false),
            (&[3, 2], &[4, 1], false),
            (&[0, 9], &[1, 1], true),
            (&[], &[], true),
            (&[5], &[2], false),
        ] {
            assert_eq!(layout(shape, stride).is_contiguous(), view, "{shape:?} {stride:?}");
        }
    }

    #[test]
    fn a_copy_has_the_numbers_in_their_order() {
        let file: Vec<u8> = (0..24).collect();
        let copied = |shape: &[usize], stride: &[usize]| {
            let layout = layout(shape, stride);
            let mut out = vec![0; layout.bytes()];
            layout.copy(&file, &mut out);
            out
        };
        assert_eq!(copied(&[4, 3], &[1, 4]), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
        assert_eq!(copied(&[2, 2], &[8, 2]), [0, 2, 8, 10]);
        assert_eq!(copied(&[2, 2, 2], &[1, 12, 4]), [0, 4, 12, 16, 1, 5, 13, 17]);
        assert_eq!(copied(&[3], &[5]), [0, 5, 10]);
    }
}
