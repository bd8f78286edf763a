//! Writing a safetensors file.

use super::CheckpointError;
use crate::tensor::HostTensor;
use serde_json::{Map, json};
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

/// Writes tensors in the order given. The file appears whole or not at all.
///
/// # Errors
/// [`CheckpointError::Io`], naming the file, as for a directory that is absent or a disk that is full.
pub fn write_safetensors(path: &Path, tensors: &[(String, HostTensor)]) -> Result<(), CheckpointError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let written = write(&partial, tensors).and_then(|()| fs::rename(&partial, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&partial);
        CheckpointError::Io { path: path.into(), error }
    })
}

fn write(path: &Path, tensors: &[(String, HostTensor)]) -> std::io::Result<()> {
    let (mut header, mut end) = (Map::new(), 0);
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    for (name, tensor) in tensors {
        let start = end;
        end += tensor.data.len();
        let entry =
            json!({"dtype": tensor.dtype.to_string(), "shape": tensor.shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' '); // so that the data is aligned
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for (_, tensor) in tensors {
        file.write_all(&tensor.data)?;
    }
    file.into_inner().map_err(|e| e.into_error())?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Directory, StateDict};

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let tensors = vec![
            ("b".to_string(), HostTensor::from_f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0])),
            ("a".to_string(), HostTensor::from_f32(&[1], &[5.0])),
        ];
        write_safetensors(&dir.path().join("model.safetensors"), &tensors).unwrap();
        let state_dict = StateDict::open(&Directory::Disk(dir.path().into())).unwrap();
        assert!(state_dict.tensors().eq(tensors));
        let e = write_safetensors(&dir.path().join("absent/x.safetensors"), &[]).unwrap_err().to_string();
        assert!(e.contains("absent/x.safetensors"), "{e}");
    }
}
