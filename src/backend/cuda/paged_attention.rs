//! Which version of attention over blocks runs, and how it is launched: kernels/paged_attention.cu.

use super::device::{Address, Arg, Grid, Launch};
use super::{Cuda, CudaTensor, suffix};
use crate::error::Result;
use crate::tensor::DType;

/// A step of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "snake_case", prefix = "paged_attention_")]
pub enum AttentionVersion {
    /// Plainly right, for any shape.
    V0,
    /// Lanes read a key together.
    V1,
    /// K and V are read once for all query heads of a group.
    V2,
    /// The context in parts.
    V3,
    /// The next tile is copied while a tile is used.
    V4,
}

/// Keys of a part. It is the same for every sequence, so that a token's bits don't depend on who else is in the batch, and large, so that
/// merging costs little: a part's partial result is head_dim + 2 floats a query head, and its K and V 2 · 512 · head_dim numbers.
pub const PART: usize = 512;

/// Keys of a tile of v0, and of v2 to v4; query heads that one read of a tile serves: TILE, KEYS and AT_A_TIME in the kernel file.
const TILE: usize = 64;
const KEYS: usize = 16;
const AT_A_TIME: usize = 4;
/// Threads of a block of v1.
const V1_THREADS: usize = 128;
/// Shared memory that a block may have on every GPU that the kernels are for (sm_86 has the least).
const SHARED_BYTES: usize = 99 << 10;
/// Threads of a block that writes a row's K and V.
const WRITE_THREADS: u32 = 128;

/// The shape that decides which version fits.
#[derive(Clone, Copy, Debug)]
pub struct PagedShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub block_size: usize,
    pub dtype: DType,
}

/// The addresses of the cache, and of the tables and positions that say which keys each row sees.
#[derive(Clone, Copy, Debug)]
pub struct PagedPlaces {
    pub k: Address,
    pub v: Address,
    pub tables: Address,
    pub table_starts: Address,
    pub positions: Address,
}

impl PagedShape {
    /// Bytes of K, or of V, of a block in one layer. In fp8 the scales lie behind the numbers, and both begin at whole pieces of 16 bytes:
    /// `block_numbers` in kernels/paged_cache.cuh.
    pub fn block_bytes(&self) -> usize {
        let vectors = self.block_size * self.kv_heads;
        let numbers = vectors * self.head_dim * self.dtype.bytes();
        match self.dtype {
            DType::F8_E4M3 => (numbers.next_multiple_of(4) + size_of::<f32>() * vectors).next_multiple_of(16),
            _ => numbers,
        }
    }

    fn sizes(&self) -> [Arg; 3] {
        [self.kv_heads, self.head_dim, self.block_size].map(Arg::extent)
    }

    /// Writes new rows of K and V to their slots in the `cache` of a layer, its K and its V. `new`: k, v and the rows' slots; `scales`: those of
    /// all K and all V in fp8, 0 for a scale of each vector's own.
    pub fn write(&self, cache: [Address; 2], new: [Address; 3], scales: [f32; 2], rows: usize) -> Launch {
        let kernel = format!("write_kv_{}", suffix(self.dtype));
        let pointers = [&cache[..], &new].concat();
        let values = [&self.sizes()[..], &scales.map(Arg::F32)].concat();
        Launch::new(kernel, Grid::rows(rows, WRITE_THREADS), &pointers, &values)
    }

    /// Rotates q in its place, and k on its way into the cache. `new`: q, and what [`write`](PagedShape::write) takes; `rotation`: the rows'
    /// positions and the frequencies, whose cos and sin are multiplied by the first of `factors`.
    pub fn rotate_and_write(
        &self,
        cache: [Address; 2],
        new: [Address; 4],
        rotation: [Address; 2],
        (scaling, scales): (f32, [f32; 2]),
        rows: usize,
    ) -> Launch {
        let kernel = format!("rope_write_kv_{}", suffix(self.dtype));
        let pointers = [&cache[..], &new, &rotation].concat();
        let values =
            [&[Arg::F32(scaling), Arg::extent(self.heads)][..], &self.sizes(), &scales.map(Arg::F32)]
                .concat();
        let angles = self.head_dim * size_of::<f32>();
        let grid = Grid { shared_bytes: angles, ..Grid::rows(rows, WRITE_THREADS) };
        Launch::new(kernel, grid, &pointers, &values)
    }

