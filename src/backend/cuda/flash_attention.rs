//! Which version of attention over prompts runs, and how it is launched: kernels/flash_attention.cu.

use super::device::{Address, Arg, Grid, Launch};
use super::{Cuda, CudaTensor, PagedPlaces, PagedShape, suffix};
use crate::{error::Result, tensor::DType};

/// A step of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case", prefix = "flash_attention_")]
pub enum FlashVersion {
    /// The scores in memory: three kernels.
    V0,
    /// Online softmax on tiles, in f32.
    V1,
    /// On tensor cores.
    V2,
    /// The next tile is copied while a tile is used.
    V3,
    /// For a Hopper: warps that bring tiles, and warps that multiply. kernels/flash_attention_sm90.cu.
    V4,
}

/// Packed rows of a block, and keys of a tile, of v0 and v1: ROWS, TILE_KEYS in the kernel file.
const ROWS: usize = 32;
const KEYS: usize = 32;
/// The same of v2 and v3 (MMA_ROWS, MMA_KEYS), and the widths of heads that they are compiled for.
const MMA_ROWS: usize = 64;
const MMA_WIDTHS: [usize; 5] = [64, 80, 96, 128, 256];
/// The same of v4 (V4_ROWS, V4_KEYS, V4_STAGES), and its threads.
const V4_ROWS: usize = 128;
const V4_KEYS: usize = 64;
const V4_STAGES: usize = 2;
const V4_WIDTHS: [usize; 2] = [64, 128];
const V4_THREADS: u32 = 384;
/// From one row of weights in shared memory to the next.
const WEIGHT_STRIDE: usize = 36;
/// Threads of a block.
const THREADS: u32 = 128;
/// The widest head that v0 and v1 have registers for.
const WIDEST: usize = 256;

/// The work of a launch: rows of one or many sequences.
#[derive(Clone, Copy, Debug)]
pub struct FlashWork {
    pub shape: PagedShape,
    pub places: PagedPlaces,
    /// The first row of each sequence in q, and the number of its rows: ids, `[sequences]`.
    pub row_starts: Address,
    pub row_counts: Address,
    pub sequences: usize,
    /// Rows of the sequence with the most rows.
    pub most_rows: usize,
    /// Rows of q, padding included.
    pub rows: usize,
    /// Tokens of the longest sequence, the new ones included.
    pub longest: usize,
    pub window: Option<usize>,
    pub scale: f32,
}

impl FlashVersion {
    /// All, the plainest first.
    pub const ALL: [FlashVersion; 5] = [Self::V0, Self::V1, Self::V2, Self::V3, Self::V4];

    /// The version that is asked for, or v3 where the model's arithmetic is that of tensor cores: they round queries and weights to K's dtype. v1
    /// where that does not fit, and `None` where not even that does. v4 runs if it is asked for: it has not run on a GPU.
    pub fn choose(asked: Option<Self>, shape: &PagedShape, arithmetic: DType, hopper: bool) -> Option<Self> {
        let best = if arithmetic == shape.dtype { FlashVersion::V3 } else { FlashVersion::V1 };
        let there = |version: &FlashVersion| version.fits(shape) && (hopper || *version != FlashVersion::V4);
        [asked.unwrap_or(best), FlashVersion::V1].into_iter().find(there)
    }

    /// Whether its limits allow a shape.
    pub fn fits(self, shape: &PagedShape) -> bool {
        match self {
            FlashVersion::V0 | FlashVersion::V1 => {
                shape.head_dim.is_multiple_of(4) && shape.head_dim <= WIDEST
            }
            FlashVersion::V2 | FlashVersion::V3 | FlashVersion::V4 => {
                let widths = if self == FlashVersion::V4 { &V4_WIDTHS[..] } else { &MMA_WIDTHS };
                matches!(shape.dtype, DType::BF16 | DType::F16) && widths.contains(&shape.head_dim)
            }
        }
    }

