//! `--load-format dummy`: random weights of the right shapes, so that any config can be run with no weights.
//!
//! As in vLLM (`DummyModelLoader`): uniform in ±0.001, from a fixed seed, each parameter by itself, so values do not depend on
//! the order of loading.

use super::{CheckpointError, Result};
use crate::memory::large_pages;
use crate::tensor::{Bytes, DType, HostTensor};
use memmap2::MmapMut;
use rayon::prelude::*;
use std::sync::Arc;

/// Elements of one chunk; each chunk has its own generator, so chunks can be made on all cores.
const CHUNK: usize = 1 << 16;

/// Whether there is memory for so many bytes at all. The system would promise more than it has, and end the process later.
///
/// # Errors
/// [`CheckpointError::NoMemory`].
pub fn check_memory(bytes: usize) -> Result<()> {
    memory(bytes).map(drop)
}

/// A random tensor that depends on its name, shape and dtype only. `dtype` is a weight dtype.
///
/// # Errors
/// [`CheckpointError::NoMemory`].
pub fn dummy_tensor(name: &str, dtype: DType, shape: &[usize]) -> Result<HostTensor> {
    let seed =
        name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3));
    let n = shape.iter().product::<usize>() * dtype.bytes();
    let mut bytes = memory(n)?;
    bytes[..n].par_chunks_mut(CHUNK * dtype.bytes()).enumerate().for_each(|(i, chunk)| {
        let mut state = seed.wrapping_add(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for element in chunk.chunks_exact_mut(dtype.bytes()) {
            write(dtype, uniform(&mut state), element);
        }
    });
    Ok(HostTensor { dtype, shape: shape.to_vec(), data: Bytes::new(Arc::new(bytes), 0..n) })
}

/// At least n bytes, on large pages where the system has them.
pub(super) fn memory(n: usize) -> Result<MmapMut> {
    large_pages(n).map_err(|error| CheckpointError::NoMemory { bytes: n, error })
}

/// The next value in ±0.001 (xorshift64, Marsaglia 2003).
fn uniform(state: &mut u64) -> f32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    ((*state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 1e-3
}

fn write(dtype: DType, value: f32, out: &mut [u8]) {
    match dtype {
        DType::F32 => out.copy_from_slice(&value.to_le_bytes()),
        DType::F16 => out.copy_from_slice(&half::f16::from_f32(value).to_le_bytes()),
        _ => out.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_memory_is_an_error() {
        let said = check_memory(1 << 48).unwrap_err().to_string();
        assert!(said.contains("281474976710656 bytes"), "{said}");
        check_memory(1 << 20).unwrap();
    }

    #[test]
    fn values_are_small_varied_and_the_same_every_time() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let dummy = |name| dummy_tensor(name, dtype, &[300, 300]).unwrap().to_f32();
            let values = dummy("a.weight");
            assert!(values.iter().all(|v| v.abs() <= 1.01e-3));
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            let spread = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
            assert!(mean.abs() < 1e-5 && (spread - 1e-6 / 3.0).abs() < 1e-8, "{mean} {spread}");
            assert_eq!(values, dummy("a.weight"));
            assert_ne!(values, dummy("b.weight"));
        }
    }
}
