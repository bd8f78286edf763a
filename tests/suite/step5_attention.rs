//! Every version of attention against f64: random shapes, tables in any order, blocks that sequences share, contexts of several thousand tokens.
//! Slots that nobody has written are NaN on the simulated device.

use crate::device::device_in;
use crate::paged_case::{Case, KeepsKv, SCHEDULES, Sequence};
use crate::random::{Random, download, near};
use stairwell::{
    attention::{KvDtype, KvOptions, cuda::PagedCuda},
    backend::{
        Backend, PartShape, Rope, Slice,
        cuda::{AttentionVersion, Cuda, CudaOptions, CudaTensor, Schedule},
    },
    batch::Batch,
    model::{Attention, AttentionShape},
    tensor::{DType, HostTensor},
};

/// The largest relative distance from f64.
const TOLERANCE: f64 = 4e-5;

impl KeepsKv for PagedCuda {
    fn build(cuda: &Cuda, shape: AttentionShape, options: &KvOptions) -> PagedCuda {
        PagedCuda::new(cuda.device(), shape, options, 1 << 32).unwrap()
    }
    fn keep(&self, cuda: &Cuda, k: &CudaTensor, v: &CudaTensor) {
        self.write(cuda, 0, k, v).unwrap();
    }
}

fn asking(version: AttentionVersion) -> CudaOptions {
    CudaOptions { attention: Some(version), ..CudaOptions::default() }
}

fn random_case(random: &mut Random, version: AttentionVersion, longest: usize) -> Case {
    let block_size = random.of(&[1, 4, 8, 16, 32]);
    let mut sequences: Vec<Sequence> = (0..random.between(1, 3))
        .map(|_| {
            let many = random.between(0, longest);
            Sequence { shared: 0, before: random.of(&[0, 1, many]), new: random.between(1, 5) }
        })
        .collect();
    let whole = sequences[0].before / block_size;
    for sequence in &mut sequences[1..] {
        sequence.shared = random.between(0, whole).min(sequence.before / block_size);
    }
    let widths: &[usize] = match version {
        AttentionVersion::V0 => &[1, 33, 64, 80, 96, 128],
        _ => &[8, 48, 64, 80, 96, 128, 256],
    };
    Case {
        group: random.of(&[1, 2, 3, 4, 7, 8, 16]),
        kv_heads: random.between(1, 3),
        head_dim: random.of(widths),
        block_size,
        window: (random.next() < 0.3).then(|| random.between(1, 90)),
        dtype: random.of(&[KvDtype::F32, KvDtype::Bf16, KvDtype::F16, KvDtype::Fp8]),
        options: asking(version),
        queries: DType::F32,
        sequences,
    }
}

#[test]
fn every_version_over_random_shapes() {
    let random = &mut Random(4);
    for turn in 0..60 {
        let version = AttentionVersion::ALL[turn % 5];
        let longest = random.of(&[40, 200, 700]);
        random_case(random, version, longest).check::<PagedCuda>(random, TOLERANCE);
    }
}

/// Contexts of several parts, and of many tiles.
#[test]
fn every_version_over_long_contexts() {
    let random = &mut Random(8);
    for version in AttentionVersion::ALL {
        for dtype in [KvDtype::Bf16, KvDtype::Fp8] {
            let sequences = [(0, 5000, 1), (100, 2047, 2), (64, 1024, 1), (0, 3, 1)];
            let sequences = sequences.map(|(shared, before, new)| Sequence { shared, before, new }).to_vec();
            let (kv_heads, head_dim) = (1, 64);
            Case {
                group: 4,
                kv_heads,
                head_dim,
                block_size: 16,
                window: None,
                dtype,
                options: asking(version),
                queries: DType::F32,
                sequences,
            }
            .check::<PagedCuda>(random, TOLERANCE);
        }
    }
}

/// Every width of heads that models have, in every dtype, for groups from 1 to 16.
#[test]
fn the_widths_of_real_models_run_on_the_best_version() {
    let random = &mut Random(9);
    for head_dim in [64, 80, 96, 128, 256] {
        for dtype in [KvDtype::F32, KvDtype::Bf16, KvDtype::F16, KvDtype::Fp8] {
            for group in [1, 4, 16] {
                let version = AttentionVersion::V4;
                let sequences = vec![Sequence { shared: 0, before: 70, new: 1 }];
                let case = Case {
                    group,
                    kv_heads: 1,
                    head_dim,
                    block_size: 32,
                    window: None,
                    dtype,
                    options: asking(version),
                    queries: DType::F32,
                    sequences,
                };
                let cuda = Cuda::new(device_in(Schedule::Forward));
                let mut attention: PagedCuda = case.attention(&cuda);
                case.check::<PagedCuda>(random, TOLERANCE);
                let mut batch = Batch::default();
                batch.push(&[0], 0, &case.tables()[0]);
                attention.begin(&cuda, &batch).unwrap();
                assert_eq!(
                    attention.kernel(),
                    Some("paged_attention_v4"),
                    "head_dim {head_dim}, {dtype}, {group} heads a group"
                );
            }
        }
    }
}

/// Rotating and writing in one kernel: what the three kernels give.
#[test]
fn fused_with_rotation_it_is_the_same() {
    let random = &mut Random(6);
    for turn in 0..24 {
        let mut case = random_case(random, AttentionVersion::V4, 90);
        case.head_dim = random.of(&[2, 16, 64, 128]);
        let numbers = case.numbers(random);
        let results = [false, true].map(|fused| {
            let cuda = Cuda::new(device_in(SCHEDULES[turn % 3]));
            let frequencies: Vec<f32> = (0..case.head_dim / 2).map(|j| 0.9f32.powi(j as i32)).collect();
            let n = frequencies.len();
            let mut inv_freq = cuda.weight(&[PartShape { outputs: n, inputs: 1 }]).unwrap();
            let tensor = HostTensor::from_f32(&[n], &frequencies);
            cuda.load(&mut inv_freq, 0, &Slice { tensor, rows: 0..n, cols: 0..1, transposed: false }.into())
                .unwrap();
            let rope = Rope { inv_freq, head_dim: case.head_dim, scaling: 0.9 };
            let mut attention: PagedCuda = case.attention(&cuda);
            case.keep(&cuda, &mut attention, &numbers);
            let (i, width) = (case.sequences.len() - 1, case.kv_heads * case.head_dim);
            let Sequence { before, new, .. } = case.sequences[i];
            let mut batch = Batch::default();
            batch.push(&vec![0; new], before, &case.tables()[i]);
            attention.begin(&cuda, &batch).unwrap();
            let mut positions = cuda.ids(new).unwrap();
            cuda.write(&mut positions, &batch.positions).unwrap();
            let up = |x: &[f32]| -> CudaTensor { cuda.upload(x, new, x.len() / new).unwrap() };
            let (q, k) = (up(&numbers.q[i]), up(&numbers.k[i][before * width..]));
            let v = up(&numbers.v[i][before * width..]);
            let launches = cuda.launches();
            let out = if fused {
                attention.rotate_and_attend(&cuda, 0, &rope, &positions, q, k, &v).unwrap()
            } else {
                let [q, k] = [q, k].map(|x| cuda.rope(x, &positions, &rope).unwrap());
                attention.attend(&cuda, 0, [&q, &k, &v]).unwrap()
            };
            (download(&cuda, &out), cuda.launches() - launches)
        });
        let [(apart, three), (fused, one)] = results;
        assert_eq!(three - one, 2, "two kernels fewer");
        near(&format!("{case:?}"), &fused, &apart.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), 1e-6);
    }
}
