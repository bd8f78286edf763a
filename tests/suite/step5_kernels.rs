//! Every kernel against f64, over random shapes. What nobody has written is NaN on the simulated device, so a kernel that reads it shows.

use crate::device::device;
use crate::random::{DTYPES, Random, download, near, rounded};
use stairwell::{
    backend::{
        Backend, PartShape, Rope, Shaped, Slice,
        cuda::{Arg, Cuda, CudaOptions, CudaWeight, Grid},
    },
    config::Activation,
    tensor::{DType, HostTensor},
};

fn bytes_of(dtype: DType, values: &[f32]) -> Vec<u8> {
    let bytes = values.iter().flat_map(|&v| match dtype {
        DType::F32 => v.to_le_bytes().to_vec(),
        DType::BF16 => half::bf16::from_f32(v).to_le_bytes().to_vec(),
        _ => half::f16::from_f32(v).to_le_bytes().to_vec(),
    });
    bytes.collect()
}

fn stored(dtype: DType, shape: &[usize], values: &[f32]) -> HostTensor {
    HostTensor::from_bytes(dtype, shape, bytes_of(dtype, values))
}

/// A matrix [outputs, inputs], or a vector [outputs] if `inputs` is 1.
fn weight(
    cuda: &Cuda,
    dtype: DType,
    outputs: usize,
    inputs: usize,
    transposed: bool,
    values: &[f32],
) -> CudaWeight {
    let mut weight = cuda.weight(&[PartShape { outputs, inputs }]).unwrap();
    let (rows, cols) = if transposed { (inputs, outputs) } else { (outputs, inputs) };
    let shape = if inputs == 1 { vec![outputs] } else { vec![rows, cols] };
    let tensor = stored(dtype, &shape, values);
    cuda.load(&mut weight, 0, &Slice { tensor, rows: 0..rows, cols: 0..cols, transposed }.into()).unwrap();
    weight
}

#[test]
fn linear_layers() {
    let random = &mut Random(1);
    for case in 0..60 {
        let (rows, inputs, outputs) = (random.between(0, 20), random.between(2, 150), random.between(1, 300));
        let (dtype, transposed) = (random.of(&DTYPES), random.next() < 0.3);
        // What is multiplied: f32 with weights as stored, or both in 16 bits.
        let narrow = if dtype != DType::F32 && case % 3 == 0 { dtype } else { DType::F32 };
        let cuda =
            Cuda::with_options(device(), CudaOptions { dtype: Some(narrow), ..CudaOptions::default() });
        let (x, w) = (random.numbers(rows * inputs), random.numbers(outputs * inputs));
        let at = |o: usize, k: usize| {
            f64::from(rounded(dtype, w[if transposed { k * outputs + o } else { o * inputs + k }]))
        };
        let want: Vec<f64> = (0..rows * outputs)
            .map(|i| {
                (0..inputs)
                    .map(|k| f64::from(rounded(narrow, x[i / outputs * inputs + k])) * at(i % outputs, k))
                    .sum()
            })
            .collect();
        let w = weight(&cuda, dtype, outputs, inputs, transposed, &w);
        let y = cuda.matmul(&cuda.upload(&x, rows, inputs).unwrap(), &w).unwrap();
        let what = format!(
            "{rows} x {inputs} x {outputs}, {dtype}, multiplied in {narrow}, transposed {transposed}"
        );
        near(&what, &download(&cuda, &y), &want, 2e-5);
    }
}

