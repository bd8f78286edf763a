//! [`PagedCuda`](super::PagedCuda) with a kernel of its own for prompts: the rows that a sequence has in a batch share the tiles of K and V that
//! they read. Rows that decode run on the same kernel as before.

use super::paged::{DeviceAttention, Prompts};
use crate::backend::cuda::{Cuda, CudaTensor, Device, FlashVersion, FlashWork, Ids, PagedShape};
use crate::{backend::Shaped, batch::Batch, error::Result};
use std::{ops::Range, sync::Arc};

/// A sequence with at least this many rows in a batch runs as a prompt. Two rows already halve what is read: `cargo bench --features step6 --bench kernels`
/// counts both kernels over chunks of 1 to 64 rows.
pub const FLASH_ROWS: usize = 2;

/// Paged attention in which prompts have a kernel of their own.
pub type FlashCuda = DeviceAttention<Flash>;

/// The prompts of a batch, and the kernel that they run on.
pub struct Flash {
    /// The kernel for this batch's prompts; `None` if the batch has no prompt, or no version fits the model.
    version: Option<FlashVersion>,
    /// The kernel of the last batch that had prompts.
    ran: Option<FlashVersion>,
    /// Runs of rows that decode or are padding, and the rows of each prompt.
    decodes: Vec<Range<usize>>,
    prefills: Vec<Range<usize>>,
    /// On the device: where each prompt's rows begin, and how many rows it has, `[prompts]`.
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
        let (starts, counts): (Vec<_>, Vec<_>) =
            self.prefills.iter().map(|rows| (rows.start as u32, rows.len() as u32)).unzip();
        self.row_starts.write(&starts)?;
        self.row_counts.write(&counts)
    }

    /// One launch serves all prompts; each run of rows that decode takes another launch.
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
                shape: paged.paged_shape,
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
