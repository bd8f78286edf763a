//! The ladder of packed matrix products. Every weight is 1: code 9, zero point 8, scale 1.

use super::{Family, Kernel, KernelShape, Memory};
use crate::backend::cuda::device::{Address, Launch};
use crate::backend::cuda::quant_matmul::{
    Fp8Codes, Operands, QuantVersion, RowCodes, RowKind, TILE, TileCodes, WordCodes,
};
use crate::backend::cuda::weight::Output;
use crate::error::{Error, Result};
use crate::quant::{BLOCK, CHUNK, FP8_BLOCK};
use crate::tensor::DType;

const DTYPES: &[&str] = &["bf16", "f16", "f32"];

/// GPTQ's words by a thread for each output. With act_order=1 a list says which group an input is of.
pub(super) const PLAIN: Family = Family {
    kernels: &[(&["quant_matmul_v0"], DTYPES)],
    defaults: "rows=1,inputs=512,outputs=512,group_size=128,act_order=0",
    launches: words,
};

/// The same words, faster; v3 in tiles.
pub(super) const WORDS: Family = Family {
    kernels: &[(&["quant_matmul_v1", "quant_matmul_v2"], DTYPES), (&["quant_matmul_v3"], &["bf16", "f16"])],
    defaults: "rows=1,inputs=512,outputs=512,group_size=128",
    launches: words,
};

/// Floats of 8 bits in blocks of 128 × 128.
pub(super) const BLOCKS: Family = Family {
    kernels: &[(&["quant_matmul_v4"], DTYPES)],
    defaults: "rows=1,inputs=512,outputs=512",
    launches: blocks,
};

/// The general kernel: x in f32.
pub(super) const ROWS: Family = Family {
    kernels: &[(
        &[
            "quant_matmul_rows_affine4",
            "quant_matmul_rows_table",
            "quant_matmul_rows_affine8",
            "quant_matmul_rows_int8",
            "quant_matmul_rows_fp8",
        ],
        &[],
    )],
    defaults: "rows=1,inputs=512,outputs=512,group_size=128",
    launches: rows,
};

/// Memory for x and y.
fn operands(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Operands> {
    let [rows, inputs, outputs] = shape.get(["rows", "inputs", "outputs"]);
    let dtype = match kernel.dtype {
        "bf16" => DType::BF16,
        "f16" => DType::F16,
        _ => DType::F32,
    };
    let x = memory.ones(kernel.dtype, rows * inputs)?;
    let [y] = memory.floats([rows * outputs])?;
    Ok(Operands { x, dtype, inputs, outputs, y: Output { y, rows, cols: outputs, first: 0 } })
}

/// Refuses a number that is no multiple of what the kernel reads at once.
fn multiple(kernel: &Kernel, name: &str, number: usize, of: usize) -> Result<()> {
    if number.is_multiple_of(of) {
        return Ok(());
    }
    let why = format!("{} takes {name} that are a multiple of {of}; {number} is not", kernel.base);
    Err(Error::parameter("shape", why))
}

fn words(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let [inputs, outputs, group_size] = shape.get(["inputs", "outputs", "group_size"]);
    let in_tiles = kernel.base == "quant_matmul_v3";
    multiple(kernel, "inputs", inputs, 8)?;
    multiple(kernel, "outputs", outputs, 8)?;
    multiple(kernel, "group_size", group_size, if in_tiles { TILE } else { 8 })?;
    let operands = operands(memory, kernel, shape)?;
    let groups = inputs.div_ceil(group_size);
    let scales_dtype = DType::F16;
    if in_tiles {
        let (across, along) = (outputs.div_ceil(TILE), inputs.div_ceil(TILE));
        let codes = memory.of(&vec![0x99; across * along * TILE * TILE / 2])?;
        let zeros = memory.of(&vec![0x88; groups * across * TILE / 2])?;
        let scales = memory.ones("f16", groups * across * TILE)?;
        return Ok(vec![TileCodes { codes, zeros, scales, group_size, scales_dtype }.launch(&operands)]);
    }
    let codes = memory.of(&vec![0x99; inputs * outputs / 2])?;
    let zeros = memory.of(&vec![0x77; groups * outputs / 2])?;
    let scales = memory.ones("f16", groups * outputs)?;
    let words = WordCodes { codes, zeros, scales, group_size, zero_offset: 1, scales_dtype };
    Ok(vec![match kernel.base {
        "quant_matmul_v0" => {
            let g_idx = match shape.get(["act_order"]) {
                [0] => Address(0),
                _ => memory.ids((0..inputs).map(|input| input % groups))?,
            };
            words.launch_v0(&operands, g_idx)
        }
        "quant_matmul_v1" => words.launch(QuantVersion::V1, &operands),
        _ => words.launch(QuantVersion::V2, &operands),
    }])
}

fn blocks(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let [inputs, outputs] = shape.get(["inputs", "outputs"]);
    multiple(kernel, "inputs", inputs, 16)?;
    let codes = memory.ones("fp8", inputs * outputs)?;
    let [scales] = memory.floats([outputs.div_ceil(FP8_BLOCK) * inputs.div_ceil(FP8_BLOCK)])?;
    Ok(vec![Fp8Codes { codes, scales }.launch(&operands(memory, kernel, shape)?)])
}

fn rows(memory: &Memory, kernel: &Kernel, shape: &KernelShape) -> Result<Vec<Launch>> {
    let [inputs, outputs, group_size] = shape.get(["inputs", "outputs", "group_size"]);
    multiple(kernel, "group_size", group_size, BLOCK)?;
    let groups = inputs.div_ceil(group_size);
    // The kind, a byte of codes, and the scale.
    let (kind, byte, scale) = match kernel.base {
        "quant_matmul_rows_affine4" => (RowKind::Affine4, 0x99, 1.0),
        "quant_matmul_rows_table" => (RowKind::Table, 0x99, 1.0),
        "quant_matmul_rows_affine8" => (RowKind::Affine8, 9, 1.0),
        "quant_matmul_rows_int8" => (RowKind::Int8, 1, 1.0),
        _ => (RowKind::Fp8, 0x38, f32::from_bits((127 + 120) << 23)),
    };
    let words = match kind {
        RowKind::Affine4 | RowKind::Table => inputs.div_ceil(CHUNK) * (CHUNK / 8),
        _ => inputs.div_ceil(4),
    };
    let of_groups = |number: f32| memory.of(bytemuck::cast_slice(&vec![number; outputs * groups]));
    let none = Address(0);
    let codes = RowCodes {
        kind,
        codes: memory.of(&vec![byte; 4 * words * outputs])?,
        scales: of_groups(scale)?,
        offsets: if matches!(kind, RowKind::Affine4 | RowKind::Affine8) { of_groups(-8.0)? } else { none },
        tables: if kind == RowKind::Table { memory.ones("f32", 16 * outputs)? } else { none },
        group_of: memory.ids(
            (0..inputs.next_multiple_of(CHUNK) / BLOCK)
                .map(|b| usize::min(b * BLOCK / group_size, groups - 1)),
        )?,
        gather: none,
        sparse_starts: none,
        sparse_inputs: none,
        sparse: none,
        columns: inputs,
        words,
        groups,
    };
    Ok(vec![codes.launch(&operands(memory, kernel, shape)?)])
}
