//! The arguments and grids of kernels/quant_matmul.cu and kernels/quant_rows.cu.

use crate::backend::cuda::device::{Address, Arg, Grid, Launch};
use crate::backend::cuda::suffix;
use crate::backend::cuda::weight::Output;
use crate::tensor::DType;

/// A version that reads GPTQ's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case", prefix = "quant_matmul_")]
pub enum QuantVersion {
    /// A thread for each output.
    V0,
    /// Four outputs in one read.
    V1,
    /// Warps share out the groups.
    V2,
}

/// What is multiplied, and where the result goes.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// [rows, inputs]
    pub x: Address,
    pub dtype: DType,
    pub inputs: usize,
    pub outputs: usize,
    pub y: Output,
}

impl Operands {
    /// A launch of a kernel of this family: y, x and its own arguments, then the columns of y that it writes.
    fn launch(&self, kernel: &str, grid: Grid, own: Vec<Arg>, takes_rows: bool) -> Launch {
        let Output { y, rows, cols, first } = self.y;
        let mut arguments = vec![Arg::At(y), Arg::At(self.x)];
        arguments.extend(own);
        arguments.extend([cols, first].map(Arg::extent));
        arguments.extend(takes_rows.then_some(Arg::extent(rows)));
        Launch { kernel: kernel.into(), grid, arguments }
    }

    /// A block of threads for so many outputs and rows.
    fn grid(&self, outputs: usize, rows: usize, threads: u32) -> Grid {
        let blocks = [self.outputs.div_ceil(outputs) as u32, self.y.rows.div_ceil(rows) as u32, 1];
        Grid { blocks, threads, shared_bytes: 0 }
    }

    fn extents(&self) -> [Arg; 2] {
        [self.inputs, self.outputs].map(Arg::extent)
    }

    fn name(&self, kernel: &str) -> String {
        format!("{kernel}_{}", suffix(self.dtype))
    }
}

/// A packed matrix in device memory, as one of the kernels reads it.
#[derive(Clone, Copy, Debug)]
pub enum Codes {
    Words(WordCodes),
    Tiles(TileCodes),
    Fp8(Fp8Codes),
    Rows(RowCodes),
}

impl Codes {
    /// The product with x, by the fastest kernel.
    pub fn launch(&self, operands: &Operands) -> Launch {
        match self {
            Codes::Words(words) => words.launch(QuantVersion::V2, operands),
            Codes::Tiles(tiles) => tiles.launch(operands),
            Codes::Fp8(blocks) => blocks.launch(operands),
            Codes::Rows(rows) => rows.launch(operands),
        }
    }
}

/// [`CodeWords`](crate::quant::CodeWords) on the device.
#[derive(Clone, Copy, Debug)]
pub struct WordCodes {
    pub codes: Address,
    pub zeros: Address,
    pub scales: Address,
    pub group_size: usize,
    pub zero_offset: u8,
    pub scales_dtype: DType,
}

impl WordCodes {
    /// The product by a version of the ladder.
    pub fn launch(&self, version: QuantVersion, operands: &Operands) -> Launch {
        match version {
            QuantVersion::V0 => self.launch_v0(operands, Address(0)),
            QuantVersion::V1 => {
                let grid = operands.grid(256, 1, 64);
                operands.launch(&operands.name(version.into()), grid, self.arguments(operands), false)
            }
            QuantVersion::V2 => {
                let grid = operands.grid(128, 4, 256);
                operands.launch(&operands.name(version.into()), grid, self.arguments(operands), true)
            }
        }
    }

    /// The product by v0, with the group of each input, or null.
    pub fn launch_v0(&self, operands: &Operands, g_idx: Address) -> Launch {
        let own = [vec![Arg::At(g_idx)], self.arguments(operands)].concat();
        operands.launch(&operands.name(QuantVersion::V0.into()), operands.grid(128, 1, 128), own, false)
    }

    fn arguments(&self, operands: &Operands) -> Vec<Arg> {
        let pointers = [self.codes, self.zeros, self.scales].map(Arg::At);
        let bf16 = u32::from(self.scales_dtype == DType::BF16);
        let own = [Arg::extent(self.group_size), Arg::U32(self.zero_offset.into()), Arg::U32(bf16)];
        [&pointers[..], &operands.extents(), &own].concat()
    }
}

/// [`Tiles`](super::Tiles) on the device.
#[derive(Clone, Copy, Debug)]
pub struct TileCodes {
    pub codes: Address,
    pub zeros: Address,
    pub scales: Address,
    pub group_size: usize,
    pub scales_dtype: DType,
}

impl TileCodes {
    /// The product by v3.
    pub fn launch(&self, operands: &Operands) -> Launch {
        let pointers = [self.codes, self.zeros, self.scales].map(Arg::At);
        let bf16 = u32::from(self.scales_dtype == DType::BF16);
        let own =
            [&pointers[..], &operands.extents(), &[Arg::extent(self.group_size), Arg::U32(bf16)]].concat();
        operands.launch(&operands.name("quant_matmul_v3"), operands.grid(128, 32, 128), own, true)
    }
}

/// [`Fp8Blocks`](crate::quant::Fp8Blocks) on the device.
#[derive(Clone, Copy, Debug)]
pub struct Fp8Codes {
    pub codes: Address,
    pub scales: Address,
}

impl Fp8Codes {
    /// The product by v4.
    pub fn launch(&self, operands: &Operands) -> Launch {
        let own = [&[self.codes, self.scales].map(Arg::At)[..], &operands.extents()].concat();
        operands.launch(&operands.name("quant_matmul_v4"), operands.grid(16, 4, 128), own, true)
    }
}

/// How the general kernel makes numbers of codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case", prefix = "quant_matmul_rows_")]
pub enum RowKind {
    Affine4,
    Table,
    Affine8,
    Int8,
    Fp8,
}

/// [`PackedRows`](crate::quant::PackedRows) on the device. Addresses of what there is none of are null.
#[derive(Clone, Copy, Debug)]
pub struct RowCodes {
    pub kind: RowKind,
    pub codes: Address,
    pub scales: Address,
    pub offsets: Address,
    pub tables: Address,
    pub group_of: Address,
    pub gather: Address,
    pub sparse_starts: Address,
    pub sparse_inputs: Address,
    pub sparse: Address,
    pub columns: usize,
    /// Words of a row.
    pub words: usize,
    pub groups: usize,
}

impl RowCodes {
    /// The product by the general kernel: x in f32.
    pub fn launch(&self, operands: &Operands) -> Launch {
        assert_eq!(operands.dtype, DType::F32, "the general kernel's x");
        let numbers = [self.codes, self.scales, self.offsets, self.tables];
        let places = [self.group_of, self.gather, self.sparse_starts, self.sparse_inputs, self.sparse];
        let pointers = [&numbers[..], &places].concat().into_iter().map(Arg::At);
        let sizes = [self.columns, self.words, self.groups].map(Arg::extent);
        let own = pointers.chain(operands.extents()).chain(sizes).collect();
        operands.launch(self.kind.into(), operands.grid(4, 4, 128), own, true)
    }
}