    /// The kernel's name, without width and dtype.
    pub fn kernel(self) -> &'static str {
        self.into()
    }

    /// Numbers that v0 keeps scores in, [rows, heads, keys]: what grows with the length squared.
    pub fn scores(self, work: &FlashWork) -> usize {
        match self {
            FlashVersion::V0 => work.rows * work.shape.heads * scores_stride(work),
            _ => 0,
        }
    }

    fn shared_bytes(self, shape: &PagedShape) -> usize {
        let plain = |tiles: usize| 4 * tiles * ROWS * (shape.head_dim.max(32) + 4);
        match self {
            FlashVersion::V0 => plain(2),
            FlashVersion::V1 => plain(3),
            FlashVersion::V2 | FlashVersion::V3 => {
                // An odd number of pieces of 8, unless pieces are found by XOR: VECTOR in the kernel file.
                let pieces = shape.head_dim / 8;
                let vector = 8 * if pieces.is_multiple_of(8) { pieces } else { pieces | 1 };
                let keys = if shape.head_dim <= 128 { 64 } else { 32 };
                let tiles = if self == FlashVersion::V3 { 4 } else { 2 };
                2 * vector * (MMA_ROWS + tiles * keys)
            }
            // A tile of K and one of V for each stage, and two mbarriers.
            FlashVersion::V4 => V4_STAGES * (2 * V4_KEYS * shape.head_dim * 2 + 2 * 8),
        }
    }

    /// The launches that attend. `out`, `q`: [rows, heads · head_dim], of which the sequences' rows are used; `lse`: [rows, heads], the logarithm of each
    /// row's sum of e^score, if it is wanted; `scores`: see [`scores`](FlashVersion::scores).
    pub fn launches(
        self,
        work: &FlashWork,
        out: Address,
        lse: Option<Address>,
        q: Address,
        scores: Address,
    ) -> Vec<Launch> {
        let PagedShape { heads, kv_heads, head_dim, dtype, .. } = work.shape;
        let mut arguments = [out, lse.unwrap_or(Address(0)), q].map(Arg::At).to_vec();
        arguments.extend(work.shape.attention_arguments(&work.places, work.window, work.scale));
        arguments.extend([Arg::At(work.row_starts), Arg::At(work.row_counts), Arg::extent(heads)]);
        if self == FlashVersion::V0 {
            arguments.splice(0..0, [Arg::At(scores), Arg::extent(scores_stride(work))]);
        }
        let (rows, threads) = match self {
            FlashVersion::V0 | FlashVersion::V1 => (ROWS, THREADS),
            FlashVersion::V2 | FlashVersion::V3 => (MMA_ROWS, THREADS),
            FlashVersion::V4 => (V4_ROWS, V4_THREADS),
        };
        let tiles = (work.most_rows * (heads / kv_heads)).div_ceil(rows);
        let shared_bytes = self.shared_bytes(&work.shape);
        let blocks = [tiles, kv_heads, work.sequences].map(|n| n as u32);
        let (name, dtype) = (self.kernel(), suffix(dtype));
        let launch = |kernel: String, shared_bytes| {
            Launch::new(kernel, Grid { blocks, threads, shared_bytes }, &[], &arguments)
        };
        match self {
            FlashVersion::V0 => {
                let output_bytes = shared_bytes / 2 + 4 * ROWS * WEIGHT_STRIDE; // half of the tiles, and the weights
                let parts = [("scores", shared_bytes), ("softmax", 0), ("output", output_bytes)];
                parts.map(|(part, bytes)| launch(format!("{name}_{part}_{dtype}"), bytes)).into()
            }
            FlashVersion::V1 => vec![launch(format!("{name}_{dtype}"), shared_bytes)],
            _ => vec![launch(format!("{name}_d{head_dim}_{dtype}"), shared_bytes)],
        }
    }
}

/// Scores of a row: whole tiles of keys.
fn scores_stride(work: &FlashWork) -> usize {
    work.longest.next_multiple_of(KEYS)
}

impl Cuda {
    /// Attention of the sequences' rows, written to those of `out`; both [rows, heads · head_dim].
    ///
    /// # Errors
    /// Those of the device: v0 needs memory for all scores.
    pub fn flash_attention(
        &self,
        version: FlashVersion,
        work: &FlashWork,
        out: &CudaTensor,
        lse: Option<&CudaTensor>,
        q: &CudaTensor,
    ) -> Result<()> {
        let scores = match version.scores(work) {
            0 => None,
            n => Some(self.take(n / work.rows, work.rows)?),
        };
        let scores = scores.as_ref().map_or(out.address(), CudaTensor::address);
        let lse = lse.map(CudaTensor::address);
        self.run(&version.launches(work, out.address(), lse, q.address(), scores))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensor_cores_run_where_they_have_the_arithmetic_that_is_asked_for() {
        let shape = |head_dim, dtype| PagedShape { heads: 32, kv_heads: 8, head_dim, block_size: 16, dtype };
        let chosen = |asked, head_dim, dtype, arithmetic| {
            FlashVersion::choose(asked, &shape(head_dim, dtype), arithmetic, true)
        };
        let (bf16, f32) = (DType::BF16, DType::F32);
        assert_eq!(chosen(None, 128, bf16, bf16), Some(FlashVersion::V3));
        assert_eq!(chosen(None, 128, bf16, f32), Some(FlashVersion::V1));
        assert_eq!(chosen(Some(FlashVersion::V2), 128, bf16, f32), Some(FlashVersion::V2), "asked for");
        assert_eq!(
            chosen(Some(FlashVersion::V2), 128, f32, f32),
            Some(FlashVersion::V1),
            "no tensor cores for f32"
        );
        assert_eq!(chosen(None, 72, bf16, bf16), Some(FlashVersion::V1), "not compiled for 72");
        assert_eq!(chosen(None, 128, DType::F8_E4M3, bf16), Some(FlashVersion::V1));
        let v4 = Some(FlashVersion::V4);
        assert_eq!(chosen(v4, 128, bf16, bf16), v4);
        assert_eq!(chosen(v4, 80, bf16, bf16), Some(FlashVersion::V1), "64 and 128 alone");
        let elsewhere = FlashVersion::choose(v4, &shape(128, bf16), bf16, false);
        assert_eq!(elsewhere, Some(FlashVersion::V1), "no Hopper");
        assert_eq!(chosen(None, 10, f32, f32), None, "no multiple of 4");
        assert_eq!(chosen(None, 260, f32, f32), None, "more than 256");
    }
}
