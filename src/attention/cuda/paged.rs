//! [`Paged`](crate::attention::Paged) in a device's memory: the same pool and the same tables, and kernels that follow them.

use crate::{
    attention::{
        batch_placement::Placement,
        options::{KvDtype, KvOptions},
        pool_size::{Pool, plan_pool},
    },
    backend::{
        Rope, Shaped,
        cuda::{
            Arg, AttentionVersion, Buffer, Cuda, CudaTensor, Device, Grid, Ids, PagedPlaces, PagedShape,
            PagedWork, suffix,
        },
    },
    batch::{Batch, Move},
    error::Result,
    model::{Attention, AttentionShape, KvMemory},
};
use std::{ops::Range, sync::Arc};

/// The slot of a row that writes nothing: see kernels/kv_cache.cu.
const NOWHERE: u32 = u32::MAX;

/// Threads of a block that writes a row's K and V.
const WRITE_THREADS: u32 = 128;

/// What prompts run on. Without anything of their own (`()`) they run on what rows that decode run on.
pub trait Prompts: Sized + Send {
    /// One for this device.
    fn new(device: &Arc<dyn Device>) -> Result<Self>;

    /// Told of the batch once a forward pass.
    fn begin(&mut self, _cuda: &Cuda, _shape: &PagedShape, _batch: &Batch) -> Result<()> {
        Ok(())
    }

    /// Attention of all rows of rotated queries over what is in the cache, those that decode included, to `out`.
    fn attend(
        &self,
        paged: &DeviceAttention<Self>,
        cuda: &Cuda,
        layer: usize,
        q: &CudaTensor,
        out: &CudaTensor,
    ) -> Result<()> {
        paged.attend_rows(cuda, layer, q, out, 0..q.rows())
    }

    /// The kernel of its own that prompts ran on.
    fn kernel(&self) -> Option<&'static str> {
        None
    }
}

impl Prompts for () {
    fn new(_: &Arc<dyn Device>) -> Result<()> {
        Ok(())
    }
}

/// See the module's documentation. One kernel for all rows.
pub type PagedCuda = DeviceAttention<()>;

/// See the module's documentation.
pub struct DeviceAttention<P> {
    prompts: P,
    pub(super) shape: AttentionShape,
    dtype: KvDtype,
    pool: Pool,
    device: Arc<dyn Device>,
    /// K and V of each layer, [blocks, kv_heads, block_size, head_dim].
    layers: Vec<[Buffer; 2]>,
    /// Blocks that were swapped out: [swap_blocks, layers, 2, a block's bytes].
    host: Vec<u8>,
    placement: Placement,
    tables: Ids,
    /// For each row: where its table begins in `tables`, its position, and where its K and V go.
    table_starts: Ids,
    positions: Ids,
    slots: Ids,
    /// What runs, and in how many parts of the context.
    version: AttentionVersion,
    parts: usize,
}

