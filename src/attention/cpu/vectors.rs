//! What meets: queries, and vectors of K and V as a cache keeps them; and how some of these are read as f32.

use float8::F8E4M3;
use half::{bf16, f16, slice::HalfFloatSliceExt};
use std::sync::LazyLock;

/// Vectors of K or V that are taken together, widened if they must be.
pub(super) const PIECE: usize = 16;

/// Vectors of K or V as they are kept, one after the other.
#[derive(Clone, Copy)]
pub enum Kept<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
    /// Codes of e4m3, and for each vector what they are multiplied with.
    Fp8 {
        codes: &'a [u8],
        scales: &'a [f32],
    },
}

/// K and V of one head at neighbouring positions.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    pub k: Kept<'a>,
    pub v: Kept<'a>,
    /// Vectors from one position to the next: those of the other heads lie between.
    pub stride: usize,
    /// Positions.
    pub len: usize,
}

/// Query heads that share a head of K and V, of some tokens that follow each other.
#[derive(Clone, Copy)]
pub struct Queries<'a> {
    /// [rows · group, head_dim]
    pub q: &'a [f32],
    pub head_dim: usize,
    /// Tokens.
    pub rows: usize,
    /// How many keys the last row sees; the one before it sees one less, and so on.
    pub keys: usize,
    /// Factor on the scores.
    pub scale: f32,
}

/// Some vectors as f32, `step` numbers apart.
pub(super) struct Piece<'a> {
    numbers: &'a [f32],
    step: usize,
    pub(super) len: usize,
}

impl Piece<'_> {
    #[inline(always)]
    pub(super) fn vector(&self, number: usize, d: usize) -> &[f32] {
        &self.numbers[number * self.step..][..d]
    }
}

impl Kept<'_> {
    /// Up to 16 vectors of a segment from number `start`: in place, or widened into `wide`.
    #[inline(always)]
    pub(super) fn piece<'a>(
        &'a self,
        start: usize,
        segment: &Segment,
        d: usize,
        wide: &'a mut [f32],
    ) -> Piece<'a> {
        let len = PIECE.min(segment.len - start);
        if let Kept::F32(kept) = self {
            return Piece { numbers: &kept[start * segment.stride * d..], step: segment.stride * d, len };
        }
        for (i, wide) in wide.chunks_exact_mut(d).enumerate().take(len) {
            self.vector((start + i) * segment.stride, wide);
        }
        Piece { numbers: wide, step: d, len }
    }

    /// A vector by its number, as f32: in place, or widened into `wide`, whose length it has.
    #[inline(always)]
    pub(in crate::attention) fn vector<'a>(&'a self, number: usize, wide: &'a mut [f32]) -> &'a [f32] {
        let start = number * wide.len();
        match self {
            Kept::F32(kept) => &kept[start..][..wide.len()],
            Kept::Bf16(kept) => {
                for (wide, kept) in wide.iter_mut().zip(&kept[start..]) {
                    *wide = f32::from_bits(u32::from(kept.to_bits()) << 16);
                }
                wide
            }
            Kept::F16(kept) => {
                kept[start..][..wide.len()].convert_to_f32_slice(wide);
                wide
            }
            Kept::Fp8 { codes, scales } => {
                let (table, scale) = (&*E4M3, scales[number]);
                for (wide, code) in wide.iter_mut().zip(&codes[start..]) {
                    *wide = table[*code as usize] * scale;
                }
                wide
            }
        }
    }
}

/// The numbers that the codes of e4m3 stand for: a sign, four bits of exponent with bias 7, three of mantissa; no infinity, and
/// all ones is NaN (Micikevicius et al., arXiv:2209.05433, table 1).
static E4M3: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|code| F8E4M3::from_bits(code as u8).to_f32()));

#[cfg(test)]
mod tests {
    use super::*;

    /// The ends of e4m3's range, and the vectors of a head, each with its scale.
    #[test]
    fn codes_of_e4m3_are_the_numbers_that_they_stand_for() {
        let least = 2f32.powi(-9);
        assert_eq!([0x00, 0x01, 0x38, 0x7e, 0xb8].map(|code| E4M3[code]), [0.0, least, 1.0, 448.0, -1.0]);
        assert!(E4M3[0x7f].is_nan() && E4M3[0xff].is_nan() && E4M3[0x80].is_sign_negative());
        let codes: Vec<u8> = (0..12).map(|i| i * 17 % 120).collect();
        let kept = Kept::Fp8 { codes: &codes, scales: &[9.0, 2.0, 0.5] };
        let mut wide = [0.0; 4];
        for (number, scale) in [(0, 9.0), (1, 2.0), (2, 0.5)] {
            let want = codes[number * 4..][..4].iter().map(|code| E4M3[*code as usize] * scale);
            assert!(kept.vector(number, &mut wide).iter().copied().eq(want), "vector {number}");
        }
    }
}
