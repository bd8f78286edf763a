//! The operations of a model, and which kernels carry them out.

use super::device::{Address, Arg, Grid, Matmul};
use super::weight::{DensePart, Output, Part};
use super::{Cuda, CudaTensor, CudaWeight, Ids, ROW_THREADS, suffix};
use crate::backend::{Backend, Drawn, Forward, PartShape, Rope, Shaped, Slice};
use crate::error::{Error, Result};
use crate::{config::Activation, packed::Matrix, sampling::Draw, tensor::DType};
use std::sync::atomic::Ordering;

/// The best version of RMSNorm for groups of n, and its threads: the limits are in kernels/norm.cu.
fn rms_norm_version(n: usize) -> (&'static str, u32) {
    if n.is_multiple_of(4) && n <= 32 * ROW_THREADS as usize {
        // As many threads as there are reads of 16 bytes.
        return ("rms_norm_v2", (n as u32 / 4).next_power_of_two().clamp(32, ROW_THREADS));
    }
    ("rms_norm_v1", ROW_THREADS)
}

impl Cuda {
    /// One part of a linear layer, x in `dtype`.
    fn linear(&self, y: Output, x: Address, dtype: DType, part: &DensePart) -> Result<()> {
        let PartShape { outputs, inputs } = part.shape;
        let Output { y, rows, cols: y_cols, first } = y;
        let (w, transposed) = (part.buffer.address, part.transposed);
        if self.device.has_matmul() {
            assert_eq!(dtype, part.dtype, "a library's operands");
            let y = y.offset(4 * first);
            if rows > 0 && self.counts() {
                self.device.matmul(&Matmul { dtype, x, w, y, rows, inputs, outputs, y_cols, transposed })?;
            }
            return Ok(());
        }
        let blocks = [outputs.div_ceil(ROW_THREADS as usize) as u32, rows as u32, 1];
        let grid = Grid { blocks, threads: ROW_THREADS, shared_bytes: 0 };
        let kernel = match dtype {
            DType::F32 => format!("matmul_v0_{}", suffix(part.dtype)),
            narrow => format!("matmul_v0_{0}_{0}", suffix(narrow)),
        };
        let sizes = [inputs, outputs, transposed.into(), y_cols, first].map(Arg::extent);
        self.launch(&kernel, grid, &[y, x, w], &sizes)
    }

    /// A norm of each row of the sum of `inputs`, which is kept in the first of them. `parameters`: the weight, and the bias where there is one.
    fn norm_rows(
        &self,
        kernel: &str,
        inputs: &[&CudaTensor],
        parameters: &[&CudaWeight],
        eps: f32,
    ) -> Result<CudaTensor> {
        let (rows, cols) = (inputs[0].rows(), inputs[0].cols());
        assert!(inputs.iter().all(|x| (x.rows(), x.cols()) == (rows, cols)), "{kernel}");
        let normed = self.take(rows, cols)?;
        let mut pointers = vec![normed.address()];
        pointers.extend(inputs.iter().map(|x| x.address()));
        pointers.extend(parameters.iter().map(|parameter| parameter.vector()));
        let values = [Arg::extent(cols), Arg::F32(eps)];
        self.launch(kernel, Grid::rows(rows, ROW_THREADS), &pointers, &values)?;
        Ok(normed)
    }