impl<P: Prompts> DeviceAttention<P> {
    /// Reserves the pool: what the options ask for, in at most `room` bytes.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(
        device: &Arc<dyn Device>,
        shape: AttentionShape,
        options: &KvOptions,
        room: u64,
    ) -> Result<DeviceAttention<P>> {
        let pool = plan_pool(&shape, options, room)?;
        let bytes = pool.blocks * block_bytes(&shape, options.dtype, pool.block_size);
        let layer = |_| Ok([Buffer::new(device, bytes)?, Buffer::new(device, bytes)?]);
        let layers = shape.layers.clone().map(layer).collect::<Result<Vec<_>>>()?;
        let host = pool.swap_blocks * 2 * layers.len() * block_bytes(&shape, options.dtype, pool.block_size);
        let ids = || Ids::new(device, 0);
        Ok(DeviceAttention {
            prompts: P::new(device)?,
            dtype: options.dtype,
            pool,
            device: device.clone(),
            layers,
            host: vec![0; host],
            placement: Placement::default(),
            tables: ids()?,
            table_starts: ids()?,
            positions: ids()?,
            slots: ids()?,
            version: AttentionVersion::V0,
            parts: 1,
            shape,
        })
    }

    pub(super) fn paged_shape(&self) -> PagedShape {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        PagedShape { heads, kv_heads, head_dim, block_size: self.pool.block_size, dtype: self.dtype.stored() }
    }

    /// K and V of a layer.
    fn kept(&self, layer: usize) -> [Arg; 2] {
        let [keys, values] = &self.layers[layer - self.shape.layers.start];
        [keys, values].map(|buffer| Arg::At(buffer.address))
    }

    /// kv_heads, head_dim, block_size.
    fn sizes(&self) -> [u32; 3] {
        [self.shape.kv_heads, self.shape.head_dim, self.pool.block_size].map(|n| n as u32)
    }

    /// Writes the K and V of the batch's rows to their slots, and attends to nothing.
    ///
    /// # Errors
    /// Those of the device.
    pub fn write(&self, cuda: &Cuda, layer: usize, k: &CudaTensor, v: &CudaTensor) -> Result<()> {
        let new = [k.address(), v.address(), self.slots.address()].map(Arg::At);
        let sizes = self.sizes().map(Arg::U32);
        let arguments = [&self.kept(layer)[..], &new, &sizes].concat();
        let kernel = format!("write_kv_{}", suffix(self.dtype.stored()));
        cuda.launch(&kernel, Grid::rows(k.rows(), WRITE_THREADS), &arguments)
    }

    /// Where kernels find what a layer has kept, and what the batch's rows see of it.
    pub(super) fn places(&self, layer: usize) -> PagedPlaces {
        let [keys, values] = &self.layers[layer - self.shape.layers.start];
        PagedPlaces {
            k: keys.address,
            v: values.address,
            tables: self.tables.address(),
            table_starts: self.table_starts.address(),
            positions: self.positions.address(),
        }
    }

    /// Attention of some rows of rotated queries over what is in the cache, the batch's own K and V included, to the same rows of `out`.
    pub(super) fn attend_rows(
        &self,
        cuda: &Cuda,
        layer: usize,
        q: &CudaTensor,
        out: &CudaTensor,
        rows: Range<usize>,
    ) -> Result<()> {
        let mut places = self.places(layer);
        places.table_starts = places.table_starts.offset(size_of::<u32>() * rows.start);
        places.positions = places.positions.offset(size_of::<u32>() * rows.start);
        let work = PagedWork {
            shape: self.paged_shape(),
            places,
            rows: rows.len(),
            window: self.shape.windows[layer],
            scale: self.shape.scale,
            parts: self.parts,
        };
        let skipped = size_of::<f32>() * rows.start * self.shape.heads * self.shape.head_dim;
        cuda.paged_attention(self.version, &work, out.address().offset(skipped), q.address().offset(skipped))
    }

    fn attend_to_kept(&self, cuda: &Cuda, layer: usize, q: &CudaTensor) -> Result<CudaTensor> {
        let out = cuda.take(q.rows(), self.shape.heads * self.shape.head_dim)?;
        self.prompts.attend(self, cuda, layer, q, &out)?;
        Ok(out)
    }

    /// Rotates q and k and writes K and V to their slots, by one kernel: k is rotated on its way into the cache.
    fn rotate_and_write(
        &self,
        cuda: &Cuda,
        layer: usize,
        rope: &Rope<Cuda>,
        positions: &Ids,
        [q, k, v]: [&CudaTensor; 3],
    ) -> Result<()> {
        let new = [q.address(), k.address(), v.address(), self.slots.address()].map(Arg::At);
        let at = [positions.address(), rope.inv_freq.vector()].map(Arg::At);
        let sizes = [&[self.shape.heads as u32][..], &self.sizes()].concat();
        let sizes: Vec<Arg> = sizes.into_iter().map(Arg::U32).collect();
        let arguments = [&self.kept(layer)[..], &new, &at, &[Arg::F32(rope.scaling)], &sizes].concat();
        let kernel = format!("rope_write_kv_{}", suffix(self.dtype.stored()));
        let angles = self.shape.head_dim * size_of::<f32>();
        let grid = Grid { shared_bytes: angles, ..Grid::rows(k.rows(), WRITE_THREADS) };
        cuda.launch(&kernel, grid, &arguments)
    }

    /// Carries out the copies that a batch begins with.
    fn move_blocks(&mut self, moves: &[Move]) -> Result<()> {
        let bytes = block_bytes(&self.shape, self.dtype, self.pool.block_size);
        for (number, buffer) in self.layers.iter().flatten().enumerate() {
            let on_device = |block: u32| buffer.address.offset(block as usize * bytes);
            let per_block = 2 * self.layers.len() * bytes;
            let on_host = |block: u32| {
                let start = block as usize * per_block + number * bytes;
                start..start + bytes
            };
            for step in moves {
                match *step {
                    Move::Copy { from, to } => self.device.copy(on_device(from), on_device(to), bytes)?,
                    Move::SwapOut { block, host } => {
                        self.device.download(on_device(block), &mut self.host[on_host(host)])?
                    }
                    Move::SwapIn { host, block } => {
                        self.device.upload(on_device(block), &self.host[on_host(host)])?
                    }
                }
            }
        }
        Ok(())
    }
}

