//! [`PagedCuda`](super::PagedCuda) with kernels of their own for prompts: rows of a sequence that come together share the tiles of K and V that
//! they read. Rows that decode go on as before.

use super::paged::{DeviceAttention, Prompts};
use crate::{
    backend::{
        Shaped,
        cuda::{Cuda, CudaTensor, Device, FlashVersion, FlashWork, Ids, PagedShape},
    },
    batch::Batch,
    error::Result,
};
use std::{ops::Range, sync::Arc};

/// From so many rows of a sequence on they are a prompt. Two rows already halve what is read: `cargo bench --features step6 --bench kernels`
/// counts both kernels over chunks of 1 to 64 rows.
pub const FLASH_ROWS: usize = 2;

/// See the module's documentation.
pub type FlashCuda = DeviceAttention<Flash>;

/// What a batch's prompts are, and the kernel that they run on.
pub struct Flash {
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

impl Flash {
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
}

impl Prompts for Flash {
    fn new(device: &Arc<dyn Device>) -> Result<Flash> {
        Ok(Flash {
            version: None,
            ran: None,
            decodes: Vec::new(),
            prefills: Vec::new(),
            row_starts: Ids::new(device, 0)?,
            row_counts: Ids::new(device, 0)?,
            longest: 1,
        })
    }

    fn begin(&mut self, cuda: &Cuda, shape: &PagedShape, batch: &Batch) -> Result<()> {
        let asked = cuda.options().prefill.and_then(|number| FlashVersion::ALL.get(number).copied());
        let version = FlashVersion::choose(asked, shape, cuda.dtype(), cuda.device().is_hopper());
        self.split(batch, version.is_some());
        self.version = version.filter(|_| !self.prefills.is_empty());
        self.ran = self.version.or(self.ran);
        self.longest = batch.positions.iter().max().map_or(1, |position| *position as usize + 1);
        let starts: Vec<u32> = self.prefills.iter().map(|rows| rows.start as u32).collect();
        let counts: Vec<u32> = self.prefills.iter().map(|rows| rows.len() as u32).collect();
        self.row_starts.write(&starts)?;
        self.row_counts.write(&counts)?;
        Ok(())
    }

    /// The prompts in one launch, each run of rows that decode in another.
    fn attend(
        &self,
        paged: &DeviceAttention<Flash>,
        cuda: &Cuda,
        layer: usize,
        q: &CudaTensor,
        out: &CudaTensor,
    ) -> Result<()> {
        for rows in &self.decodes {
            paged.attend_rows(cuda, layer, q, out, rows.clone())?;
        }
        if let Some(version) = self.version {
            let work = FlashWork {
                shape: paged.paged_shape(),
                places: paged.places(layer),
                row_starts: self.row_starts.address(),
                row_counts: self.row_counts.address(),
                sequences: self.prefills.len(),
                most_rows: self.prefills.iter().map(Range::len).max().unwrap_or(0),
                rows: q.rows(),
                longest: self.longest,
                window: paged.shape.windows[layer],
                scale: paged.shape.scale,
            };
            cuda.flash_attention(version, &work, out, None, q)?;
        }
        Ok(())
    }

    fn kernel(&self) -> Option<&'static str> {
        self.ran.map(FlashVersion::kernel)
    }
}
