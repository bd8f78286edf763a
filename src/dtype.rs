//! Element types of tensors in files: those of safetensors, and the block types of GGUF.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString};

/// What a tensor's bytes are. The names are those that the formats use.
///
/// Most types are single numbers. A block type (Q4_0, Q4_K, …) packs the numbers of a block together with what scales them; a row of a
/// tensor is whole blocks.
#[allow(non_camel_case_types)]
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, Serialize, Deserialize,
)]
pub enum DType {
    BOOL,
    F4,
    F6_E2M3,
    F6_E3M2,
    U8,
    I8,
    F8_E5M2,
    F8_E4M3,
    F8_E8M0,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
}

impl DType {
    /// The numbers and the bits of the smallest piece: one number, or a block.
    pub const fn block(self) -> (usize, usize) {
        match self {
            DType::F4 => (1, 4),
            DType::F6_E2M3 | DType::F6_E3M2 => (1, 6),
            DType::BOOL | DType::U8 | DType::I8 | DType::F8_E5M2 | DType::F8_E4M3 | DType::F8_E8M0 => (1, 8),
            DType::I16 | DType::U16 | DType::F16 | DType::BF16 => (1, 16),
            DType::I32 | DType::U32 | DType::F32 => (1, 32),
            DType::C64 | DType::F64 | DType::I64 | DType::U64 => (1, 64),
            // Bytes of ggml's structs, `ggml-common.h`.
            DType::Q4_0 | DType::IQ4_NL => (32, 8 * 18),
            DType::Q4_1 => (32, 8 * 20),
            DType::Q5_0 => (32, 8 * 22),
            DType::Q5_1 => (32, 8 * 24),
            DType::Q8_0 => (32, 8 * 34),
            DType::Q2_K => (256, 8 * 84),
            DType::Q3_K => (256, 8 * 110),
            DType::Q4_K => (256, 8 * 144),
            DType::Q5_K => (256, 8 * 176),
            DType::Q6_K => (256, 8 * 210),
            DType::IQ4_XS => (256, 8 * 136),
        }
    }

    /// Whether it is one of GGUF's block types.
    pub const fn is_block(self) -> bool {
        self.block().0 > 1
    }

    /// Bytes of one number.
    ///
    /// # Panics
    /// For a block type, which has no number by itself.
    pub const fn bytes(self) -> usize {
        let (numbers, bits) = self.block();
        assert!(numbers == 1, "a block type");
        bits.div_ceil(8)
    }

    /// Bytes of so many numbers; `None` if they are no whole blocks or bytes, or too many.
    pub fn bytes_of(self, numbers: usize) -> Option<usize> {
        let (block, bits) = self.block();
        let bits =
            if numbers.is_multiple_of(block) { (numbers / block).checked_mul(bits)? } else { return None };
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Whether numbers of this type are multiplied as they are stored.
    pub const fn is_weight(self) -> bool {
        matches!(self, DType::F32 | DType::BF16 | DType::F16)
    }

    /// The type of safetensors; `None` for a block type.
    pub(crate) fn in_safetensors(self) -> Option<safetensors::Dtype> {
        safetensors::Dtype::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(
            &self.to_string(),
        ))
        .ok()
    }
}
