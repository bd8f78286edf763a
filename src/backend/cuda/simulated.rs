//! A device on the CPU: kernels/simulator runs the kernels, one fiber for each CUDA thread.

use super::device::{Address, Arg, Device, DeviceMemory, Graph, Grid, Launch};
use crate::error::{Error, Result};
use crate::memory::free_memory;
use parking_lot::Mutex;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{alloc, slice, thread};
use std::{alloc::Layout, collections::HashMap};

/// The order in which the simulator runs the threads of a block that can go on. A right kernel gives the same bits in every order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    #[default]
    /// From the first thread to the last.
    Forward,
    /// The last thread first, and each warp as far ahead of the others as barriers let it.
    Reverse,
    /// By a seed.
    Random(u64),
}

/// See the module's documentation.
#[derive(Default)]
pub struct Simulated {
    /// The order of threads.
    pub schedule: Schedule,
    /// A kernel, and another one that runs in its place.
    replaced: Option<(String, String)>,
    allocations: Mutex<HashMap<Address, Layout>>,
    /// Launches since `begin_capture`.
    recording: Mutex<Option<Vec<Launch>>>,
    frees: AtomicU64,
}

/// Allocations up to so many bytes are filled with NaN, so that what nobody has written shows. Larger ones (a pool of K and V) would
/// take memory before they are used.
const POISONED: usize = 64 << 20;

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

/// Bytes of an error's text.
pub(super) const ERROR_SIZE: usize = 512;

/// Calls the simulator with a kernel's name, blocks, threads and arguments, and room for [`ERROR_SIZE`] bytes of an error's text.
pub(super) fn call(
    kernel: &str,
    grid: Grid,
    arguments: &[Arg],
    simulator: impl FnOnce(*const c_char, *const u32, *const u32, *mut *mut c_void, *mut c_char) -> c_int,
) -> Result<()> {
    let failed = |why: String| Error::Device(format!("kernel {kernel} on the simulated device: {why}"));
    let name = CString::new(kernel).map_err(|e| failed(e.to_string()))?;
    let mut pointers: Vec<*mut c_void> = arguments.iter().map(Arg::pointer).collect();
    let mut error = [0 as c_char; ERROR_SIZE];
    let (blocks, threads) = (grid.blocks.as_ptr(), [grid.threads, 1, 1]);
    if simulator(name.as_ptr(), blocks, threads.as_ptr(), pointers.as_mut_ptr(), error.as_mut_ptr()) == 0 {
        return Ok(());
    }
    // SAFETY: the simulator has written a C string that fits.
    Err(failed(unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy().into_owned()))
}

/// Runs a kernel.
fn run(schedule: Schedule, kernel: &str, grid: Grid, arguments: &[Arg]) -> Result<()> {
    let (order, seed) = match schedule {
        Schedule::Forward => (0, 0),
        Schedule::Reverse => (1, 0),
        Schedule::Random(seed) => (2, seed),
    };
    let (shared, workers) =
        (grid.shared_bytes, thread::available_parallelism().map_or(1, |n| n.get() as u32));
    call(kernel, grid, arguments, |name, blocks, threads, values, error| {
        // SAFETY: the kernel reads its arguments through `values`, each of which points to a value in `arguments`; that those are
        // the kernel's, and its addresses large enough, is what the caller promises, as on a real device.
        unsafe {
            simulator_launch(name, blocks, threads, shared, values, order, seed, workers, error, ERROR_SIZE)
        }
    })
}

impl Simulated {
    /// With another order of threads than the forward one.
    pub fn with_schedule(schedule: Schedule) -> Simulated {
        let mut device = Simulated::default();
        device.schedule = schedule;
        device
    }

    /// With another kernel in the place of `kernel`: it gets the same arguments.
    pub fn replacing(kernel: &str, by: &str) -> Simulated {
        let mut device = Simulated::default();
        device.replaced = Some((kernel.into(), by.into()));
        device
    }

    /// Refuses an operation that a GPU cannot do while it records.
    fn refuse_in_a_capture(&self, what: &str) -> Result<()> {
        match *self.recording.lock() {
            None => Ok(()),
            Some(_) => Err(Error::Device(format!("{what} while launches are recorded for a graph"))),
        }
    }

