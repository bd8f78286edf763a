//! Step 5: kernels give what the CPU gives, and the engine on a device tells what Hugging Face tells.

use crate::common::{Reference, fixture, fixtures, greedy_params};
use crate::device::device_in;
use crate::serving::run;
use stairwell::{
    attention::{self, AttentionKind, KvBudget, KvDtype, KvOptions, KvSwap, cuda::PagedCuda},
    backend::{
        Backend, PartShape, Rope, Shaped, Slice,
        cpu::Cpu,
        cuda::{AttentionVersion, Cuda, CudaOptions, Schedule},
    },
    checkpoint::Directory,
    config::Activation,
    engine::{Continuous, Engine, Limits, LocalWorker},
    kv::{self, ManagerOptions, Preemption},
    model::{Attention, AttentionShape, KvMemory},
    runner::{LoadOptions, ModelRunner},
    tensor::{DType, HostTensor},
};

const SCHEDULES: [Schedule; 3] = [Schedule::Forward, Schedule::Reverse, Schedule::Random(5)];

/// Bytes for K and V.
const ROOM: u64 = 1 << 30;

fn cuda(schedule: Schedule) -> Cuda {
    Cuda::new(device_in(schedule))
}

/// Numbers in [-1, 1).
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2654435761) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 17;
        s ^= s << 5;
        (s >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn stored(dtype: DType, shape: &[usize], values: &[f32]) -> HostTensor {
    let bytes = values.iter().flat_map(|&v| match dtype {
        DType::F32 => v.to_le_bytes().to_vec(),
        DType::BF16 => half::bf16::from_f32(v).to_le_bytes().to_vec(),
        _ => half::f16::from_f32(v).to_le_bytes().to_vec(),
    });
    HostTensor::from_bytes(dtype, shape, bytes.collect())
}

/// Runs an operation on the CPU and on the device in several orders of threads: near, and with the same bits in each.
fn same(what: &str, on_cpu: impl Fn(&Cpu) -> Vec<f32>, on_device: impl Fn(&Cuda) -> Vec<f32>) {
    let want = on_cpu(&Cpu::default());
    let results = SCHEDULES.map(|schedule| on_device(&cuda(schedule)));
    for (got, schedule) in results.iter().zip(SCHEDULES) {
        assert_eq!(got.len(), want.len(), "{what}");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let distance = (got - want).abs();
            assert!(
                distance <= 2e-5 * (1.0 + want.abs()),
                "{what}, {schedule:?}: number {i} is {got}, expected {want}"
            );
        }
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(
            bits(got),
            bits(&results[0]),
            "{what}: {schedule:?} gives other bits than the forward order"
        );
    }
}

fn weight<B: Backend>(backend: &B, shapes: &[(usize, usize)], dtype: DType, transposed: bool) -> B::Weight {
    let parts: Vec<PartShape> =
        shapes.iter().map(|&(outputs, inputs)| PartShape { outputs, inputs }).collect();
    let mut weight = backend.weight(&parts).unwrap();
    for (at, &(outputs, inputs)) in shapes.iter().enumerate() {
        let (rows, cols) = if transposed { (inputs, outputs) } else { (outputs, inputs) };
        let shape = if inputs == 1 { vec![outputs] } else { vec![rows, cols] };
        let tensor = stored(dtype, &shape, &numbers(rows * cols, 7 + at as u32));
        let slice = Slice { tensor, rows: 0..rows, cols: 0..cols, transposed: transposed && inputs > 1 };
        backend.load(&mut weight, at, &slice.into()).unwrap();
    }
    weight
}

fn rows<B: Backend>(backend: &B, rows: usize, cols: usize) -> B::Tensor {
    backend.upload(&numbers(rows * cols, 3), rows, cols).unwrap()
}

fn ids<B: Backend>(backend: &B, values: &[u32]) -> B::Ids {
    let mut ids = backend.ids(values.len()).unwrap();
    backend.write(&mut ids, values).unwrap();
    ids
}

