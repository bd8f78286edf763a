//! The CUDA backend: f32 activations and weights as stored, in the memory of a device that runs the files in kernels/.
//!
//! - `device`: what a device must do;
//! - `simulated`: a device on the CPU; `profile`: what a kernel reads and writes on it;
//! - `memory`: buffers and activations;
//! - `weight`: parameters;
//! - `workload`: something to do for a kernel that is profiled.

mod device;
mod memory;
mod profile;
mod simulated;
mod weight;
mod workload;

pub use device::{Address, Arg, Device, Grid};
pub use memory::{Buffer, CudaTensor, Ids, Workspace};
pub use profile::{Profile, Site};
pub use simulated::{Schedule, Simulated};
pub use weight::CudaWeight;
pub use workload::{KernelShape, PROFILED, profile_kernel};

use super::{Backend, PartShape, Rope, Shaped, Slice};
use crate::{error::Result, tensor::DType};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Threads of a block that works on a row.
const ROW_THREADS: u32 = 128;

/// A device and what the model keeps there.
pub struct Cuda {
    device: Arc<dyn Device>,
    workspace: Arc<Workspace>,
    launches: Arc<AtomicU64>,
}

impl Cuda {
    /// A backend on a device.
    pub fn new(device: Arc<dyn Device>) -> Cuda {
        Cuda { device, workspace: Arc::default(), launches: Arc::default() }
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Kernels that were launched so far.
    pub fn launches(&self) -> u64 {
        self.launches.load(Ordering::Relaxed)
    }

    /// An activation with unspecified contents.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn take(&self, rows: usize, cols: usize) -> Result<CudaTensor> {
        self.workspace.take(&self.device, rows, cols)
    }

    /// Launches a kernel, unless there is nothing to do.
    ///
    /// # Errors
    /// Those of the device.
    pub fn launch(&self, kernel: &str, grid: Grid, arguments: &[Arg]) -> Result<()> {
        if grid.blocks.contains(&0) {
            return Ok(()); // a step in which no request samples
        }
        self.launches.fetch_add(1, Ordering::Relaxed);
        self.device.launch(kernel, grid, arguments)
    }
}

/// How kernels for a dtype are called.
pub(crate) fn suffix(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        _ => "f32",
    }
}

/// An extent as an argument.
fn u32(extent: usize) -> Arg {
    Arg::U32(extent as u32)
}

impl Backend for Cuda {
    type Tensor = CudaTensor;
    type Ids = Ids;
    type Weight = CudaWeight;

    fn weight(&self, parts: &[PartShape]) -> Result<CudaWeight> {
        Ok(CudaWeight::new(parts))
    }

    fn load(&self, weight: &mut CudaWeight, part: usize, slice: &Slice) -> Result<()> {
        weight.load(&self.device, part, slice)
    }

    fn ids(&self, capacity: usize) -> Result<Ids> {
        Ids::new(&self.device, capacity)
    }

    fn write(&self, ids: &mut Ids, values: &[u32]) -> Result<()> {
        ids.write(values)
    }

    fn upload(&self, data: &[f32], rows: usize, cols: usize) -> Result<CudaTensor> {
        assert_eq!(data.len(), rows * cols, "upload");
        let x = self.take(rows, cols)?;
        let bytes: Vec<u8> = data.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.device.upload(x.address(), &bytes)?;
        Ok(x)
    }

