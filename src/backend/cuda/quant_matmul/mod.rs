//! Packed weights in device memory, and the kernels that multiply them: kernels/quant_matmul.cu and kernels/quant_rows.cu. (Step 9.)
//!
//! - `launches`: the kernels' arguments and grids;
//! - `tiles`: GPTQ's words in the order in which tensor cores want them.
//!
//! | a matrix of | kept as | kernel |
//! |---|---|---|
//! | 4 bits and less with whole zero points (GPTQ, AWQ, compressed-tensors), groups of 32 n; bf16 or f16 arithmetic | tiles | v3 |
//! | the same in f32, or other groups of 8 n | words | v2 |
//! | e4m3 in blocks of 128 × 128 | bytes | v4 |
//! | all others that the CPU rewrites to rows: act-order, 8 bits, int8, tables, sparse numbers | rows | the general one |
//! | GGUF's blocks | f32 (`super::weight`) | matmul |

mod launches;
mod tiles;

pub(super) use launches::{Codes, Fp8Codes, Operands, QuantVersion, RowCodes, RowKind, TileCodes, WordCodes};
pub(super) use tiles::{TILE, Tiles};

use super::device::{Address, Device, Launch};
use super::memory::Buffer;
use super::weight::Output;
use crate::backend::PartShape;
use crate::error::Result;
use crate::packed::Packed;
use crate::quant::{CodeWords, DeviceCodes, Fp8Blocks, Numbers, PackedRows};
use crate::tensor::DType;
use std::{ops::Range, sync::Arc};

/// A packed matrix in device memory.
pub struct PackedPart {
    shape: PartShape,
    codes: Codes,
    dtype: DType,
    /// What `codes` points to.
    _buffers: Vec<Buffer>,
}

/// Uploads, and keeps what it has uploaded.
struct Upload<'a> {
    device: &'a Arc<dyn Device>,
    buffers: Vec<Buffer>,
}

impl Upload<'_> {
    fn put<T: bytemuck::NoUninit>(&mut self, values: &[T]) -> Result<Address> {
        let buffer = Buffer::of(self.device, bytemuck::cast_slice(values))?;
        let address = buffer.address;
        self.buffers.push(buffer);
        Ok(address)
    }

    /// Null if there are no values.
    fn put_if_any<T: bytemuck::NoUninit>(&mut self, values: &[T]) -> Result<Address> {
        if values.is_empty() { Ok(Address(0)) } else { self.put(values) }
    }

    fn words(&mut self, words: &CodeWords) -> Result<Codes> {
        Ok(Codes::Words(WordCodes {
            codes: self.put(&words.codes)?,
            zeros: self.put(&words.zeros)?,
            scales: self.put(&words.scales)?,
            group_size: words.group_size,
            zero_offset: words.zero_offset,
            scales_dtype: words.scales_dtype,
        }))
    }

    fn tiles(&mut self, words: &CodeWords) -> Result<Codes> {
        let tiles = Tiles::of(words);
        Ok(Codes::Tiles(TileCodes {
            codes: self.put(&tiles.codes)?,
            zeros: self.put(&tiles.zeros)?,
            scales: self.put(&tiles.scales)?,
            group_size: words.group_size,
            scales_dtype: words.scales_dtype,
        }))
    }

    fn fp8(&mut self, blocks: &Fp8Blocks) -> Result<Codes> {
        Ok(Codes::Fp8(Fp8Codes { codes: self.put(&blocks.codes)?, scales: self.put(&blocks.scales)? }))
    }

    fn rows(&mut self, rows: &PackedRows) -> Result<Codes> {
        let kind = match rows.numbers {
            Numbers::Affine4 => RowKind::Affine4,
            Numbers::Affine8 => RowKind::Affine8,
            Numbers::Int8 => RowKind::Int8,
            Numbers::Fp8 => RowKind::Fp8,
            Numbers::Table => RowKind::Table,
        };
        let [sparse_starts, sparse_inputs, sparse] = match &rows.sparse {
            None => [Address(0); 3],
            Some(sparse) => self.sparse(sparse)?,
        };
        let (codes, stride) = whole_words(rows);
        Ok(Codes::Rows(RowCodes {
            kind,
            codes: self.put(&codes)?,
            scales: self.put(&rows.scales)?,
            offsets: self.put_if_any(&rows.offsets)?,
            tables: self.put_if_any(&rows.tables)?,
            group_of: self.put(&rows.group_of)?,
            gather: self.put_if_any(rows.gather.as_deref().unwrap_or_default())?,
            sparse_starts,
            sparse_inputs,
            sparse,
            columns: rows.columns,
            words: stride / 4,
            groups: rows.groups,
        }))
    }

    /// Numbers beside the codes, output by output: where each output's begin, their inputs, and the numbers.
    fn sparse(&mut self, sparse: &[Vec<(u32, f32)>]) -> Result<[Address; 3]> {
        let mut starts = vec![0];
        starts.extend(sparse.iter().scan(0, |end, numbers| {
            *end += numbers.len() as u32;
            Some(*end)
        }));
        let (inputs, numbers): (Vec<u32>, Vec<f32>) = sparse.iter().flatten().copied().unzip();
        Ok([self.put(&starts)?, self.put(&inputs)?, self.put(&numbers)?])
    }
}

/// Rows of codes one behind the other, each filled up to whole words; and the bytes of one.
fn whole_words(rows: &PackedRows) -> (Vec<u8>, usize) {
    let held = match rows.numbers.bits() {
        4 => rows.stride,
        _ => rows.columns,
    };
    let stride = held.next_multiple_of(4);
    let mut bytes = vec![0; rows.outputs * stride];
    for (output, to) in bytes.chunks_exact_mut(stride).enumerate() {
        to[..held].copy_from_slice(&rows.codes[output * rows.stride..][..held]);
    }
    (bytes, stride)
}

impl PackedPart {
    /// Some outputs and inputs of a matrix, packed as a kernel wants them; `None` if no kernel knows the format. `dtype`: of the arithmetic.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn load(
        device: &Arc<dyn Device>,
        packed: &dyn Packed,
        outputs: Range<usize>,
        inputs: Range<usize>,
        dtype: DType,
    ) -> Result<Option<PackedPart>> {
        let shape = PartShape { outputs: outputs.len(), inputs: inputs.len() };
        let Some(codes) = packed.device_codes(outputs, inputs)? else { return Ok(None) };
        let mut upload = Upload { device, buffers: Vec::new() };
        let codes = match &codes {
            DeviceCodes::Words(words) if dtype != DType::F32 && words.group_size.is_multiple_of(TILE) => {
                upload.tiles(words)?
            }
            DeviceCodes::Words(words) => upload.words(words)?,
            DeviceCodes::Fp8(blocks) => upload.fp8(blocks)?,
            DeviceCodes::Rows(rows) => upload.rows(rows)?,
        };
        // The general kernel multiplies f32.
        let dtype = if matches!(codes, Codes::Rows(_)) { DType::F32 } else { dtype };
        Ok(Some(PackedPart { shape, codes, dtype, _buffers: upload.buffers }))
    }

    /// Outputs and inputs.
    pub fn shape(&self) -> PartShape {
        self.shape
    }

    /// The dtype that x is multiplied in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// y = x Wᵀ for columns of an activation. x: [rows, inputs] in [`dtype`](PackedPart::dtype).
    pub fn launch(&self, y: &Output, x: Address) -> Launch {
        let PartShape { outputs, inputs } = self.shape;
        let operands = Operands { x, dtype: self.dtype, inputs, outputs, y: *y };
        self.codes.launch(&operands)
    }
}
