//! A device on the CPU: kernels/simulator runs the kernels, one fiber for each CUDA thread.

use super::device::{Address, Arg, Device, Grid};
use crate::error::{Error, Result};
use std::{
    alloc::{self, Layout},
    collections::HashMap,
    ffi::{CStr, CString, c_char, c_int, c_void},
    slice,
    sync::{Mutex, PoisonError},
    thread,
};

/// In which order the threads of a block go on that may. A right kernel gives the same bits in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    #[default]
    Forward,
    Reverse,
    /// By a seed.
    Random(u64),
}

/// See the module's documentation.
#[derive(Default)]
pub struct Simulated {
    /// The order of threads.
    pub schedule: Schedule,
    allocations: Mutex<HashMap<Address, Layout>>,
}

/// Alignment of CUDA's allocations.
const ALIGNMENT: usize = 256;

unsafe extern "C" {
    fn simulator_launch(
        name: *const c_char,
        grid: *const u32,
        threads: *const u32,
        shared_bytes: usize,
        arguments: *mut *mut c_void,
        order: c_int,
        seed: u64,
        workers: u32,
        error: *mut c_char,
        error_size: usize,
    ) -> c_int;
}

impl Simulated {
    /// With another order of threads than the forward one.
    pub fn with_schedule(schedule: Schedule) -> Simulated {
        Simulated { schedule, allocations: Mutex::default() }
    }

    /// Calls the simulator, and makes an error of what it says.
    pub(super) fn start(
        &self,
        kernel: &str,
        arguments: &[Arg],
        call: impl FnOnce(&CStr, &mut [*mut c_void], &mut [c_char]) -> c_int,
    ) -> Result<()> {
        let failed = |why: String| Error::Request(format!("kernel {kernel} on the simulated device: {why}"));
        let name = CString::new(kernel).map_err(|e| failed(e.to_string()))?;
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(Arg::pointer).collect();
        let mut error = [0 as c_char; 512];
        if call(&name, &mut pointers, &mut error) == 0 {
            return Ok(());
        }
        // SAFETY: the simulator has written a C string that fits.
        Err(failed(unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy().into_owned()))
    }

    /// Addresses and sizes of what is allocated.
    pub(super) fn allocations(&self) -> Vec<(Address, u64)> {
        let allocations = self.allocations.lock().unwrap_or_else(PoisonError::into_inner);
        allocations.iter().map(|(address, layout)| (*address, layout.size() as u64)).collect()
    }

    /// Panics unless an allocation holds these bytes: the backend's own copies stay inside.
    fn check(&self, at: Address, bytes: usize) {
        let allocations = self.allocations.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = |(start, layout): (&Address, &Layout)| {
            start.0 <= at.0 && at.0 + bytes as u64 <= start.0 + layout.size() as u64
        };
        assert!(allocations.iter().any(inside), "{bytes} bytes at {at:?} are not of one allocation");
    }
}

impl Device for Simulated {
    fn name(&self) -> &str {
        "sim"
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT);
        let no_memory =
            || Error::Request(format!("the simulated device has no {bytes} bytes; close other programs"));
        let layout = layout.map_err(|_| no_memory())?;
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc::alloc_zeroed(layout) };
        if memory.is_null() {
            return Err(no_memory());
        }
        let address = Address(memory as u64);
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner).insert(address, layout);
        Ok(address)
    }

    fn free(&self, address: Address) {
        let layout = self.allocations.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
        if let Some(layout) = layout {
            // SAFETY: `allocate` has made it with this layout, and it was still in the map.
            unsafe { alloc::dealloc(address.0 as *mut u8, layout) }
        }
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<()> {
        self.check(to, bytes.len());
        // SAFETY: inside an allocation, which nobody else uses: operations come one after the other.
        unsafe { slice::from_raw_parts_mut(to.0 as *mut u8, bytes.len()) }.copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.check(from, bytes.len());
        // SAFETY: as in `upload`.
        bytes.copy_from_slice(unsafe { slice::from_raw_parts(from.0 as *const u8, bytes.len()) });
        Ok(())
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.check(from, bytes);
        self.check(to, bytes);
        // SAFETY: both are inside allocations; `copy` allows them to overlap.
        unsafe { std::ptr::copy(from.0 as *const u8, to.0 as *mut u8, bytes) };
        Ok(())
    }

    fn launch(&self, kernel: &str, grid: Grid, arguments: &[Arg]) -> Result<()> {
        let (order, seed) = match self.schedule {
            Schedule::Forward => (0, 0),
            Schedule::Reverse => (1, 0),
            Schedule::Random(seed) => (2, seed),
        };
        let workers = thread::available_parallelism().map_or(1, |n| n.get() as u32);
        self.start(kernel, arguments, |name, pointers, error| {
            let (blocks, threads) = ([grid.blocks[0], grid.blocks[1], 1], [grid.threads, 1, 1]);
            // SAFETY: the kernel reads its arguments through `pointers`, each of which points to a value in `arguments`; that those are
            // the kernel's, and its addresses large enough, is what the caller promises, as on a real device.
            unsafe {
                simulator_launch(
                    name.as_ptr(),
                    blocks.as_ptr(),
                    threads.as_ptr(),
                    grid.shared_bytes,
                    pointers.as_mut_ptr(),
                    order,
                    seed,
                    workers,
                    error.as_mut_ptr(),
                    error.len(),
                )
            }
        })
    }

    fn free_memory(&self) -> u64 {
        crate::backend::cpu::free_memory()
    }
}
