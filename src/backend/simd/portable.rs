//! Registers of four floats as arrays, which every CPU has: SSE2 on x86-64, NEON on aarch64.

use super::{F32, Simd};

/// The token of the instructions that every CPU of this architecture has.
#[derive(Clone, Copy)]
pub struct Portable;

/// Four lanes. As a type of its own, and not an array that loops index, it stays in its register.
#[derive(Clone, Copy)]
pub struct Lanes([f32; 4]);

impl Simd<4> for Portable {
    type Number = f32;
    type Register = Lanes;
    type Sums = Lanes;

    #[inline(always)]
    fn zero(self) -> Lanes {
        Lanes([0.0; 4])
    }

    #[inline(always)]
    fn load(self, numbers: &[f32; 4]) -> Lanes {
        Lanes(*numbers)
    }

    #[inline(always)]
    fn store(self, register: Lanes, numbers: &mut [f32; 4]) {
        *numbers = register.0;
    }

    #[inline(always)]
    fn multiply_add(self, sums: Lanes, x: Lanes, w: Lanes) -> Lanes {
        // One by one: `array::from_fn` stays a call in a build for tests, and a product takes seven times as long there.
        let lane = |l: usize| self.multiply_add_one(w.0[l], x.0[l], sums.0[l]);
        Lanes([lane(0), lane(1), lane(2), lane(3)])
    }

    #[inline(always)]
    fn finish<const N: usize>(self, sums: [Lanes; N]) -> [f32; N] {
        sums.map(|Lanes([a, b, c, d])| (a + c) + (b + d))
    }
}

impl F32<4> for Portable {
    /// aarch64 always has NEON's fused multiply-add.
    const FUSED: bool = cfg!(target_arch = "aarch64");
}
