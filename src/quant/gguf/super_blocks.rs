//! Types with 256 numbers in a block: the K-quants and IQ4_XS. The scales of its sub-blocks are small integers, which the block's own scale
//! scales once more.
//!
//! Each function takes a block's bytes and returns numbers 32j to 32j + 31. A type has a scale for 32 numbers or one for each 16 of them.

use super::SUB_BLOCK;
use super::small::{f16, looked_up, nibbles};

/// `N` bytes from `at` on.
#[inline(always)]
fn bytes<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a block is long enough")
}

/// The number of each half of 32.
#[inline(always)]
fn halves(of: impl Fn(usize) -> f32) -> [f32; SUB_BLOCK] {
    let (first, second) = (of(0), of(1));
    let mut numbers = [first; SUB_BLOCK];
    numbers[16..].fill(second);
    numbers
}

/// scale · code − min, each number with its own three.
#[inline(always)]
fn below(codes: [f32; SUB_BLOCK], scales: [f32; SUB_BLOCK], mins: [f32; SUB_BLOCK]) -> [f32; SUB_BLOCK] {
    let mut numbers = [0.0; SUB_BLOCK];
    for i in 0..SUB_BLOCK {
        numbers[i] = scales[i] * codes[i] - mins[i];
    }
    numbers
}

/// 2 bits: 16 bytes, each a scale in the low half and a min in the high half; 64 bytes of codes; d, dmin: f16.
#[inline(always)]
pub fn q2_k(block: &[u8; 84], j: usize) -> [f32; SUB_BLOCK] {
    let (d, dmin) = (f16(block, 80), f16(block, 82));
    let scales = halves(|half| d * f32::from(block[2 * j + half] & 15));
    let mins = halves(|half| dmin * f32::from(block[2 * j + half] >> 4));
    below(two_bits(block, 16, j), scales, mins)
}

/// Codes of 2 bits: of 32 bytes, sub-blocks 0 to 3 are bits 0–1, 2–3, 4–5, 6–7, and 4 to 7 are in the next 32 bytes.
#[inline(always)]
fn two_bits(block: &[u8], at: usize, j: usize) -> [f32; SUB_BLOCK] {
    let codes: &[u8; SUB_BLOCK] = bytes(block, at + SUB_BLOCK * (j / 4));
    let mut numbers = [0.0; SUB_BLOCK];
    for (number, code) in numbers.iter_mut().zip(codes) {
        *number = f32::from(code >> (2 * (j % 4)) & 3);
    }
    numbers
}

/// 3 bits: 32 bytes of third bits, of which bit j of byte i belongs to number i of sub-block j and means −4 where it is 0; 64 bytes of the
/// other two; 16 scales of 6 bits; d: f16.
#[inline(always)]
pub fn q3_k(block: &[u8; 110], j: usize) -> [f32; SUB_BLOCK] {
    let d = f16(block, 108);
    let scales = halves(|half| d * (scale_of_q3(bytes(block, 96), 2 * j + half) - 32) as f32);
    let (thirds, mut codes): (&[u8; SUB_BLOCK], _) = (bytes(block, 0), two_bits(block, 32, j));
    for (code, third) in codes.iter_mut().zip(thirds) {
        *code += f32::from(third >> j & 1) * 4.0 - 4.0;
    }
    below(codes, scales, [0.0; SUB_BLOCK])
}

/// Scale k of 16: its low 4 bits in the halves of 8 bytes, its high 2 bits in the quarters of 4.
#[inline(always)]
fn scale_of_q3(packed: &[u8; 12], k: usize) -> i32 {
    let low = packed[k % 8] >> (4 * (k / 8)) & 15;
    let high = packed[8 + k % 4] >> (2 * (k / 4)) & 3;
    i32::from(low | high << 4)
}

/// 4 bits: d, dmin: f16, 8 scales and mins of 6 bits, 128 bytes of codes.
#[inline(always)]
pub fn q4_k(block: &[u8; 144], j: usize) -> [f32; SUB_BLOCK] {
    let (scale, min) = scale_and_min(block, j);
    below(four_bits(block, 16, j).map(f32::from), [scale; SUB_BLOCK], [min; SUB_BLOCK])
}

