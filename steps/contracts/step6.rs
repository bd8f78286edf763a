//! The contracts of chapter 6: a tile that meets a softmax, the loop over tiles, a swizzle, and the story told with them.

use super::{
    check_values,
    step5::explain,
    step5_attention::{numbers, upload},
    story::{NO_WINDOWS, check_story_of},
};
use stairwell::{
    backend::cuda::{
        Address, Arg, Cuda, Device, Grid, KernelShape, Profile, Schedule, Simulated, with_workload,
    },
    demo,
    runner::{LoadOptions, ModelRunner},
};
use std::sync::Arc;

/// Numbers of a row, and keys of a tile.
const D: usize = 32;
const SCHEDULES: [Schedule; 3] = [Schedule::Forward, Schedule::Reverse, Schedule::Random(1)];
/// What the reader's kernel stands in for.
const REPLACED: &str = "flash_attention_v1_f32";
/// A prompt of several tiles of 32 keys.
const LONG_PROMPT: &str = "Once upon a time there was a little girl named Lily. She had a small red boat and she loved to play with it near the \
                           pond. One day the wind took the boat far away, and Lily was very sad. Then a big dog came";

/// A launch: `out` comes first, then what is uploaded, then numbers.
struct Case<'a> {
    kernel: &'a str,
    blocks: usize,
    threads: usize,
    outputs: usize,
    given: Vec<Vec<f32>>,
    more: Vec<Arg>,
}

impl Case<'_> {
    fn arguments(&self, device: &Simulated) -> (Address, Vec<Arg>) {
        let out = upload(device, &vec![f32::NAN; self.outputs]);
        let given = self.given.iter().map(|x| Arg::At(upload(device, x)));
        (out, [Arg::At(out)].into_iter().chain(given).chain(self.more.iter().copied()).collect())
    }

    fn grid(&self) -> Grid {
        Grid { blocks: [self.blocks as u32, 1, 1], threads: self.threads as u32, shared_bytes: 0 }
    }

    #[track_caller]
    fn run(&self, schedule: Schedule) -> Vec<f32> {
        let device = Simulated::with_schedule(schedule);
        let (out, arguments) = self.arguments(&device);
        let launched = device.launch(self.kernel, self.grid(), &arguments);
        launched.unwrap_or_else(|e| panic!("{}", explain(&e.to_string())));
        let mut bytes = vec![0; 4 * self.outputs];
        device.download(out, &mut bytes).expect("a copy");
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    #[track_caller]
    fn profile(&self) -> Profile {
        let device = Simulated::default();
        let (_, arguments) = self.arguments(&device);
        device
            .profile(self.kernel, self.grid(), &arguments)
            .unwrap_or_else(|e| panic!("{}", explain(&e.to_string())))
    }

    fn name(&self) -> &str {
        self.kernel.rsplit("::").next().unwrap_or(self.kernel)
    }
}

/// Softmax of scores in f64, each relative to what `largest_for` gives for its place, times values [scores, D].
fn weighted(scores: &[f32], values: &[f32], largest_for: impl Fn(usize) -> f64) -> Vec<f64> {
    let weights: Vec<f64> =
        scores.iter().enumerate().map(|(i, s)| (f64::from(*s) - largest_for(i)).exp()).collect();
    let total: f64 = weights.iter().sum();
    let sum =
        |d: usize| weights.iter().enumerate().map(|(i, w)| w * f64::from(values[i * D + d])).sum::<f64>();
    (0..D).map(|d| sum(d) / total).collect()
}

fn largest(scores: &[f32]) -> f64 {
    f64::from(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max))
}

/// `kernel(out, scores, values, tiles)`: see exercise.cu.
///
/// # Panics
/// If it is not softmax over all tiles, with what the mistake seems to be.
#[track_caller]
pub fn meet(kernel: &str) {
    const ROWS: usize = 3;
    // Scores near each other, scores far apart, and rows that see nothing of the first tile.
    for (tiles, size, hidden) in [(1, 1.0, 0), (3, 1.0, 0), (4, 40.0, 0), (3, 2.0, 32), (2, 1.0, 5)] {
        let keys = tiles * 32;
        let mut scores: Vec<f32> = numbers(ROWS * keys, 7).iter().map(|x| x * size).collect();
        for row in 0..ROWS {
            scores[row * keys..row * keys + hidden].fill(f32::NEG_INFINITY);
            // The largest is in the last tile: whoever does not correct is wrong.
            scores[row * keys + keys - 3] = 1.5 * size;
        }
        let values = numbers(keys * D, 8);
        let rows = || scores.chunks(keys);
        let each = |f: &dyn Fn(&[f32]) -> Vec<f64>| rows().flat_map(f).collect::<Vec<f64>>();
        let want = each(&|row| weighted(row, &values, |_| largest(row)));
        let uncorrected =
            each(&|row| weighted(row, &values, |i| largest(&row[..i / 32 * 32 + 32]).max(-1e30)));
        let by_tile = each(&|row| weighted(row, &values, |i| largest(&row[i / 32 * 32..][..32]).max(-1e30)));
        let what = format!("out, over {tiles} tiles");
        let (given, more) = (vec![scores.clone(), values.clone()], vec![Arg::U32(tiles as u32)]);
        let case = Case { kernel, blocks: ROWS, threads: 32, outputs: ROWS * D, given, more };
        for schedule in SCHEDULES {
            let got = case.run(schedule);
            if let Some(at) = got.iter().position(|x| !x.is_finite()) {
                let why = match hidden {
                    32 => {
                        "no lane sees a key of the first tile here: did you subtract -INFINITY from -INFINITY?"
                    }
                    0 => "did you subtract the largest score before exp?",
                    _ => "some lanes see no key of the first tile here: did you give those a weight of 0?",
                };
                panic!("element {at} of {what} is {}, expected {:.6}: {why}", got[at], want[at]);
            }
            let suspects = [
                ("leave what was summed as it was when a larger score came", uncorrected.clone()),
                ("take the largest of the tile alone, and forget that of the tiles before", by_tile.clone()),
            ];
            check_values(&what, &got, &want, &suspects);
        }
    }
}