    /// An activation rounded to 16 bits, in memory of its own.
    fn cast(&self, x: &CudaTensor, dtype: DType) -> Result<CudaTensor> {
        let y = self.take(x.rows(), x.cols().div_ceil(2))?;
        let kernel = format!("cast_{}", suffix(dtype));
        self.launch(&kernel, Grid::numbers(x.len()), &[y.address(), x.address()], &[x.size()])?;
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

    fn table(&self, shape: PartShape) -> Result<CudaWeight> {
        Ok(CudaWeight::table(shape))
    }

    fn load(&self, weight: &mut CudaWeight, part: usize, slice: &Slice<Matrix>) -> Result<()> {
        // The simulator's kernel widens what it reads; a library wants both operands in one dtype.
        let wanted = self.options.dtype.filter(|dtype| *dtype != DType::F32 || self.device.has_matmul());
        if weight.is_matrix() {
            self.stored.get_or_init(|| match &slice.tensor {
                Matrix::Dense(tensor) => tensor.dtype,
                Matrix::Packed(_) => DType::F32,
            });
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
        self.device.upload(x.address(), bytemuck::cast_slice(data))?;
        Ok(x)
    }

    fn download(&self, x: &CudaTensor) -> Result<Vec<f32>> {
        let mut numbers = vec![0.0; x.len()];
        self.device.download(x.address(), bytemuck::cast_slice_mut(&mut numbers))?;
        Ok(numbers)
    }

    fn embed(&self, table: &CudaWeight, first_row: usize, ids: &Ids) -> Result<CudaTensor> {
        let Some(Part::Dense(part)) = table.parts().next() else {
            panic!("an embedding has one part, which is dense")
        };
        let y = self.take(ids.len, part.shape.inputs)?;
        let kernel = format!("embed_{}", suffix(part.dtype));
        let pointers = [y.address(), part.buffer.address, ids.address()];
        let sizes = [first_row, part.shape.outputs, part.shape.inputs].map(Arg::extent);
        self.launch(&kernel, Grid::rows(ids.len, ROW_THREADS), &pointers, &sizes)?;
        Ok(y)
    }

    fn matmul(&self, x: &CudaTensor, weight: &CudaWeight) -> Result<CudaTensor> {
        let y = self.take(x.rows(), weight.outputs())?;
        let mut first = 0;
        let mut narrow: Option<(DType, CudaTensor)> = None;
        for part in weight.parts() {
            assert_eq!(part.shape().inputs, x.cols(), "inputs");
            let dtype = match part {
                Part::Dense(part) => self.options.dtype.unwrap_or(part.dtype),
                Part::Packed(part) => part.dtype(),
            };
            if dtype != DType::F32 && narrow.as_ref().is_none_or(|(of, _)| *of != dtype) {
                narrow = Some((dtype, self.cast(x, dtype)?));
            }
            let operand = match &narrow {
                Some((of, narrow)) if *of == dtype => narrow.address(),
                _ => x.address(),
            };
            let to = Output { y: y.address(), rows: y.rows(), cols: y.cols(), first };
            match part {
                Part::Dense(part) => self.linear(to, operand, dtype, part)?,
                Part::Packed(part) => self.run(&[part.launch(&to, operand)])?,
            }
            first += part.shape().outputs;
        }
        Ok(y)
    }

    fn add_bias(&self, x: CudaTensor, bias: &CudaWeight) -> Result<CudaTensor> {
        let sizes = [Arg::extent(x.cols()), x.size()];
        self.launch("add_bias", Grid::numbers(x.len()), &[x.address(), bias.vector()], &sizes)?;
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
            let (grid, sizes) = (Grid::rows(x.rows(), ROW_THREADS), [first, n, x.cols()].map(Arg::extent));
            self.launch("take_columns", grid, &[part.address(), x.address()], &sizes)?;
            parts.push(part);
            first += n;
        }
        Ok(parts.try_into().unwrap_or_else(|_| unreachable!("N parts")))
    }

    // ANCHOR: rms_norm
    fn rms_norm(&self, x: &CudaTensor, weight: &CudaWeight, group: usize, eps: f32) -> Result<CudaTensor> {
        assert_eq!(x.cols() % group, 0, "rms_norm");
        let y = self.take(x.rows(), x.cols())?;
        let (kernel, threads) = rms_norm_version(group);
        let grid = Grid::rows(y.len() / group, threads);
        let pointers = [y.address(), x.address(), weight.vector()];
        self.launch(kernel, grid, &pointers, &[Arg::extent(group), Arg::F32(eps)])?;
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
        let normed = self.norm_rows("add_rms_norm", &[&x, y], &[weight], eps)?;
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
        let normed = self.norm_rows("add_layer_norm", &[&x, y], &[weight, bias], eps)?;
        Ok((x, normed))
    }

    fn layer_norm(
        &self,
        x: &CudaTensor,
        weight: &CudaWeight,
        bias: &CudaWeight,
        eps: f32,
    ) -> Result<CudaTensor> {
        self.norm_rows("layer_norm", &[x], &[weight, bias], eps)
    }

    fn rope(&self, x: CudaTensor, positions: &Ids, rope: &Rope<Cuda>) -> Result<CudaTensor> {
        assert_eq!(x.cols() % rope.head_dim, 0, "rope");
        let pointers = [x.address(), positions.address(), rope.inv_freq.vector()];
        let [heads, head_dim] = [x.cols() / rope.head_dim, rope.head_dim].map(Arg::extent);
        let values = [heads, head_dim, Arg::F32(rope.scaling)];
        self.launch("rope", Grid::rows(x.rows(), ROW_THREADS), &pointers, &values)?;
        Ok(x)
    }

    fn silu_mul(&self, gate: CudaTensor, up: &CudaTensor) -> Result<CudaTensor> {
        let pointers = [gate.address(), up.address()];
        self.launch("silu_mul", Grid::numbers(gate.len()), &pointers, &[gate.size()])?;
        Ok(gate)
    }

    fn activate(&self, x: CudaTensor, activation: Activation) -> Result<CudaTensor> {
        if activation != Activation::GeluTanh {
            return Err(Error::Device(format!(
                "the activation {activation:?} has no kernel for GPUs yet; use the CPU"
            )));
        }
        self.launch("gelu", Grid::numbers(x.len()), &[x.address()], &[x.size()])?;
        Ok(x)
    }

    fn add(&self, x: CudaTensor, y: &CudaTensor) -> Result<CudaTensor> {
        assert_eq!((x.rows(), x.cols()), (y.rows(), y.cols()), "add");
        self.launch("add", Grid::numbers(x.len()), &[x.address(), y.address()], &[x.size()])?;
        Ok(x)
    }

    fn take_rows(&self, x: &CudaTensor, rows: &Ids) -> Result<CudaTensor> {
        let y = self.take(rows.len, x.cols())?;
        let (grid, pointers) =
            (Grid::rows(rows.len, ROW_THREADS), [y.address(), x.address(), rows.address()]);
        self.launch("take_rows", grid, &pointers, &[Arg::extent(x.cols())])?;
        Ok(y)
    }

    fn draw(&self, logits: &CudaTensor, draws: &[Draw]) -> Result<Option<Drawn>> {
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

    fn replay(&self, key: Option<u64>, forward: Forward<CudaTensor>) -> Result<CudaTensor> {
        let Some(key) = key.filter(|_| self.options.graphs) else { return forward() };
        let mut graphs = self.graphs.lock();
        self.in_graph.store(true, Ordering::Relaxed);
        let replayed = graphs.replay(&*self.device, key, || self.launches(), forward);
        self.in_graph.store(false, Ordering::Relaxed);
        let (output, kernels) = replayed?;
        self.launches.fetch_add(kernels, Ordering::Relaxed);
        self.replays.fetch_add(1, Ordering::Relaxed);
        Ok(output)
    }
}
