//! Fields of a few bits in 32-bit words, as the tools pack them: least significant first, and a field may straddle two words.

use crate::tensor::HostTensor;

/// The words of an i32 tensor.
#[inline(always)]
pub fn words(tensor: &HostTensor) -> &[[u8; 4]] {
    tensor.data.as_chunks().0
}

// ANCHOR: field
/// Field number `at` of `bits` bits of the stream that `word(0)`, `word(1)`, … make.
#[inline(always)]
pub fn field(bits: usize, at: usize, word: impl Fn(usize) -> [u8; 4]) -> u8 {
    let (first, shift) = (at * bits / 32, at * bits % 32);
    let low = u32::from_le_bytes(word(first)) as u64;
    let high = if shift + bits > 32 { u32::from_le_bytes(word(first + 1)) as u64 } else { 0 };
    ((low | high << 32) >> shift & ((1 << bits) - 1)) as u8
}
// ANCHOR_END: field

/// Element `at` of a tensor of floats (f32, bf16, f16), or of scales that are powers of two (e8m0).
pub fn float(tensor: &HostTensor, at: usize) -> f32 {
    use crate::tensor::{DType, convert_to_f32};
    let mut number = [0.0];
    match tensor.dtype {
        DType::F8_E8M0 => number[0] = e8m0(tensor.data[at]),
        dtype => {
            let size = dtype.bytes();
            convert_to_f32(dtype, &tensor.data[at * size..][..size], &mut number);
        }
    }
    number[0]
}

/// 2^(code − 127); 0xff is NaN.
fn e8m0(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22), // 2^-127, subnormal
        255 => f32::NAN,
        code => f32::from_bits((code as u32) << 23),
    }
}
