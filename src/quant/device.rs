//! Packed matrices as kernels/quant_matmul.cu and kernels/quant_rows.cu read them.

use super::format::{Format, Numbers};
use super::rows::PackedRows;
use crate::tensor::DType;
use half::{bf16, f16};
use rayon::prelude::*;
use std::ops::Range;

/// Some outputs and inputs of a packed matrix, in the layout of the fastest kernels that know its format.
pub enum DeviceCodes {
    Words(CodeWords),
    Fp8(Fp8Blocks),
    /// The layout of the CPU, for a kernel that is right for all of them.
    Rows(PackedRows),
}

/// Codes of a word, and zero points of one.
const IN_WORD: usize = 8;

/// Codes of 4 bits with whole zero points and scales of 16 bits, as GPTQ's files have them: W[n, k] = (code − zero) · scale.
pub struct CodeWords {
    pub outputs: usize,
    pub inputs: usize,
    /// Inputs that share a scale: every run of so many.
    pub group_size: usize,
    /// [inputs / 8, outputs], eight inputs of an output in a word, the first one lowest.
    pub codes: Vec<u32>,
    /// [groups, outputs / 8], eight outputs in a word. `zero_offset` is to be added to each, in 4 bits.
    pub zeros: Vec<u32>,
    pub zero_offset: u8,
    /// [groups, outputs], the bits of f16 or bf16.
    pub scales: Vec<u16>,
    pub scales_dtype: DType,
}

impl CodeWords {
    /// `None` for other kinds of numbers, groups that are not runs of inputs (act-order), and extents that are no multiples of 8.
    pub fn new(format: &impl Format, outputs: Range<usize>, inputs: Range<usize>) -> Option<CodeWords> {
        let whole = outputs.len().is_multiple_of(IN_WORD) && inputs.len().is_multiple_of(IN_WORD);
        if format.numbers() != Numbers::Affine4 || format.is_sparse() || !whole {
            return None;
        }
        let group_size = runs(format, inputs.clone()).filter(|size| size.is_multiple_of(IN_WORD))?;
        let first = format.group(inputs.start);
        let groups = first..first + inputs.len().div_ceil(group_size);
        let of_group = |group| outputs.clone().map(move |output| (output, group));
        let scales: Vec<f32> =
            groups.clone().flat_map(of_group).map(|(output, group)| format.scale(output, group)).collect();
        let (scales, scales_dtype) = sixteen_bits(&scales)?;
        let zero_offset = format.zero_offset();
        let zeros = groups.flat_map(of_group).map(|(output, group)| {
            let zero = format.zero(output, group)?;
            Some(zero.wrapping_sub(zero_offset) & 15)
        });
        let zeros: Vec<u8> = zeros.collect::<Option<_>>()?;
        let zeros = zeros.as_chunks().0.iter().map(word).collect();
        let mut codes = vec![0; inputs.len() / IN_WORD * outputs.len()];
        let rows = codes.par_chunks_mut(outputs.len()).zip(inputs.clone().into_par_iter().step_by(IN_WORD));
        rows.for_each_init(
            || vec![0; IN_WORD * outputs.len()],
            |few, (words, k)| {
                format.codes(outputs.clone(), k..k + IN_WORD, few);
                words.iter_mut().zip(few.as_chunks().0).for_each(|(to, few)| *to = word(few));
            },
        );
        let (outputs, inputs) = (outputs.len(), inputs.len());
        Some(CodeWords { outputs, inputs, group_size, codes, zeros, zero_offset, scales, scales_dtype })
    }
}

/// Eight codes of 4 bits, the first one lowest.
fn word(codes: &[u8; IN_WORD]) -> u32 {
    codes.iter().rev().fold(0, |word, code| word << 4 | *code as u32)
}

/// The length of groups, if they are runs of inputs one after the other, the last of which may be shorter.
fn runs(format: &impl Format, inputs: Range<usize>) -> Option<usize> {
    let first = format.group(inputs.start);
    let size = inputs.clone().take_while(|input| format.group(*input) == first).count();
    let is_run = |(at, input): (usize, usize)| format.group(input) == first + at / size;
    inputs.enumerate().all(is_run).then_some(size)
}

/// Numbers in f16, or else in bf16, if that rounds none of them.
fn sixteen_bits(numbers: &[f32]) -> Option<(Vec<u16>, DType)> {
    let exact = |bits: fn(f32) -> u16, back: fn(u16) -> f32| {
        let same = |number: &f32| Some(bits(*number)).filter(|bits| back(*bits) == *number);
        numbers.iter().map(same).collect::<Option<Vec<u16>>>()
    };
    let halves = exact(|n| f16::from_f32(n).to_bits(), |bits| f16::from_bits(bits).to_f32());
    halves.map(|bits| (bits, DType::F16)).or_else(|| {
        let bits = exact(|n| bf16::from_f32(n).to_bits(), |bits| bf16::from_bits(bits).to_f32());
        bits.map(|bits| (bits, DType::BF16))
    })
}

