//! Answers to the exercises of chapter 1: `cargo test --test solution1`.

use crate::contracts::{NameMapper, Outcome, TensorReader, step1};
use serde_json::Value;
use stairwell::backend::cpu::Kernels;
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::Path,
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