    /// The arguments that every kernel of attention has behind its first pointers: the cache, its sizes, the window (none: all keys) and
    /// the scale.
    pub(super) fn attention_arguments(
        &self,
        places: &PagedPlaces,
        window: Option<usize>,
        scale: f32,
    ) -> Vec<Arg> {
        let PagedPlaces { k, v, tables, table_starts, positions } = *places;
        let pointers = [k, v, tables, table_starts, positions].map(Arg::At);
        [&pointers[..], &self.sizes(), &[window_argument(window), Arg::F32(scale)]].concat()
    }
}

/// Keys that a query sees, as kernels take it.
fn window_argument(window: Option<usize>) -> Arg {
    Arg::U32(window.map_or(u32::MAX, |window| window as u32))
}

impl AttentionVersion {
    /// All, the plainest first.
    pub const ALL: [AttentionVersion; 5] = [Self::V0, Self::V1, Self::V2, Self::V3, Self::V4];

    /// The version that is asked for, or the fastest; v0 where that does not fit.
    pub fn choose(asked: Option<AttentionVersion>, shape: &PagedShape) -> AttentionVersion {
        let wanted = asked.unwrap_or(AttentionVersion::V4);
        if wanted.fits(shape) { wanted } else { AttentionVersion::V0 }
    }

    /// Whether its limits allow a shape.
    pub fn fits(self, shape: &PagedShape) -> bool {
        let whole_pieces = shape.head_dim.is_multiple_of(if shape.dtype == DType::F8_E4M3 { 16 } else { 8 });
        let registers = shape.head_dim <= 256;
        self == AttentionVersion::V0
            || (whole_pieces && registers && self.shared_bytes(shape, self.warps(shape)) <= SHARED_BYTES)
    }

    /// The kernel's name, without the dtype.
    pub fn kernel(self) -> &'static str {
        self.into()
    }

    /// Parts of the context that blocks of their own take, for sequences of at most `longest` tokens: a power of two, so that few graphs serve
    /// all. One for versions that don't divide it.
    pub fn parts(self, longest: usize) -> usize {
        match self {
            AttentionVersion::V3 | AttentionVersion::V4 => longest.div_ceil(PART).next_power_of_two(),
            _ => 1,
        }
    }

    /// Warps of a block of v2 to v4: four, or fewer where shared memory is too small for them.
    fn warps(self, shape: &PagedShape) -> usize {
        [4, 2].into_iter().find(|warps| self.shared_bytes(shape, *warps) <= SHARED_BYTES).unwrap_or(1)
    }

    fn shared_bytes(self, shape: &PagedShape, warps: usize) -> usize {
        let PagedShape { head_dim, dtype, .. } = *shape;
        let group = shape.heads / shape.kv_heads;
        let tiles = 2 * KEYS * (head_dim * dtype.bytes() + 16);
        // Queries; sums and states of each warp, and weights, all before the tiles at a multiple of 16 bytes.
        let states = (2 * warps * group).next_multiple_of(4);
        let before = 4 * ((1 + warps) * group * head_dim + states + warps * KEYS * AT_A_TIME);
        match self {
            AttentionVersion::V0 => 4 * (2 * head_dim + 2 * TILE),
            AttentionVersion::V1 => V1_THREADS / 32 * 4 * (head_dim + 2),
            AttentionVersion::V2 | AttentionVersion::V3 => before + warps * tiles,
            AttentionVersion::V4 => before + warps * 2 * tiles,
        }
    }
}

/// The work of a launch: rows of queries, and the keys that they see.
#[derive(Clone, Copy, Debug)]
pub struct PagedWork {
    pub shape: PagedShape,
    pub places: PagedPlaces,
    pub rows: usize,
    pub window: Option<usize>,
    pub scale: f32,
    pub parts: usize,
}

