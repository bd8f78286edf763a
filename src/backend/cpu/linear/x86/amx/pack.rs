//! Rows of W side by side, as operands a.

use super::super::weights;
use crate::backend::cpu::linear::tasks::Out;
use crate::backend::{
    Slice,
    simd::amx::{Line, SIDE, Walk},
};
use std::{arch::x86_64::*, ops::Range};

/// Copies 32 rows of W, or what is there of them, over a range of steps: [step][32 rows][32 numbers], an operand a and another. Rows that
/// lie a power of two apart share few places of the first cache; copied, they do not.
#[inline(always)]
pub fn copy_strip(slice: &Slice, rows: Range<usize>, steps: Range<usize>, lines: &mut [Line]) {
    for i in 0..2 * SIDE {
        let row = if i < rows.len() { weights::row(slice, rows.start + i) } else { &[] };
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

impl Out<'_> {
    /// Writes the first `count` of two registers into a row: [`Out::write`] from registers.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn write_lines(&self, row: usize, values: [__m512i; 2]) {
        assert!(row < self.y.rows && self.column + self.count <= self.y.cols);
        let mask = (1u64 << self.count.min(32)) - 1;
        // SAFETY: inside the tensor by the line above, as the mask lets `count` numbers be written; see `write`.
        unsafe {
            let to = self.y.start.add(row * self.y.cols + self.column);
            _mm512_mask_storeu_epi32(to.cast(), mask as u16, values[0]);
            _mm512_mask_storeu_epi32(to.wrapping_add(16).cast(), (mask >> 16) as u16, values[1]);
        }
    }
}
