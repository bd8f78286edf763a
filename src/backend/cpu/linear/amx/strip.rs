//! Rows of W side by side, as operands a.

use super::super::stored;
use crate::backend::{
    Slice,
    cpu::tiles::{Line, SIDE, Walk},
};
use std::ops::Range;

/// Copies 32 rows of W, or what is there of them, over a range of steps: [step][32 rows][32 numbers], an operand a and another. Rows that
/// lie a power of two apart share few places of the first cache; copied, they do not.
#[inline(always)]
pub fn copy_strip(slice: &Slice, rows: Range<usize>, steps: Range<usize>, lines: &mut [Line]) {
    for i in 0..2 * SIDE {
        let row = if i < rows.len() { stored::row(slice, rows.start + i) } else { &[] };
        let places = lines[i..].iter_mut().step_by(2 * SIDE);
        for (place, step) in places.zip(steps.clone()) {
            let at = (step * 64).min(row.len());
            match row[at..].first_chunk() {
                Some(numbers) => place.0 = *numbers,
                None => {
                    *place = Line::ZERO;
                    place.0[..row.len() - at].copy_from_slice(&row[at..]);
                }
            }
        }
    }
}

/// How the tiles walk along a copied strip.
pub fn walk(lines: &[Line]) -> Walk {
    let start = |tile: usize| lines[tile * SIDE..].as_ptr().cast();
    Walk { start: [start(0), start(1)], stride: 64, step: 2 * SIDE * 64 }
}
