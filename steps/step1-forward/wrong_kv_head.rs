//! Wrong answers to the third exercise of chapter 1.

use stairwell::backend::cpu::Kernels;

/// Deals the KV heads out like cards. A group's query heads are neighbours instead.
pub struct HeadModuloKvHeads;

impl Kernels for HeadModuloKvHeads {
    fn kv_head(&self, head: usize, _heads: usize, kv_heads: usize) -> usize {
        head % kv_heads
    }
}

/// Right for multi-query attention, where there is one head of K and V.
pub struct OneForAll;

impl Kernels for OneForAll {
    fn kv_head(&self, _head: usize, _heads: usize, _kv_heads: usize) -> usize {
        0
    }
}
