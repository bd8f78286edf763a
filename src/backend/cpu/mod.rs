//! The CPU backend: f32 activations, weights as stored, all cores.

mod kernels;
mod linear;
mod workspace;

pub use super::simd::Isa;
pub use kernels::{Kernels, Standard};
pub use linear::HAS_INT8;
pub use workspace::{CpuTensor, Workspace};

use super::{Backend, PartShape, Rope, Shaped, Slice};
use crate::tensor::{DType, convert_to_f32};
use crate::{config::Activation, error::Result, packed::Matrix};
use linear::Part;
use rayon::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Operations below which a second thread costs more than it brings.
pub(crate) const SMALL: usize = 1 << 14;

/// What linear layers multiply. Sums are f32 in any case, and so is everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Activations as they are, weights as stored.
    F32,
    /// Activations rounded to bf16, weights as stored.
    Bf16,
    /// bf16 for weights that are stored so, where the instruction set multiplies bf16; else f32.
    Auto,
}

/// The CPU. Cheap to make; its workspace fills as it works.
pub struct Cpu {
    isa: Isa,
    arithmetic: Arithmetic,
    /// Whether packed weights are multiplied by activations of 8 bits.
    int8: AtomicBool,
    /// Whether a matrix was loaded that is multiplied as bf16; and one that can be multiplied by activations of 8 bits.
    dots_bf16: AtomicBool,
    dots_int8: AtomicBool,
    kernels: Box<dyn Kernels>,
    workspace: Arc<Workspace>,
}

impl Default for Cpu {
    fn default() -> Cpu {
        Cpu::with_isa(Isa::detect())
    }
}

impl Cpu {
    /// With a given instruction set, for all operations.
    ///
    /// # Panics
    /// If it is none of [`Isa::supported`].
    pub fn with_isa(isa: Isa) -> Cpu {
        assert!(Isa::supported().contains(&isa), "this CPU, or this build, has no {isa:?}");
        let arithmetic = Arithmetic::F32;
        let [int8, dots_bf16, dots_int8] = [(); 3].map(|()| AtomicBool::new(false));
        let (kernels, workspace) = (Box::new(Standard(isa)), Arc::default());
        Cpu { isa, arithmetic, int8, dots_bf16, dots_int8, kernels, workspace }
    }

    /// With another arithmetic of linear layers than [`Arithmetic::F32`].
    pub fn with_arithmetic(self, arithmetic: Arithmetic) -> Cpu {
        Cpu { arithmetic, ..self }
    }

    /// The same, with packed weights of 4 and 8 bits multiplied by activations that are rounded to 8 bits. Other weights are multiplied as before.
    /// (Step 9.)
    pub fn with_int8_activations(self, int8: bool) -> Cpu {
        self.set_int8_activations(int8);
        self
    }

    /// Changes that from the next operation on, to compare both.
    pub fn set_int8_activations(&self, int8: bool) {
        self.int8.store(int8, Ordering::Relaxed);
    }

    /// Whether activations are rounded to 8 bits where weights are packed.
    pub fn has_int8_activations(&self) -> bool {
        self.int8.load(Ordering::Relaxed)
    }

    /// Whether any matrix was loaded that activations of 8 bits can multiply.
    pub fn holds_int8_weights(&self) -> bool {
        self.dots_int8.load(Ordering::Relaxed)
    }

    /// With other small operations than the standard ones.
    pub fn with_kernels(kernels: Box<dyn Kernels>) -> Cpu {
        Cpu { kernels, ..Cpu::default() }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// What the linear layers that were loaded multiply: bf16 if any of them does.
    pub fn dtype(&self) -> DType {
        match self.arithmetic {
            Arithmetic::F32 => DType::F32,
            Arithmetic::Bf16 => DType::BF16,
            Arithmetic::Auto if self.dots_bf16.load(Ordering::Relaxed) => DType::BF16,
            Arithmetic::Auto => DType::F32,
        }
    }

    /// What linear layers are asked to multiply.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// How a matrix of these parts is multiplied.
    fn product(&self, weight: &CpuWeight) -> linear::Product {
        if self.has_int8_activations() && weight.parts().all(linear::multiplies_int8) {
            return linear::Product::Int8;
        }
        let fits = self.isa.multiplies_bf16() && weight.dots_bf16();
        match self.arithmetic {
            Arithmetic::F32 => linear::Product::F32,
            Arithmetic::Auto if !fits => linear::Product::F32,
            Arithmetic::Bf16 if !fits => linear::Product::RoundedF32,
            Arithmetic::Auto | Arithmetic::Bf16 => linear::Product::DotBf16,
        }
    }

    /// The small operations in use.
    pub fn kernels(&self) -> &dyn Kernels {
        &*self.kernels
    }

    /// An activation with unspecified contents.
    pub fn take(&self, rows: usize, cols: usize) -> CpuTensor {
        self.workspace.take(rows, cols)
    }

    /// Runs `body(index, chunk)` on each chunk of `n` elements of x, on all cores if x is large.
    pub(crate) fn for_each_chunk(&self, x: &mut [f32], n: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
        if x.len() < SMALL {
            x.chunks_exact_mut(n).enumerate().for_each(|(i, chunk)| body(i, chunk));
        } else {
            x.par_chunks_exact_mut(n).enumerate().for_each(|(i, chunk)| body(i, chunk));
        }
    }
}

/// A parameter: views of the checkpoint's tensors, or, for a vector, its values widened to f32.
pub struct CpuWeight {
    parts: Vec<(PartShape, Option<Part>)>,
    /// The parts of a vector (inputs = 1), one after the other.
    vector: Vec<f32>,
}

impl CpuWeight {
    /// Outputs of all parts together.
    pub fn outputs(&self) -> usize {
        self.parts.iter().map(|(shape, _)| shape.outputs).sum()
    }