/// Outputs, and inputs, of a block of [`Fp8Blocks`].
pub const FP8_BLOCK: usize = 128;

/// Floats of 8 bits (e4m3) in blocks of 128 × 128, of which the last ones may be ragged. None is NaN.
pub struct Fp8Blocks {
    pub outputs: usize,
    pub inputs: usize,
    /// [outputs, inputs]
    pub codes: Vec<u8>,
    /// [⌈outputs / 128⌉, ⌈inputs / 128⌉]
    pub scales: Vec<f32>,
}

impl Fp8Blocks {
    /// `None` for other kinds of numbers and blocks, a part that does not begin with a block, inputs that are no multiple of 16, and if a code is
    /// NaN.
    pub fn new(format: &impl Format, outputs: Range<usize>, inputs: Range<usize>) -> Option<Fp8Blocks> {
        let blocks = format.block() == Some([FP8_BLOCK; 2]) && format.numbers() == Numbers::Fp8;
        let begins = outputs.start.is_multiple_of(FP8_BLOCK) && inputs.start.is_multiple_of(FP8_BLOCK);
        if !(blocks && begins && inputs.len().is_multiple_of(16)) {
            return None;
        }
        let mut codes = vec![0; outputs.len() * inputs.len()];
        format.codes(outputs.clone(), inputs.clone(), &mut codes);
        if codes.par_iter().any(|code| code & 0x7f == 0x7f) {
            return None;
        }
        let groups = format.group(inputs.start)..format.group(inputs.end - 1) + 1;
        let of_row = |output| groups.clone().map(move |group| format.scale(output, group));
        let scales = outputs.clone().step_by(FP8_BLOCK).flat_map(of_row).collect();
        Some(Fp8Blocks { outputs: outputs.len(), inputs: inputs.len(), codes, scales })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::gptq::Gptq;
    use crate::tensor::HostTensor;

    fn gptq(act_order: bool) -> Gptq {
        let bytes = |n: usize, seed: usize| (0..n).map(|i| (i * i + 7 * i + seed) as u8).collect::<Vec<u8>>();
        let half = |n: usize| (0..n).flat_map(|i| f16::from_f32(0.01 * i as f32).to_le_bytes()).collect();
        let g_idx = (0..64).flat_map(|k| (if act_order { k % 2 } else { k / 32 } as u32).to_le_bytes());
        Gptq {
            bits: 4,
            qweight: HostTensor::from_bytes(DType::I32, &[8, 24], bytes(4 * 8 * 24, 3)),
            qzeros: HostTensor::from_bytes(DType::I32, &[2, 3], bytes(4 * 2 * 3, 11)),
            scales: HostTensor::from_bytes(DType::F16, &[2, 24], half(48)),
            g_idx: Some(HostTensor::from_bytes(DType::I32, &[64], g_idx.collect())),
            group_size: 32,
            zero_offset: 1,
            act_order,
        }
    }

    fn bytes_of(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn gptqs_words_are_those_of_the_file() {
        let format = gptq(false);
        let words = CodeWords::new(&format, 0..24, 0..64).unwrap();
        assert_eq!(bytes_of(&words.codes), format.qweight.data[..]);
        assert_eq!(bytes_of(&words.zeros), format.qzeros.data[..]);
        assert_eq!((words.zero_offset, words.group_size), (1, 32));
        assert_eq!(words.scales_dtype, DType::F16);
        // A part of it, as a rank has it.
        let part = CodeWords::new(&format, 8..16, 32..64).unwrap();
        let of_part: Vec<u32> =
            (4..8).flat_map(|row| words.codes[24 * row + 8..24 * row + 16].to_vec()).collect();
        assert_eq!((part.codes, part.zeros), (of_part, vec![words.zeros[3 + 1]]));
        assert_eq!(part.scales, words.scales[24 + 8..24 + 16]);
    }

    #[test]
    fn what_has_other_kernels_is_left_to_them() {
        assert!(CodeWords::new(&gptq(true), 0..24, 0..64).is_none(), "act-order");
        assert!(CodeWords::new(&gptq(false), 0..23, 0..64).is_none(), "outputs");
        assert!(CodeWords::new(&gptq(false), 0..24, 16..64).is_none(), "a part of a group");
        assert!(CodeWords::new(&Gptq { bits: 8, ..gptq(false) }, 0..24, 0..32).is_none(), "8 bits");
        let third = HostTensor::from_f32(&[2, 24], &[1.0 / 3.0; 48]);
        assert!(
            CodeWords::new(&Gptq { scales: third, ..gptq(false) }, 0..24, 0..64).is_none(),
            "scales of 32 bits"
        );
    }
}
