//! Every version of attention against f64: random shapes, tables in any order, blocks that sequences share, contexts of several thousand tokens.
//! Slots that nobody has written are NaN on the simulated device.

mod device;
mod random;

use device::device_in;
use random::{Random, download, near, rounded};
use stairwell::{
    backend::{
        Backend, PartShape, Rope, Slice,
        cuda::{AttentionVersion, Cuda, CudaOptions, CudaTensor, Schedule},
    },
    batch::Batch,
    kv::{KvBudget, KvDtype, KvOptions, PagedCuda},
    model::{Attention, AttentionShape},
    tensor::HostTensor,
};

const SCHEDULES: [Schedule; 3] = [Schedule::Forward, Schedule::Reverse, Schedule::Random(5)];

#[derive(Debug)]
struct Case {
    group: usize,
    kv_heads: usize,
    head_dim: usize,
    block_size: usize,
    window: Option<usize>,
    dtype: KvDtype,
    version: AttentionVersion,
    sequences: Vec<Sequence>,
}

#[derive(Clone, Debug)]
struct Sequence {
    /// Blocks of the first sequence that are its first, too.
    shared: usize,
    /// Tokens that are kept, and rows that attend.
    before: usize,
    new: usize,
}

/// The numbers of a case, all [tokens, heads · head_dim]: for each sequence K and V from its first token on, and the new rows' queries.
struct Numbers {
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
    q: Vec<Vec<f32>>,
}

