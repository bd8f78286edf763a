//! Device memory that is given back when it is dropped, to the device or to a pool of activations.

use super::device::{Address, Arg, Device};
use crate::{backend::Shaped, error::Result};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// Memory of a device.
pub struct Buffer {
    device: Arc<dyn Device>,
    pub address: Address,
    pub bytes: usize,
}

impl Buffer {
    /// With unspecified contents.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(device: &Arc<dyn Device>, bytes: usize) -> Result<Buffer> {
        Ok(Buffer { device: device.clone(), address: device.allocate(bytes)?, bytes })
    }

    /// With these contents.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn of(device: &Arc<dyn Device>, contents: &[u8]) -> Result<Buffer> {
        let buffer = Buffer::new(device, contents.len())?;
        device.upload(buffer.address, contents)?;
        Ok(buffer)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.device.free(self.address);
    }
}

/// u32 values in a buffer that keeps its address as long as they fit.
pub struct Ids {
    device: Arc<dyn Device>,
    buffer: Buffer,
    pub len: usize,
}

impl Ids {
    /// Room for so many.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(device: &Arc<dyn Device>, capacity: usize) -> Result<Ids> {
        let buffer = Buffer::new(device, 4 * capacity.next_power_of_two().max(16))?;
        Ok(Ids { device: device.clone(), buffer, len: 0 })
    }

    /// Replaces the values.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn write(&mut self, values: &[u32]) -> Result<()> {
        if 4 * values.len() > self.buffer.bytes {
            self.buffer = Buffer::new(&self.device, 4 * values.len().next_power_of_two())?;
        }
        self.len = values.len();
        self.device.upload(self.buffer.address, bytemuck::cast_slice(values))
    }

    /// The address of the values.
    pub fn address(&self) -> Address {
        self.buffer.address
    }
}

/// Free activations by their length in bytes, a power of two. They are used again, so after the first step nothing is allocated, and
/// addresses repeat.
#[derive(Default)]
pub struct Workspace {
    free: Mutex<BTreeMap<usize, Vec<Buffer>>>,
}

/// An activation [rows, cols], row-major f32.
pub struct CudaTensor {
    /// `None` while it is dropped, and in a view.
    buffer: Option<Buffer>,
    address: Address,
    rows: usize,
    cols: usize,
    workspace: Arc<Workspace>,
}

impl Workspace {
    /// Bytes that it holds for later use.
    pub fn free_bytes(&self) -> u64 {
        let free = self.free.lock();
        free.iter().map(|(bytes, buffers)| (bytes * buffers.len()) as u64).sum()
    }

    /// A tensor with unspecified contents.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn take(self: &Arc<Self>, device: &Arc<dyn Device>, rows: usize, cols: usize) -> Result<CudaTensor> {
        let bytes = (4 * rows * cols).next_power_of_two().max(256);
        let kept = self.free.lock().get_mut(&bytes).and_then(Vec::pop);
        let buffer = kept.map_or_else(|| Buffer::new(device, bytes), Ok)?;
        let address = buffer.address;
        Ok(CudaTensor { buffer: Some(buffer), address, rows, cols, workspace: self.clone() })
    }
}

impl Drop for CudaTensor {
    fn drop(&mut self) {
        let mut free = self.workspace.free.lock();
        if let Some(buffer) = self.buffer.take() {
            free.entry(buffer.bytes).or_default().push(buffer);
        }
    }
}

impl CudaTensor {
    /// A tensor with the same numbers in the same memory, which this tensor keeps.
    pub(super) fn view(&self) -> CudaTensor {
        let CudaTensor { address, rows, cols, ref workspace, .. } = *self;
        CudaTensor { buffer: None, address, rows, cols, workspace: workspace.clone() }
    }

    /// The address of the numbers.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Numbers in it.
    pub(super) fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// How many numbers it has, as a kernel's argument.
    pub(super) fn size(&self) -> Arg {
        Arg::Size(self.len() as u64)
    }
}

impl Shaped for CudaTensor {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
}
