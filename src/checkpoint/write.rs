//! Writing a safetensors file.

use super::{CheckpointError, Result};
use crate::tensor::HostTensor;
use safetensors::SafeTensorError;
use safetensors::tensor::{TensorView, serialize};
use std::{collections::HashMap, fs::File, io::Write, path::Path};
use std::{fs, io};

/// Writes tensors, which the crate sorts by dtype and name. The file appears whole or not at all, and takes its size in memory once.
///
/// # Errors
/// [`CheckpointError::Io`], naming the file, as for a directory that is absent or a disk that is full.
pub fn write_safetensors(path: &Path, tensors: &[(String, HostTensor)]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    // Not the crate's `serialize_to_file`, whose files only their owner may read.
    let written = to_bytes(tensors).map_err(io::Error::other).and_then(|bytes| {
        let mut file = File::create(&partial)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    });
    written.map_err(|error| {
        let _ = fs::remove_file(&partial);
        CheckpointError::Io { path: path.into(), error }
    })
}

fn to_bytes(tensors: &[(String, HostTensor)]) -> Result<Vec<u8>, SafeTensorError> {
    let views = tensors.iter().map(|(name, HostTensor { dtype, shape, data })| {
        let dtype = dtype.in_safetensors().expect("a type of safetensors");
        Ok((name, TensorView::new(dtype, shape.clone(), data)?))
    });
    let views = views.collect::<Result<Vec<_>, SafeTensorError>>()?;
    serialize(views, Some(HashMap::from([("format".into(), "pt".into())])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Directory, StateDict};

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let tensors = vec![
            ("a".to_string(), HostTensor::from_f32(&[1], &[5.0])),
            ("b".to_string(), HostTensor::from_f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0])),
        ];
        write_safetensors(&dir.path().join("model.safetensors"), &tensors).unwrap();
        let state_dict = StateDict::open(&Directory::Disk(dir.path().into())).unwrap();
        assert!(state_dict.tensors().eq(tensors));
        let e = write_safetensors(&dir.path().join("absent/x.safetensors"), &[]).unwrap_err().to_string();
        assert!(e.contains("absent/x.safetensors"), "{e}");
    }
}
