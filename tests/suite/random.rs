//! Random work for kernels, and what is near enough to f64.
#![allow(dead_code)] // each test file uses a part of it

use stairwell::{
    backend::{Backend, cuda::Cuda},
    tensor::DType,
};

/// Numbers that look random and are the same on every machine (Knuth's MMIX generator).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
    /// low..=high
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() * (high - low + 1) as f64) as usize
    }
    pub fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.between(0, values.len() - 1)]
    }
    pub fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() * 4.0 - 2.0) as f32).collect()
    }
}

pub const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// A number as a dtype holds it.
pub fn rounded(dtype: DType, x: f32) -> f32 {
    match dtype {
        DType::BF16 => half::bf16::from_f32(x).to_f32(),
        DType::F16 => half::f16::from_f32(x).to_f32(),
        _ => x,
    }
}

/// Panics unless all are near: |got − want| ≤ tolerance · (1 + |want|).
pub fn near(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let distance = (f64::from(*got) - want).abs();
        assert!(distance <= tolerance * (1.0 + want.abs()), "{what}: number {i} is {got}, expected {want}");
    }
}

pub fn download(cuda: &Cuda, x: &<Cuda as Backend>::Tensor) -> Vec<f32> {
    cuda.download(x).unwrap()
}
