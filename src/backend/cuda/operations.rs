//! The operations of a model, and which kernels carry them out.

use super::{
    Cuda, CudaTensor, CudaWeight, Ids, ROW_THREADS,
    device::{Address, Arg, Grid, Matmul},
    suffix,
    weight::Part,
};
use crate::{
    backend::{Backend, PartShape, Rope, Shaped, Slice},
    config::Activation,
    error::{Error, Result},
    sampling::{Draw, SamplingError},
    tensor::DType,
};
use std::sync::{PoisonError, atomic::Ordering};

/// The best version of RMSNorm for groups of n, and its threads: the limits are in kernels/norm.cu.
fn rms_norm_version(n: usize) -> (&'static str, u32) {
    if n.is_multiple_of(4) && n <= 32 * ROW_THREADS as usize {
        // As many threads as there are reads of 16 bytes.
        return ("rms_norm_v2", (n as u32 / 4).next_power_of_two().clamp(32, ROW_THREADS));
    }
    ("rms_norm_v1", ROW_THREADS)
}

/// An extent as an argument.
fn u32(extent: usize) -> Arg {
    Arg::U32(extent as u32)
}

impl Cuda {
    /// One part of a linear layer: columns of y from `first` on.
    fn linear(&self, y: &CudaTensor, x: Address, x_dtype: DType, part: &Part, first: usize) -> Result<()> {
        let PartShape { outputs, inputs } = part.shape;
        if self.device.has_matmul() {
            assert_eq!(x_dtype, part.dtype, "a library's operands");
            let (rows, y_cols, transposed) = (y.rows(), y.cols(), part.transposed);
            let (w, y) = (part.buffer.address, y.address().offset(4 * first));
            if rows > 0 && self.counts() {
                self.device.matmul(&Matmul {
                    dtype: x_dtype,
                    x,
                    w,
                    y,
                    rows,
                    inputs,
                    outputs,
                    y_cols,
                    transposed,
                })?;
            }
            return Ok(());
        }
        let threads = 128;
        let blocks = [outputs.div_ceil(threads) as u32, y.rows() as u32, 1];
        let grid = Grid { blocks, threads: threads as u32, shared_bytes: 0 };
        let (cols, transposed) = (u32(y.cols()), Arg::U32(part.transposed.into()));
        let [y, x, w] = [y.address(), x, part.buffer.address].map(Arg::At);
        let kernel = match x_dtype {
            DType::F32 => format!("matmul_v0_{}", suffix(part.dtype)),
            narrow => format!("matmul_v0_{0}_{0}", suffix(narrow)),
        };
        self.launch(&kernel, grid, &[y, x, w, u32(inputs), u32(outputs), transposed, cols, u32(first)])
    }

    /// An activation rounded to 16 bits, in memory of its own.
    fn cast(&self, x: &CudaTensor, dtype: DType) -> Result<CudaTensor> {
        let y = self.take(x.rows(), x.cols().div_ceil(2))?;
        let arguments = [Arg::At(y.address()), Arg::At(x.address()), Arg::Size(x.len() as u64)];
        self.launch(&format!("cast_{}", suffix(dtype)), Grid::numbers(x.len()), &arguments)?;
        Ok(y)
    }
}

impl Backend for Cuda {
    type Tensor = CudaTensor;
    type Ids = Ids;
    type Weight = CudaWeight;

    fn weight(&self, parts: &[PartShape]) -> Result<CudaWeight> {
        Ok(CudaWeight::new(parts))
    }

    fn load(&self, weight: &mut CudaWeight, part: usize, slice: &Slice) -> Result<()> {
        // The simulator's kernel widens what it reads; a library wants both operands in one dtype.
        let wanted = self.options.dtype.filter(|dtype| *dtype != DType::F32 || self.device.has_matmul());
        if weight.is_matrix() {
            self.stored.get_or_init(|| slice.tensor.dtype);
        }
        weight.load(&self.device, part, slice, wanted)
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
        let part = table.parts().next().expect("an embedding has one part");
        let y = self.take(ids.len, part.shape.inputs)?;
        let (out, stored) = (Arg::At(y.address()), Arg::At(part.buffer.address));
        let sizes = [u32(first_row), u32(part.shape.outputs), u32(part.shape.inputs)];
        let kernel = format!("embed_{}", suffix(part.dtype));
        let arguments = [out, stored, Arg::At(ids.address()), sizes[0], sizes[1], sizes[2]];
        self.launch(&kernel, Grid::rows(ids.len, ROW_THREADS), &arguments)?;
        Ok(y)
    }