    fn download(&self, x: &CudaTensor) -> Result<Vec<f32>> {
        let mut bytes = vec![0; 4 * x.len()];
        self.device.download(x.address(), &mut bytes)?;
        let (numbers, _) = bytes.as_chunks::<4>();
        Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    fn embed(&self, table: &CudaWeight, first_row: usize, ids: &Ids) -> Result<CudaTensor> {
        let (shape, part) = table.parts.first().expect("an embedding has one part");
        let part = part.as_ref().expect("an embedding that is loaded");
        let y = self.take(ids.len, shape.inputs)?;
        let (out, stored) = (Arg::At(y.address()), Arg::At(part.buffer.address));
        let sizes = [u32(first_row), u32(shape.outputs), u32(shape.inputs)];
        let kernel = format!("embed_{}", suffix(part.dtype));
        let arguments = [out, stored, Arg::At(ids.address()), sizes[0], sizes[1], sizes[2]];
        self.launch(&kernel, Grid::rows(ids.len, ROW_THREADS), &arguments)?;
        Ok(y)
    }

    fn matmul(&self, x: &CudaTensor, weight: &CudaWeight) -> Result<CudaTensor> {
        let outputs: usize = weight.parts.iter().map(|(shape, _)| shape.outputs).sum();
        let y = self.take(x.rows(), outputs)?;
        let mut first = 0;
        for (shape, part) in &weight.parts {
            let part = part.as_ref().unwrap_or_else(|| panic!("{shape:?} was never loaded"));
            assert_eq!(shape.inputs, x.cols(), "inputs");
            let threads = 128;
            let blocks = [shape.outputs.div_ceil(threads) as u32, x.rows() as u32];
            let grid = Grid { blocks, threads: threads as u32, shared_bytes: 0 };
            let [y, x, w] = [y.address(), x.address(), part.buffer.address].map(Arg::At);
            let transposed = Arg::U32(part.transposed.into());
            let [inputs, outputs, cols, column] = [shape.inputs, shape.outputs, outputs, first].map(u32);
            let kernel = format!("matmul_v0_{}", suffix(part.dtype));
            self.launch(&kernel, grid, &[y, x, w, inputs, outputs, transposed, cols, column])?;
            first += shape.outputs;
        }
        Ok(y)
    }

    fn add_bias(&self, x: CudaTensor, bias: &CudaWeight) -> Result<CudaTensor> {
        let arguments =
            [Arg::At(x.address()), Arg::At(bias.vector()), u32(x.cols()), Arg::Size(x.len() as u64)];
        self.launch("add_bias", Grid::numbers(x.len()), &arguments)?;
        Ok(x)
    }

    fn split<const N: usize>(&self, x: CudaTensor, cols: [usize; N]) -> Result<[CudaTensor; N]> {
        assert_eq!(cols.iter().sum::<usize>(), x.cols(), "split");
        let mut parts = Vec::with_capacity(N);
        let mut first = 0;
        for n in cols {
            let part = self.take(x.rows(), n)?;
            let arguments =
                [Arg::At(part.address()), Arg::At(x.address()), u32(first), u32(n), u32(x.cols())];
            self.launch("take_columns", Grid::rows(x.rows(), ROW_THREADS), &arguments)?;
            parts.push(part);
            first += n;
        }
        Ok(parts.try_into().unwrap_or_else(|_| unreachable!("N parts")))
    }

    fn rms_norm(&self, x: &CudaTensor, weight: &CudaWeight, group: usize, eps: f32) -> Result<CudaTensor> {
        assert_eq!(x.cols() % group, 0, "rms_norm");
        let y = self.take(x.rows(), x.cols())?;
        let [out, x, weight] = [y.address(), x.address(), weight.vector()].map(Arg::At);
        let grid = Grid::rows(y.len() / group, ROW_THREADS);
        self.launch("rms_norm", grid, &[out, x, weight, u32(group), Arg::F32(eps)])?;
        Ok(y)
    }

    fn layer_norm(
        &self,
        x: &CudaTensor,
        weight: &CudaWeight,
        bias: &CudaWeight,
        eps: f32,
    ) -> Result<CudaTensor> {
        let y = self.take(x.rows(), x.cols())?;
        let [out, x, weight, bias] = [y.address(), x.address(), weight.vector(), bias.vector()].map(Arg::At);
        let grid = Grid::rows(y.rows(), ROW_THREADS);
        self.launch("layer_norm", grid, &[out, x, weight, bias, u32(y.cols()), Arg::F32(eps)])?;
        Ok(y)
    }

    fn rope(&self, x: CudaTensor, positions: &Ids, rope: &Rope<Cuda>) -> Result<CudaTensor> {
        assert_eq!(x.cols() % rope.head_dim, 0, "rope");
        let [data, positions, frequencies] =
            [x.address(), positions.address(), rope.inv_freq.vector()].map(Arg::At);
        let (heads, head_dim) = (u32(x.cols() / rope.head_dim), u32(rope.head_dim));
        let arguments = [data, positions, frequencies, heads, head_dim, Arg::F32(rope.scaling)];
        self.launch("rope", Grid::rows(x.rows(), ROW_THREADS), &arguments)?;
        Ok(x)
    }

    fn silu_mul(&self, gate: CudaTensor, up: &CudaTensor) -> Result<CudaTensor> {
        let arguments = [Arg::At(gate.address()), Arg::At(up.address()), Arg::Size(gate.len() as u64)];
        self.launch("silu_mul", Grid::numbers(gate.len()), &arguments)?;
        Ok(gate)
    }

    fn gelu(&self, x: CudaTensor) -> Result<CudaTensor> {
        self.launch("gelu", Grid::numbers(x.len()), &[Arg::At(x.address()), Arg::Size(x.len() as u64)])?;
        Ok(x)
    }

    fn add(&self, x: CudaTensor, y: &CudaTensor) -> Result<CudaTensor> {
        assert_eq!((x.rows(), x.cols()), (y.rows(), y.cols()), "add");
        let arguments = [Arg::At(x.address()), Arg::At(y.address()), Arg::Size(x.len() as u64)];
        self.launch("add", Grid::numbers(x.len()), &arguments)?;
        Ok(x)
    }

    fn take_rows(&self, x: &CudaTensor, rows: &Ids) -> Result<CudaTensor> {
        let y = self.take(rows.len, x.cols())?;
        let [out, x, ids] = [y.address(), x.address(), rows.address()].map(Arg::At);
        self.launch("take_rows", Grid::rows(rows.len, ROW_THREADS), &[out, x, ids, u32(y.cols())])?;
        Ok(y)
    }
}
