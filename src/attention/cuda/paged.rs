//! [`Paged`](crate::attention::Paged) in a device's memory: it has the same pool and the same tables, and kernels follow the tables.

use crate::attention::batch_placement::Placement;
use crate::attention::options::{KvDtype, KvOptions};
use crate::attention::pool_size::{Pool, plan_pool};
use crate::backend::cuda::{
    Address, AttentionVersion, Buffer, Cuda, CudaTensor, Device, Ids, PagedPlaces, PagedShape, PagedWork,
};
use crate::backend::{Rope, Shaped};
use crate::batch::{Batch, Move};
use crate::error::Result;
use crate::model::{Attention, AttentionShape, KvMemory, KvScalesFrom};
use std::{ops::Range, sync::Arc};

/// The slot of a row that writes nothing: see kernels/kv_cache.cu.
const NOWHERE: u32 = u32::MAX;

/// How the rows of prompts attend. With `()` they run on the kernel that decodes.
pub trait Prompts: Sized + Send {
    /// Makes what the prompts need in the memory of this device.
    fn new(device: &Arc<dyn Device>) -> Result<Self>;

    /// Called once per forward pass with the batch, before any [`attend`](Prompts::attend).
    fn begin(&mut self, _cuda: &Cuda, _shape: &PagedShape, _batch: &Batch) -> Result<()> {
        Ok(())
    }

    /// Attends with all rows of the rotated queries `q`, including the rows that decode, to the keys in the cache, and writes the result to
    /// `out`. Both are [rows, heads · head_dim].
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

    /// The kernel that prompts ran on, if they have one of their own.
    fn kernel(&self) -> Option<&'static str> {
        None
    }
}

impl Prompts for () {
    fn new(_: &Arc<dyn Device>) -> Result<()> {
        Ok(())
    }
}

/// Paged attention in which one kernel serves all rows.
pub type PagedCuda = DeviceAttention<()>;

/// Paged attention on a device; `P` says how prompts attend.
pub struct DeviceAttention<P> {
    prompts: P,
    pub(super) shape: AttentionShape,
    /// The part of the shape that kernels are told.
    pub(super) paged_shape: PagedShape,
    dtype: KvDtype,
    scales: Option<KvScalesFrom>,
    /// Of each layer: the scales of K and V in fp8 that all its vectors share; 0: each vector has its own.
    layer_scales: Vec<[f32; 2]>,
    pool: Pool,
    device: Arc<dyn Device>,
    /// K and V of each layer, [blocks, kv_heads, block_size, head_dim].
    layers: Vec<[Buffer; 2]>,
    /// Blocks that were swapped out to the host: [swap_blocks, layers, 2, a block's bytes].
    host: Vec<u8>,
    placement: Placement,
    /// The block tables of the batch's sequences, one after the other.
    tables: Ids,
    /// For each row: where its table begins in `tables`, its position, and the slot that its K and V are written to.
    table_starts: Ids,
    positions: Ids,
    slots: Ids,
    /// The kernel's version for this batch, and the number of parts that it divides each context into.
    version: AttentionVersion,
    parts: usize,
}

