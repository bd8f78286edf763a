//! Multiplications of f32, for every instruction set: portable, AVX2, AVX-512.
//!
//! Written once over arrays of L numbers; `dispatch!` compiles it for each set, and the compiler makes vector instructions of it.

use super::{
    super::isa::{Lanes, Shape},
    tile::Sums,
};
use std::marker::PhantomData;

/// L sums, in lanes of one register.
pub struct F32Lanes<S, const L: usize>(Lanes<L>, PhantomData<S>);

impl<S, const L: usize> Copy for F32Lanes<S, L> {}
impl<S, const L: usize> Clone for F32Lanes<S, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Shape, const L: usize> Sums<L> for F32Lanes<S, L> {
    type Number = f32;

    #[inline(always)]
    fn zero() -> Self {
        F32Lanes(Lanes::ZERO, PhantomData)
    }

    #[inline(always)]
    fn multiply_add(self, x: &[f32; L], w: &[f32; L]) -> Self {
        F32Lanes(self.0.multiply_add::<S>(w, x), PhantomData)
    }

    #[inline(always)]
    fn finish<const N: usize>(sums: [Self; N]) -> [f32; N] {
        sums.map(|sum| sum.0.sum())
    }
}
