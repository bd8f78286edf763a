//! A device as the backend sees it: it has memory with addresses of its own, and starts kernels by name.

use crate::model::{Rank, Share};
use crate::{error::Result, tensor::DType};
use std::ffi::c_void;

/// An address in a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(pub u64);

impl Address {
    /// The address so many bytes further on.
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
    /// An extent, such as a number of rows: kernels take it as 32 bits.
    pub fn extent(n: usize) -> Arg {
        Arg::U32(n as u32)
    }

    /// A pointer to the value, as `cuLaunchKernel` wants it.
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
    /// Blocks in x, y and z.
    pub blocks: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: usize,
}

impl Grid {
    /// A block of `threads` threads for each of `rows` rows.
    pub fn rows(rows: usize, threads: u32) -> Grid {
        Grid { blocks: [rows as u32, 1, 1], threads, shared_bytes: 0 }
    }

    /// A thread for each of n numbers, in blocks of 256.
    pub fn numbers(n: usize) -> Grid {
        Grid { blocks: [n.div_ceil(256) as u32, 1, 1], threads: 256, shared_bytes: 0 }
    }
}

/// A kernel to start, with its grid and its arguments.
#[derive(Clone, Debug)]
pub struct Launch {
    pub kernel: String,
    pub grid: Grid,
    pub arguments: Vec<Arg>,
}

impl Launch {
    /// A launch whose arguments are these pointers, and behind them these values.
    pub fn new(kernel: impl Into<String>, grid: Grid, pointers: &[Address], values: &[Arg]) -> Launch {
        let pointers = pointers.iter().copied().map(Arg::At);
        Launch { kernel: kernel.into(), grid, arguments: pointers.chain(values.iter().copied()).collect() }
    }
}

/// A linear layer for a library of the device: y = x Wᵀ, sums in f32.
#[derive(Clone, Copy, Debug)]
pub struct Matmul {
    /// The dtype of x and W.
    pub dtype: DType,
    /// [rows, inputs]
    pub x: Address,
    /// [outputs, inputs], or [inputs, outputs] if `transposed`.
    pub w: Address,
    /// f32, [rows, outputs], each row `y_cols` numbers after the one before.
    pub y: Address,
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub y_cols: usize,
    pub transposed: bool,
}

/// Bytes of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    pub free: u64,
    pub total: u64,
}

impl DeviceMemory {
    /// Why there is no room for so many bytes.
    pub fn lacks(self, bytes: usize) -> String {
        let [bytes, free, total] = [bytes as u64, self.free, self.total].map(|bytes| bytes as f64 / 1e9);
        format!("{bytes:.3} GB are wanted, and {free:.3} GB of {total:.3} GB are free")
    }
}

/// Recorded launches: a call does them all, in their order, with the arguments that they had. Its errors are those of
/// [`Device::launch`].
pub type Graph = Box<dyn Fn() -> Result<()> + Send + Sync>;

/// A device. Implemented by [`Simulated`](super::Simulated), which runs the kernels on the CPU, and by [`Gpu`](super::Gpu).
///
/// All operations happen in the order in which they are asked for. A launch may return before its kernel has run; `download` waits.
pub trait Device: Send + Sync {
    /// The name in stats: `sim`, `cuda`.
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

    // ANCHOR: launch
    /// Starts a kernel. Its arguments must be those of its C++ declaration, and point to memory that is large enough.
    ///
    /// # Errors
    /// If there is no such kernel, or the grid is too large; on the simulator also what the kernel did wrong.
    fn launch(&self, kernel: &str, grid: Grid, arguments: &[Arg]) -> Result<()>;
    // ANCHOR_END: launch

    /// Meets the devices of other ranks, if there is a library for sums among them (NCCL). (Step 7.)
    ///
    /// # Errors
    /// Those of the library.
    fn join(&self, _rank: Rank, _share: Share) -> Result<Option<Box<dyn DeviceGroup>>> {
        Ok(None)
    }

    /// Waits until all that was asked for is done.
    ///
    /// # Errors
    /// Those of the kernels.
    fn synchronize(&self) -> Result<()>;

    /// Whether it has the instructions of a Hopper (sm_90a): wgmma and mbarriers.
    fn is_hopper(&self) -> bool {
        false
    }

    /// Whether linear layers are a library's (cuBLAS). It wants x and W in one dtype.
    fn has_matmul(&self) -> bool {
        false
    }

    /// A linear layer by the library.
    ///
    /// # Errors
    /// Those of the library.
    fn matmul(&self, _: &Matmul) -> Result<()> {
        unreachable!("has_matmul() says that there is no library")
    }

    /// From now on launches are recorded, and not carried out. Nothing may be allocated or copied meanwhile.
    ///
    /// # Errors
    /// Those of the driver.
    fn begin_capture(&self) -> Result<()>;

    /// What was recorded.
    ///
    /// # Errors
    /// Those of the driver, if what happened meanwhile cannot be recorded.
    fn end_capture(&self) -> Result<Graph>;

    /// How often memory was given back. A graph that was recorded before may name what is no longer there.
    fn frees(&self) -> u64;

    /// How much memory there is.
    fn memory(&self) -> DeviceMemory;
}

/// Several devices that add up what they have.
pub trait DeviceGroup: Send + Sync {
    /// So many f32 numbers become their sums over the group, behind what was launched before.
    ///
    /// # Errors
    /// Those of the library.
    fn all_reduce(&self, at: Address, numbers: usize) -> Result<()>;
}
