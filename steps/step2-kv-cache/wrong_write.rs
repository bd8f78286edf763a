//! Wrong answers to the first exercise of chapter 2.

use crate::contracts::step2::KvCache;

/// One token's memory for all of them.
pub struct OverwritesPosition0;

impl KvCache for OverwritesPosition0 {
    fn write(&self, k_cache: &mut [f32], v_cache: &mut [f32], _place: usize, k: &[f32], v: &[f32]) {
        k_cache[..k.len()].copy_from_slice(k);
        v_cache[..v.len()].copy_from_slice(v);
    }
}

/// Counts elements where the place counts tokens.
pub struct WithoutWidth;

impl KvCache for WithoutWidth {
    fn write(&self, k_cache: &mut [f32], v_cache: &mut [f32], place: usize, k: &[f32], v: &[f32]) {
        k_cache[place..][..k.len()].copy_from_slice(k);
        v_cache[place..][..v.len()].copy_from_slice(v);
    }
}

/// V of every position stays zero.
pub struct ForgetsV;

impl KvCache for ForgetsV {
    fn write(&self, k_cache: &mut [f32], _v_cache: &mut [f32], place: usize, k: &[f32], _v: &[f32]) {
        k_cache[place * k.len()..][..k.len()].copy_from_slice(k);
    }
}