    /// Whether outputs of these widths, side by side, are of whole parts each.
    fn ends_parts_at(&self, widths: &[usize]) -> bool {
        let mut parts = self.parts.iter().map(|(shape, _)| shape.outputs);
        widths.iter().all(|&width| {
            let mut left = width;
            while left > 0 {
                match parts.next() {
                    Some(outputs) if outputs <= left => left -= outputs,
                    _ => return false,
                }
            }
            true
        })
    }

    /// Whether an instruction that multiplies bf16 can use them.
    fn dots_bf16(&self) -> bool {
        self.parts().all(Part::dots_bf16)
    }

    /// The parts, in the order of the outputs.
    ///
    /// # Panics
    /// If one was never loaded.
    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts
            .iter()
            .map(|(shape, part)| part.as_ref().unwrap_or_else(|| panic!("{shape:?} was never loaded")))
    }
}

impl Backend for Cpu {
    type Tensor = CpuTensor;
    type Ids = Vec<u32>;
    type Weight = CpuWeight;

    fn weight(&self, parts: &[PartShape]) -> Result<CpuWeight> {
        Ok(CpuWeight { parts: parts.iter().map(|p| (*p, None)).collect(), vector: Vec::new() })
    }

    fn load(&self, weight: &mut CpuWeight, part: usize, slice: &Slice<Matrix>) -> Result<()> {
        let (rows, cols) = (slice.rows.len(), slice.cols.len());
        let shape = if slice.transposed { (cols, rows) } else { (rows, cols) };
        let expected = weight.parts[part].0;
        assert_eq!(shape, (expected.outputs, expected.inputs), "{:?}", slice.tensor);
        if let (1, Matrix::Dense(tensor)) = (expected.inputs, &slice.tensor) {
            // Taken only now, so that a config.json with absurd sizes costs nothing before its tensors are checked.
            weight.vector.resize(weight.parts.iter().map(|(p, _)| p.outputs).sum(), f32::NAN);
            let start = weight.parts[..part].iter().map(|(p, _)| p.outputs).sum::<usize>();
            let size = tensor.dtype.bytes();
            let bytes = &tensor.data[slice.rows.start * size..slice.rows.end * size];
            convert_to_f32(tensor.dtype, bytes, &mut weight.vector[start..start + rows]);
        }
        let loaded = Part::new(slice)?;
        let dots = self.isa.multiplies_bf16() && loaded.dots_bf16();
        self.dots_bf16.fetch_or(dots && expected.inputs > 1, Ordering::Relaxed);
        self.dots_int8.fetch_or(linear::multiplies_int8(&loaded), Ordering::Relaxed);
        weight.parts[part].1 = Some(loaded);
        Ok(())
    }

    fn ids(&self, capacity: usize) -> Result<Vec<u32>> {
        Ok(Vec::with_capacity(capacity))
    }

    fn write(&self, ids: &mut Vec<u32>, values: &[u32]) -> Result<()> {
        ids.clear();
        ids.extend(values);
        Ok(())
    }

    fn upload(&self, data: &[f32], rows: usize, cols: usize) -> Result<CpuTensor> {
        let mut x = self.take(rows, cols);
        x.data_mut().copy_from_slice(data);
        Ok(x)
    }

    fn download(&self, x: &CpuTensor) -> Result<Vec<f32>> {
        Ok(x.data().to_vec())
    }

    fn embed(&self, table: &CpuWeight, first_row: usize, ids: &Vec<u32>) -> Result<CpuTensor> {
        let part = table.parts().next().expect("an embedding has one part");
        let PartShape { outputs: held, inputs: hidden } = part.shape();
        let mut y = self.take(ids.len(), hidden);
        for (row, &id) in ids.iter().enumerate() {
            match (id as usize).checked_sub(first_row).filter(|i| *i < held) {
                Some(i) => part.widen(i, y.row_mut(row)),
                None => y.row_mut(row).fill(0.0),
            }
        }
        Ok(y)
    }

