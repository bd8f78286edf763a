//! Random work for attention over blocks in a device's memory, and what f64 gives for it: tables in any order, blocks that sequences share, slots
//! that nobody has written (NaN on the simulated device).
#![allow(dead_code)] // each test file uses a part of it

use crate::{
    device::device_in,
    random::{Random, download, near, rounded},
};
use stairwell::{
    attention::{KvBudget, KvDtype, KvOptions},
    backend::{
        Backend,
        cuda::{Cuda, CudaOptions, CudaTensor, Schedule},
    },
    batch::Batch,
    model::{Attention, AttentionShape},
    tensor::DType,
};

/// Attention that can keep K and V without attending.
pub trait KeepsKv: Attention<Cuda> {
    fn build(cuda: &Cuda, shape: AttentionShape, options: &KvOptions) -> Self;
    fn keep(&self, cuda: &Cuda, k: &CudaTensor, v: &CudaTensor);
}

pub const SCHEDULES: [Schedule; 3] = [Schedule::Forward, Schedule::Reverse, Schedule::Random(5)];

/// Random work for attention over blocks.
#[derive(Clone, Debug)]
pub struct Case {
    pub group: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub block_size: usize,
    pub window: Option<usize>,
    pub dtype: KvDtype,
    pub options: CudaOptions,
    /// What the kernel rounds queries to.
    pub queries: DType,
    pub sequences: Vec<Sequence>,
}

#[derive(Clone, Debug)]
pub struct Sequence {
    /// Blocks of the first sequence that are its first, too.
    pub shared: usize,
    /// Tokens that are kept, and rows that attend.
    pub before: usize,
    pub new: usize,
}

/// The numbers of a case, all [tokens, heads · head_dim]: for each sequence K and V from its first token on, and the new rows' queries.
pub struct Numbers {
    pub k: Vec<Vec<f32>>,
    pub v: Vec<Vec<f32>>,
    pub q: Vec<Vec<f32>>,
}

impl Case {
    pub fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    pub fn scale(&self) -> f32 {
        (self.head_dim as f32).powf(-0.5)
    }

    pub fn numbers(&self, random: &mut Random) -> Numbers {
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
    pub fn tables(&self) -> Vec<Vec<u32>> {
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

    pub fn longest(&self) -> usize {
        self.sequences.iter().map(|s| s.before + s.new).max().unwrap()
    }

    pub fn attention<A: KeepsKv>(&self, cuda: &Cuda) -> A {
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
        A::build(cuda, shape, &options)
    }

    /// Attention of some sequences' new rows, in one batch.
    pub fn attend<A: KeepsKv>(
        &self,
        cuda: &Cuda,
        attention: &mut A,
        numbers: &Numbers,
        who: &[usize],
    ) -> Vec<Vec<f32>> {
        self.attend_in(cuda, attention, numbers, who, &self.tables())
    }

    /// The same with these block tables.
    pub fn attend_in<A: KeepsKv>(
        &self,
        cuda: &Cuda,
        attention: &mut A,
        numbers: &Numbers,
        who: &[usize],
        tables: &[Vec<u32>],
    ) -> Vec<Vec<f32>> {
        let mut batch = Batch::default();
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
        let out = download(cuda, &attention.attend(cuda, 0, [&q, &k, &v]).unwrap());
        let rows = who.iter().map(|i| self.sequences[*i].new * self.heads() * self.head_dim);
        let mut at = 0;
        rows.map(|n| {
            at += n;
            out[at - n..at].to_vec()
        })
        .collect()
    }

    /// Keeps the tokens before the new ones: those that are not shared.
    pub fn keep<A: KeepsKv>(&self, cuda: &Cuda, attention: &mut A, numbers: &Numbers) {
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
            attention.keep(cuda, &part(&numbers.k[i]), &part(&numbers.v[i]));
        }
    }

    /// What the new rows of sequence i should get, in f64.
    pub fn expected(&self, numbers: &Numbers, i: usize) -> Vec<f64> {
        let d = self.head_dim;
        let width = self.kv_heads * d;
        let kept =
            |x: &[f32]| x.chunks(d).flat_map(|vector| as_kept(self.dtype, vector)).collect::<Vec<f64>>();
        let (k, v) = (kept(&numbers.k[i]), kept(&numbers.v[i]));
        let q: Vec<f32> = numbers.q[i].iter().map(|x| rounded(self.queries, *x)).collect();
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
    pub fn check<A: KeepsKv>(&self, random: &mut Random, tolerance: f64) {
        let numbers = self.numbers(random);
        let everybody: Vec<usize> = (0..self.sequences.len()).collect();
        let mut first: Option<Vec<Vec<u32>>> = None;
        for schedule in SCHEDULES {
            let cuda = Cuda::with_options(device_in(schedule), self.options);
            let mut attention: A = self.attention(&cuda);
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
                near(
                    &format!("sequence {i} of {self:?}"),
                    &together[*i],
                    &self.expected(&numbers, *i),
                    tolerance,
                );
            }
        }
    }
}

pub fn bits(values: &[f32]) -> Vec<u32> {
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
