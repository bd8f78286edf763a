//! [`PagedCuda`](super::PagedCuda) with kernels of their own for prompts: rows of a sequence that come together share the tiles of K and V that
//! they read. Rows that decode go on as before.

use super::paged::PagedCuda;
use crate::{
    attention::options::KvOptions,
    backend::{
        Rope, Shaped,
        cuda::{Cuda, CudaTensor, Device, FlashVersion, FlashWork, Ids},
    },
    batch::Batch,
    error::Result,
    model::{Attention, AttentionShape, KvMemory},
};
use std::{ops::Range, sync::Arc};

/// From so many rows of a sequence on they are a prompt. Two rows already halve what is read: `cargo bench --features step6 --bench kernels`
/// counts both kernels over chunks of 1 to 64 rows.
pub const FLASH_ROWS: usize = 2;

/// See the module's documentation.
pub struct FlashCuda {
    paged: PagedCuda,
    shape: AttentionShape,
    /// What this batch's prompts run on; `None` if there are none, or no version fits.
    version: Option<FlashVersion>,
    /// What the last prompts ran on.
    ran: Option<FlashVersion>,
    /// Rows that decode, or belong to nobody.
    decodes: Vec<Range<usize>>,
    prefills: Vec<Range<usize>>,
    /// On the device: where each prompt's rows begin, and how many there are.
    row_starts: Ids,
    row_counts: Ids,
    /// Tokens of the longest sequence.
    longest: usize,
}

impl FlashCuda {
    /// Reserves the pool, as [`PagedCuda::new`].
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(
        device: &Arc<dyn Device>,
        shape: AttentionShape,
        options: &KvOptions,
        room: u64,
    ) -> Result<FlashCuda> {
        Ok(FlashCuda {
            paged: PagedCuda::new(device, shape.clone(), options, room)?,
            shape,
            version: None,
            ran: None,
            decodes: Vec::new(),
            prefills: Vec::new(),
            row_starts: Ids::new(device, 0)?,
            row_counts: Ids::new(device, 0)?,
            longest: 1,
        })
    }

    /// Writes the K and V of the batch's rows, and attends to nothing.
    ///
    /// # Errors
    /// Those of the device.
    pub fn write(&self, cuda: &Cuda, layer: usize, k: &CudaTensor, v: &CudaTensor) -> Result<()> {
        self.paged.write(cuda, layer, k, v)
    }

    // ANCHOR: split
    /// Divides a batch into rows that decode and prompts.
    fn split(&mut self, batch: &Batch, fits: bool) {
        self.decodes.clear();
        self.prefills.clear();
        let nobodys = batch.tokens.len() - batch.padding()..batch.tokens.len();
        for rows in batch.spans.iter().map(|span| span.rows.clone()).chain([nobodys.clone()]) {
            if fits && rows != nobodys && rows.len() >= FLASH_ROWS {
                self.prefills.push(rows);
                continue;
            }
            match self.decodes.last_mut() {
                Some(before) if before.end == rows.start => before.end = rows.end,
                _ if rows.is_empty() => {}
                _ => self.decodes.push(rows),
            }
        }
    }
    // ANCHOR_END: split

    /// Attention of rotated queries over what is in the cache: the prompts in one launch, each run of rows that decode in another.
    fn attend_to_kept(&self, cuda: &Cuda, layer: usize, q: &CudaTensor) -> Result<CudaTensor> {
        let out = self.paged.output(cuda, q.rows())?;
        for rows in &self.decodes {
            self.paged.attend_rows(cuda, layer, q, &out, rows.clone())?;
        }
        if let Some(version) = self.version {
            let work = FlashWork {
                shape: self.paged.paged_shape(),
                places: self.paged.places(layer),
                row_starts: self.row_starts.address(),
                row_counts: self.row_counts.address(),
                sequences: self.prefills.len(),
                most_rows: self.prefills.iter().map(Range::len).max().unwrap_or(0),
                rows: q.rows(),
                longest: self.longest,
                window: self.shape.windows[layer],
                scale: self.shape.scale,
            };
            cuda.flash_attention(version, &work, &out, None, q)?;
        }
        Ok(out)
    }
}

impl Attention<Cuda> for FlashCuda {
    fn name(&self) -> &'static str {
        self.paged.name()
    }

    fn kernel(&self) -> Option<&'static str> {
        self.paged.kernel()
    }

    fn prefill_kernel(&self) -> Option<&'static str> {
        self.ran.map(FlashVersion::kernel)
    }

    fn begin(&mut self, cuda: &Cuda, batch: &Batch) -> Result<Option<u64>> {
        let key = self.paged.begin(cuda, batch)?;
        let asked = cuda.options().prefill.and_then(|number| FlashVersion::ALL.get(number).copied());
        let version =
            FlashVersion::choose(asked, &self.paged.paged_shape(), cuda.dtype(), cuda.device().is_hopper());
        self.split(batch, version.is_some());
        self.version = version.filter(|_| !self.prefills.is_empty());
        self.ran = self.version.or(self.ran);
        self.longest = batch.positions.iter().max().map_or(1, |position| *position as usize + 1);
        let starts: Vec<u32> = self.prefills.iter().map(|rows| rows.start as u32).collect();
        let counts: Vec<u32> = self.prefills.iter().map(|rows| rows.len() as u32).collect();
        self.row_starts.write(&starts)?;
        self.row_counts.write(&counts)?;
        Ok(key)
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
        self.paged.rotate_and_write(cuda, layer, rope, positions, [&q, &k, v])?;
        self.attend_to_kept(cuda, layer, &q)
    }

    fn max_tokens(&self) -> Option<usize> {
        self.paged.max_tokens()
    }

    fn memory(&self) -> KvMemory {
        self.paged.memory()
    }
}
