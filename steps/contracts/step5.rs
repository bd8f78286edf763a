//! The contracts of step 5, for the exercises of chapter 5: kernels by their names, run on the simulator in several orders of threads, and
//! counted.

pub use super::step5_attention::{DecodeWork, combine, heuristic, paged_walk};

use super::story::check_story;
use stairwell::backend::cuda::{Address, Arg, Cuda, Device, Grid, Profile, Schedule, Simulated};
use stairwell::{
    demo,
    runner::{LoadOptions, ModelRunner},
};
use std::sync::Arc;

const SCHEDULES: [Schedule; 4] =
    [Schedule::Forward, Schedule::Reverse, Schedule::Random(1), Schedule::Random(2)];

/// Numbers that are not all alike: whole and small, so that sums are exact.
fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + i / 32 * 11) % 101) as f32 - 50.0).collect()
}

/// A launch: y gets `outputs` numbers, x is given.
struct Case<'a> {
    kernel: &'a str,
    grid: Grid,
    x: Vec<f32>,
    outputs: usize,
    more: Vec<Arg>,
}

impl Case<'_> {
    /// y, and x with a number behind its end that is not one.
    fn arguments(&self, device: &Simulated) -> (Address, Vec<Arg>) {
        let upload = |values: &[f32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let address = device.allocate(bytes.len()).expect("memory");
            device.upload(address, &bytes).expect("a copy");
            address
        };
        let y = upload(&vec![f32::NAN; self.outputs]);
        let x = upload(&[&self.x[..], &[f32::NAN]].concat());
        (y, [&[Arg::At(y), Arg::At(x)], &self.more[..]].concat())
    }

    /// What y is under a schedule.
    #[track_caller]
    fn run(&self, schedule: Schedule) -> Vec<f32> {
        let device = Simulated::with_schedule(schedule);
        let (y, arguments) = self.arguments(&device);
        device
            .launch(self.kernel, self.grid, &arguments)
            .unwrap_or_else(|e| panic!("{}", explain(&e.to_string())));
        let mut bytes = vec![0; 4 * self.outputs];
        device.download(y, &mut bytes).expect("a copy");
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn profile(&self) -> Profile {
        let device = Simulated::default();
        let (_, arguments) = self.arguments(&device);
        device
            .profile(self.kernel, self.grid, &arguments)
            .unwrap_or_else(|e| panic!("{}", explain(&e.to_string())))
    }

    /// Panics unless y is `want` under every schedule. `hint` looks at the forward order's result.
    #[track_caller]
    fn check(&self, want: &[f32], hint: impl Fn(&[f32]) -> Option<&'static str>) {
        let name = self.name();
        for schedule in SCHEDULES {
            let got = self.run(schedule);
            let Some(at) = got.iter().zip(want).position(|(got, want)| got != want) else { continue };
            let forward = self.run(Schedule::Forward);
            if forward == want {
                panic!(
                    "{name}: number {at} is {}, expected {}, when threads run in the order {schedule:?}, and right when they run forward: \
                     did you wait for what other threads write?",
                    got[at], want[at]
                );
            }
            let hint = hint(&forward).map_or(String::new(), |mistake| format!(": did you {mistake}?"));
            panic!("{name}: number {at} is {}, expected {}{hint}", got[at], want[at]);
        }
    }

    fn name(&self) -> &str {
        self.kernel.rsplit("::").next().unwrap_or(self.kernel)
    }
}

/// The simulator's message as a reader wants it.
pub(super) fn explain(error: &str) -> String {
    if let Some(at) = error.find("not written yet: ") {
        return error[at..].to_owned();
    }
    if error.contains("there is no such kernel") {
        return format!(
            "{error}: if it is in exercise.cu, that file does not compile; the build's warnings say where (change it, and they come again)"
        );
    }
    error.to_owned()
}

fn grid(blocks: u32, threads: u32) -> Grid {
    Grid { blocks: [blocks, 1, 1], threads, shared_bytes: 0 }
}

/// `kernel(y, x)`: each number of y is the sum of the 32 numbers of x that its warp has.
///
/// # Panics
/// If it is not, or goes through shared memory.
#[track_caller]
pub fn warp_sum(kernel: &str) {
    let x = numbers(3 * 128);
    let case = Case { kernel, grid: grid(3, 128), outputs: x.len(), more: vec![], x };
    let sum_of = |lanes: usize| {
        let sums: Vec<f32> = case.x.chunks(lanes).map(|lanes| lanes.iter().sum()).collect();
        (0..case.outputs).map(|i| sums[i / lanes]).collect::<Vec<f32>>()
    };
    let want = sum_of(32);
    case.check(&want, |got| match got {
        _ if got.iter().step_by(32).eq(want.iter().step_by(32)) => {
            Some("give the sum to the first lane only (__shfl_down_sync), where every lane wants it")
        }
        _ if got == case.x => Some("forget to add anything"),
        _ if [16, 8, 4, 2].iter().any(|lanes| got == sum_of(*lanes)) => {
            Some("add up a part of the warp: 32 lanes take five rounds, 16, 8, 4, 2, 1")
        }
        _ => None,
    });
    let shared = case.profile().sites.iter().any(|site| site.shared);
    assert!(!shared, "{}: right, and through shared memory: did you mean to use shuffles?", case.name());
}