impl<P: Prompts> DeviceAttention<P> {
    /// Reserves the pool that the options ask for, in at most `room` bytes.
    ///
    /// # Errors
    /// If the device or `room` is too small for the pool.
    pub fn new(
        device: &Arc<dyn Device>,
        shape: AttentionShape,
        options: &KvOptions,
        room: u64,
    ) -> Result<DeviceAttention<P>> {
        let pool = plan_pool(&shape, options, room)?;
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        let (block_size, dtype) = (pool.block_size, options.dtype.stored());
        let paged_shape = PagedShape { heads, kv_heads, head_dim, block_size, dtype };
        let bytes = pool.blocks * paged_shape.block_bytes();
        let layer = |_| Ok([Buffer::new(device, bytes)?, Buffer::new(device, bytes)?]);
        let layers = shape.layers.clone().map(layer).collect::<Result<Vec<_>>>()?;
        let host = pool.swap_blocks * 2 * layers.len() * paged_shape.block_bytes();
        let layer_scales =
            shape.layers.clone().map(|layer| options.scales_of(layer).unwrap_or_default()).collect();
        let ids = || Ids::new(device, 0);
        Ok(DeviceAttention {
            prompts: P::new(device)?,
            paged_shape,
            dtype: options.dtype,
            scales: options.scales_from(),
            layer_scales,
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

    /// The cache of a layer: where its K and its V are.
    fn cache(&self, layer: usize) -> [Address; 2] {
        self.layers[layer - self.shape.layers.start].each_ref().map(|buffer| buffer.address)
    }

    /// A layer's scales as kernels take them.
    fn scales_of(&self, layer: usize) -> [f32; 2] {
        self.layer_scales[layer - self.shape.layers.start]
    }

    /// Writes the K and V of the batch's rows to their slots, and does not attend.
    ///
    /// # Errors
    /// Those of the device.
    pub fn write(&self, cuda: &Cuda, layer: usize, k: &CudaTensor, v: &CudaTensor) -> Result<()> {
        let new = [k.address(), v.address(), self.slots.address()];
        cuda.run(&[self.paged_shape.write(self.cache(layer), new, self.scales_of(layer), k.rows())])
    }

    /// The addresses of a layer's cache, and of the tables and positions that say which of its keys each row sees.
    pub(super) fn places(&self, layer: usize) -> PagedPlaces {
        let [k, v] = self.cache(layer);
        PagedPlaces {
            k,
            v,
            tables: self.tables.address(),
            table_starts: self.table_starts.address(),
            positions: self.positions.address(),
        }
    }

    /// Attends with some rows of the rotated queries `q` to the keys in the cache, which include the batch's own, and writes the result to
    /// the same rows of `out`.
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
            shape: self.paged_shape,
            places,
            rows: rows.len(),
            window: self.shape.windows[layer],
            scale: self.shape.scale,
            parts: self.parts,
        };
        let skipped = size_of::<f32>() * rows.start * self.shape.heads * self.shape.head_dim;
        cuda.paged_attention(self.version, &work, out.address().offset(skipped), q.address().offset(skipped))
    }

    /// Attends with all rows of `q`, once the batch's K and V are in the cache.
    fn attend_to_cache(&self, cuda: &Cuda, layer: usize, q: &CudaTensor) -> Result<CudaTensor> {
        let out = cuda.take(q.rows(), self.shape.heads * self.shape.head_dim)?;
        self.prompts.attend(self, cuda, layer, q, &out)?;
        Ok(out)
    }

    /// Carries out the copies that a batch begins with.
    fn move_blocks(&mut self, moves: &[Move]) -> Result<()> {
        let bytes = self.paged_shape.block_bytes();
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
        // A padding row belongs to no sequence: it reads the pool's first block, and writes nothing.
        let rows = batch.tokens.len();
        starts.resize(rows, tables.len() as u32);
        slot_mapping.resize(rows, NOWHERE);
        tables.push(0);
        self.tables.write(tables)?;
        self.table_starts.write(&starts)?;
        self.positions.write(&batch.positions)?;
        self.slots.write(slot_mapping)?;
        let longest = batch.positions.iter().max().map_or(1, |position| *position as usize + 1);
        self.version = AttentionVersion::choose(cuda.options().attention, &self.paged_shape);
        self.parts = self.version.parts(longest);
        self.prompts.begin(cuda, &self.paged_shape, batch)?;
        Ok(batch.decode_rows().map(|_| (self.parts as u64) << 32 | rows as u64))
    }

    fn attend(&mut self, cuda: &Cuda, layer: usize, [q, k, v]: [&CudaTensor; 3]) -> Result<CudaTensor> {
        self.write(cuda, layer, k, v)?;
        self.attend_to_cache(cuda, layer, q)
    }

    /// One kernel rotates q and k and writes K and V, which saves two launches: k is rotated on its way into the cache.
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
        let new = [q.address(), k.address(), v.address(), self.slots.address()];
        let (cache, rotation) = (self.cache(layer), [positions.address(), rope.inv_freq.vector()]);
        let factors = (rope.scaling, self.scales_of(layer));
        cuda.run(&[self.paged_shape.rotate_and_write(cache, new, rotation, factors, k.rows())])?;
        self.attend_to_cache(cuda, layer, &q)
    }

    fn max_tokens(&self) -> Option<usize> {
        Some(self.pool.max_model_len)
    }

    fn memory(&self) -> KvMemory {
        KvMemory { scales: self.scales, ..self.pool.memory(&self.shape, self.dtype) }
    }
}
