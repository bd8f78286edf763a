//! The exercises of chapter 1. Write the bodies that say `stub!`, then run
//!
//!     cargo test --test exercise1              all of them
//!     cargo test --test exercise1 rms_norm     one of them
//!
//! Each exercise has a contract, which says what is wrong, and a story: the engine runs the demo model with your piece in it.
//! Answers: solution.rs, beside this file.
#![allow(unused_variables)] // the parameters of what is not written yet

use crate::contracts::stub;
use crate::contracts::{NameMapper, Outcome, Resumer, Server, SnapshotFinder, TensorReader, step1};
use stairwell::backend::cpu::Kernels;
use std::path::{Path, PathBuf};

// 1. RMSNorm ------------------------------------------------------------------------------------------------------------

pub struct MyRmsNorm;

impl Kernels for MyRmsNorm {
    /// All of length n. `out` holds old values: overwrite them.
    fn rms_norm(&self, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        stub!(
            "write x / √(mean(x²) + eps) · weight into out; read \"RMSNorm\" in steps/step1-forward/README.md"
        )
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
    /// `head` has d elements, `cos` and `sin` have d/2: one angle for each pair.
    fn rotate_half(&self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        stub!(
            "turn each pair (head[i], head[i + d/2]) by its angle; read \"RoPE\" in steps/step1-forward/README.md"
        )
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
    /// `head` is in 0..heads; `kv_heads` divides `heads`.
    fn kv_head(&self, head: usize, heads: usize, kv_heads: usize) -> usize {
        stub!(
            "return the head of K and V that this query head reads; read \"Head sharing\" in steps/step1-forward/README.md"
        )
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
    /// Use std::fs and serde_json, and `?` for what can go wrong. `Err("…".into())` is an error of your own.
    fn read(&self, directory: &Path, name: &str) -> Outcome<Vec<u8>> {
        stub!(
            "find the shard in the index, the range in its header, and return those bytes; read \"Header to byte range\" in steps/step1-forward/loading.md"
        )
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
    /// In this order: a leading `module.` goes; `_orig_mod.` goes wherever it stands; a tensor whose name now starts with
    /// `v_head.` is dropped; a last `.gamma` becomes `.weight`.
    fn map(&self, name: &str) -> Option<String> {
        stub!(
            "apply the four rules to the name, None for a dropped tensor; read \"Name to parameter\" in steps/step1-forward/loading.md"
        )
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
    /// `repository` is ORG/NAME; its folder in `cache` is called models--ORG--NAME.
    fn find(&self, cache: &Path, repository: &str, revision: &str) -> Outcome<PathBuf> {
        stub!(
            "ask refs/ for the commit and return its folder in snapshots/; read \"From a name to a commit\" in steps/step1-forward/loading.md"
        )
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
    /// `contracts::sha256` hashes bytes. Five tries in a row that bring nothing are enough to give up.
    fn complete(&self, server: &mut dyn Server, part: &Path, size: u64, sha256: &str) -> Outcome<()> {
        stub!(
            "ask for the bytes that are missing until all are there, then check the hash; read \"Right or not at all\" in steps/step1-forward/loading.md"
        )
    }
}

#[test]
fn resumer() {
    step1::resumer(&MyResumer);
}

#[test]
fn resumer_tells_the_story() {
    step1::resumer_tells_the_story(&MyResumer);
}
