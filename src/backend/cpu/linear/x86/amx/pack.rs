//! Rows of W side by side, as the operand a.

use crate::backend::simd::amx::{Line, SIDE, Walk};
use crate::{backend::cpu::linear::stored::Rows, backend::cpu::linear::tasks::Out};
use std::{arch::x86_64::*, ops::Range};

/// Outputs of a panel of W: two tiles.
pub const PANEL: usize = 2 * SIDE;

/// Copies a panel of 32 rows of W, or what is there of them, over a range of steps: [step][32 rows][32 numbers], two tiles of a for each step.
/// Rows that lie a power of two apart share few places of the first cache; copied, they do not.
#[inline(always)]
pub fn pack(w: &Rows, rows: Range<usize>, steps: Range<usize>, lines: &mut [Line]) -> Walk {
    for i in 0..PANEL {
        let row = if i < rows.len() { w.row(rows.start + i) } else { &[] };
        let places = lines[i..].iter_mut().step_by(PANEL);
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
    Walk { start: lines.as_ptr().cast(), stride: 64, step: PANEL * 64 }
}

impl Out<'_> {
    /// Writes the first `count` of two registers into a row: [`Out::write`] from registers.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn write_lines(&self, row: usize, values: [__m512i; 2]) {
        let (to, mask) = (self.row(row), (1u64 << self.count.min(32)) - 1);
        // SAFETY: the masks let `count` numbers be written, which are inside the tensor; see `write`.
        unsafe {
            _mm512_mask_storeu_epi32(to.cast(), mask as u16, values[0]);
            _mm512_mask_storeu_epi32(to.wrapping_add(16).cast(), (mask >> 16) as u16, values[1]);
        }
    }
}
