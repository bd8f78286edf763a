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
use crate::words::field;
use blas::Blas;
use cudarc::driver::{CudaContext, CudaFunction, CudaGraph, CudaModule, CudaStream, result, sys};
use cudarc::nvrtc::Ptx;
use driver::Failed;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{collections::HashMap, collections::hash_map::Entry, sync::Arc};

/// Dynamic shared memory that every kernel may have; more must be asked for.
const SHARED_BYTES: usize = 48 << 10;

/// See the module's documentation.
pub struct Gpu {
    blas: Blas,
    module: Arc<CudaModule>,
    /// The kernels that were launched so far, and how much dynamic shared memory each may have.
    functions: Mutex<HashMap<String, (CudaFunction, usize)>>,
    frees: AtomicU64,
    hopper: bool,
    /// The stream on which everything happens. It keeps the device's primary context.
    stream: Arc<CudaStream>,
}

/// Makes the context of a stream current on this thread.
fn enter(stream: &CudaStream) -> Result<()> {
    stream.context().bind_to_thread().or_say("making the GPU's context current")
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
        let context = CudaContext::new(number).or_say("opening the GPU")?;
        let stream = context.new_stream().or_say("making a stream")?;
        let architecture = context.compute_capability().or_say("asking for the GPU's architecture")?;
        let cubin = Ptx::from_binary(compile::kernels(architecture, driver::version()?)?);
        let module = context.load_module(cubin).or_say("loading the kernels")?;
        let (blas, hopper) = (Blas::new(&stream)?, architecture.0 == 9);
        Ok(Gpu { stream, module, functions: Mutex::default(), blas, frees: AtomicU64::new(0), hopper })
    }

    /// A kernel by its name, allowed to have so much dynamic shared memory.
    fn function(&self, kernel: &str, shared_bytes: usize) -> Result<sys::CUfunction> {
        let mut functions = self.functions.lock();
        let (function, allowed) = match functions.entry(kernel.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let function = self.module.load_function(kernel);
                new.insert((function.or_say(&format!("finding kernel {kernel}"))?, SHARED_BYTES))
            }
        };
        if shared_bytes > *allowed {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let set = function.set_attribute(attribute, shared_bytes as i32);
            set.or_say(&format!("giving kernel {kernel} {shared_bytes} bytes of shared memory"))?;
            *allowed = shared_bytes;
        }
        Ok(function.cu_function())
    }
}

impl Device for Gpu {
    fn name(&self) -> &str {
        "cuda"
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        enter(&self.stream)?;
        // SAFETY: nobody reads the memory before it is written: `Device::allocate` says so.
        match unsafe { result::malloc_sync(bytes.max(1)) } {
            Ok(address) => Ok(Address(address)),
            Err(result::DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let lacks = self.memory().lacks(bytes);
                let [tokens, part] = ["max_batched_tokens", "gpu_memory_utilization"].map(field);
                let why = format!(
                    "out of memory on the GPU: {lacks}; close other programs on it, or give a smaller {tokens} or {part}"
                );
                Err(Error::Limit(why.into()))
            }
            Err(error) => Err(error).or_say("allocating memory"),
        }
    }

    fn free(&self, address: Address) {
        self.frees.fetch_add(1, Ordering::Relaxed);
        if enter(&self.stream).is_ok() {
            // SAFETY: `allocate` has given this address, and its owner gives it back once. The call waits for kernels that run.
            let _ = unsafe { result::free_sync(address.0) };
        }
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<()> {
        enter(&self.stream)?;
        // SAFETY: the address has room for the bytes. They are in memory that can be paged out, and so are copied before this returns.
        unsafe { result::memcpy_htod_async(to.0, bytes, self.stream.cu_stream()) }
            .or_say("copying to the GPU")
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        enter(&self.stream)?;
        // SAFETY: the address holds so many bytes, and they are there when `synchronize` returns.
        unsafe { result::memcpy_dtoh_async(bytes, from.0, self.stream.cu_stream()) }
            .or_say("copying from the GPU")?;
        self.synchronize()
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        enter(&self.stream)?;
        // SAFETY: both have room for the bytes; the stream puts the copy behind what was launched before.
        unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, self.stream.cu_stream()) }
            .or_say("copying on the GPU")
    }

    fn launch(&self, kernel: &str, grid: Grid, arguments: &[Arg]) -> Result<()> {
        enter(&self.stream)?;
        let function = self.function(kernel, grid.shared_bytes)?;
        let mut pointers: Vec<_> = arguments.iter().map(Arg::pointer).collect();
        let (blocks, threads) = (grid.blocks.into(), (grid.threads, 1, 1));
        let shared = grid.shared_bytes as u32;
        // SAFETY: the driver copies the arguments, which live until it returns; that they are the kernel's is what the caller promises.
        unsafe {
            result::launch_kernel(function, blocks, threads, shared, self.stream.cu_stream(), &mut pointers)
        }
        .or_say(&format!("launching kernel {kernel}"))
    }

    #[cfg(feature = "step7")]
    fn join(&self, rank: Rank, share: Share) -> Result<Option<Box<dyn DeviceGroup>>> {
        Ok(nccl::Group::join(&self.stream, rank, share)?.map(|group| Box::new(group) as _))
    }

    fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().or_say("waiting for the GPU")
    }

    fn is_hopper(&self) -> bool {
        self.hopper
    }

    fn has_matmul(&self) -> bool {
        true
    }

    fn matmul(&self, matmul: &Matmul) -> Result<()> {
        enter(&self.stream)?;
        self.blas.matmul(matmul)
    }

    fn begin_capture(&self) -> Result<()> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).or_say("beginning a CUDA graph")
    }

    fn end_capture(&self) -> Result<Graph> {
        let graph =
            self.stream.end_capture(sys::CUgraphInstantiate_flags(0)).or_say("ending a CUDA graph")?;
        let graph =
            graph.ok_or_else(|| Error::Device("the GPU's driver has recorded no CUDA graph".into()))?;
        let captured = Captured(graph);
        Ok(Box::new(move || captured.replay()))
    }

    fn frees(&self) -> u64 {
        self.frees.load(Ordering::Relaxed)
    }

    fn memory(&self) -> DeviceMemory {
        let (free, total) = self.stream.context().mem_get_info().unwrap_or((0, 0));
        DeviceMemory { free: free as u64, total: total as u64 }
    }
}

/// A CUDA graph.
struct Captured(CudaGraph);

// SAFETY: cudarc's graph may be used from any thread, by one at a time. The backend keeps its graphs behind a mutex.
unsafe impl Send for Captured {}
// SAFETY: as above.
unsafe impl Sync for Captured {}

impl Captured {
    fn replay(&self) -> Result<()> {
        self.0.launch().or_say("replaying a CUDA graph")
    }
}
