//! The CUDA backend: f32 activations and weights as stored, in the memory of a device that runs the files in kernels/.
//!
//! - `device`: what a device must do;
//! - `gpu`: an NVIDIA GPU;
//! - `simulated`: a device on the CPU; `profile`: what a kernel reads and writes on it;
//! - `operations`: what a model asks for, and which kernels do it;
//! - `paged_attention`: the versions of attention; `flash_attention` (step 6): those for prompts;
//! - `sampling`: tokens drawn where the logits are;
//! - `memory`: buffers and activations;
//! - `weight`: parameters; `quant_matmul` (step 9): packed ones;
//! - `graph`: decode steps that are recorded and replayed;
//! - `workload`: something to do for a kernel that is counted or timed.

mod device;
#[cfg(feature = "step6")]
mod flash_attention;
mod gpu;
mod graph;
mod memory;
mod operations;
mod paged_attention;
mod profile;
// Step 9 keeps packed weights packed.
#[cfg_attr(not(feature = "quantized"), path = "no_packed.rs")]
mod quant_matmul;
mod sampling;
mod simulated;
mod weight;
mod workload;

pub use device::{Address, Arg, Device, DeviceGroup, DeviceMemory, Graph, Grid, Launch, Matmul};
#[cfg(feature = "step6")]
pub use flash_attention::{FlashVersion, FlashWork};
pub use gpu::Gpu;
pub use memory::{Buffer, CudaTensor, Ids, Workspace};
pub use paged_attention::{AttentionVersion, PART, PagedPlaces, PagedShape, PagedWork};
pub use profile::{Profile, Site};
pub use simulated::{Schedule, Simulated};
pub use weight::CudaWeight;
pub use workload::{KernelShape, profile_kernel, profiled, with_workload};

use crate::{error::Result, tensor::DType};
use graph::Graphs;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Threads of a block that works on a row.
const ROW_THREADS: u32 = 128;

/// How a model runs on a device.
#[derive(Clone, Copy, Debug)]
pub struct CudaOptions {
    /// The dtype that linear layers multiply in: f32, or bf16 or f16 with sums in f32. `None`: the dtype of the weights. Other operations
    /// are in f32.
    pub dtype: Option<DType>,
    /// The part of the device's memory that this process may use.
    pub utilization: f64,
    /// Whether decode steps are recorded and replayed.
    pub graphs: bool,
    /// The version of attention, if it is not to be the fastest that fits.
    pub attention: Option<AttentionVersion>,
    /// The number of the version of attention over prompts. (Step 6.)
    pub prefill: Option<usize>,
}

/// Kernels that come in versions, and how many each has.
pub const VERSIONS: &[(&str, usize)] = &[
    ("paged_attention", AttentionVersion::ALL.len()),
    #[cfg(feature = "step6")]
    ("flash_attention", FlashVersion::ALL.len()),
];

impl Default for CudaOptions {
    fn default() -> CudaOptions {
        CudaOptions {
            dtype: Some(DType::F32),
            utilization: 0.9,
            graphs: true,
            attention: None,
            prefill: None,
        }
    }
}

/// A device and what the model keeps there.
pub struct Cuda {
    device: Arc<dyn Device>,
    options: CudaOptions,
    workspace: Arc<Workspace>,
    /// Memory for recorded passes. Nothing else may use it between two replays.
    graph_workspace: Arc<Workspace>,
    in_graph: AtomicBool,
    /// Whether launches are left out.
    dry: AtomicBool,
    graphs: Mutex<Graphs>,
    launches: AtomicU64,
    replays: AtomicU64,
    /// The dtype of the first matrix.
    stored: OnceLock<DType>,
    /// The sampling kernel's table of draws. It is kept, because graphs end when memory is given back.
    draws: Mutex<Option<Ids>>,
}

impl Cuda {
    /// A backend on a device, with f32 arithmetic.
    pub fn new(device: Arc<dyn Device>) -> Cuda {
        Cuda::with_options(device, CudaOptions::default())
    }

    /// A backend on a device.
    pub fn with_options(device: Arc<dyn Device>, options: CudaOptions) -> Cuda {
        Cuda {
            device,
            options,
            workspace: Arc::default(),
            graph_workspace: Arc::default(),
            in_graph: AtomicBool::new(false),
            dry: AtomicBool::new(false),
            graphs: Mutex::default(),
            launches: AtomicU64::new(0),
            replays: AtomicU64::new(0),
            stored: OnceLock::new(),
            draws: Mutex::default(),
        }
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// How it runs.
    pub fn options(&self) -> CudaOptions {
        self.options
    }

    /// The dtype that linear layers multiply in.
    pub fn dtype(&self) -> DType {
        self.options.dtype.or(self.stored.get().copied()).unwrap_or(DType::F32)
    }

    /// Kernels that were launched so far, those of replayed passes included.
    pub fn launches(&self) -> u64 {
        self.launches.load(Ordering::Relaxed)
    }

    /// Passes that were replayed so far.
    pub fn replays(&self) -> u64 {
        self.replays.load(Ordering::Relaxed)
    }

    /// Bytes of activations that are kept to be used again.
    pub fn activation_bytes(&self) -> u64 {
        self.workspace.free_bytes() + self.graph_workspace.free_bytes()
    }

    /// An activation with unspecified contents.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn take(&self, rows: usize, cols: usize) -> Result<CudaTensor> {
        let in_graph = self.in_graph.load(Ordering::Relaxed);
        let workspace = if in_graph { &self.graph_workspace } else { &self.workspace };
        workspace.take(&self.device, rows, cols)
    }

    /// Allocates what a pass needs, and launches nothing.
    ///
    /// # Errors
    /// Those of the pass: that there is not enough memory.
    pub fn dry_run<T>(&self, pass: impl FnOnce() -> Result<T>) -> Result<T> {
        self.dry.store(true, Ordering::Relaxed);
        let done = pass();
        self.dry.store(false, Ordering::Relaxed);
        done
    }

    /// Launches a kernel whose arguments are these pointers, and behind them these values.
    ///
    /// # Errors
    /// Those of the device.
    pub fn launch(&self, kernel: &str, grid: Grid, pointers: &[Address], values: &[Arg]) -> Result<()> {
        self.run(&[Launch::new(kernel, grid, pointers, values)])
    }

    /// Launches kernels one after the other, unless they have nothing to do.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(&self, launches: &[Launch]) -> Result<()> {
        for Launch { kernel, grid, arguments } in launches {
            // A grid without blocks has no rows: in that step no request samples.
            if !grid.blocks.contains(&0) && self.counts() {
                self.device.launch(kernel, *grid, arguments)?;
            }
        }
        Ok(())
    }

    /// Counts a launch, unless it is to be left out.
    fn counts(&self) -> bool {
        let real = !self.dry.load(Ordering::Relaxed);
        self.launches.fetch_add(real.into(), Ordering::Relaxed);
        real
    }
}

/// The end of a kernel's name for a dtype.
pub(crate) fn suffix(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        DType::F8_E4M3 => "fp8",
        _ => "f32",
    }
}
