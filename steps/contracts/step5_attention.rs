//! The contracts of chapter 5's second half: a walk through a block table, parts merged, and how many parts.

use super::check_values;
use stairwell::backend::cuda::{Address, Arg, Device, Grid, Schedule, Simulated};

/// Numbers of a head, a lane each.
const D: usize = 32;
const HEADS: usize = 2;

/// Numbers in −1..1 that look random.
pub(super) fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2654435761) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 17;
        s ^= s << 5;
        (s >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

pub(super) fn upload(device: &Simulated, values: &[f32]) -> Address {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let address = device.allocate(bytes.len()).expect("memory");
    device.upload(address, &bytes).expect("a copy");
    address
}

/// Launches a kernel for the heads; its first argument becomes the result, [HEADS, D].
#[track_caller]
fn run(device: &Simulated, kernel: &str, more: &[Arg]) -> Vec<f32> {
    let out = upload(device, &[f32::NAN; HEADS * D]);
    let grid = Grid { blocks: [HEADS as u32, 1, 1], threads: D as u32, shared_bytes: 0 };
    let launched = device.launch(kernel, grid, &[&[Arg::At(out)], more].concat());
    launched.unwrap_or_else(|e| panic!("{}", super::step5::explain(&e.to_string())));
    let mut bytes = [0; 4 * HEADS * D];
    device.download(out, &mut bytes).expect("a copy");
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Scores and V of a head in the order of the tokens, as f64; what softmax makes of them.
struct Seen {
    scores: Vec<f64>,
    v: Vec<Vec<f64>>,
}

impl Seen {
    fn weighted(&self, weights: &[f64]) -> Vec<f64> {
        let total: f64 = weights.iter().sum();
        (0..D).map(|d| weights.iter().zip(&self.v).map(|(w, v)| w * v[d]).sum::<f64>() / total).collect()
    }

    fn softmax(&self) -> Vec<f64> {
        let largest = self.scores.iter().copied().fold(f64::MIN, f64::max);
        self.weighted(&self.scores.iter().map(|s| (s - largest).exp()).collect::<Vec<_>>())
    }

    /// Each weight relative to the largest score up to its own token, and never corrected.
    fn without_rescale(&self) -> Vec<f64> {
        let mut largest = f64::MIN;
        let weight = |s: &f64| {
            largest = largest.max(*s);
            (s - largest).exp()
        };
        self.weighted(&self.scores.iter().map(weight).collect::<Vec<_>>())
    }
}

/// `kernel(out, q, k, v, table, tokens, block_size)`: attention of one token over a paged cache, see exercise.cu.
///
/// # Panics
/// If it is not, with what the mistake seems to be.
#[track_caller]
pub fn paged_walk(kernel: &str) {
    for (tokens, block_size, size) in [(1, 4, 1.0), (7, 4, 1.0), (40, 16, 1.0), (33, 16, 30.0)] {
        let used = usize::div_ceil(tokens, block_size);
        let blocks = used + 2;
        // The last block first: token order and block order differ, and some blocks are others'.
        let table: Vec<u32> = (0..used).map(|j| (blocks - 1 - j) as u32).collect();
        let block_numbers = HEADS * block_size * D;
        // What is no token's is NaN, so that a kernel that reads it shows.
        let (mut k, mut v) = (vec![f32::NAN; blocks * block_numbers], vec![f32::NAN; blocks * block_numbers]);
        let place =
            |block: usize, head: usize, t: usize| ((block * HEADS + head) * block_size + t % block_size) * D;
        let q: Vec<f32> = numbers(HEADS * D, 1).iter().map(|x| x * size).collect();
        let mut seen = Vec::new();
        for head in 0..HEADS {
            let mut of_head = Seen { scores: Vec::new(), v: Vec::new() };
            for t in 0..tokens {
                let (key, value) = (numbers(D, (9 + 2 * t) as u32), numbers(D, (10 + 2 * t + head) as u32));
                let at = place(table[t / block_size] as usize, head, t);
                k[at..at + D].copy_from_slice(&key);
                v[at..at + D].copy_from_slice(&value);
                let query = &q[head * D..][..D];
                of_head.scores.push(query.iter().zip(&key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum());
                of_head.v.push(value.iter().map(|x| f64::from(*x)).collect());
            }
            seen.push(of_head);
        }
        let of = |f: fn(&Seen) -> Vec<f64>| seen.iter().flat_map(f).collect::<Vec<f64>>();
        let (want, uncorrected) = (of(Seen::softmax), of(Seen::without_rescale));
        for schedule in [Schedule::Forward, Schedule::Reverse] {
            let device = Simulated::with_schedule(schedule);
            let [q, k, v] = [&q, &k, &v].map(|x| Arg::At(upload(&device, x)));
            let ids =
                Arg::At(upload(&device, &table.iter().map(|id| f32::from_bits(*id)).collect::<Vec<_>>()));
            let sizes = [tokens, block_size].map(|n| Arg::U32(n as u32));
            let got = run(&device, kernel, &[&[q, k, v, ids], &sizes[..]].concat());
            let what = format!("out, for {tokens} tokens in blocks of {block_size}");
            if let Some(at) = got.iter().position(|x| !x.is_finite()) {
                let why = if size > 1.0 {
                    "scores are large here, and e^score overflows: did you subtract the largest score before exp?"
                } else {
                    "slots that no token has are NaN: did you follow the table, and stop at `tokens`?"
                };
                panic!("element {at} of {what} is {}, expected {:.6}: {why}", got[at], want[at]);
            }
            check_values(
                &what,
                &got,
                &want,
                &[("leave what was summed as it was when a larger score came", uncorrected.clone())],
            );
        }
    }
}

/// `kernel(out, sums, states, parts)`: merges parts of a context, see exercise.cu.
///
/// # Panics
/// If it does not, with what the mistake seems to be.
#[track_caller]
pub fn combine(kernel: &str) {
    for parts in [1, 3, 5] {
        let device = Simulated::default();
        let sums = numbers(HEADS * parts * D, 3);
        let (mut states, mut want) = (Vec::new(), Vec::new());
        let (mut added, mut averaged) = (Vec::new(), Vec::new());
        for head in 0..HEADS {
            // The last of five saw nothing, and its sums are 0.
            let empty = |p: usize| parts == 5 && p == 4;
            let state = |p: usize| match empty(p) {
                true => [f32::NEG_INFINITY, 0.0],
                false => [(p * 7 % 3) as f32 * 2.0 - head as f32, 1.5 + p as f32],
            };
            let each: Vec<[f32; 2]> = (0..parts).map(state).collect();
            let largest = each.iter().map(|s| f64::from(s[0])).fold(f64::MIN, f64::max);
            let share = |p: usize| (f64::from(each[p][0]) - largest).exp();
            let total = |p: usize| f64::from(each[p][1]);
            let seen: Vec<usize> = (0..parts).filter(|p| !empty(*p)).collect();
            let over = |f: &dyn Fn(usize) -> f64| seen.iter().map(|p| f(*p)).sum::<f64>();
            for d in 0..D {
                let sum = |p: usize| f64::from(sums[(head * parts + p) * D + d]);
                want.push(over(&|p| share(p) * sum(p)) / over(&|p| share(p) * total(p)));
                added.push(over(&sum) / over(&total));
                averaged.push(over(&|p| sum(p) / total(p)) / seen.len() as f64);
            }
            states.extend(each.into_iter().flatten());
        }
        let mut sums = sums;
        if parts == 5 {
            (0..HEADS).for_each(|head| sums[(head * parts + 4) * D..][..D].fill(0.0));
        }
        let pointers = [&sums, &states].map(|x| Arg::At(upload(&device, x)));
        let got = run(&device, kernel, &[&pointers[..], &[Arg::U32(parts as u32)]].concat());
        let suspects = [
            ("add parts as they are, though each is relative to a largest score of its own", added),
            ("give each part the same share, whatever its weight", averaged),
        ];
        check_values(&format!("out, merged of {parts} parts"), &got, &want, &suspects);
    }
}

// ANCHOR: decode_work
/// A decode step on a GPU, as a model of its time: blocks run in waves, and a wave takes as long as one of its blocks.
#[derive(Clone, Copy, Debug)]
pub struct DecodeWork {
    pub sequences: usize,
    pub kv_heads: usize,
    /// Tokens of each sequence.
    pub tokens: usize,
    /// Blocks that the GPU runs at a time.
    pub blocks_at_a_time: usize,
}

impl DecodeWork {
    /// The time if contexts are divided into so many parts, in units of one key: a block begins in the time of 40 keys; merging is a kernel of its
    /// own, which takes 60 and 2 a part.
    pub fn time(&self, parts: usize) -> usize {
        let blocks = self.sequences * self.kv_heads * parts;
        let waves = blocks.div_ceil(self.blocks_at_a_time);
        let merging = if parts > 1 { 60 + 2 * parts } else { 0 };
        waves * (40 + self.tokens.div_ceil(parts)) + merging
    }
}
// ANCHOR_END: decode_work

/// `parts` divides decode steps of all kinds so that none takes a tenth longer than the best division.
///
/// # Panics
/// If one does, with the numbers.
#[track_caller]
pub fn heuristic(parts: impl Fn(&DecodeWork) -> usize) {
    let (mut theirs, mut fixed) = (0, 0);
    for (sequences, tokens) in
        [(3, 4096), (1, 100), (1, 2000), (1, 16384), (16, 1000), (17, 6000), (64, 4096), (200, 300)]
    {
        let work = DecodeWork { sequences, kv_heads: 8, tokens, blocks_at_a_time: 3 * 132 };
        let chosen = parts(&work);
        assert!(
            chosen >= 1,
            "{sequences} sequences of {tokens} tokens: {chosen} parts; there is at least one"
        );
        let best = (1..=256).min_by_key(|parts| work.time(*parts)).expect("256 candidates");
        let (time, least) = (work.time(chosen), work.time(best));
        let fullness = (work.sequences * work.kv_heads * chosen) as f64 / work.blocks_at_a_time as f64;
        let hint = match () {
            () if chosen == 1 => ": did you leave most of the GPU idle?",
            () if chosen > 3 * best => ": did you divide what was enough for all multiprocessors?",
            () if fullness > 1.0 && fullness.fract() > 0.0 && fullness.fract() < 0.3 => {
                ": did you begin a wave for a few blocks?"
            }
            () => "",
        };
        assert!(
            10 * time <= 11 * least,
            "{sequences} sequences of {tokens} tokens: {chosen} parts fill the GPU {fullness:.2} times and take {time}; {best} parts would take \
             {least}{hint}"
        );
        theirs += time;
        fixed += work.time(tokens.div_ceil(stairwell::backend::cuda::PART));
    }
    assert!(
        theirs < fixed,
        "parts of {} keys take {fixed} over all, yours {theirs}",
        stairwell::backend::cuda::PART
    );
}