/// `kernel(y, x, rows, cols)`: y is x transposed. Grid: (ceil(cols / 32), ceil(rows / 32)); 256 threads.
///
/// # Panics
/// If it is not, touches more sectors than it must, or has bank conflicts.
#[track_caller]
pub fn transpose(kernel: &str) {
    let case = |rows: usize, cols: usize| Case {
        kernel,
        grid: Grid { blocks: [cols.div_ceil(32) as u32, rows.div_ceil(32) as u32, 1], ..grid(1, 256) },
        x: (0..rows * cols).map(|i| i as f32).collect(),
        outputs: rows * cols,
        more: vec![Arg::U32(rows as u32), Arg::U32(cols as u32)],
    };
    for (rows, cols) in [(64, 96), (70, 33), (1, 40)] {
        let case = case(rows, cols);
        let want: Vec<f32> = (0..rows * cols).map(|i| case.x[i % rows * cols + i / rows]).collect();
        case.check(&want, |got| match got {
            _ if got == case.x => Some("copy without turning"),
            _ if got.iter().any(|v| v.is_nan()) && rows % 32 + cols % 32 == 0 => {
                Some("read the tile before all of it was written")
            }
            _ if got.iter().any(|v| v.is_nan()) => {
                Some("leave out the tiles at the edge, where not all rows and columns are there")
            }
            _ => None,
        });
    }
    let profile = case(64, 96).profile();
    let (least, name) = (64 * 96 * 4 / 32, kernel.rsplit("::").next().unwrap_or(kernel));
    for (what, writes) in [("read", false), ("write", true)] {
        let sectors = profile.sectors(writes);
        assert!(
            sectors <= least,
            "{name}: {what}s touch {sectors} sectors, and {least} would do: did you let the lanes of a warp {what} along a column?"
        );
    }
    let lost = profile.bank_conflicts();
    assert!(
        lost == 0,
        "{name}: right, and lanes lose {lost} turns to bank conflicts: did you give a row of the tile a 33rd number?"
    );
}

/// Three kernels, each of which had a bug: `turn_round(y, x)` in blocks of 128, `difference(y, x, n)`, `sum_of_twenty(y, x)`.
///
/// # Panics
/// If one still has a bug: with what the checkers say, and not with what it is.
#[track_caller]
pub fn mended(kernels: [&str; 3]) {
    let x = numbers(3 * 128);
    let round = Case { kernel: kernels[0], grid: grid(3, 128), outputs: x.len(), more: vec![], x: x.clone() };
    let want: Vec<f32> = x.chunks(128).flat_map(|block| block.iter().rev().copied()).collect();
    for schedule in SCHEDULES {
        let got = round.run(schedule);
        let wrong = got.iter().zip(&want).filter(|(got, want)| got != want).count();
        assert!(
            wrong == 0,
            "not mended yet: {}: {wrong} of {} numbers are wrong when the threads run in the order {schedule:?} (NaN is shared memory that \
             nobody has written)",
            round.name(),
            want.len()
        );
    }
    let n = 300;
    let steps = Case {
        kernel: kernels[1],
        grid: grid(3, 128),
        outputs: n,
        more: vec![Arg::U32(n as u32)],
        x: numbers(n),
    };
    let got = steps.run(Schedule::Forward);
    let next = |i: usize| if i + 1 < n { steps.x[i + 1] - steps.x[i] } else { 0.0 };
    let wrong = (0..n).find(|i| got[*i] != next(*i));
    if let Some(at) = wrong {
        panic!(
            "not mended yet: {}: number {at} of {n} is {}, expected {} (behind the end of x there is NaN, and y was NaN before)",
            steps.name(),
            got[at],
            next(at)
        );
    }
    let twenty = Case { kernel: kernels[2], grid: grid(3, 128), outputs: 12, more: vec![], x };
    let device = Simulated::default();
    let (_, arguments) = twenty.arguments(&device);
    if let Err(error) = device.launch(twenty.kernel, twenty.grid, &arguments) {
        panic!("not mended yet: {}", explain(&error.to_string()));
    }
    let want: Vec<f32> = twenty.x.chunks(32).map(|lanes| lanes[..20].iter().sum()).collect();
    for schedule in SCHEDULES {
        let got = twenty.run(schedule);
        assert!(
            got == want,
            "not mended yet: {}: sums of 20 lanes are {got:?}, expected {want:?} (NaN comes from a lane that the mask does not name)",
            twenty.name()
        );
    }
}

/// The engine on the simulated device tells the demo story with this kernel wherever it would launch `rms_norm_v2`.
///
/// # Panics
/// If the story is another one.
#[track_caller]
pub fn tells_the_demo_story(rms_norm: &str) {
    let more = vec![Arg::U32(32), Arg::F32(1e-6)];
    let mut alone = Case { kernel: rms_norm, grid: grid(1, 32), x: numbers(32), outputs: 32, more };
    let weight = Simulated::default();
    alone.more.insert(0, alone.arguments(&weight).1[1]);
    alone.run(Schedule::Forward); // says what is not written yet
    let device = Simulated::replacing("rms_norm_v2", rms_norm);
    let options = LoadOptions::default();
    check_story(ModelRunner::load_on(Cuda::new(Arc::new(device)), &demo::directory(), options));
}