/// `kernel(out, q, k, v, tokens)`: see exercise.cu.
///
/// # Panics
/// If it is not causal attention, differs between orders of threads, or reads more than it must.
#[track_caller]
pub fn tile_loop(kernel: &str) {
    let case = |tokens: usize| {
        let given: Vec<Vec<f32>> = (0..3).map(|i| numbers(tokens * D, 11 + i)).collect();
        let more = vec![Arg::U32(tokens as u32)];
        Case { kernel, blocks: tokens.div_ceil(32), threads: 32, outputs: tokens * D, given, more }
    };
    for tokens in [1, 32, 45, 96] {
        let case = case(tokens);
        let (q, k, v) = (&case.given[0], &case.given[1], &case.given[2]);
        let attend = |last: &dyn Fn(usize) -> usize| -> Vec<f64> {
            let row = |i: usize| {
                let score = |t: usize| -> f32 { (0..D).map(|d| q[i * D + d] * k[t * D + d]).sum() };
                let scores: Vec<f32> = (0..last(i)).map(score).collect();
                weighted(&scores, v, |_| largest(&scores))
            };
            (0..tokens).flat_map(row).collect()
        };
        let want = attend(&|i| i + 1);
        let unmasked = attend(&|i| (i / 32 * 32 + 32).min(tokens));
        let forward = case.run(Schedule::Forward);
        for schedule in SCHEDULES {
            assert!(
                case.run(schedule).iter().map(|x| x.to_bits()).eq(forward.iter().map(|x| x.to_bits())),
                "{}: other bits when threads run in the order {schedule:?}: did you wait before a tile is read, and before it is overwritten?",
                case.name()
            );
        }
        let suspects = [("let rows see the whole tile on the diagonal", unmasked)];
        check_values(&format!("out, for {tokens} tokens"), &forward, &want, &suspects);
    }
    let (tokens, case) = (128, case(128));
    let read = case.profile().bytes(false);
    let tile = (4 * 32 * D) as u64;
    let tiles = (tokens / 32) as u64;
    let least = tiles * tile + tiles * (tiles + 1) / 2 * 2 * tile;
    let all = tiles * tile + tiles * tiles * 2 * tile;
    let hint = match read {
        _ if read >= 4 * all => "did you read K and V from global memory for every row?",
        _ if read >= all => "did you read tiles that no row of the block sees?",
        _ => "did you read something twice?",
    };
    assert!(
        50 * read <= 51 * least,
        "{}: right, and it asks for {read} bytes, where {least} would do: {hint}",
        case.name()
    );
}

/// `kernel(y, x)`: a tile written row by row and read piece by piece, see exercise.cu.
///
/// # Panics
/// If a piece is lost, or lanes meet in a bank.
#[track_caller]
pub fn swizzle(kernel: &str) {
    let x = numbers(64 * D, 3);
    let case =
        Case { kernel, blocks: 1, threads: 64, outputs: x.len(), given: vec![x.clone()], more: vec![] };
    let got = case.run(Schedule::Forward);
    if let Some(at) = got.iter().zip(&x).position(|(got, x)| got != x) {
        let (row, piece) = (at / D, at % D / 4);
        panic!(
            "{}: piece {piece} of row {row} is not what was written: did you give two pieces one place?",
            case.name()
        );
    }
    let lost = case.profile().bank_conflicts();
    assert!(
        lost == 0,
        "{}: right, and lanes lose {lost} turns to banks: 8 places are once through all banks; do the same piece of 8 rows, and the 8 pieces of a \
         row, lie at 8 different places modulo 8?",
        case.name()
    );
}

/// The engine on the simulated device tells the demo story with this kernel in the place of `flash_attention_v1_f32`, after a prompt of several tiles.
///
/// # Panics
/// If the story is another one.
#[track_caller]
pub fn tells_the_demo_story(flash_attention: &str) {
    let device = Simulated::replacing(REPLACED, flash_attention);
    let alone = KernelShape::parse(REPLACED, "tokens=2,head_dim=32").and_then(|shape| {
        with_workload(&device, REPLACED, &shape, |launches| {
            launches.iter().try_for_each(|l| device.launch(&l.kernel, l.grid, &l.arguments))
        })
    });
    alone.unwrap_or_else(|e| panic!("{}", explain(&e.to_string()))); // says what is not written yet
    let cuda = Cuda::new(Arc::new(device));
    let loaded = ModelRunner::load_on(cuda, &demo::directory(), LoadOptions::default());
    check_story_of(NO_WINDOWS, LONG_PROMPT, loaded);
}
