//! Checksums of a checkpoint: one hash a tensor, and one digest over all.

use super::StateDict;
use crate::tensor::HostTensor;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// SHA-256 in hexadecimal.
#[derive(Clone, Debug, PartialEq)]
pub struct Checksums {
    /// Name → hash of dtype, shape and bytes. Independent of the sharding.
    pub tensors: BTreeMap<String, String>,
    /// Hash over the sorted names and hashes.
    pub digest: String,
}

/// Reads every tensor and hashes it, on all cores. `done` is told the bytes after each tensor.
pub fn checksums(state_dict: &StateDict, done: impl Fn(u64) + Sync) -> Checksums {
    let all: Vec<(String, HostTensor)> = state_dict.tensors().collect();
    let hash = |(name, tensor): (String, HostTensor)| {
        let head = format!("{} {:?}\n", tensor.dtype, tensor.shape);
        let hash = hex(Sha256::new().chain_update(head).chain_update(&*tensor.data));
        done(tensor.data.len() as u64);
        (name, hash)
    };
    let tensors: BTreeMap<String, String> = all.into_par_iter().map(hash).collect();
    let lines = tensors.iter().map(|(name, hash)| format!("{name} {hash}\n"));
    let digest = hex(lines.fold(Sha256::new(), |sha, line| sha.chain_update(line)));
    Checksums { tensors, digest }
}

/// A hash in hexadecimal.
pub fn hex(sha: Sha256) -> String {
    sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
