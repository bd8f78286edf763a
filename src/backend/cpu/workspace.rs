//! Memory for activations, taken from a pool and given back on drop.
//!
//! A forward pass makes some hundred activations, and the same ones again at the next token. The pool keeps the buffers, so
//! after the first pass nothing is allocated. Lengths are rounded up to powers of two: a sequence that grows by one token
//! fits the buffers of the step before, and pages of the rest are never touched.

use crate::backend::Shaped;
use parking_lot::Mutex;
use std::{collections::BTreeMap, mem, sync::Arc};

/// Free buffers by their length in elements.
#[derive(Default)]
pub struct Workspace {
    free: Mutex<BTreeMap<usize, Vec<Vec<f32>>>>,
}

/// An activation [rows, cols], row-major f32.
pub struct CpuTensor {
    /// At least rows · cols long; the rest belongs to an earlier, larger use.
    buffer: Vec<f32>,
    rows: usize,
    cols: usize,
    workspace: Arc<Workspace>,
}

impl Workspace {
    /// A tensor with unspecified contents. In debug builds they are NaN, so that reading before writing shows.
    pub fn take(self: &Arc<Self>, rows: usize, cols: usize) -> CpuTensor {
        let n = rows * cols;
        let length = n.next_power_of_two();
        let mut buffer = self.free(length).unwrap_or_else(|| new_buffer(length));
        if cfg!(debug_assertions) {
            buffer[..n].fill(f32::NAN);
        }
        CpuTensor { buffer, rows, cols, workspace: self.clone() }
    }

    /// A free buffer of this length.
    fn free(&self, length: usize) -> Option<Vec<f32>> {
        let mut free = self.free.lock();
        free.get_mut(&length)?.pop()
    }
}

/// Zeros, whose pages the system makes when they are first touched. On Linux it is asked for large ones: rows of a large activation are pages
/// apart, and finding 4 KiB pages costs more than reading them.
fn new_buffer(length: usize) -> Vec<f32> {
    let buffer = vec![0.0; length];
    #[cfg(target_os = "linux")]
    {
        const LARGE: usize = 2 << 20;
        let bytes = buffer.as_ptr_range();
        let (start, end) =
            ((bytes.start as usize).next_multiple_of(LARGE), bytes.end as usize / LARGE * LARGE);
        if start < end {
            // SAFETY: whole pages inside the buffer; the hint changes nothing that is in them, and may be refused.
            unsafe { libc::madvise(start as *mut _, end - start, libc::MADV_HUGEPAGE) };
        }
    }
    buffer
}

impl Drop for CpuTensor {
    fn drop(&mut self) {
        let buffer = mem::take(&mut self.buffer);
        let mut free = self.workspace.free.lock();
        free.entry(buffer.len()).or_default().push(buffer);
    }
}

impl CpuTensor {
    /// All elements, row-major.
    pub fn data(&self) -> &[f32] {
        &self.buffer[..self.rows * self.cols]
    }

    /// All elements, to write.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.rows * self.cols]
    }

    /// One row, `[cols]`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data()[row * self.cols..][..self.cols]
    }

    /// One row, to write.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let cols = self.cols;
        &mut self.data_mut()[row * cols..][..cols]
    }
}

impl Shaped for CpuTensor {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let workspace = Arc::new(Workspace::default());
        let first = workspace.take(5, 8);
        let address = first.data().as_ptr();
        drop(first);
        assert_eq!(workspace.take(6, 8).data().as_ptr(), address, "one token more: the same buffer");
        assert_ne!(workspace.take(1, 8).data().as_ptr(), address, "much smaller: another one");
        assert_eq!(workspace.take(5, 8).data().as_ptr(), address);
    }

    #[test]
    fn a_growing_sequence_takes_few_buffers() {
        let workspace = Arc::new(Workspace::default());
        for tokens in 1..=1000 {
            drop(workspace.take(tokens, 8));
        }
        let free = workspace.free.lock();
        assert_eq!(free.values().map(Vec::len).sum::<usize>(), 11, "8, 16, … 8192");
    }
}