/// Every operation of the backend, on both.
#[test]
fn every_kernel_agrees_with_its_cpu_twin() {
    fn linear<B: Backend>(b: &B, n: usize, dtype: DType, transposed: bool) -> Vec<f32> {
        let w = weight(b, &[(70, 33), (5, 33)], dtype, transposed);
        b.download(&b.matmul(&rows(b, n, 33), &w).unwrap()).unwrap()
    }
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for (n, transposed) in [(1, false), (3, true), (9, false), (0, false)] {
            let what = format!("matmul of {n} rows, {dtype}, transposed {transposed}");
            same(&what, |b| linear(b, n, dtype, transposed), |b| linear(b, n, dtype, transposed));
        }
        fn embed<B: Backend>(b: &B, dtype: DType) -> Vec<f32> {
            let table = weight(b, &[(10, 130)], dtype, false);
            b.download(&b.embed(&table, 4, &ids(b, &[5, 13, 4, 3, 14, 0])).unwrap()).unwrap()
        }
        same("embed", |b| embed(b, dtype), |b| embed(b, dtype));
    }
    fn norms<B: Backend>(b: &B) -> Vec<f32> {
        let (w, bias) = (weight(b, &[(50, 1)], DType::F32, false), weight(b, &[(50, 1)], DType::BF16, false));
        let four = weight(b, &[(52, 1)], DType::F32, false); // whole reads of 16 bytes: another version
        let heads = b.rms_norm(&rows(b, 3, 150), &w, 50, 1e-6).unwrap();
        let wide = b.rms_norm(&rows(b, 3, 52), &four, 52, 1e-6).unwrap();
        let layer = b.layer_norm(&rows(b, 3, 50), &w, &bias, 1e-5).unwrap();
        let y = rows(b, 4, 50);
        let (sum, normed) = b.add_rms_norm(rows(b, 4, 50), &y, &w, 1e-6).unwrap();
        let (also, layered) = b.add_layer_norm(rows(b, 4, 50), &y, &w, &bias, 1e-5).unwrap();
        let all = [heads, wide, layer, sum, normed, also, layered];
        all.iter().flat_map(|x| b.download(x).unwrap()).collect()
    }
    same("norms", norms, norms);
    fn elementwise<B: Backend>(b: &B) -> Vec<f32> {
        let bias = weight(b, &[(40, 1), (60, 1)], DType::F32, false);
        let x = b.silu_mul(rows(b, 5, 100), &rows(b, 5, 100)).unwrap();
        let x = b.add_bias(b.add(x, &rows(b, 5, 100)).unwrap(), &bias).unwrap();
        let x = b.activate(x, Activation::GeluTanh).unwrap();
        let [a, c, d] = b.split(x, [10, 60, 30]).unwrap();
        let taken = b.take_rows(&c, &ids(b, &[4, 0, 4])).unwrap();
        assert_eq!((taken.rows(), taken.cols()), (3, 60));
        [a, taken, d].iter().flat_map(|x| b.download(x).unwrap()).collect()
    }
    same("elementwise operations", elementwise, elementwise);
    fn rope<B: Backend>(b: &B) -> Vec<f32> {
        let inv_freq = weight(b, &[(6, 1)], DType::F32, false);
        let rope = Rope { inv_freq, head_dim: 12, scaling: 0.9 };
        b.download(&b.rope(rows(b, 4, 36), &ids(b, &[0, 1, 700, 3]), &rope).unwrap()).unwrap()
    }
    same("rope", rope, rope);
}

fn load(name: &str, schedule: Schedule, kv: KvOptions) -> ModelRunner<Cuda> {
    let options = LoadOptions { kv, ..LoadOptions::default() };
    ModelRunner::load_on(cuda(schedule), &Directory::Disk(fixture(name)), options).unwrap()
}

/// The greedy ids of every fixture, alone and among others that begin the same way, in a pool so small that somebody gives way.
#[test]
fn the_simulated_device_tells_what_hugging_face_tells() {
    for name in fixtures().iter().filter(|name| *name != "rope-dynamic-bf16") {
        let reference = Reference::of(name);
        let tokens = reference.prompt.len() + reference.greedy.len();
        for (block_size, preemption) in [(16, Preemption::Recompute), (4, Preemption::Swap)] {
            let pool_tokens = (2 * tokens).next_multiple_of(block_size);
            let kv = KvOptions {
                attention: Some(AttentionKind::Paged),
                budget: Some(KvBudget::Tokens(pool_tokens)),
                block_size: Some(block_size),
                max_num_seqs: Some(4),
                swap: KvSwap::AsThePool,
                ..KvOptions::default()
            };
            let worker = LocalWorker::new(load(name, Schedule::Forward, kv)).unwrap();
            let options = ManagerOptions { preemption, ..ManagerOptions::default() };
            let KvMemory { slots, pool, .. } = worker.runner.attention.memory();
            let manager = kv::manager(slots, pool, worker.runner.max_model_len(), &options);
            let limits = Limits { max_num_seqs: 4, max_batched_tokens: 13 };
            let mut engine = Engine::with_kv(worker, manager, Box::new(Continuous), limits);
            for _ in 0..4 {
                let params = greedy_params(reference.greedy.len());
                engine.add(reference.prompt.clone(), params).unwrap();
            }
            for (id, finished) in &run(&mut engine) {
                assert_eq!(finished.output, reference.greedy, "{name}, {id:?}, blocks of {block_size}");
            }
            assert!(engine.worker.runner.backend.launches() > 100, "kernels ran");
            assert_eq!(engine.blocks().held, 0);
        }
    }
}