/// Bytes of K, or of V, of a block in one layer. In fp8 the scales lie behind the numbers, and both begin at whole pieces of 16 bytes:
/// `block_numbers` in kernels/paged_cache.cuh.
fn block_bytes(shape: &AttentionShape, dtype: KvDtype, block_size: usize) -> usize {
    let vectors = block_size * shape.kv_heads;
    let numbers = vectors * shape.head_dim * dtype.stored().bytes();
    match dtype {
        KvDtype::Fp8 => (numbers.next_multiple_of(4) + size_of::<f32>() * vectors).next_multiple_of(16),
        _ => numbers,
    }
}

impl<P: Prompts> Attention<Cuda> for DeviceAttention<P> {
    fn name(&self) -> &'static str {
        "paged"
    }

    fn kernel(&self) -> Option<&'static str> {
        Some(self.version.kernel())
    }

    fn prefill_kernel(&self) -> Option<&'static str> {
        self.prompts.kernel()
    }

    fn begin(&mut self, cuda: &Cuda, batch: &Batch) -> Result<Option<u64>> {
        self.move_blocks(&batch.moves)?;
        self.placement.place(&self.pool, batch)?;
        let Placement { sequences, tables, slot_mapping } = &mut self.placement;
        let mut starts: Vec<u32> =
            sequences.iter().flat_map(|s| s.rows.clone().map(|_| s.place.start as u32)).collect();
        // Rows that belong to nobody look at the pool's first block, and write nothing.
        let rows = batch.tokens.len();
        starts.resize(rows, tables.len() as u32);
        slot_mapping.resize(rows, NOWHERE);
        tables.push(0);
        self.tables.write(tables)?;
        self.table_starts.write(&starts)?;
        self.positions.write(&batch.positions)?;
        self.slots.write(slot_mapping)?;
        let longest = batch.positions.iter().max().map_or(1, |position| *position as usize + 1);
        self.version = AttentionVersion::choose(cuda.options().attention, &self.paged_shape());
        self.parts = self.version.parts(longest);
        self.prompts.begin(cuda, &self.paged_shape(), batch)?;
        Ok(batch.decode_rows().map(|_| (self.parts as u64) << 32 | rows as u64))
    }

    fn attend(
        &mut self,
        cuda: &Cuda,
        layer: usize,
        q: &CudaTensor,
        k: &CudaTensor,
        v: &CudaTensor,
    ) -> Result<CudaTensor> {
        self.write(cuda, layer, k, v)?;
        self.attend_to_kept(cuda, layer, q)
    }

    /// Two kernels fewer.
    fn rotate_and_attend(
        &mut self,
        cuda: &Cuda,
        layer: usize,
        rope: &Rope<Cuda>,
        positions: &Ids,
        q: CudaTensor,
        k: CudaTensor,
        v: &CudaTensor,
    ) -> Result<CudaTensor> {
        self.rotate_and_write(cuda, layer, rope, positions, [&q, &k, v])?;
        self.attend_to_kept(cuda, layer, &q)
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(self.pool.max_model_len)
    }

    fn memory(&self) -> KvMemory {
        self.pool.memory(&self.shape, self.dtype)
    }
}
