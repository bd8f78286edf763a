//! A [`Device`] that is an NVIDIA GPU, through the driver's own library, which is loaded when it is asked for: this program builds and
//! starts where no CUDA is installed.
//!
//! - `driver`: whether there is a driver and a device, and what its errors say;
//! - `compile`: the kernels, compiled for this GPU when the program starts;
//! - `blas`: linear layers, by cuBLAS;
//! - `nccl`: sums over several GPUs (step 7).
//!
//! No GPU was at hand when this was written. It was run against a driver that stands in for the real one (tests/suite/gpu.rs).

mod blas;
mod compile;
mod driver;
#[cfg(feature = "step7")]
mod nccl;

#[cfg(feature = "step7")]
use super::device::DeviceGroup;
use super::device::{Address, Arg, Device, DeviceMemory, Graph, Grid, Matmul};
use crate::error::{Error, Result};
#[cfg(feature = "step7")]
use crate::model::{Rank, Share};
use crate::words::Words;
use blas::Blas;
use cudarc::driver::{result, sys};
use driver::Failed;
use std::{
    collections::HashMap,
    ffi::CString,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Dynamic shared memory that every kernel may have; more must be asked for.
const SHARED_BYTES: usize = 48 << 10;

/// See the module's documentation.
pub struct Gpu {
    blas: Blas,
    module: sys::CUmodule,
    functions: Mutex<HashMap<String, Function>>,
    frees: AtomicU64,
    hopper: bool,
    /// The last field: what needs it is dropped first.
    context: Arc<Context>,
}

/// A kernel, and how much dynamic shared memory it may have.
#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    shared_bytes: usize,
}

/// The primary context of a device, and the stream on which everything happens.
struct Context {
    context: sys::CUcontext,
    device: sys::CUdevice,
    stream: sys::CUstream,
}

// SAFETY: handles of the driver, which may be used from any thread where the context is current: `enter` makes it so.
unsafe impl Send for Context {}
// SAFETY: as above; the driver has locks of its own.
unsafe impl Sync for Context {}
// SAFETY: as for `Context`; functions and modules are not changed after they were loaded, but for an attribute under the mutex.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl Context {
    /// Makes the context current on this thread.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained as long as `self` lives.
        unsafe { result::ctx::set_current(self.context) }.or_say("making the GPU's context current")
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: both were made by `Gpu::open`, and nothing else uses them any more. What the driver says now helps nobody.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

impl Gpu {
    /// Whether there is a driver with a device.
    pub fn is_there() -> bool {
        driver::devices().is_ok()
    }

    /// A device by its number, with the kernels compiled for it.
    ///
    /// # Errors
    /// If there is no driver, no device, or no compiler for the kernels, or one of them is too old: one line with the way out.
    pub fn open(number: usize) -> Result<Gpu> {
        let devices = driver::devices()?;
        if number >= devices {
            let message =
                format!("there is no GPU {number}: the driver has {devices}; each rank wants one of its own");
            return Err(Error::Device(message));
        }
        let device = result::device::get(number as i32).or_say("opening the GPU")?;
        // SAFETY: the device is one of the driver's.
        let context = unsafe { result::primary_ctx::retain(device) }.or_say("making a context on GPU 0")?;
        // SAFETY: it was retained above.
        unsafe { result::ctx::set_current(context) }.or_say("making the GPU's context current")?;
        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).or_say("making a stream")?;
        let context = Arc::new(Context { context, device, stream });
        let architecture = driver::architecture(device)?;
        let image = compile::kernels(architecture, driver::version()?)?;
        // SAFETY: a cubin, as NVRTC has made it.
        let module =
            unsafe { result::module::load_data(image.as_ptr().cast()) }.or_say("loading the kernels")?;
        let blas = Blas::new(context.stream)?;
        let hopper = architecture.0 == 9;
        Ok(Gpu { context, module, functions: Mutex::default(), blas, frees: AtomicU64::new(0), hopper })
    }

    /// A kernel by its name, allowed to have so much dynamic shared memory.
    fn function(&self, kernel: &str, shared_bytes: usize) -> Result<sys::CUfunction> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut function = match functions.get(kernel) {
            Some(function) => *function,
            None => {
                let name = CString::new(kernel).map_err(|e| Error::Device(e.to_string()))?;
                // SAFETY: the module is loaded as long as `self` lives.
                let handle = unsafe { result::module::get_function(self.module, name) };
                Function {
                    handle: handle.or_say(&format!("finding kernel {kernel}"))?,
                    shared_bytes: SHARED_BYTES,
                }
            }
        };
        if shared_bytes > function.shared_bytes {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function of a loaded module.
            unsafe {
                result::function::set_function_attribute(function.handle, attribute, shared_bytes as i32)
            }
            .or_say(&format!("giving kernel {kernel} {shared_bytes} bytes of shared memory"))?;
            function.shared_bytes = shared_bytes;
        }
        functions.insert(kernel.to_owned(), function);
        Ok(function.handle)
    }
}

