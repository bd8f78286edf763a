//! Rows of x, packed so that the micro-kernel reads them as one stream.

use crate::backend::simd::F32;
use rayon::prelude::*;

/// Rows of a panel.
pub const HEIGHT: usize = 4;

/// All panels of some rows of x: [rows / 4][k / W][4][W], where the last panel has the rows that are left. Where k does not
/// fill a register of W numbers, zeros do.
#[derive(Clone, Copy)]
pub struct Panels<'a, T> {
    numbers: &'a [T],
    /// Rows of x.
    pub rows: usize,
    /// Numbers of a row, zeros included.
    width: usize,
}

impl<'a, T> Panels<'a, T> {
    /// `numbers`: rows · width of them.
    pub fn new(numbers: &'a [T], rows: usize, width: usize) -> Panels<'a, T> {
        assert_eq!(numbers.len(), rows * width, "panels");
        Panels { numbers, rows, width }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(HEIGHT)
    }

    /// Rows of a panel: 4, or what is left.
    #[inline(always)]
    pub fn height(&self, panel: usize) -> usize {
        HEIGHT.min(self.rows - panel * HEIGHT)
    }

    /// A panel of M rows, as registers of W numbers for each row.
    #[inline(always)]
    pub fn panel<const W: usize, const M: usize>(&self, panel: usize) -> &'a [[[T; W]; M]] {
        let numbers = &self.numbers[panel * HEIGHT * self.width..][..M * self.width];
        numbers.as_chunks::<W>().0.as_chunks::<M>().0
    }
}

#[cfg(feature = "quantized")]
impl Panels<'_, f32> {
    /// One number of a row, where registers have W.
    pub fn number<const W: usize>(&self, row: usize, column: usize) -> f32 {
        let (panel, m) = (row / HEIGHT, row % HEIGHT);
        let start = panel * HEIGHT * self.width + (column / W * self.height(panel) + m) * W;
        self.numbers[start + column % W]
    }
}

/// A number as a panel holds it.
pub trait Number: Copy + Send + Sync {
    /// From an activation.
    fn of(x: f32) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn of(x: f32) -> f32 {
        x
    }
}

/// The bits of a bf16.
impl Number for u16 {
    #[inline(always)]
    fn of(x: f32) -> u16 {
        bf16_bits(x)
    }
}

/// Rounds to the nearest bf16, ties to even, without a branch. The carry of the addition goes into the exponent where it must; NaN is
/// kept from becoming infinity.
#[inline(always)]
fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if x.is_nan() { bits >> 16 | 0x40 } else { rounded }) as u16
}

/// Packs rows of `inputs` numbers, at most 4, into a panel with registers of W numbers.
#[inline(always)]
fn pack<T: Number, const W: usize>(x: &[f32], inputs: usize, panel: &mut [T]) {
    let height = x.len() / inputs;
    for (m, row) in x.chunks_exact(inputs).enumerate() {
        let places = panel.as_chunks_mut::<W>().0.iter_mut().skip(m).step_by(height);
        let (full, rest) = row.as_chunks::<W>();
        for (place, x) in places.zip(full) {
            *place = std::array::from_fn(|l| T::of(x[l]));
        }
        if !rest.is_empty() {
            let last = (full.len() * height + m) * W;
            for (l, place) in panel[last..last + W].iter_mut().enumerate() {
                *place = T::of(rest.get(l).copied().unwrap_or(0.0));
            }
        }
    }
}

/// [`pack`] for `dispatch!`: panels of f32.
#[inline(always)]
pub fn pack_f32<S: F32<L>, const L: usize>(_: S, x: &[f32], inputs: usize, panel: &mut [f32]) {
    pack::<f32, L>(x, inputs, panel);
}

/// The same: panels of bf16 in registers of 32.
#[inline(always)]
pub fn pack_bf16<S: F32<L>, const L: usize>(_: S, x: &[f32], inputs: usize, panel: &mut [u16]) {
    pack::<u16, 32>(x, inputs, panel);
}

/// Panels up to which one thread packs them.
const SERIAL: usize = 4;

/// Packs all rows of x into `numbers` by `pack_one(rows of a panel, panel)`, on all cores where there are many.
pub fn fill<T: Number>(
    x: &[f32],
    inputs: usize,
    numbers: &mut [T],
    pack_one: impl Fn(&[f32], &mut [T]) + Sync,
) {
    let width = numbers.len() / (x.len() / inputs);
    if x.len() <= SERIAL * HEIGHT * inputs {
        let x = x.chunks(HEIGHT * inputs);
        x.zip(numbers.chunks_mut(HEIGHT * width)).for_each(|(x, panel)| pack_one(x, panel));
    } else {
        let x = x.par_chunks(HEIGHT * inputs);
        x.zip(numbers.par_chunks_mut(HEIGHT * width)).for_each(|(x, panel)| pack_one(x, panel));
    }
}

/// Activations' memory, to hold bf16 instead. Its contents are of no meaning.
pub fn as_bf16(buffer: &mut [f32]) -> &mut [u16] {
    // SAFETY: any bits are a u16, and the alignment of f32 is enough.
    let (head, bits, tail) = unsafe { buffer.align_to_mut::<u16>() };
    debug_assert!(head.is_empty() && tail.is_empty());
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_as_the_half_crate_does() {
        for bits in (0..=u32::MAX).step_by(4099) {
            let x = f32::from_bits(bits);
            assert_eq!(bf16_bits(x), half::bf16::from_f32(x).to_bits(), "{bits:x}");
        }
        for tie in [0x3f80_8000u32, 0x3f81_8000, 0x7f7f_ffff, 0x0000_8000, 0x0001_8000] {
            assert_eq!(bf16_bits(f32::from_bits(tie)), half::bf16::from_f32(f32::from_bits(tie)).to_bits());
        }
    }

    #[test]
    fn a_number_is_found_where_it_was_packed() {
        let (rows, inputs) = (6, 5);
        let x: Vec<f32> = (0..rows * inputs).map(|i| i as f32).collect();
        let mut numbers = vec![f32::NAN; rows * 8];
        let pack_one = |x: &[f32], panel: &mut [f32]| pack::<f32, 4>(x, inputs, panel);
        fill(&x, inputs, &mut numbers, pack_one);
        let panels = Panels::new(&numbers, rows, 8);
        assert_eq!(panels.panel::<4, 4>(0)[0][1], [5.0, 6.0, 7.0, 8.0]);
        assert_eq!(panels.panel::<4, 2>(1)[1], [[24.0, 0.0, 0.0, 0.0], [29.0, 0.0, 0.0, 0.0]]);
    }
}