impl Case {
    fn random(random: &mut Random, version: AttentionVersion, longest: usize) -> Case {
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
            version,
            sequences,
        }
    }

    fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    fn scale(&self) -> f32 {
        (self.head_dim as f32).powf(-0.5)
    }

    fn numbers(&self, random: &mut Random) -> Numbers {
        let width = self.kv_heads * self.head_dim;
        let mut numbers = Numbers { k: vec![], v: vec![], q: vec![] };
        // Scores near 0, and scores so far apart that only softmax's largest keeps them from overflowing.
        let size = random.of(&[1.0, 1.0, 30.0]);
        for sequence in &self.sequences {
            let tokens = sequence.before + sequence.new;
            let (mut k, mut v) = (random.numbers(tokens * width), random.numbers(tokens * width));
            let shared = sequence.shared * self.block_size * width;
            if shared > 0 {
                k[..shared].copy_from_slice(&numbers.k[0][..shared]);
                v[..shared].copy_from_slice(&numbers.v[0][..shared]);
            }
            let q = random.numbers(sequence.new * self.heads() * self.head_dim);
            numbers.q.push(q.into_iter().map(|x| x * size).collect());
            numbers.k.push(k);
            numbers.v.push(v);
        }
        numbers
    }

    /// Tables in an order that would not be right by accident, with the shared blocks.
    fn tables(&self) -> Vec<Vec<u32>> {
        let n = self.sequences.len();
        let blocks = self.longest().div_ceil(self.block_size);
        let mut tables: Vec<Vec<u32>> =
            (0..n).map(|i| (0..blocks).rev().map(|j| (j * n + i) as u32).collect()).collect();
        for i in 1..n {
            let (first, rest) = tables.split_at_mut(i);
            let shared = self.sequences[i].shared;
            rest[0][..shared].copy_from_slice(&first[0][..shared]);
        }
        tables
    }

    fn longest(&self) -> usize {
        self.sequences.iter().map(|s| s.before + s.new).max().unwrap()
    }

    fn attention(&self, cuda: &Cuda) -> PagedCuda {
        let shape = AttentionShape {
            layers: 0..1,
            heads: self.heads(),
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.scale(),
            windows: vec![self.window],
            context: self.longest(),
        };
        let blocks = self.sequences.len() * self.longest().div_ceil(self.block_size);
        let options = KvOptions {
            dtype: self.dtype,
            block_size: Some(self.block_size),
            budget: Some(KvBudget::Tokens(blocks * self.block_size)),
            ..KvOptions::default()
        };
        PagedCuda::new(cuda.device(), shape, &options, 1 << 32).unwrap()
    }

    /// Attention of some sequences' new rows, in one batch.
    fn attend(
        &self,
        cuda: &Cuda,
        attention: &mut PagedCuda,
        numbers: &Numbers,
        who: &[usize],
    ) -> Vec<Vec<f32>> {
        let (mut batch, tables) = (Batch::default(), self.tables());
        let width = self.kv_heads * self.head_dim;
        let (mut q, mut k, mut v) = (vec![], vec![], vec![]);
        for &i in who {
            let Sequence { before, new, .. } = self.sequences[i];
            batch.push(&vec![0; new], before, &tables[i]);
            q.extend(&numbers.q[i]);
            k.extend(&numbers.k[i][before * width..]);
            v.extend(&numbers.v[i][before * width..]);
        }
        attention.begin(cuda, &batch).unwrap();
        let [q, k, v] =
            [q, k, v].map(|x| cuda.upload(&x, batch.tokens.len(), x.len() / batch.tokens.len()).unwrap());
        let out = download(cuda, &attention.attend(cuda, 0, &q, &k, &v).unwrap());
        let rows = who.iter().map(|i| self.sequences[*i].new * self.heads() * self.head_dim);
        let mut at = 0;
        rows.map(|n| {
            at += n;
            out[at - n..at].to_vec()
        })
        .collect()
    }

    /// Keeps the tokens before the new ones: those that are not shared.
    fn keep(&self, cuda: &Cuda, attention: &mut PagedCuda, numbers: &Numbers) {
        let width = self.kv_heads * self.head_dim;
        for (i, sequence) in self.sequences.iter().enumerate() {
            let (shared, tables) = (sequence.shared * self.block_size, self.tables());
            let rows = sequence.before - shared;
            if rows == 0 {
                continue;
            }
            let mut batch = Batch::default();
            batch.push(&vec![0; rows], shared, &tables[i]);
            attention.begin(cuda, &batch).unwrap();
            let part =
                |x: &[f32]| cuda.upload(&x[shared * width..sequence.before * width], rows, width).unwrap();
            attention.write(cuda, 0, &part(&numbers.k[i]), &part(&numbers.v[i])).unwrap();
        }
    }

    /// What the new rows of sequence i should get, in f64.
    fn expected(&self, numbers: &Numbers, i: usize) -> Vec<f64> {
        let d = self.head_dim;
        let width = self.kv_heads * d;
        let kept =
            |x: &[f32]| x.chunks(d).flat_map(|vector| as_kept(self.dtype, vector)).collect::<Vec<f64>>();
        let (k, v, q) = (kept(&numbers.k[i]), kept(&numbers.v[i]), &numbers.q[i]);
        let mut out = Vec::new();
        for (row, queries) in q.chunks(self.heads() * d).enumerate() {
            let position = self.sequences[i].before + row;
            let first = self.window.map_or(0, |w| (position + 1).saturating_sub(w));
            for (head, query) in queries.chunks(d).enumerate() {
                let at = |t: usize| t * width + head / self.group * d..t * width + head / self.group * d + d;
                let score = |t: usize| -> f64 {
                    let key = &k[at(t)];
                    query.iter().zip(key).map(|(q, k)| f64::from(*q) * k).sum::<f64>()
                        * f64::from(self.scale())
                };
                let scores: Vec<f64> = (first..=position).map(score).collect();
                let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                let total: f64 = weights.iter().sum();
                let mut sum = vec![0.0; d];
                for (t, weight) in (first..=position).zip(&weights) {
                    sum.iter_mut().zip(&v[at(t)]).for_each(|(sum, v)| *sum += weight / total * v);
                }
                out.extend(sum);
            }
        }
        out
    }

    /// Runs it in three orders of threads: near what is expected, with equal bits, and with the same bits for a sequence that is alone.
    fn check(&self, random: &mut Random) {
        let numbers = self.numbers(random);
        let everybody: Vec<usize> = (0..self.sequences.len()).collect();
        let mut first: Option<Vec<Vec<u32>>> = None;
        for schedule in SCHEDULES {
            let options = CudaOptions { attention: Some(self.version), ..CudaOptions::default() };
            let cuda = Cuda::with_options(device_in(schedule), options);
            let mut attention = self.attention(&cuda);
            self.keep(&cuda, &mut attention, &numbers);
            let together = self.attend(&cuda, &mut attention, &numbers, &everybody);
            for i in &everybody {
                let alone = self.attend(&cuda, &mut attention, &numbers, &[*i]);
                assert_eq!(
                    bits(&alone[0]),
                    bits(&together[*i]),
                    "sequence {i} alone, and in a batch: {self:?}"
                );
            }
            let together_bits: Vec<Vec<u32>> = together.iter().map(|out| bits(out)).collect();
            if let Some(first) = &first {
                assert_eq!(
                    *first, together_bits,
                    "{schedule:?} gives other bits than the forward order: {self:?}"
                );
                continue;
            }
            first = Some(together_bits);
            for i in &everybody {
                near(&format!("sequence {i} of {self:?}"), &together[*i], &self.expected(&numbers, *i), 4e-5);
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// A vector as the cache keeps it.
fn as_kept(dtype: KvDtype, vector: &[f32]) -> Vec<f64> {
    if dtype != KvDtype::Fp8 {
        return vector.iter().map(|x| f64::from(rounded(dtype.stored(), *x))).collect();
    }
    let largest = vector.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let scale = (largest / 448.0).max(f32::MIN_POSITIVE);
    vector.iter().map(|x| e4m3(f64::from(x / scale)) * f64::from(scale)).collect()
}

/// The nearest number of e4m3: 3 bits behind the first, and below 2^-6 multiples of 2^-9.
fn e4m3(x: f64) -> f64 {
    let exponent = if x == 0.0 { -6.0 } else { x.abs().log2().floor().max(-6.0) };
    let unit = (exponent - 3.0).exp2();
    (x / unit).round_ties_even() * unit
}

#[test]
fn every_version_over_random_shapes() {
    let random = &mut Random(4);
    for turn in 0..60 {
        let version = AttentionVersion::ALL[turn % 5];
        let longest = random.of(&[40, 200, 700]);
        Case::random(random, version, longest).check(random);
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
            Case { group: 4, kv_heads, head_dim, block_size: 16, window: None, dtype, version, sequences }
                .check(random);
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
                    version,
                    sequences,
                };
                let cuda = Cuda::new(device_in(Schedule::Forward));
                let mut attention = case.attention(&cuda);
                case.check(random);
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
        let mut case = Case::random(random, AttentionVersion::V4, 90);
        case.head_dim = random.of(&[2, 16, 64, 128]);
        let numbers = case.numbers(random);
        let results = [false, true].map(|fused| {
            let cuda = Cuda::new(device_in(SCHEDULES[turn % 3]));
            let frequencies: Vec<f32> = (0..case.head_dim / 2).map(|j| 0.9f32.powi(j as i32)).collect();
            let n = frequencies.len();
            let mut inv_freq = cuda.weight(&[PartShape { outputs: n, inputs: 1 }]).unwrap();
            let tensor = HostTensor::from_f32(&[n], &frequencies);
            cuda.load(&mut inv_freq, 0, &Slice { tensor, rows: 0..n, cols: 0..1, transposed: false })
                .unwrap();
            let rope = Rope { inv_freq, head_dim: case.head_dim, scaling: 0.9 };
            let mut attention = case.attention(&cuda);
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
                attention.attend(&cuda, 0, &q, &k, &v).unwrap()
            };
            (download(&cuda, &out), cuda.launches() - launches)
        });
        let [(apart, three), (fused, one)] = results;
        assert_eq!(three - one, 2, "two kernels fewer");
        near(&format!("{case:?}"), &fused, &apart.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), 1e-6);
    }
}