/// Logits within 1e-4 of Hugging Face's, whatever the order of threads, with the same bits in each.
#[test]
fn logits_on_the_device_are_hugging_faces() {
    for name in fixtures().iter().filter(|name| *name != "rope-dynamic-bf16") {
        let reference = Reference::of(name);
        let mut first = None;
        for schedule in SCHEDULES {
            let mut runner = load(name, schedule, KvOptions::default());
            let mut batch = stairwell::batch::Batch::of(&reference.prompt);
            batch.want_all_logits();
            let logits = runner.forward(&batch, None).unwrap();
            let logits = runner.backend.download(&logits).unwrap();
            let distance = crate::common::distance(&logits, &reference.logits);
            assert!(distance < 1e-4, "{name}, {schedule:?}: {distance}");
            assert_eq!(
                first.get_or_insert_with(|| crate::common::bits(&logits)),
                &crate::common::bits(&logits),
                "{name}, {schedule:?}"
            );
        }
    }
}

/// A pool of blocks, sequences with tables in any order, and their next rows.
struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    block_size: usize,
    window: Option<usize>,
    dtype: KvDtype,
    /// Tokens before, and new rows.
    sequences: &'static [(usize, usize)],
}

const CASES: &[Case] = &[
    Case {
        heads: 4,
        kv_heads: 2,
        head_dim: 12,
        block_size: 4,
        window: None,
        dtype: KvDtype::F32,
        sequences: &[(0, 9), (17, 1), (3, 5)],
    },
    Case {
        heads: 3,
        kv_heads: 3,
        head_dim: 64,
        block_size: 16,
        window: None,
        dtype: KvDtype::Bf16,
        sequences: &[(100, 1), (63, 2)],
    },
    Case {
        heads: 8,
        kv_heads: 1,
        head_dim: 80,
        block_size: 1,
        window: Some(7),
        dtype: KvDtype::F32,
        sequences: &[(0, 20), (66, 3)],
    },
    Case {
        heads: 6,
        kv_heads: 2,
        head_dim: 48,
        block_size: 8,
        window: None,
        dtype: KvDtype::Fp8,
        sequences: &[(40, 3), (0, 1), (200, 1)],
    },
    Case {
        heads: 2,
        kv_heads: 1,
        head_dim: 128,
        block_size: 32,
        window: Some(70),
        dtype: KvDtype::Bf16,
        sequences: &[(130, 1)],
    },
];

/// What attention gives for the new rows of a case.
fn attend<B: Backend>(backend: &B, case: &Case, attention: &mut dyn Attention<B>) -> Vec<f32> {
    let Case { heads, kv_heads, head_dim, block_size, sequences, .. } = *case;
    let longest = sequences.iter().map(|(before, new)| before + new).max().unwrap();
    let blocks = longest.div_ceil(block_size) as u32;
    // Block j of sequence i: far from block j − 1, and from those of others.
    let n = sequences.len() as u32;
    let table = |i: u32| (0..blocks).rev().map(|j| j * n + i).collect::<Vec<u32>>();
    let run = |rows: &dyn Fn(usize) -> (usize, usize), seed: u32, attention: &mut dyn Attention<B>| {
        let mut batch = stairwell::batch::Batch::default();
        for i in (0..sequences.len()).filter(|i| rows(*i).1 > 0) {
            let (start, count) = rows(i);
            batch.push(&vec![0; count], start, &table(i as u32));
        }
        let total = batch.tokens.len();
        let upload =
            |cols: usize, seed: u32| backend.upload(&numbers(total * cols, seed), total, cols).unwrap();
        let (q, k, v) = (
            upload(heads * head_dim, seed),
            upload(kv_heads * head_dim, seed + 1),
            upload(kv_heads * head_dim, seed + 2),
        );
        attention.begin(backend, &batch).unwrap();
        backend.download(&attention.attend(backend, 0, [&q, &k, &v]).unwrap()).unwrap()
    };
    run(&|i| (0, sequences[i].0), 11, attention);
    run(&|i| sequences[i], 21, attention)
}

#[test]
fn paged_attention_agrees_with_the_cpus() {
    for case in CASES {
        let shape = AttentionShape {
            layers: 0..1,
            heads: case.heads,
            kv_heads: case.kv_heads,
            head_dim: case.head_dim,
            scale: 0.3,
            windows: vec![case.window],
            context: 200,
        };
        let kv = KvOptions {
            attention: Some(AttentionKind::Paged),
            dtype: case.dtype,
            block_size: Some(case.block_size),
            budget: Some(KvBudget::Tokens(4 * 256)),
            ..KvOptions::default()
        };
        let what = format!(
            "heads {}/{}, head_dim {}, {} in blocks of {}",
            case.heads, case.kv_heads, case.head_dim, case.dtype, case.block_size
        );
        for version in AttentionVersion::ALL {
            let on_device = |device: &Cuda| {
                let options = CudaOptions { attention: Some(version), ..CudaOptions::default() };
                let cuda = Cuda::with_options(device.device().clone(), options);
                attend(&cuda, case, &mut PagedCuda::new(cuda.device(), shape.clone(), &kv, ROOM).unwrap())
            };
            same(
                &format!("{what}, {version:?}"),
                |cpu| attend(cpu, case, &mut *attention::build(shape.clone(), &kv).unwrap()),
                on_device,
            );
        }
    }
}
