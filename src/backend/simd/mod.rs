//! Vector registers: one trait, and a copy of each hot loop for every instruction set that it is compiled for.
//!
//! A hot loop is written once, over a [`Simd`] token. The token is the proof that this CPU has the instructions: the only way to get
//! one is `Avx2::new()`, which asks the CPU first. So a function that takes a token may use its instructions, and no function has to
//! trust its caller; `amx::Amx` is the token of the tile registers. `dispatch!` picks the copy of a loop at run time.
//!
//! Below step 4 there is one copy, [`Portable`], and the compiler makes what it can of arrays of four floats. The x86 copies come
//! with the chapter that teaches them, 4b.

#[cfg(not(all(feature = "step4", target_arch = "x86_64")))]
#[path = "portable_only.rs"]
mod copies;
#[cfg(all(feature = "step4", target_arch = "x86_64"))]
#[path = "x86/mod.rs"]
mod copies;
mod dot;
mod exp;
mod isa;
mod portable;

pub(crate) use copies::*;
pub(crate) use dot::{add_scaled, dot, dots};
pub(crate) use exp::exp;
pub use isa::Isa;
pub use portable::Portable;

// ANCHOR: simd
/// Registers of W numbers, and sums of their products. A value of such a type proves that this CPU has the instructions.
///
/// So the methods are safe: each of them takes the token, and without the instructions there is no token to call it with. All of them are
/// inlined into the loop that calls them, which is compiled for the instruction set (`dispatch!`).
pub trait Simd<const W: usize>: Copy {
    /// A number in memory: f32, or the bits of a bf16.
    type Number: Copy + Default;
    /// W numbers.
    type Register: Copy;
    /// Sums of products in f32, one a lane.
    type Sums: Copy;
    /// All sums zero.
    fn zero(self) -> Self::Sums;
    /// Reads W numbers, at any alignment.
    fn load(self, numbers: &[Self::Number; W]) -> Self::Register;
    /// Writes W numbers.
    fn store(self, register: Self::Register, numbers: &mut [Self::Number; W]);
    /// Adds the products x · w, each to its lane.
    fn multiply_add(self, sums: Self::Sums, x: Self::Register, w: Self::Register) -> Self::Sums;
    /// The sum over the lanes of each register. Lanes are added by halves, so that every caller adds in the same order.
    fn finish<const N: usize>(self, sums: [Self::Sums; N]) -> [f32; N];
}

/// Registers of f32, which hold sums too.
pub trait F32<const L: usize>: Simd<L, Number = f32, Sums = <Self as Simd<L>>::Register> {
    /// Whether multiply-add is one instruction that rounds once. Without it `f32::mul_add` would call a slow function.
    const FUSED: bool;

    /// a · b + c, of single numbers.
    #[inline(always)]
    fn multiply_add_one(self, a: f32, b: f32, c: f32) -> f32 {
        if Self::FUSED { a.mul_add(b, c) } else { a * b + c }
    }
}
// ANCHOR_END: simd

/// Numbers that do not fill a register, and `zero` in the other places.
#[inline(always)]
pub(crate) fn filled_up<T: Copy, const W: usize>(rest: &[T], zero: T) -> [T; W] {
    let mut register = [zero; W];
    register[..rest.len()].copy_from_slice(rest);
    register
}
