//! Answers to the exercises of chapter 1: `cargo test --test solution1`.

use crate::contracts::{self, NameMapper, Outcome, Resumer, Server, SnapshotFinder, TensorReader, step1};
use serde_json::Value;
use stairwell::backend::cpu::Kernels;
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

// 1. RMSNorm ------------------------------------------------------------------------------------------------------------

pub struct MyRmsNorm;

impl Kernels for MyRmsNorm {
    fn rms_norm(&self, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let mean_square = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
        let root = (mean_square + eps).sqrt();
        for i in 0..x.len() {
            out[i] = x[i] / root * weight[i];
        }
    }
}

#[test]
fn rms_norm() {
    step1::rms_norm(&MyRmsNorm);
}

#[test]
fn rms_norm_tells_the_story() {
    step1::tells_the_demo_story(MyRmsNorm);
}

// 2. RoPE ---------------------------------------------------------------------------------------------------------------

pub struct MyRotateHalf;

impl Kernels for MyRotateHalf {
    fn rotate_half(&self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        let half = head.len() / 2;
        for i in 0..half {
            let (a, b) = (head[i], head[i + half]); // both, before either is overwritten
            head[i] = a * cos[i] - b * sin[i];
            head[i + half] = b * cos[i] + a * sin[i];
        }
    }
}

#[test]
fn rotate_half() {
    step1::rotate_half(&MyRotateHalf);
}

#[test]
fn rotate_half_tells_the_story() {
    step1::tells_the_demo_story(MyRotateHalf);
}

// 3. Head sharing -------------------------------------------------------------------------------------------------------

pub struct MyKvHead;

impl Kernels for MyKvHead {
    fn kv_head(&self, head: usize, heads: usize, kv_heads: usize) -> usize {
        let group = heads / kv_heads;
        head / group
    }
}

#[test]
fn kv_head() {
    step1::kv_head(&MyKvHead);
}

#[test]
fn kv_head_tells_the_story() {
    step1::tells_the_demo_story(MyKvHead);
}

// 4. A tensor's bytes ---------------------------------------------------------------------------------------------------

pub struct MyTensorReader;

impl TensorReader for MyTensorReader {
    fn read(&self, directory: &Path, name: &str) -> Outcome<Vec<u8>> {
        let index: Value =
            serde_json::from_slice(&fs::read(directory.join("model.safetensors.index.json"))?)?;
        let shard = index["weight_map"][name].as_str().ok_or_else(|| format!("the index has no '{name}'"))?;

        let mut file = File::open(directory.join(shard))?;
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        let mut header = Vec::new();
        file.by_ref().take(length).read_to_end(&mut header)?;
        let header: Value = serde_json::from_slice(&header)?;

        let [start, end] = serde_json::from_value(header[name]["data_offsets"].clone())?;
        let size: u64 = u64::checked_sub(end, start).ok_or("the offsets are reversed")?;
        file.seek(SeekFrom::Start(8 + length + start))?;
        let mut bytes = Vec::new();
        file.take(size).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

#[test]
fn tensor_reader() {
    step1::tensor_reader(&MyTensorReader);
}

#[test]
fn tensor_reader_tells_the_story() {
    step1::tensor_reader_tells_the_story(&MyTensorReader);
}

// 5. A weights mapper ---------------------------------------------------------------------------------------------------

pub struct MyNameMapper;

impl NameMapper for MyNameMapper {
    fn map(&self, name: &str) -> Option<String> {
        let name = name.strip_prefix("module.").unwrap_or(name).replace("_orig_mod.", "");
        if name.starts_with("v_head.") {
            return None;
        }
        match name.strip_suffix(".gamma") {
            Some(rest) => Some(format!("{rest}.weight")),
            None => Some(name),
        }
    }
}

#[test]
fn name_mapper() {
    step1::name_mapper(&MyNameMapper);
}

#[test]
fn name_mapper_tells_the_story() {
    step1::name_mapper_tells_the_story(&MyNameMapper);
}

// 6. A name in the cache ------------------------------------------------------------------------------------------------

pub struct MySnapshotFinder;

impl SnapshotFinder for MySnapshotFinder {
    fn find(&self, cache: &Path, repository: &str, revision: &str) -> Outcome<PathBuf> {
        let model = cache.join(format!("models--{}", repository.replace('/', "--")));
        // A branch or a tag is a file that holds the commit; without such a file, the revision must be the commit itself.
        let commit = fs::read_to_string(model.join("refs").join(revision)).unwrap_or(revision.into());
        let snapshot = model.join("snapshots").join(commit);
        match snapshot.is_dir() {
            true => Ok(snapshot),
            false => Err(format!("the cache has no {repository} at '{revision}'").into()),
        }
    }
}

#[test]
fn snapshot_finder() {
    step1::snapshot_finder(&MySnapshotFinder);
}

#[test]
fn snapshot_finder_tells_the_story() {
    step1::snapshot_finder_tells_the_story(&MySnapshotFinder);
}

// 7. A download that goes on --------------------------------------------------------------------------------------------

pub struct MyResumer;

impl Resumer for MyResumer {
    fn complete(&self, server: &mut dyn Server, part: &Path, size: u64, sha256: &str) -> Outcome<()> {
        let mut bytes = fs::read(part).unwrap_or_default();
        if bytes.len() as u64 > size {
            bytes.clear();
        }
        let mut inherited = !bytes.is_empty();
        loop {
            fetch(server, part, &mut bytes, size)?;
            if contracts::sha256(&bytes) == sha256 {
                return Ok(());
            }
            if !inherited {
                fs::remove_file(part)?;
                return Err("the file that came has another hash".into());
            }
            // Perhaps what the earlier process left was damaged: fetch everything once more.
            (inherited, bytes) = (false, Vec::new());
        }
    }
}

/// Asks until `size` bytes are there. What came is written after each answer, so that it survives this process.
fn fetch(server: &mut dyn Server, part: &Path, bytes: &mut Vec<u8>, size: u64) -> Outcome<()> {
    let (mut longest, mut in_vain) = (bytes.len(), 0);
    while (bytes.len() as u64) < size {
        let from = bytes.len() as u64;
        let answer = server.get(from);
        match (answer.status, answer.start) {
            (206, Some(start)) if start == from => bytes.extend(answer.body),
            (200, _) => *bytes = answer.body,
            _ => {}
        }
        fs::write(part, &bytes)?;
        if bytes.len() > longest {
            (longest, in_vain) = (bytes.len(), 0);
            continue;
        }
        in_vain += 1;
        if in_vain == 5 {
            return Err(format!("five answers brought nothing new; {from} of {size} bytes are there").into());
        }
    }
    Ok(())
}

#[test]
fn resumer() {
    step1::resumer(&MyResumer);
}

#[test]
fn resumer_tells_the_story() {
    step1::resumer_tells_the_story(&MyResumer);
}
