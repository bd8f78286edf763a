//! Types with 32 numbers in a block. Of two codes in a byte, the low half is number i and the high half is number i + 16.
//!
//! Each function takes a block's bytes and returns its numbers. The second argument, which of the block's sub-blocks is meant, is always 0:
//! these functions have the same form as those of [`super_blocks`](super::super_blocks).

use super::SUB_BLOCK;
use crate::tensor::f16_to_f32;

/// The numbers that IQ4_NL's codes stand for, denser around zero (`kvalues_iq4nl` in `ggml-common.h`).
pub(super) const IQ4: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// The f16 at a byte.
#[inline(always)]
pub(super) fn f16(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// 32 codes of 4 bits, from 16 bytes that begin at `at`.
#[inline(always)]
pub(super) fn nibbles(block: &[u8], at: usize) -> [u8; SUB_BLOCK] {
    let bytes: &[u8; 16] = block[at..].first_chunk().expect("16 bytes");
    let mut codes = [0; SUB_BLOCK];
    for i in 0..16 {
        codes[i] = bytes[i] & 15;
        codes[i + 16] = bytes[i] >> 4;
    }
    codes
}

/// 32 codes of 5 bits: bit i of the u32 at `high` is bit 4 of code i.
#[inline(always)]
fn with_fifth_bit(block: &[u8], high: usize, at: usize) -> [u8; SUB_BLOCK] {
    let bits = u32::from_le_bytes(*block[high..].first_chunk().expect("4 bytes"));
    let mut codes = nibbles(block, at);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((bits >> i & 1) << 4) as u8;
    }
    codes
}

/// scale · (code − zero).
#[inline(always)]
fn scaled(codes: [u8; SUB_BLOCK], scale: f32, zero: i32) -> [f32; SUB_BLOCK] {
    let mut numbers = [0.0; SUB_BLOCK];
    for (number, code) in numbers.iter_mut().zip(codes) {
        *number = scale * (i32::from(code) - zero) as f32;
    }
    numbers
}

/// scale · code + min.
#[inline(always)]
fn above(codes: [u8; SUB_BLOCK], scale: f32, min: f32) -> [f32; SUB_BLOCK] {
    let mut numbers = [0.0; SUB_BLOCK];
    for (number, code) in numbers.iter_mut().zip(codes) {
        *number = scale * f32::from(code) + min;
    }
    numbers
}

/// d: f16, 16 bytes of codes; d · (code − 8).
#[inline(always)]
pub fn q4_0(block: &[u8; 18], _: usize) -> [f32; SUB_BLOCK] {
    scaled(nibbles(block, 2), f16(block, 0), 8)
}

/// d, m: f16, 16 bytes of codes; d · code + m.
#[inline(always)]
pub fn q4_1(block: &[u8; 20], _: usize) -> [f32; SUB_BLOCK] {
    above(nibbles(block, 4), f16(block, 0), f16(block, 2))
}

/// d: f16, 32 fifth bits, 16 bytes of codes; d · (code − 16).
#[inline(always)]
pub fn q5_0(block: &[u8; 22], _: usize) -> [f32; SUB_BLOCK] {
    scaled(with_fifth_bit(block, 2, 6), f16(block, 0), 16)
}

/// d, m: f16, 32 fifth bits, 16 bytes of codes; d · code + m.
#[inline(always)]
pub fn q5_1(block: &[u8; 24], _: usize) -> [f32; SUB_BLOCK] {
    above(with_fifth_bit(block, 4, 8), f16(block, 0), f16(block, 2))
}

/// d: f16, 32 codes of 8 bits with a sign; d · code.
#[inline(always)]
pub fn q8_0(block: &[u8; 34], _: usize) -> [f32; SUB_BLOCK] {
    let d = f16(block, 0);
    let codes: &[u8; SUB_BLOCK] = block[2..].first_chunk().expect("32 bytes");
    let mut numbers = [0.0; SUB_BLOCK];
    for (number, code) in numbers.iter_mut().zip(codes) {
        *number = d * f32::from(*code as i8);
    }
    numbers
}

/// d: f16, 16 bytes of codes; d · the number that the code stands for.
#[inline(always)]
pub fn iq4_nl(block: &[u8; 18], _: usize) -> [f32; SUB_BLOCK] {
    looked_up(nibbles(block, 2), f16(block, 0))
}

/// scale · the number that a code of IQ4 stands for.
#[inline(always)]
pub(super) fn looked_up(codes: [u8; SUB_BLOCK], scale: f32) -> [f32; SUB_BLOCK] {
    let mut numbers = [0.0; SUB_BLOCK];
    for (number, code) in numbers.iter_mut().zip(codes) {
        *number = scale * IQ4[usize::from(code & 15)];
    }
    numbers
}
