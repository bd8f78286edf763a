//! What the benches of kernels share: counters first, then times on a GPU if there is one, which nobody has run yet.

use serde_json::Value;
use stairwell::{
    backend::cuda::{Address, Arg, Device, Gpu, KernelShape, Launch, Matmul, with_workload},
    error::Result,
    tensor::DType,
};
use std::time::Instant;

/// Counts, times where there is a GPU, and writes all rows to the file that `--out` names.
pub fn bench(
    count: impl FnOnce(&mut Vec<Value>) -> Result<()>,
    time: impl FnOnce(&Gpu, &mut Vec<Value>) -> Result<()>,
) -> Result<()> {
    let mut rows = Vec::new();
    count(&mut rows)?;
    match Gpu::open(0) {
        Ok(gpu) => time(&gpu, &mut rows)?,
        Err(error) => println!("\nNo times: {error}"),
    }
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(path) = arguments.iter().position(|a| a == "--out").and_then(|at| arguments.get(at + 1)) {
        let text = serde_json::to_string_pretty(&rows).expect("numbers and names");
        std::fs::write(path, text + "\n").unwrap_or_else(|e| panic!("--out {path}: {e}"));
    }
    Ok(())
}

/// Bytes that a copy moves per second, read and written: the most that a kernel can hope for.
pub fn copy_bandwidth(device: &dyn Device) -> Result<f64> {
    let bytes = 1 << 30;
    let (from, to) = (device.allocate(bytes)?, device.allocate(bytes)?);
    let seconds = median_seconds(device, || device.copy(from, to, bytes))?;
    device.free(from);
    device.free(to);
    Ok(2.0 * bytes as f64 / seconds)
}

/// The median over 9 rounds of 20 times.
pub fn median_seconds(device: &dyn Device, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut rounds = Vec::new();
    for _ in 0..10 {
        device.synchronize()?;
        let start = Instant::now();
        (0..20).try_for_each(|_| once())?;
        device.synchronize()?;
        rounds.push(start.elapsed().as_secs_f64() / 20.0);
    }
    rounds.remove(0); // the first warms up
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[rounds.len() / 2])
}

pub fn launch_all(device: &dyn Device, launches: &[Launch]) -> Result<()> {
    launches.iter().try_for_each(|Launch { kernel, grid, arguments }| device.launch(kernel, *grid, arguments))
}

/// What a kernel gives: some numbers of it, and a time. Ones everywhere: attention gives ones, a product its number of
/// inputs.
pub fn timed(device: &dyn Device, kernel: &str, shape: &KernelShape) -> Result<(f64, Vec<f32>)> {
    with_workload(device, kernel, shape, |launches| {
        launch_all(device, launches)?;
        // Before its result v0 has the scores, and their stride.
        let result = if kernel.starts_with("flash_attention_v0") { 2 } else { 0 };
        let Arg::At(Address(out)) = launches[0].arguments[result] else { unreachable!("a result's address") };
        let mut bytes = vec![0; 4 * 128];
        device.download(Address(out), &mut bytes)?;
        let numbers = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Ok((median_seconds(device, || launch_all(device, launches))?, numbers))
    })
}

/// cuBLAS on the operands of a matrix product of ours: seconds.
pub fn cublas(device: &dyn Device, shape: &str) -> Result<f64> {
    const KERNEL: &str = "matmul_v3_bf16_bf16";
    let [rows, inputs, outputs] =
        ["rows", "inputs", "outputs"].map(|name| extent(shape, name).expect("a product's shape"));
    with_workload(device, KERNEL, &KernelShape::parse(KERNEL, shape)?, |launches| {
        let [Arg::At(y), Arg::At(x), Arg::At(w), ..] = launches[0].arguments[..] else {
            unreachable!("y, x and W come first")
        };
        let dtype = DType::BF16;
        let product = Matmul { dtype, x, w, y, rows, inputs, outputs, y_cols: outputs, transposed: false };
        median_seconds(device, || device.matmul(&product))
    })
}

/// A number of a shape.
pub fn extent(shape: &str, name: &str) -> Option<usize> {
    let parts = shape.split(',').filter_map(|part| part.split_once('='));
    parts.filter(|(key, _)| *key == name).find_map(|(_, n)| n.parse().ok())
}
