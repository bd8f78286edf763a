//! The instructions that multiply codes: one trait, and its plain copy. `x86.rs` has those of AVX2 and AVX-512.

use crate::backend::simd::Portable;
use crate::tensor::f16_to_f32;

/// Columns that are multiplied together: two blocks of activations.
pub const CHUNK: usize = 64;

// ANCHOR: integers
/// Products of bytes, a chunk of 64 columns at a time.
///
/// A chunk gives 16 sums of 4 products each: the first 8 are those of its first block of 32 columns, the others those of its second. Every copy adds
/// the same products to the same sum, and integers have no rounding. The sums then become f32, are scaled, and are added to 16 lanes. No
/// multiplication is fused with an addition. So the copies differ by no bit.
pub trait Integers<const L: usize>: Copy {
    /// 64 codes, a byte each.
    type Codes: Copy;
    /// 16 sums of products.
    type Products: Copy;
    /// 16 lanes of f32.
    type Sums: Copy;

    /// All lanes zero.
    fn zero(self) -> Self::Sums;
    /// The low halves of 32 bytes, then the high ones.
    fn halves(self, bytes: &[u8; 32]) -> Self::Codes;
    /// The low halves of 16 bytes, then the high ones; and of 16 others.
    fn halves_of_two(self, first: &[u8; 16], second: &[u8; 16]) -> Self::Codes;
    /// 32 bytes, and 32 others.
    fn bytes(self, first: &[u8; 32], second: &[u8; 32]) -> Self::Codes;
    /// Bytes without a sign, less 128.
    fn centred(self, codes: Self::Codes) -> Self::Codes;
    /// code − 32 of codes of 6 bits. Four are in the low or high halves of `low`; two bits of the first 32 codes are bits 0 and 1 of `high`,
    /// and those of the others bits 2 and 3; or bits 4 to 7.
    fn six_bits(self, low: &[u8; 64], high: &[u8; 32], upper: bool) -> Self::Codes;
    /// x times codes from 0 to 63. Sum i has products 4 i to 4 i + 3.
    fn unsigned(self, codes: Self::Codes, x: &[i8; CHUNK]) -> Self::Products;
    /// x times codes with a sign. Sum i has products 4 i to 4 i + 3.
    fn signed(self, codes: Self::Codes, x: &[i8; CHUNK]) -> Self::Products;
    /// x times codes from 0 to 15 in the order of words (see `quant/rows.rs`), which x has too. Sum i of a block has its columns i, i + 8,
    /// i + 16 and i + 24.
    fn words(self, codes: Self::Codes, x: &[i8; CHUNK]) -> Self::Products;
    /// sums + products · scale, with a scale for each block.
    fn add(self, sums: Self::Sums, products: Self::Products, scales: [f32; 2]) -> Self::Sums;
    /// The same with a scale for each half of a block.
    fn add_halves(self, sums: Self::Sums, products: Self::Products, scales: [f32; 4]) -> Self::Sums;
    /// All lanes, added by halves.
    fn total(self, sums: Self::Sums) -> f32;
    /// An f16.
    fn half(self, bits: [u8; 2]) -> f32;
    /// Asks memory for a line of a cache.
    fn prefetch(self, at: *const u8);
}
// ANCHOR_END: integers

impl Integers<4> for Portable {
    type Codes = [u8; CHUNK];
    type Products = [i32; 16];
    type Sums = [f32; 16];

    fn zero(self) -> [f32; 16] {
        [0.0; 16]
    }

    fn halves(self, bytes: &[u8; 32]) -> [u8; CHUNK] {
        std::array::from_fn(|i| bytes[i % 32] >> (4 * (i / 32)) & 15)
    }

    fn halves_of_two(self, first: &[u8; 16], second: &[u8; 16]) -> [u8; CHUNK] {
        std::array::from_fn(|i| {
            let bytes = if i < 32 { first } else { second };
            bytes[i % 16] >> (4 * (i / 16 % 2)) & 15
        })
    }

    fn bytes(self, first: &[u8; 32], second: &[u8; 32]) -> [u8; CHUNK] {
        std::array::from_fn(|i| if i < 32 { first[i] } else { second[i - 32] })
    }

    fn centred(self, codes: [u8; CHUNK]) -> [u8; CHUNK] {
        codes.map(|code| code ^ 128)
    }

    fn six_bits(self, low: &[u8; 64], high: &[u8; 32], upper: bool) -> [u8; CHUNK] {
        std::array::from_fn(|i| {
            let four = low[i] >> (4 * u8::from(upper)) & 15;
            let two = high[i % 32] >> (2 * (i / 32) + 4 * usize::from(upper)) & 3;
            (four | two << 4).wrapping_sub(32)
        })
    }

    fn unsigned(self, codes: [u8; CHUNK], x: &[i8; CHUNK]) -> [i32; 16] {
        sums(x, |i| i32::from(codes[i]), |i| i / 4)
    }

    fn signed(self, codes: [u8; CHUNK], x: &[i8; CHUNK]) -> [i32; 16] {
        sums(x, |i| i32::from(codes[i] as i8), |i| i / 4)
    }

    fn words(self, codes: [u8; CHUNK], x: &[i8; CHUNK]) -> [i32; 16] {
        // Byte 4 i + j of the low halves is column 16 j + i, and of the high ones 16 j + 8 + i.
        sums(x, |i| i32::from(codes[i]), |i| i % 32 / 4 + 8 * (i % 4 / 2))
    }

    fn add(self, sums: [f32; 16], products: [i32; 16], scales: [f32; 2]) -> [f32; 16] {
        std::array::from_fn(|i| sums[i] + products[i] as f32 * scales[i / 8])
    }

    fn add_halves(self, sums: [f32; 16], products: [i32; 16], scales: [f32; 4]) -> [f32; 16] {
        std::array::from_fn(|i| sums[i] + products[i] as f32 * scales[i / 4])
    }

    fn total(self, mut sums: [f32; 16]) -> f32 {
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                sums[i] += sums[i + width];
            }
        }
        sums[0]
    }

    fn half(self, bits: [u8; 2]) -> f32 {
        f16_to_f32(u16::from_le_bytes(bits))
    }

    fn prefetch(self, _: *const u8) {}
}

/// The 16 sums of x times codes; `sum_of(i)` is the sum that product i is added to.
fn sums(x: &[i8; CHUNK], code: impl Fn(usize) -> i32, sum_of: impl Fn(usize) -> usize) -> [i32; 16] {
    let mut sums = [0; 16];
    for (i, x) in x.iter().enumerate() {
        sums[sum_of(i)] += i32::from(*x) * code(i);
    }
    sums
}
