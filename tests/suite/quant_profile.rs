//! The counters of the ladder of packed products: the bytes that each version reads, and the engine that keeps packed weights packed.

use crate::common::{distance, load, logits, run};
use stairwell::{
    backend::cuda::{Cuda, CudaOptions, KernelShape, Profile, Simulated, profile_kernel},
    batch::Batch,
    checkpoint::Directory,
    runner::{LoadOptions, ModelRunner},
    tensor::DType,
};
use std::{fs, path::Path, sync::Arc};

const SOURCE: &str = include_str!("../../kernels/quant_matmul.cu");
/// The matrix of the counts: groups of 128.
const SHAPE: &str = "inputs=1024,outputs=512,group_size=128";
/// Codes of 4 bits, and for 128 of them a scale of 16 bits and a zero point of 4.
const BITS: f64 = 4.0 + (16.0 + 4.0) / 128.0;

fn profile(kernel: &str, shape: &str) -> Profile {
    profile_kernel(kernel, &KernelShape::parse(kernel, shape).unwrap()).unwrap()
}

/// Whether a line of the kernel file reads x: in `bring_x`. Other reads of x are by `load8`, which is in another file.
fn reads_x(line: u32) -> bool {
    let before: Vec<&str> = SOURCE.lines().take(line as usize).collect();
    let function = before.iter().rev().find(|line| line.contains("__device__")).unwrap();
    function.contains("bring_x")
}

/// Bits of W that were read from global memory for each weight, in whole sectors.
fn bits_a_weight(kernel: &str, shape: &str, weights: usize) -> f64 {
    let profile = profile(kernel, shape);
    let of_w = |site: &&stairwell::backend::cuda::Site| {
        let (file, line) = (site.file.as_deref().expect("a test build has lines"), site.line.unwrap());
        !site.shared && !site.writes && file == "quant_matmul.cu" && !reads_x(line)
    };
    let sectors: u64 = profile.sites.iter().filter(of_w).map(|site| site.sectors).sum();
    (8 * 32 * sectors) as f64 / weights as f64
}

#[test]
fn each_bit_of_w_is_read_once_from_v1_on() {
    let weights = 1024 * 512;
    let plain = bits_a_weight("quant_matmul_v0_f32", &format!("rows=1,{SHAPE}"), weights);
    // A word, a scale and half a sector of zero points for every weight, and x, whose sector serves a warp.
    assert!(plain > 10.0 * BITS, "{plain}");
    for (kernel, rows) in [
        ("quant_matmul_v1_f32", 1),
        ("quant_matmul_v1_bf16", 1),
        ("quant_matmul_v2_f32", 1),
        ("quant_matmul_v2_bf16", 4),
        ("quant_matmul_v3_bf16", 1),
        ("quant_matmul_v3_f16", 32),
    ] {
        let read = bits_a_weight(kernel, &format!("rows={rows},{SHAPE}"), weights);
        assert!((BITS - 0.01..=1.05 * BITS).contains(&read), "{kernel}, {rows} rows: {read} bits a weight");
    }
    // What a version reads once for a few rows, v1 reads for each of them.
    let four = bits_a_weight("quant_matmul_v1_f32", &format!("rows=4,{SHAPE}"), weights);
    assert!(four > 3.9 * BITS, "{four}");
}

#[test]
fn floats_of_8_bits_are_read_once() {
    for rows in [1, 4] {
        let shape = format!("rows={rows},inputs=1024,outputs=512");
        let read = bits_a_weight("quant_matmul_v4_bf16", &shape, 1024 * 512);
        assert!((8.0..8.2).contains(&read), "{rows} rows: {read} bits a weight");
    }
}

/// v3 meets no bank twice.
#[test]
fn tiles_have_no_bank_conflicts() {
    let profile = profile("quant_matmul_v3_bf16", &format!("rows=32,{SHAPE}"));
    assert_eq!(profile.bank_conflicts(), 0);
    assert_eq!(self::profile("quant_matmul_v2_bf16", &format!("rows=4,{SHAPE}")).bank_conflicts(), 0);
}

const PROMPT: [u32; 21] =
    [5, 1999, 300, 7, 7, 1024, 90, 511, 3, 1500, 42, 64, 8, 999, 2, 77, 640, 1, 1300, 13, 200];

fn on_the_device(dir: &Path, dtype: DType) -> (Vec<f32>, u64) {
    let device = Arc::new(Simulated::default());
    let options = CudaOptions { dtype: Some(dtype), ..CudaOptions::default() };
    let cuda = Cuda::with_options(device, options);
    let mut runner =
        ModelRunner::load_on(cuda, &Directory::Disk(dir.into()), LoadOptions::default()).unwrap();
    let memory = runner.backend.device().memory();
    let mut batch = Batch::of(&PROMPT);
    batch.want_all_logits();
    let logits = runner.forward(&batch, None).unwrap();
    (stairwell::backend::Backend::download(&runner.backend, &logits).unwrap(), memory.total - memory.free)
}

/// The demo model in every layout that `quantize` writes, on the device: the same logits as on the CPU, from memory of the packed size.
#[test]
fn the_device_keeps_packed_weights_packed() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let size = |dir: &Path| {
        let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
        let shards = files.filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
        shards.map(|path| fs::metadata(path).unwrap().len()).sum::<u64>()
    };
    let dense = on_the_device(&demo, DType::F32).1;
    for flags in [
        &["--method", "gptq", "--group-size", "128", "--asymmetric"][..],
        &["--method", "gptq", "--group-size", "32", "--bits", "3", "--asymmetric"],
        &["--method", "gptq", "--group-size", "128", "--bits", "8"],
        &["--method", "awq-rtn", "--group-size", "64"],
        &["--method", "int8"],
        &["--method", "fp8"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        run(&[&["quantize", "--out", dir.path().to_str().unwrap()], flags].concat()).good();
        let want = logits(&mut load(dir.path()), &PROMPT);
        let (got, bytes) = on_the_device(dir.path(), DType::F32);
        let error = distance(&got, &want);
        assert!(error <= 1e-4, "{flags:?}: {error:.1e}");
        // K and V take as much in both; what is left of the dense matrices' bytes are the packed ones.
        let [file, dense_file] = [dir.path(), &demo].map(|dir| size(dir) as f64);
        let kept = dense_file - (dense as f64 - bytes as f64);
        assert!(kept <= 1.15 * file, "{flags:?}: {kept} bytes on the device, {file} in the file");
        for dtype in [DType::BF16, DType::F16] {
            let error = distance(&on_the_device(dir.path(), dtype).0, &want);
            assert!((1e-4..0.5).contains(&error), "{flags:?} in {dtype}: {error:.1e}");
        }
    }
}
