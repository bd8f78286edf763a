//! What the simulator's instructions do, against plain loops: tensor cores, ldmatrix, asynchronous copies, shuffles, votes, atomics, and
//! numbers of 16 bits.

use half::{bf16, f16};
use stairwell::backend::cuda::{Address, Arg, Device, Grid, Schedule, Simulated};

const SCHEDULES: [Schedule; 4] =
    [Schedule::Forward, Schedule::Reverse, Schedule::Random(1), Schedule::Random(2)];

/// Runs a kernel in one block under every schedule: buffers in, the first of them out, which must always be the same.
fn run(kernel: &str, threads: u32, buffers: &[Vec<u8>], more: &[Arg]) -> Vec<Vec<u8>> {
    let results = SCHEDULES.map(|schedule| {
        let device = Simulated::with_schedule(schedule);
        let upload = |bytes: &Vec<u8>| {
            let address = device.allocate(bytes.len()).unwrap();
            device.upload(address, bytes).unwrap();
            address
        };
        let addresses: Vec<Address> = buffers.iter().map(upload).collect();
        let arguments: Vec<Arg> = addresses.iter().map(|a| Arg::At(*a)).chain(more.iter().copied()).collect();
        let n = if let Some(Arg::Size(n)) = more.first() { *n as u32 } else { threads };
        let grid = Grid { blocks: [n.div_ceil(threads), 1, 1], threads, shared_bytes: 0 };
        device.launch(kernel, grid, &arguments).unwrap();
        let download = |(address, bytes): (&Address, &Vec<u8>)| {
            let mut out = vec![0; bytes.len()];
            device.download(*address, &mut out).unwrap();
            out
        };
        addresses.iter().zip(buffers).map(download).collect::<Vec<_>>()
    });
    assert!(results.iter().all(|r| *r == results[0]), "{kernel}: an order of threads changes the result");
    results.into_iter().next().unwrap()
}

fn halves(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    words(bytes).into_iter().map(f32::from_bits).collect()
}

/// Small whole numbers, whose products add up exactly in f32 in any order.
fn small(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104729) % 31) as f32 - 15.0).collect()
}

#[test]
fn tensor_cores_multiply() {
    let (a, b) = (small(16 * 16, 1), small(8 * 16, 2));
    for (kernel, to_bits) in [
        ("probe_mma_bf16", (|v: f32| bf16::from_f32(v).to_bits()) as fn(f32) -> u16),
        ("probe_mma_f16", |v: f32| f16::from_f32(v).to_bits()),
    ] {
        let bits = |values: &[f32]| halves(&values.iter().map(|v| to_bits(*v)).collect::<Vec<_>>());
        let got = floats(&run(kernel, 32, &[vec![0; 4 * 16 * 8], bits(&a), bits(&b)], &[])[0]);
        for i in 0..16 {
            for j in 0..8 {
                let want: f32 = (0..16).map(|k| a[i * 16 + k] * b[j * 16 + k]).sum();
                assert_eq!(got[i * 8 + j], want, "{kernel}: row {i}, column {j}");
            }
        }
    }
}

#[test]
fn ldmatrix_transposes() {
    let x: Vec<u16> = (0..256).map(|i| i * 251).collect();
    let got = &run("probe_transpose", 32, &[vec![0; 512], halves(&x)], &[])[0];
    let at = |i: usize| x[i / 64 * 64 + i % 8 * 8 + i / 8 % 8];
    assert_eq!(*got, halves(&(0..256).map(at).collect::<Vec<_>>()));
}

#[test]
fn asynchronous_copies_land_at_their_wait_and_fill_with_zeros() {
    let x: Vec<f32> = (1..257).map(|i| i as f32).collect();
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    let got = floats(&run("probe_cp_async", 32, &[vec![0; 1024], bytes], &[])[0]);
    for lane in 0..32 {
        for i in 0..4 {
            let from = (lane * 4 + i + 4) % 128;
            assert_eq!(got[lane * 4 + i], x[from], "first group, lane {lane}");
            let second = if from < 64 { x[128 + from] } else { 0.0 };
            assert_eq!(got[128 + lane * 4 + i], second, "second group, lane {lane}");
        }
    }
}

