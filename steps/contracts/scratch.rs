//! A directory for a contract's checkpoint, gone when it is dropped.

use super::Outcome;
use serde_json::{Map, Value, json};
use stairwell::{checkpoint::Directory, demo};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// A new, empty directory among the system's temporary files.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> io::Result<Scratch> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("stairwell-contract-{}-{number}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Scratch(path))
    }

    /// The demo checkpoint's files.
    pub fn demo() -> Outcome<Scratch> {
        let scratch = Scratch::new()?;
        let demo = demo::directory();
        for file in demo.list()? {
            scratch.write(&file, &demo.read(&file)?.unwrap_or_default())?;
        }
        Ok(scratch)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn directory(&self) -> Directory {
        Directory::Disk(self.0.clone())
    }

    pub fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        fs::write(self.0.join(file), bytes)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // it is the system's to clean otherwise
    }
}

/// A safetensors file of U8 tensors, laid out as hostilely as the format allows: the data in reverse order of the names,
/// and a header without padding, so that the data starts at an odd address.
pub(super) fn awkward_shard(tensors: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    for (name, bytes) in tensors.iter().rev() {
        let start = data.len();
        data.extend(bytes);
        let entry = json!({"dtype": "U8", "shape": [bytes.len()], "data_offsets": [start, data.len()]});
        header.insert((*name).into(), entry);
    }
    let mut header = Value::Object(header).to_string();
    if header.len().is_multiple_of(2) {
        header.push(' ');
    }
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}
