//! What a device is to the backend: memory with addresses of its own, and kernels that are started by name.

use crate::error::Result;
use std::ffi::c_void;

/// An address in a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(pub u64);

impl Address {
    /// So many bytes further.
    pub fn offset(self, bytes: usize) -> Address {
        Address(self.0 + bytes as u64)
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// A pointer to device memory.
    At(Address),
    U32(u32),
    /// `size_t`
    Size(u64),
    F32(f32),
}

impl Arg {
    /// Where its value is, as `cuLaunchKernel` wants it.
    pub(super) fn pointer(&self) -> *mut c_void {
        let pointer: *const c_void = match self {
            Arg::At(Address(address)) => (address as *const u64).cast(),
            Arg::U32(value) => (value as *const u32).cast(),
            Arg::Size(value) => (value as *const u64).cast(),
            Arg::F32(value) => (value as *const f32).cast(),
        };
        pointer.cast_mut()
    }
}

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x and y.
    pub blocks: [u32; 2],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: usize,
}

impl Grid {
    /// A block of `threads` threads for each of `rows` rows.
    pub fn rows(rows: usize, threads: u32) -> Grid {
        Grid { blocks: [rows as u32, 1], threads, shared_bytes: 0 }
    }

    /// A thread for each of n numbers, in blocks of 256.
    pub fn numbers(n: usize) -> Grid {
        Grid { blocks: [n.div_ceil(256) as u32, 1], threads: 256, shared_bytes: 0 }
    }
}

/// A device. Implemented by `Simulated`, which runs the kernels on the CPU.
///
/// All operations happen in the order in which they are asked for. A launch may return before its kernel has run; `download` waits.
pub trait Device: Send + Sync {
    /// The name in stats.
    fn name(&self) -> &str;

    /// Memory with unspecified contents.
    ///
    /// # Errors
    /// If there is not enough, with the numbers.
    fn allocate(&self, bytes: usize) -> Result<Address>;

    /// Gives memory back.
    fn free(&self, address: Address);

    /// Copies from the host.
    ///
    /// # Errors
    /// Those of the driver.
    fn upload(&self, to: Address, bytes: &[u8]) -> Result<()>;

    /// Copies to the host, when all that was asked for before is done.
    ///
    /// # Errors
    /// Those of the driver, and of kernels that were launched before.
    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()>;

    /// Copies within the device.
    ///
    /// # Errors
    /// Those of the driver.
    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()>;

    /// Starts a kernel. Its arguments must be those of its C++ declaration, and point to memory that is large enough.
    ///
    /// # Errors
    /// If there is no such kernel, or the grid is too large; on the simulator also what the kernel did wrong.
    fn launch(&self, kernel: &str, grid: Grid, arguments: &[Arg]) -> Result<()>;

    /// Bytes that are free.
    fn free_memory(&self) -> u64;
}
