//! Below step 9 there are no packed weights, and so no products of integers.

use super::super::{Cpu, CpuWeight};
use super::{Part, tasks::Columns};

/// Whether this build has these products.
pub const HAS: bool = false;

/// Whether a part has a product of integers.
pub fn multiplies(_: &Part) -> bool {
    false
}

/// No product is asked for.
pub fn product(_: &Cpu, _: &[f32], _: &CpuWeight, _: usize, _: &[Columns]) {}
