//! Below step 4, and on CPUs that are not x86-64, no attention is faster than the plain one.

use super::vectors::{Queries, Segment};
use crate::backend::cpu::Cpu;

/// Working space: none.
#[derive(Default)]
pub struct Scratch;

/// Whether a faster attention than the plain one was computed; the arguments are those of `attend_group`.
pub fn attend<'a>(
    _: &Cpu,
    _: &Queries,
    _: impl Iterator<Item = Segment<'a>>,
    _: &mut Scratch,
    _: &mut [f32],
) -> bool {
    false
}

/// How many rows attend together, if a faster attention has a wish.
pub fn rows_together(_: &Cpu, _: usize) -> Option<usize> {
    None
}