    fn matmul(&self, x: &CpuTensor, weight: &CpuWeight) -> Result<CpuTensor> {
        let [y] = self.matmul_split(x, weight, [weight.outputs()])?;
        Ok(y)
    }

    fn matmul_split<const N: usize>(
        &self,
        x: &CpuTensor,
        weight: &CpuWeight,
        cols: [usize; N],
    ) -> Result<[CpuTensor; N]> {
        if !weight.ends_parts_at(&cols) {
            return self.split(self.matmul(x, weight)?, cols);
        }
        let mut outputs = cols.map(|n| self.take(x.rows(), n));
        linear::matmul(self, x, weight, &mut outputs);
        Ok(outputs)
    }

    fn add_bias(&self, mut x: CpuTensor, bias: &CpuWeight) -> Result<CpuTensor> {
        let n = x.cols();
        assert_eq!(n, bias.vector.len(), "bias");
        self.for_each_chunk(x.data_mut(), n, |_, row| {
            row.iter_mut().zip(&bias.vector).for_each(|(x, b)| *x += b)
        });
        Ok(x)
    }

    fn split<const N: usize>(&self, x: CpuTensor, cols: [usize; N]) -> Result<[CpuTensor; N]> {
        assert_eq!(cols.iter().sum::<usize>(), x.cols(), "split");
        if N == 1 {
            let mut whole = Some(x);
            return Ok(cols.map(|_| whole.take().expect("one output")));
        }
        let mut start = 0;
        Ok(cols.map(|n| {
            let mut part = self.take(x.rows(), n);
            self.for_each_chunk(part.data_mut(), n, |row, part| {
                part.copy_from_slice(&x.row(row)[start..start + n]);
            });
            start += n;
            part
        }))
    }

    fn rms_norm(&self, x: &CpuTensor, weight: &CpuWeight, group: usize, eps: f32) -> Result<CpuTensor> {
        assert_eq!((x.cols() % group, weight.vector.len()), (0, group), "rms_norm");
        let mut y = self.take(x.rows(), x.cols());
        self.for_each_chunk(y.data_mut(), group, |i, out| {
            self.kernels.rms_norm(out, &x.data()[i * group..][..group], &weight.vector, eps);
        });
        Ok(y)
    }

    fn layer_norm(&self, x: &CpuTensor, weight: &CpuWeight, bias: &CpuWeight, eps: f32) -> Result<CpuTensor> {
        let n = x.cols();
        assert_eq!((weight.vector.len(), bias.vector.len()), (n, n), "layer_norm");
        let mut y = self.take(x.rows(), n);
        self.for_each_chunk(y.data_mut(), n, |i, out| {
            self.kernels.layer_norm(out, x.row(i), &weight.vector, &bias.vector, eps);
        });
        Ok(y)
    }

    fn rope(&self, mut x: CpuTensor, positions: &Vec<u32>, rope: &Rope<Cpu>) -> Result<CpuTensor> {
        let (n, frequencies) = (x.cols(), &rope.inv_freq.vector);
        assert_eq!((n % rope.head_dim, frequencies.len()), (0, rope.head_dim / 2), "rope");
        self.for_each_chunk(x.data_mut(), n, |row, heads| {
            let angle = |f: &f32| positions[row] as f32 * f;
            let cos: Vec<f32> = frequencies.iter().map(|f| angle(f).cos() * rope.scaling).collect();
            let sin: Vec<f32> = frequencies.iter().map(|f| angle(f).sin() * rope.scaling).collect();
            for head in heads.chunks_exact_mut(rope.head_dim) {
                self.kernels.rotate_half(head, &cos, &sin);
            }
        });
        Ok(x)
    }

    fn silu_mul(&self, mut gate: CpuTensor, up: &CpuTensor) -> Result<CpuTensor> {
        let n = gate.cols();
        self.for_each_chunk(gate.data_mut(), n, |i, gate| self.kernels.silu_mul(gate, up.row(i)));
        Ok(gate)
    }

    fn activate(&self, mut x: CpuTensor, activation: Activation) -> Result<CpuTensor> {
        let n = x.cols();
        self.for_each_chunk(x.data_mut(), n, |_, row| self.kernels.activate(row, activation));
        Ok(x)
    }

    fn add(&self, mut x: CpuTensor, y: &CpuTensor) -> Result<CpuTensor> {
        let n = x.cols();
        assert_eq!((x.rows(), n), (y.rows(), y.cols()), "add");
        self.for_each_chunk(x.data_mut(), n, |i, x| x.iter_mut().zip(y.row(i)).for_each(|(x, y)| *x += y));
        Ok(x)
    }

    fn take_rows(&self, x: &CpuTensor, rows: &Vec<u32>) -> Result<CpuTensor> {
        let mut y = self.take(rows.len(), x.cols());
        for (i, &row) in rows.iter().enumerate() {
            y.row_mut(i).copy_from_slice(x.row(row as usize));
        }
        Ok(y)
    }
}