/// Every version of the matrix product, launched as it is, over shapes that fill no tile.
#[test]
fn every_version_of_the_matrix_product() {
    let random = &mut Random(7);
    for (turn, version) in ["v0", "v1", "v2", "v3", "v3_unswizzled"].into_iter().cycle().take(60).enumerate()
    {
        let sixteen = version.starts_with("v3");
        let dtype = if version == "v3_unswizzled" {
            DType::BF16
        } else {
            random.of(if sixteen { &DTYPES[1..] } else { &DTYPES })
        };
        let x_dtype = if sixteen || (dtype != DType::F32 && turn % 2 == 0) { dtype } else { DType::F32 };
        let inputs = if sixteen { 8 * random.between(1, 25) } else { random.between(1, 150) };
        let (rows, outputs) = (random.between(1, 90), random.between(1, 150));
        let transposed = !sixteen && random.next() < 0.3;
        let (x, w) = (random.numbers(rows * inputs), random.numbers(outputs * inputs));
        let (first, cols) = (random.between(0, 3), outputs + 5);

        let device = device();
        let put = |dtype: DType, values: &[f32]| {
            let bytes = bytes_of(dtype, values);
            let address = device.allocate(bytes.len()).unwrap();
            device.upload(address, &bytes).unwrap();
            Arg::At(address)
        };
        let y = put(DType::F32, &vec![0.5; rows * cols]);
        let pointers = [y, put(x_dtype, &x), put(dtype, &w)];
        let mut sizes = vec![inputs, outputs];
        sizes.extend((!sixteen).then_some(usize::from(transposed)));
        sizes.extend([cols, first]);
        sizes.extend((version != "v0").then_some(rows));
        let arguments: Vec<Arg> =
            pointers.into_iter().chain(sizes.into_iter().map(|n| Arg::U32(n as u32))).collect();
        let name = |dtype: DType| match dtype {
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            _ => "f32",
        };
        let operands =
            if x_dtype == DType::F32 { name(dtype).into() } else { format!("{0}_{0}", name(dtype)) };
        let (tile, threads) = match version {
            "v0" => ([128, 1], 128),
            "v1" => ([32, 32], 256),
            "v2" => ([64, 64], 256),
            _ => ([64, 64], 128),
        };
        let blocks = [outputs.div_ceil(tile[0]) as u32, rows.div_ceil(tile[1]) as u32, 1];
        let kernel = format!("matmul_{version}_{operands}");
        device.launch(&kernel, Grid { blocks, threads, shared_bytes: 0 }, &arguments).unwrap();
        let mut bytes = vec![0; 4 * rows * cols];
        let Arg::At(y) = y else { unreachable!() };
        device.download(y, &mut bytes).unwrap();
        let got: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();

        let at = |o: usize, k: usize| if transposed { w[k * outputs + o] } else { w[o * inputs + k] };
        let number = |i: usize| {
            let (row, Some(o)) = (i / cols, (i % cols).checked_sub(first).filter(|o| *o < outputs)) else {
                return 0.5;
            };
            let product = |k: usize| {
                f64::from(rounded(x_dtype, x[row * inputs + k])) * f64::from(rounded(dtype, at(o, k)))
            };
            (0..inputs).map(product).sum()
        };
        let want: Vec<f64> = (0..rows * cols).map(number).collect();
        let what = format!("{kernel}, {rows} rows, {inputs} to {outputs}, transposed {transposed}");
        near(&what, &got, &want, 2e-5);
    }
}

#[test]
fn norms() {
    let random = &mut Random(2);
    for _ in 0..60 {
        let (rows, n, eps) = (random.between(1, 12), random.between(1, 700), random.of(&[1e-5f32, 1e-6]));
        let n = if random.next() < 0.5 { n.next_multiple_of(4) } else { n };
        let cuda = Cuda::new(device());
        let (x, y) = (random.numbers(rows * n), random.numbers(rows * n));
        let (w, b) = (random.numbers(n), random.numbers(n));
        let (weight, bias) =
            (weight(&cuda, DType::F32, n, 1, false, &w), weight(&cuda, DType::F32, n, 1, false, &b));
        let sum: Vec<f64> = x.iter().zip(&y).map(|(x, y)| f64::from(x + y)).collect();
        let rms = |x: &[f64]| -> Vec<f64> {
            let scale = |row: &[f64]| {
                1.0 / (row.iter().map(|v| v * v).sum::<f64>() / n as f64 + f64::from(eps)).sqrt()
            };
            x.chunks(n)
                .flat_map(|row| {
                    row.iter().zip(&w).map(|(v, w)| v * scale(row) * f64::from(*w)).collect::<Vec<_>>()
                })
                .collect()
        };
        let layer = |x: &[f64]| -> Vec<f64> {
            let normal = |row: &[f64]| {
                let mean = row.iter().sum::<f64>() / n as f64;
                let scale = 1.0
                    / (row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64 + f64::from(eps))
                        .sqrt();
                let number = |(i, v): (usize, &f64)| (v - mean) * scale * f64::from(w[i]) + f64::from(b[i]);
                row.iter().enumerate().map(number).collect::<Vec<_>>()
            };
            x.chunks(n).flat_map(normal).collect()
        };
        let wide: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        let up = |v: &[f32]| cuda.upload(v, rows, n).unwrap();
        let what = format!("{rows} rows of {n}");
        near(&what, &download(&cuda, &cuda.rms_norm(&up(&x), &weight, n, eps).unwrap()), &rms(&wide), 2e-5);
        let normed = cuda.layer_norm(&up(&x), &weight, &bias, eps).unwrap();
        // A variance near 0 makes much of little: one number a row is all of it.
        let tolerance = if n < 3 { 5e-2 } else { 1e-4 };
        near(&what, &download(&cuda, &normed), &layer(&wide), tolerance);
        let (added, normed) = cuda.add_rms_norm(up(&x), &up(&y), &weight, eps).unwrap();
        near(&what, &download(&cuda, &added), &sum, 1e-6);
        near(&what, &download(&cuda, &normed), &rms(&sum), 2e-5);
        let (added, normed) = cuda.add_layer_norm(up(&x), &up(&y), &weight, &bias, eps).unwrap();
        near(&what, &download(&cuda, &added), &sum, 1e-6);
        near(&what, &download(&cuda, &normed), &layer(&sum), tolerance);
    }
}