impl Device for Gpu {
    fn name(&self) -> &str {
        "cuda"
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.context.enter()?;
        // SAFETY: nobody reads the memory before it is written: `Device::allocate` says so.
        match unsafe { result::malloc_sync(bytes.max(1)) } {
            Ok(address) => Ok(Address(address)),
            Err(result::DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let DeviceMemory { free, total } = self.memory();
                let [bytes, free, total] = [bytes as u64, free, total].map(|bytes| bytes as f64 / 1e9);
                let why = Words::from(format!(
                    "out of memory on the GPU: {bytes:.3} GB are wanted, and {free:.3} GB of {total:.3} GB are free; \
                     close other programs on it, or give a smaller "
                ));
                Err(Error::Limit(
                    why.field("max_batched_tokens").text(" or ").field("gpu_memory_utilization"),
                ))
            }
            Err(error) => Err(error).or_say("allocating memory"),
        }
    }

    fn free(&self, address: Address) {
        self.frees.fetch_add(1, Ordering::Relaxed);
        if self.context.enter().is_ok() {
            // SAFETY: `allocate` has given this address, and its owner gives it back once. The call waits for kernels that run.
            let _ = unsafe { result::free_sync(address.0) };
        }
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<()> {
        self.context.enter()?;
        // SAFETY: the address has room for the bytes. They are in memory that can be paged out, and so are copied before this returns.
        unsafe { result::memcpy_htod_async(to.0, bytes, self.context.stream) }.or_say("copying to the GPU")
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.context.enter()?;
        // SAFETY: the address holds so many bytes, and they are there when `synchronize` returns.
        unsafe { result::memcpy_dtoh_async(bytes, from.0, self.context.stream) }
            .or_say("copying from the GPU")?;
        self.synchronize()
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.context.enter()?;
        // SAFETY: both have room for the bytes; the stream puts the copy behind what was launched before.
        unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, self.context.stream) }
            .or_say("copying on the GPU")
    }

    fn launch(&self, kernel: &str, grid: Grid, arguments: &[Arg]) -> Result<()> {
        self.context.enter()?;
        let function = self.function(kernel, grid.shared_bytes)?;
        let mut pointers: Vec<_> = arguments.iter().map(Arg::pointer).collect();
        let (blocks, threads) = (grid.blocks.into(), (grid.threads, 1, 1));
        let shared = grid.shared_bytes as u32;
        // SAFETY: the driver copies the arguments, which live until it returns; that they are the kernel's is what the caller promises.
        unsafe {
            result::launch_kernel(function, blocks, threads, shared, self.context.stream, &mut pointers)
        }
        .or_say(&format!("launching kernel {kernel}"))
    }

    #[cfg(feature = "step7")]
    fn join(&self, rank: Rank, share: Share) -> Result<Option<Box<dyn DeviceGroup>>> {
        Ok(nccl::Group::join(&self.context, rank, share)?.map(|group| Box::new(group) as _))
    }

    fn synchronize(&self) -> Result<()> {
        self.context.enter()?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.context.stream) }.or_say("waiting for the GPU")
    }

    fn is_hopper(&self) -> bool {
        self.hopper
    }

    fn has_matmul(&self) -> bool {
        true
    }

    fn matmul(&self, matmul: &Matmul) -> Result<()> {
        self.context.enter()?;
        self.blas.matmul(matmul)
    }

    fn begin_capture(&self) -> Result<()> {
        self.context.enter()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::begin_capture(self.context.stream, mode) }.or_say("beginning a CUDA graph")
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        self.context.enter()?;
        // SAFETY: a stream that is captured, a graph that came of it; the graph is not needed once it can be launched.
        let exec = unsafe {
            let graph = result::stream::end_capture(self.context.stream).or_say("ending a CUDA graph")?;
            let exec = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            exec.or_say("making a CUDA graph ready")?
        };
        Ok(Box::new(CapturedGraph { exec, context: self.context.clone() }))
    }

    fn frees(&self) -> u64 {
        self.frees.load(Ordering::Relaxed)
    }

    fn memory(&self) -> DeviceMemory {
        let known = self.context.enter().is_ok().then(result::mem_get_info).and_then(Result::ok);
        let (free, total) = known.unwrap_or((0, 0));
        DeviceMemory { free: free as u64, total: total as u64 }
    }
}

/// A CUDA graph.
struct CapturedGraph {
    exec: sys::CUgraphExec,
    context: Arc<Context>,
}

// SAFETY: as for `Context`.
unsafe impl Send for CapturedGraph {}
// SAFETY: as for `Context`.
unsafe impl Sync for CapturedGraph {}

impl Graph for CapturedGraph {
    fn replay(&self) -> Result<()> {
        self.context.enter()?;
        // SAFETY: both live as long as `self`.
        unsafe { result::graph::launch(self.exec, self.context.stream) }.or_say("replaying a CUDA graph")
    }
}

impl Drop for CapturedGraph {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: nobody else has it.
            let _ = unsafe { result::graph::exec_destroy(self.exec) };
        }
    }
}