impl AttentionVersion {
    /// The launches that attend: one, and with more than one part another that merges them. `out`, `q`: [rows, heads · head_dim]; `partial`:
    /// rows · heads · parts · (head_dim + 2) numbers, used if there is more than one part.
    pub fn launches(self, work: &PagedWork, out: Address, q: Address, partial: Address) -> Vec<Launch> {
        let PagedShape { heads, kv_heads, head_dim, dtype, .. } = work.shape;
        let mut arguments = work.shape.attention_arguments(&work.places, work.window, work.scale);
        let (blocks, threads) = match self {
            AttentionVersion::V0 => ([heads, work.rows, 1], TILE),
            AttentionVersion::V1 => ([heads, work.rows, 1], V1_THREADS),
            _ => ([kv_heads, work.rows, work.parts], 32 * self.warps(&work.shape)),
        };
        if !matches!(self, AttentionVersion::V0 | AttentionVersion::V1) {
            arguments.push(Arg::extent(heads));
        }
        if matches!(self, AttentionVersion::V3 | AttentionVersion::V4) {
            let part = if work.parts > 1 { PART as u32 } else { 1 << 31 }; // one part takes all keys
            arguments.extend([Arg::At(partial), Arg::U32(part)]);
        }
        let shared_bytes = self.shared_bytes(&work.shape, self.warps(&work.shape));
        let grid = Grid { blocks: blocks.map(|n| n as u32), threads: threads as u32, shared_bytes };
        let attend = Launch::new(format!("{}_{}", self.kernel(), suffix(dtype)), grid, &[out, q], &arguments);
        if work.parts == 1 {
            return vec![attend];
        }
        let [head_dim, part, parts] = [head_dim, PART, work.parts].map(Arg::extent);
        let values = [head_dim, window_argument(work.window), part, parts];
        let grid = Grid { blocks: [heads as u32, work.rows as u32, 1], threads: 64, shared_bytes: 0 };
        let pointers = [out, partial, work.places.positions];
        vec![attend, Launch::new("paged_attention_combine", grid, &pointers, &values)]
    }
}

impl Cuda {
    /// Attention of the rows at `q`, written to `out`: both [rows, heads · head_dim].
    ///
    /// # Errors
    /// Those of the device.
    pub fn paged_attention(
        &self,
        version: AttentionVersion,
        work: &PagedWork,
        out: Address,
        q: Address,
    ) -> Result<()> {
        let PagedShape { heads, head_dim, .. } = work.shape;
        let partial = match work.parts {
            1 => None,
            parts => Some(self.take(work.rows * heads * parts, head_dim + 2)?),
        };
        let at = partial.as_ref().map_or(out, CudaTensor::address);
        self.run(&version.launches(work, out, q, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_version_that_fits_is_chosen_and_long_contexts_are_divided() {
        let shape = |head_dim, dtype| PagedShape { heads: 32, kv_heads: 8, head_dim, block_size: 16, dtype };
        let chosen = |asked, head_dim, dtype| AttentionVersion::choose(asked, &shape(head_dim, dtype));
        assert_eq!(chosen(None, 128, DType::BF16), AttentionVersion::V4);
        assert_eq!(chosen(Some(AttentionVersion::V2), 128, DType::BF16), AttentionVersion::V2);
        assert_eq!(chosen(None, 12, DType::BF16), AttentionVersion::V0, "no multiple of 8");
        assert_eq!(
            chosen(None, 24, DType::F8_E4M3),
            AttentionVersion::V0,
            "no multiple of 16, whole pieces of fp8"
        );
        assert_eq!(chosen(None, 264, DType::BF16), AttentionVersion::V0, "more than 256");
        let wide = PagedShape { heads: 64, kv_heads: 1, ..shape(256, DType::F32) };
        assert_eq!(
            AttentionVersion::choose(None, &wide),
            AttentionVersion::V0,
            "more shared memory than a block has"
        );
        assert_eq!(AttentionVersion::V4.parts(512), 1);
        assert_eq!(AttentionVersion::V4.parts(513), 2);
        assert_eq!(AttentionVersion::V3.parts(2000), 4);
        assert_eq!(AttentionVersion::V2.parts(2000), 1);
    }
}
