//! The simulator finds what is wrong with a kernel: each planted bug, and nothing in a kernel without one.

use stairwell::backend::cuda::{Address, Arg, Device, Grid, Schedule, Simulated};

const BLOCKS: usize = 3;
const THREADS: usize = 128;

/// Runs a planted kernel over three blocks; its output, or what the simulator said.
fn run(kernel: &str, schedule: Schedule, shared_bytes: usize) -> Result<Vec<u32>, String> {
    run_with_bug_in(u32::MAX, kernel, schedule, shared_bytes)
}

/// The same with the bug in one block alone.
fn run_with_bug_in(
    block: u32,
    kernel: &str,
    schedule: Schedule,
    shared_bytes: usize,
) -> Result<Vec<u32>, String> {
    let device = Simulated::with_schedule(schedule);
    let bytes = 4 * BLOCKS * THREADS;
    let out = device.allocate(bytes).unwrap(); // exactly as large as it must be
    let grid = Grid { blocks: [BLOCKS as u32, 1, 1], threads: THREADS as u32, shared_bytes };
    let table = device.allocate(8).unwrap(); // two blocks, for the kernel that has a table
    let ran = device
        .launch(kernel, grid, &[Arg::At(out), Arg::At(table), Arg::U32(block)])
        .map_err(|e| e.to_string());
    let mut numbers = vec![0; bytes];
    device.download(out, &mut numbers).unwrap();
    device.free(out);
    device.free(table);
    ran.map(|()| numbers.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
}

const SCHEDULES: [Schedule; 4] =
    [Schedule::Forward, Schedule::Reverse, Schedule::Random(1), Schedule::Random(2)];

/// The blocks in which some order of threads gives another result than the forward one.
fn blocks_that_differ(bug_in: u32, kernel: &str) -> Vec<usize> {
    let results = SCHEDULES.map(|schedule| run_with_bug_in(bug_in, kernel, schedule, 512).unwrap());
    let block = |result: &[u32], b: usize| result[b * THREADS..][..THREADS].to_vec();
    (0..BLOCKS).filter(|b| results.iter().any(|r| block(r, *b) != block(&results[0], *b))).collect()
}

#[test]
fn a_missing_barrier_changes_the_result_of_another_order_in_every_block() {
    for kernel in ["planted_missing_barrier", "planted_missing_second_barrier", "planted_missing_syncwarp"] {
        assert_eq!(blocks_that_differ(u32::MAX, kernel), [0, 1, 2], "{kernel}");
        for block in 0..BLOCKS {
            assert_eq!(blocks_that_differ(block as u32, kernel), [block], "{kernel}");
        }
    }
    assert_eq!(blocks_that_differ(u32::MAX, "planted_nothing"), [0; 0]);
}

#[test]
fn divergence_is_an_error_with_its_line() {
    let source = include_str!("../../kernels/simulator/planted.cu");
    let line_of = |part: &str| 1 + source.lines().position(|line| line.contains(part)).unwrap();
    for schedule in SCHEDULES {
        let said = run("planted_divergent_barrier", schedule, 0).unwrap_err();
        let line = line_of("if (threadIdx.x < 64) __syncthreads();");
        // Whoever comes last finds out: the last to wait, or the last to return.
        assert!(said.contains(&format!("line {line}")) && said.contains("__syncthreads"), "{said}");
        let said = run("planted_wrong_mask", schedule, 0).unwrap_err();
        let line = line_of("x += __shfl_xor_sync(0xffffffffu, x, 1)");
        assert!(said.contains(&format!("line {line}")), "{said}");
    }
}

#[test]
fn what_was_never_written_is_not_a_number() {
    let numbers = run("planted_unwritten", Schedule::Forward, 512).unwrap();
    for block in 0..BLOCKS {
        let nan: Vec<usize> =
            (0..THREADS).filter(|i| f32::from_bits(numbers[block * THREADS + i]).is_nan()).collect();
        assert_eq!(nan, [1], "block {block}: thread 1 reads number 0");
    }
}

#[test]
fn a_copy_that_nobody_waits_for_has_not_landed_in_any_block() {
    for schedule in SCHEDULES {
        let numbers = run("planted_missing_wait", schedule, 0).unwrap();
        assert!(numbers.iter().all(|bits| f32::from_bits(*bits).is_nan()), "{schedule:?}");
    }
}

#[test]
fn launches_that_no_device_takes_are_refused() {
    let device = Simulated::default();
    let launch = |kernel: &str, blocks: [u32; 3], threads: u32, shared_bytes: usize| {
        let grid = Grid { blocks, threads, shared_bytes };
        device.launch(kernel, grid, &[Arg::At(Address(0))]).unwrap_err().to_string()
    };
    assert!(
        launch("nothing", [1, 1, 1], 1, 0)
            .contains("kernel nothing on the simulated device: there is no such kernel")
    );
    assert!(launch("planted_nothing", [1, 1, 1], 1025, 0).contains("1 to 1024 threads"));
    assert!(launch("planted_nothing", [1, 0, 1], 32, 0).contains("a grid has"));
    assert!(launch("planted_nothing", [1, 1, 1], 32, 1 << 20).contains("227 KiB"));
}

/// Runs the kernel that STAIRWELL_KERNEL names, with its bug in block STAIRWELL_BLOCK, for scripts/sanitize_kernels.sh: a sanitizer reports on the side.
#[test]
#[ignore = "scripts/sanitize_kernels.sh runs it, built for a sanitizer"]
fn one_kernel() {
    let kernel = std::env::var("STAIRWELL_KERNEL").expect("STAIRWELL_KERNEL names a planted kernel");
    let block = std::env::var("STAIRWELL_BLOCK").map_or(u32::MAX, |block| block.parse().expect("a number"));
    let _ = run_with_bug_in(block, &kernel, Schedule::Forward, 4 * THREADS);
}