#[test]
fn single_numbers_rows_and_rotations() {
    let random = &mut Random(3);
    for _ in 0..40 {
        let (rows, heads, half) = (random.between(1, 12), random.between(1, 9), random.between(1, 128));
        let (cols, head_dim, scaling) = (2 * heads * half, 2 * half, random.of(&[1.0f32, 0.8]));
        let cuda = Cuda::new(device());
        let (x, y, b) = (random.numbers(rows * cols), random.numbers(rows * cols), random.numbers(cols));
        let up = |v: &[f32]| cuda.upload(v, rows, cols).unwrap();
        let map = |f: &dyn Fn(usize) -> f64| (0..rows * cols).map(f).collect::<Vec<f64>>();
        let (xf, yf) = (|i: usize| f64::from(x[i]), |i: usize| f64::from(y[i]));
        near("add", &download(&cuda, &cuda.add(up(&x), &up(&y)).unwrap()), &map(&|i| xf(i) + yf(i)), 1e-6);
        let silu = map(&|i| xf(i) / (1.0 + (-xf(i)).exp()) * yf(i));
        near("silu_mul", &download(&cuda, &cuda.silu_mul(up(&x), &up(&y)).unwrap()), &silu, 1e-5);
        let inner = |v: f64| (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v * v * v);
        let gelu = map(&|i| 0.5 * xf(i) * (1.0 + inner(xf(i)).tanh()));
        near("gelu", &download(&cuda, &cuda.activate(up(&x), Activation::GeluTanh).unwrap()), &gelu, 1e-5);
        let bias = weight(&cuda, DType::BF16, cols, 1, false, &b);
        let biased = map(&|i| xf(i) + f64::from(rounded(DType::BF16, b[i % cols])));
        near("add_bias", &download(&cuda, &cuda.add_bias(up(&x), &bias).unwrap()), &biased, 1e-6);

        let positions: Vec<u32> = (0..rows).map(|_| random.between(0, 5000) as u32).collect();
        let frequencies: Vec<f32> = (0..half).map(|j| 10_000f32.powf(-(j as f32) / half as f32)).collect();
        let mut at = cuda.ids(rows).unwrap();
        cuda.write(&mut at, &positions).unwrap();
        let rope =
            Rope { inv_freq: weight(&cuda, DType::F32, half, 1, false, &frequencies), head_dim, scaling };
        let turned = map(&|i| {
            let (row, d) = (i / cols, i % head_dim);
            // As a model computes it, the angle is a product in f32.
            let angle = f64::from(positions[row] as f32 * frequencies[d % half]);
            let (c, s) = (angle.cos() * f64::from(scaling), angle.sin() * f64::from(scaling));
            if d < half { xf(i) * c - xf(i + half) * s } else { xf(i) * c + xf(i - half) * s }
        });
        near("rope", &download(&cuda, &cuda.rope(up(&x), &at, &rope).unwrap()), &turned, 1e-5);

        let (vocab, first) = (random.between(1, 50), random.between(0, 9));
        let (dtype, table) = (random.of(&DTYPES), random.numbers(vocab * cols));
        let tokens: Vec<u32> = (0..rows).map(|_| random.between(0, vocab + 12) as u32).collect();
        cuda.write(&mut at, &tokens).unwrap();
        let embedded = map(&|i| match (tokens[i / cols] as usize).checked_sub(first) {
            Some(row) if row < vocab => f64::from(rounded(dtype, table[row * cols + i % cols])),
            _ => 0.0,
        });
        let table = weight(&cuda, dtype, vocab, cols, false, &table);
        near("embed", &download(&cuda, &cuda.embed(&table, first, &at).unwrap()), &embedded, 0.0);

        let picked: Vec<u32> = (0..rows).map(|_| random.between(0, rows - 1) as u32).collect();
        cuda.write(&mut at, &picked).unwrap();
        let taken = map(&|i| xf(picked[i / cols] as usize * cols + i % cols));
        let rows_of = cuda.take_rows(&up(&x), &at).unwrap();
        assert_eq!((rows_of.rows(), rows_of.cols()), (rows, cols));
        near("take_rows", &download(&cuda, &rows_of), &taken, 0.0);
        let [left, right] = cuda.split(up(&x), [half, cols - half]).unwrap();
        let part = |from: usize, n: usize| {
            (0..rows * n).map(|i| xf(i / n * cols + from + i % n)).collect::<Vec<f64>>()
        };
        near("split", &download(&cuda, &left), &part(0, half), 0.0);
        near("split", &download(&cuda, &right), &part(half, cols - half), 0.0);
    }
}
