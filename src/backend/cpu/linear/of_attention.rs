//! What attention asks of the variants of f32: the same registers, for sums that begin and end as numbers in memory.

#[cfg(target_arch = "x86_64")]
use super::{
    super::isa::{Avx2Shape, Avx512Shape},
    avx2::Avx2,
    avx512::Avx512,
};
use super::{
    super::isa::{Lanes, PortableShape, Shape},
    lanes::F32Lanes,
    tile::Sums,
};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// The variant that goes with a shape, for loops that `dispatch!` compiles.
pub trait Tiles<const L: usize>: Shape {
    type Sums: F32Sums<L>;
    /// Queries whose sums with four others the registers hold: 2 or 4.
    const QUERIES: usize;
}
impl Tiles<4> for PortableShape {
    const QUERIES: usize = super::NARROW;
    type Sums = F32Lanes<PortableShape, 4>;
}
#[cfg(target_arch = "x86_64")]
impl Tiles<8> for Avx2Shape {
    const QUERIES: usize = 2;
    type Sums = Avx2;
}
#[cfg(target_arch = "x86_64")]
impl Tiles<16> for Avx512Shape {
    const QUERIES: usize = 4;
    type Sums = Avx512;
}

/// Sums of products of f32.
pub trait F32Sums<const W: usize>: Sums<W, Number = f32> {
    /// A number in every lane.
    fn splat(number: f32) -> Self::Register;
    /// Sums so far.
    fn of(register: Self::Register) -> Self;
    /// The sums, lane by lane.
    fn register(self) -> Self::Register;
}

impl<S: Shape, const L: usize> F32Sums<L> for F32Lanes<S, L> {
    #[inline(always)]
    fn splat(number: f32) -> [f32; L] {
        [number; L]
    }

    #[inline(always)]
    fn of(register: [f32; L]) -> Self {
        F32Lanes(Lanes::of(register), PhantomData)
    }

    #[inline(always)]
    fn register(self) -> [f32; L] {
        self.0.numbers()
    }
}

#[cfg(target_arch = "x86_64")]
impl F32Sums<8> for Avx2 {
    #[inline(always)]
    fn splat(number: f32) -> __m256 {
        // SAFETY: the CPU has AVX2, see the type.
        unsafe { _mm256_set1_ps(number) }
    }

    #[inline(always)]
    fn of(register: __m256) -> Self {
        Avx2(register)
    }

    #[inline(always)]
    fn register(self) -> __m256 {
        self.0
    }
}

#[cfg(target_arch = "x86_64")]
impl F32Sums<16> for Avx512 {
    #[inline(always)]
    fn splat(number: f32) -> __m512 {
        // SAFETY: the CPU has AVX-512, see the type.
        unsafe { _mm512_set1_ps(number) }
    }

    #[inline(always)]
    fn of(register: __m512) -> Self {
        Avx512(register)
    }

    #[inline(always)]
    fn register(self) -> __m512 {
        self.0
    }
}