    fn matmul(&self, x: &CudaTensor, weight: &CudaWeight) -> Result<CudaTensor> {
        let y = self.take(x.rows(), weight.outputs())?;
        let mut first = 0;
        let mut narrow: Option<(DType, CudaTensor)> = None;
        for part in weight.parts() {
            assert_eq!(part.shape.inputs, x.cols(), "inputs");
            let dtype = self.options.dtype.unwrap_or(part.dtype);
            if dtype != DType::F32 && narrow.as_ref().is_none_or(|(of, _)| *of != dtype) {
                narrow = Some((dtype, self.cast(x, dtype)?));
            }
            let operand = match &narrow {
                Some((of, narrow)) if *of == dtype => narrow,
                _ => x,
            };
            self.linear(&y, operand.address(), dtype, part, first)?;
            first += part.shape.outputs;
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
        if N == 1 {
            let mut whole = Some(x);
            return Ok(cols.map(|_| whole.take().expect("one output")));
        }
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

    // ANCHOR: rms_norm
    fn rms_norm(&self, x: &CudaTensor, weight: &CudaWeight, group: usize, eps: f32) -> Result<CudaTensor> {
        assert_eq!(x.cols() % group, 0, "rms_norm");
        let y = self.take(x.rows(), x.cols())?;
        let [out, x, weight] = [y.address(), x.address(), weight.vector()].map(Arg::At);
        let (kernel, threads) = rms_norm_version(group);
        let grid = Grid::rows(y.len() / group, threads);
        self.launch(kernel, grid, &[out, x, weight, u32(group), Arg::F32(eps)])?;
        Ok(y)
    }
    // ANCHOR_END: rms_norm

    fn add_rms_norm(
        &self,
        x: CudaTensor,
        y: &CudaTensor,
        weight: &CudaWeight,
        eps: f32,
    ) -> Result<(CudaTensor, CudaTensor)> {
        assert_eq!((x.rows(), x.cols()), (y.rows(), y.cols()), "add_rms_norm");
        let normed = self.take(x.rows(), x.cols())?;
        let pointers = [normed.address(), x.address(), y.address(), weight.vector()].map(Arg::At);
        let arguments = [&pointers[..], &[u32(x.cols()), Arg::F32(eps)]].concat();
        self.launch("add_rms_norm", Grid::rows(x.rows(), ROW_THREADS), &arguments)?;
        Ok((x, normed))
    }

    fn add_layer_norm(
        &self,
        x: CudaTensor,
        y: &CudaTensor,
        weight: &CudaWeight,
        bias: &CudaWeight,
        eps: f32,
    ) -> Result<(CudaTensor, CudaTensor)> {
        assert_eq!((x.rows(), x.cols()), (y.rows(), y.cols()), "add_layer_norm");
        let normed = self.take(x.rows(), x.cols())?;
        let pointers =
            [normed.address(), x.address(), y.address(), weight.vector(), bias.vector()].map(Arg::At);
        let arguments = [&pointers[..], &[u32(x.cols()), Arg::F32(eps)]].concat();
        self.launch("add_layer_norm", Grid::rows(x.rows(), ROW_THREADS), &arguments)?;
        Ok((x, normed))
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

    fn activate(&self, x: CudaTensor, activation: Activation) -> Result<CudaTensor> {
        if activation != Activation::GeluTanh {
            return Err(Error::Device(format!(
                "the activation {activation:?} has no kernel for GPUs yet; use the CPU"
            )));
        }
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

    fn draw(&self, logits: &CudaTensor, draws: &[Draw]) -> Result<Option<Vec<Result<u32, SamplingError>>>> {
        self.sample(logits, draws).map(Some)
    }

    fn in_place(&self) -> bool {
        false
    }

    /// Decode steps of up to 256 sequences are filled up to 1, 2, 4 or a multiple of 8 rows, as vLLM does, so that few graphs serve them.
    fn padded_rows(&self, decode_rows: usize) -> usize {
        match decode_rows {
            1..=2 => decode_rows,
            3..=256 if !self.options.graphs => decode_rows,
            3..=4 => 4,
            5..=256 => decode_rows.next_multiple_of(8),
            _ => decode_rows,
        }
    }

    fn replay(
        &self,
        key: Option<u64>,
        forward: &mut dyn FnMut() -> Result<CudaTensor>,
    ) -> Result<CudaTensor> {
        let Some(key) = key.filter(|_| self.options.graphs) else { return forward() };
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        self.in_graph.store(true, Ordering::Relaxed);
        let replayed = graphs.replay(&*self.device, key, || self.launches(), forward);
        self.in_graph.store(false, Ordering::Relaxed);
        let (output, kernels) = replayed?;
        self.launches.fetch_add(kernels, Ordering::Relaxed);
        self.replays.fetch_add(1, Ordering::Relaxed);
        Ok(output)
    }
}