    /// The address and size of every allocation.
    pub(super) fn allocations(&self) -> Vec<(Address, u64)> {
        let allocations = self.allocations.lock();
        allocations.iter().map(|(address, layout)| (*address, layout.size() as u64)).collect()
    }

    /// Panics unless an allocation holds these bytes: the backend's own copies stay inside.
    fn check(&self, at: Address, bytes: usize) {
        let inside = |(start, size): (Address, u64)| start.0 <= at.0 && at.0 + bytes as u64 <= start.0 + size;
        assert!(
            self.allocations().into_iter().any(inside),
            "{bytes} bytes at {at:?} are not of one allocation"
        );
    }
}

impl Device for Simulated {
    fn name(&self) -> &str {
        "sim"
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.refuse_in_a_capture("an allocation")?;
        let lacks = || format!("out of memory on the simulated device: {}", self.memory().lacks(bytes));
        let no_memory = || Error::Device(lacks());
        let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT).map_err(|_| no_memory())?;
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc::alloc_zeroed(layout) };
        if memory.is_null() {
            return Err(no_memory());
        }
        if layout.size() <= POISONED {
            // SAFETY: so many bytes were just allocated.
            unsafe { memory.write_bytes(0xff, layout.size()) };
        }
        let address = Address(memory as u64);
        self.allocations.lock().insert(address, layout);
        Ok(address)
    }

    fn free(&self, address: Address) {
        self.frees.fetch_add(1, Ordering::Relaxed);
        let layout = self.allocations.lock().remove(&address);
        if let Some(layout) = layout {
            // SAFETY: `allocate` has made it with this layout, and it was still in the map.
            unsafe { alloc::dealloc(address.0 as *mut u8, layout) }
        }
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<()> {
        self.refuse_in_a_capture("a copy from the host")?;
        self.check(to, bytes.len());
        // SAFETY: inside an allocation, which nobody else uses: operations come one after the other.
        unsafe { slice::from_raw_parts_mut(to.0 as *mut u8, bytes.len()) }.copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.refuse_in_a_capture("a copy to the host")?;
        self.check(from, bytes.len());
        // SAFETY: as in `upload`.
        bytes.copy_from_slice(unsafe { slice::from_raw_parts(from.0 as *const u8, bytes.len()) });
        Ok(())
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.refuse_in_a_capture("a copy")?;
        self.check(from, bytes);
        self.check(to, bytes);
        // SAFETY: both are inside allocations; `copy` allows them to overlap.
        unsafe { std::ptr::copy(from.0 as *const u8, to.0 as *mut u8, bytes) };
        Ok(())
    }

    fn launch(&self, kernel: &str, grid: Grid, arguments: &[Arg]) -> Result<()> {
        let kernel = match &self.replaced {
            Some((replaced, by)) if replaced == kernel => by,
            _ => kernel,
        };
        if let Some(launches) = &mut *self.recording.lock() {
            launches.push(Launch { kernel: kernel.into(), grid, arguments: arguments.into() });
            return Ok(());
        }
        run(self.schedule, kernel, grid, arguments)
    }

    fn synchronize(&self) -> Result<()> {
        self.refuse_in_a_capture("synchronize")
    }

    fn begin_capture(&self) -> Result<()> {
        self.refuse_in_a_capture("begin_capture")?;
        *self.recording.lock() = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Graph> {
        let launches = self.recording.lock().take();
        let launches = launches.ok_or_else(|| Error::Device("end_capture without begin_capture".into()))?;
        let schedule = self.schedule;
        Ok(Box::new(move || launches.iter().try_for_each(|l| run(schedule, &l.kernel, l.grid, &l.arguments))))
    }

    fn frees(&self) -> u64 {
        self.frees.load(Ordering::Relaxed)
    }

    fn is_hopper(&self) -> bool {
        true
    }

    fn memory(&self) -> DeviceMemory {
        let used: u64 = self.allocations().iter().map(|(_, size)| size).sum();
        let free = free_memory();
        DeviceMemory { free, total: free.saturating_add(used) }
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.allocations().into_iter().for_each(|(address, _)| self.free(address));
    }
}
