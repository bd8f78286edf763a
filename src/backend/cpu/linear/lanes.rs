//! Multiplications of f32 on any CPU: arrays of L numbers, of which the compiler makes vector instructions. On aarch64 these are NEON's,
//! which every such CPU has.

use super::{
    super::isa::{Lanes, Shape},
    stored::{Bf16, F16, F32},
    tile::{Reads, Sums},
};
use crate::tensor::f16_to_f32;
use std::marker::PhantomData;

/// L sums, in lanes of one register.
pub struct F32Lanes<S, const L: usize>(pub(super) Lanes<L>, pub(super) PhantomData<S>);

impl<S, const L: usize> Copy for F32Lanes<S, L> {}
impl<S, const L: usize> Clone for F32Lanes<S, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Shape, const L: usize> Sums<L> for F32Lanes<S, L> {
    type Number = f32;
    type Register = [f32; L];

    #[inline(always)]
    fn zero() -> Self {
        F32Lanes(Lanes::ZERO, PhantomData)
    }

    #[inline(always)]
    fn load(numbers: &[f32; L]) -> [f32; L] {
        *numbers
    }

    #[inline(always)]
    fn store(register: [f32; L], numbers: &mut [f32; L]) {
        *numbers = register;
    }

    #[inline(always)]
    fn multiply_add(self, x: [f32; L], w: [f32; L]) -> Self {
        F32Lanes(self.0.multiply_add::<S>(&w, &x), PhantomData)
    }

    #[inline(always)]
    fn finish<const N: usize>(sums: [Self; N]) -> [f32; N] {
        sums.map(|sum| sum.0.sum())
    }
}

impl<S: Shape, const L: usize> Reads<F32, 4, L> for F32Lanes<S, L> {
    const AS_STORED: bool = true;

    #[inline(always)]
    fn read(weights: &[[u8; 4]; L]) -> [f32; L] {
        std::array::from_fn(|l| f32::from_le_bytes(weights[l]))
    }
}

impl<S: Shape, const L: usize> Reads<Bf16, 2, L> for F32Lanes<S, L> {
    #[inline(always)]
    fn read(weights: &[[u8; 2]; L]) -> [f32; L] {
        std::array::from_fn(|l| f32::from_bits(u32::from(u16::from_le_bytes(weights[l])) << 16))
    }
}

impl<S: Shape, const L: usize> Reads<F16, 2, L> for F32Lanes<S, L> {
    #[inline(always)]
    fn read(weights: &[[u8; 2]; L]) -> [f32; L] {
        std::array::from_fn(|l| f16_to_f32(u16::from_le_bytes(weights[l])))
    }
}