/// 5 bits: as 4 bits, with 32 bytes of fifth bits before the codes, of which bit j of byte i belongs to number i of sub-block j.
#[inline(always)]
pub fn q5_k(block: &[u8; 176], j: usize) -> [f32; SUB_BLOCK] {
    let (scale, min) = scale_and_min(block, j);
    let (fifths, mut codes): (&[u8; SUB_BLOCK], _) = (bytes(block, 16), four_bits(block, 48, j));
    for (code, fifth) in codes.iter_mut().zip(fifths) {
        *code |= (fifth >> j & 1) << 4;
    }
    below(codes.map(f32::from), [scale; SUB_BLOCK], [min; SUB_BLOCK])
}

/// Codes of 4 bits: of 32 bytes, sub-block 2i is the low halves and 2i + 1 the high ones.
#[inline(always)]
fn four_bits(block: &[u8], at: usize, j: usize) -> [u8; SUB_BLOCK] {
    let mut codes = *bytes::<SUB_BLOCK>(block, at + SUB_BLOCK * (j / 2));
    for code in &mut codes {
        *code = *code >> (4 * (j % 2)) & 15;
    }
    codes
}

/// d · scale and dmin · min of sub-block j of Q4_K and Q5_K. The first four have 6 bits of a byte each. The others have their low 4 bits in the
/// halves of the last four bytes, and their high 2 bits in what the first four leave.
#[inline(always)]
fn scale_and_min(block: &[u8], j: usize) -> (f32, f32) {
    let packed: &[u8; 12] = bytes(block, 4);
    let (scale, min) = match j {
        0..4 => (packed[j] & 63, packed[j + 4] & 63),
        _ => (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4),
    };
    (f16(block, 0) * f32::from(scale), f16(block, 2) * f32::from(min))
}

/// d · scale and −dmin · min of all sub-blocks of Q4_K, four of them at a time.
#[inline(always)]
pub fn q4_k_scales(block: &[u8; 144], d: f32, dmin: f32) -> [[f32; 8]; 2] {
    // The first four scales and mins are 6 bits of a byte; of the others, four bits are in the last four bytes, and two in what the first ones
    // leave.
    let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let (a, b, c) = (word(4), word(8), word(12));
    let (six, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x3030_3030);
    let scales = [a & six, c & four | a >> 2 & two];
    let mins = [b & six, c >> 4 & four | b >> 2 & two];
    let (mut of_scales, mut of_mins) = ([0.0; 8], [0.0; 8]);
    for j in 0..8 {
        of_scales[j] = d * (scales[j / 4] >> (8 * (j % 4)) & 0xff) as f32;
        of_mins[j] = -(dmin * (mins[j / 4] >> (8 * (j % 4)) & 0xff) as f32);
    }
    [of_scales, of_mins]
}

/// 6 bits: 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 scales of 8 bits with a sign, d: f16; d · scale · (code − 32).
#[inline(always)]
pub fn q6_k(block: &[u8; 210], j: usize) -> [f32; SUB_BLOCK] {
    // Each half of the block has its own bytes, in which sub-block k is the low or the high halves of 32 bytes and a quarter of 32 others.
    let (half, k) = (j / 4, j % 4);
    let low: &[u8; SUB_BLOCK] = bytes(block, 64 * half + 32 * (k % 2));
    let high: &[u8; SUB_BLOCK] = bytes(block, 128 + 32 * half);
    let d = f16(block, 208);
    let scales = halves(|part| d * f32::from(block[192 + 2 * j + part] as i8));
    let mut numbers = [0.0; SUB_BLOCK];
    for i in 0..SUB_BLOCK {
        let code = low[i] >> (4 * (k / 2)) & 15 | (high[i] >> (2 * k) & 3) << 4;
        numbers[i] = scales[i] * (i32::from(code) - 32) as f32;
    }
    numbers
}

/// 4 bits by a table: d: f16, 8 scales of 6 bits as 2 bits each in a u16 and 4 bits each in 4 bytes, 128 bytes of codes as in IQ4_NL.
#[inline(always)]
pub fn iq4_xs(block: &[u8; 136], j: usize) -> [f32; SUB_BLOCK] {
    let high = u16::from_le_bytes(*bytes(block, 2)) >> (2 * j) & 3;
    let low = block[4 + j / 2] >> (4 * (j % 2)) & 15;
    let scale = i32::from(low) | i32::from(high) << 4;
    looked_up(nibbles(block, 8 + 16 * j), f16(block, 0) * (scale - 32) as f32)
}
