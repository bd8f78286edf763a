//! Below step 9 no weight is packed.

use super::super::{Cpu, CpuWeight, packed::PackedPart, stored::Part, tasks::Task};
use super::pack::Panels;
use crate::backend::simd::F32;

/// Registers of L floats; C of them would be a chunk of codes.
pub trait Widens<const L: usize, const C: usize>: F32<L> {}
impl<T: F32<L>, const L: usize, const C: usize> Widens<L, C> for T {}

/// x in another order of its columns: none is needed.
pub struct Gathered;

impl Gathered {
    pub fn new(_: &Cpu, _: &[f32], _: usize, _: &CpuWeight) -> Gathered {
        Gathered
    }

    pub fn panels(&self, _: &Part) -> Option<Panels<'_, f32>> {
        None
    }
}

/// Whether a part has a product here.
pub fn has_product(part: &Part) -> bool {
    matches!(part, Part::Dense(_))
}

/// The outputs of a task of a packed part.
pub fn task<T, const L: usize, const C: usize>(_: T, _: &Task, _: &PackedPart, _: &Panels<f32>) {}