#[test]
fn lanes_exchange_numbers_and_vote() {
    let x: Vec<u32> = (0..32).map(|i| i * i % 97).collect();
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    let got = words(&run("probe_warp", 32, &[vec![0; 4 * 224], bytes], &[])[0]);
    let votes = (0..32).filter(|i| x[*i].is_multiple_of(3)).fold(0u32, |votes, i| votes | 1 << i);
    for lane in 0..32 {
        let row = |row: usize| got[32 * row + lane];
        assert_eq!(row(0), x[5], "shuffle");
        assert_eq!(row(1), x[lane ^ 16], "xor");
        assert_eq!(row(2), if lane % 8 + 3 < 8 { x[lane + 3] } else { x[lane] }, "down, in eights");
        assert_eq!(row(3), if lane > 0 { x[lane - 1] } else { x[0] }, "up");
        assert_eq!(row(4), votes, "ballot");
        assert_eq!(row(5), 1, "none is 1000, and all are less");
        assert_eq!(row(6), if lane < 8 { x[lane ^ 1] } else { 0 }, "eight lanes alone");
    }
}

#[test]
fn atomic_operations_miss_nobody() {
    // Whose lock it is depends on the order of threads: left out of the comparison.
    let results = SCHEDULES.map(|schedule| {
        let device = Simulated::with_schedule(schedule);
        let y = device.allocate(16).unwrap();
        device.upload(y, &[0; 16]).unwrap();
        let grid = Grid { blocks: [1, 1, 1], threads: 64, shared_bytes: 0 };
        device.launch("probe_atomics", grid, &[Arg::At(y)]).unwrap();
        let mut bytes = [0; 16];
        device.download(y, &mut bytes).unwrap();
        words(&bytes)
    });
    for got in results {
        assert_eq!((got[0], got[1], got[3]), (64 * 63 / 2, 63, 7));
        assert!((1..=64).contains(&got[2]), "one thread got the lock");
    }
}

#[test]
fn every_number_of_16_bits_is_widened_and_comes_back() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let n = [Arg::Size(all.len() as u64)];
    for (kernel, widen) in [
        ("probe_bf16", (|bits| bf16::from_bits(bits).to_f32()) as fn(u16) -> f32),
        ("probe_f16", |bits| f16::from_bits(bits).to_f32()),
    ] {
        let out = run(kernel, 256, &[vec![0; 2 * all.len()], vec![0; 4 * all.len()], halves(&all)], &n);
        let (back, wide) = (&out[0].as_chunks::<2>().0, floats(&out[1]));
        for bits in all.iter().copied() {
            let (want, at) = (widen(bits), bits as usize);
            let same = wide[at].to_bits() == want.to_bits() && back[at] == bits.to_le_bytes();
            assert!(same || (want.is_nan() && wide[at].is_nan()), "{kernel}: {bits:04x} became {}", wide[at]);
        }
    }
}

#[test]
fn numbers_are_rounded_to_the_nearest_and_ties_to_even() {
    let patterns = (0..1u32 << 16).map(|i| i.wrapping_mul(2654435761));
    let ties = (0..1000u32).flat_map(|i| [(i << 16) * 61 + 0x8000, (i << 13) * 509 + 0x1000]);
    let x: Vec<f32> = patterns.chain(ties).map(f32::from_bits).filter(|x| !x.is_nan()).collect();
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    let n = x.len();
    for (kernel, round) in [
        ("cast_bf16", (|x| bf16::from_f32(x).to_bits()) as fn(f32) -> u16),
        ("cast_f16", |x| f16::from_f32(x).to_bits()),
    ] {
        let device = Simulated::default();
        let [y, from] = [2 * n, 4 * n].map(|bytes| device.allocate(bytes).unwrap());
        device.upload(from, &bytes).unwrap();
        let arguments = [Arg::At(y), Arg::At(from), Arg::Size(n as u64)];
        device.launch(kernel, Grid::numbers(n), &arguments).unwrap();
        let mut got = vec![0; 2 * n];
        device.download(y, &mut got).unwrap();
        for (got, x) in got.as_chunks::<2>().0.iter().zip(&x) {
            assert_eq!(u16::from_le_bytes(*got), round(*x), "{kernel} of {x} ({:08x})", x.to_bits());
        }
    }
}
