//! Step 7 by the clock: one model on several ranks, and what ranks say to each other.
//!
//! ```text
//! cargo bench --features step7 --bench step7                        # a table; about four minutes
//! cargo bench --features step7 --bench step7 -- --out step7.json    # and a file
//! python scripts/record_step7.py                                    # over MPI too; writes benches/results/step7.json
//! ```
//! Ranks are threads, and each has its share of the cores: two ranks on two cores have one each, and so has each of four, which take turns. The model
//! has the shapes of Qwen3-0.6B and random weights. Every cut is timed in each of a few rounds, and the medians count: a machine that is shared is faster in
//! one minute than in the next. `--mpi` measures the sums alone, in the processes that mpirun has started.

mod shapes;

use serde_json::{Value, json};
use shapes::QWEN3_0_6B;
use stairwell::{
    attention::KvOptions,
    backend::cpu::Cpu,
    batch::Batch,
    checkpoint::Directory,
    engine::{RanksReport, Traffic},
    error::Result,
    parallel::{
        Communicator, Leader, Setup, TIMEOUT, Threads, Topology, Workload, finish, in_threads, mpi_lines,
        processes_here, threads_of_a_rank,
    },
    runner::{LoadFormat, Weights},
};
use std::{
    env, fs, thread,
    time::{Duration, Instant},
};

/// Tokens of the prompt, sequences that decode, and their steps.
const PROMPT: usize = 128;
const SEQUENCES: usize = 8;
const STEPS: usize = 4;
const ROUNDS: usize = 3;

/// Slices, stages, and micro-batches of the prompt's pass (and of a decode step) if it is not left to the engine.
const CUTS: [(usize, usize, Option<usize>); 8] = [
    (1, 1, None),
    (2, 1, None),
    (4, 1, None),
    (1, 2, Some(1)),
    (1, 2, Some(2)),
    (1, 2, Some(4)),
    (1, 2, Some(8)),
    (2, 2, Some(4)),
];
/// Numbers of an all_reduce: a row of hidden states of Qwen3-0.6B is 1,024.
const NUMBERS: [usize; 6] = [1 << 8, 1 << 10, 1 << 13, 1 << 15, 1 << 17, 1 << 20];

fn main() {
    let args: Vec<String> = env::args().collect();
    let out = args.iter().position(|arg| arg == "--out").and_then(|at| args.get(at + 1));
    let result = match args.iter().any(|arg| arg == "--mpi") {
        true => over_mpi(),
        false => Ok(Some(json!({"all_reduce": over_threads(), "grid": grid()}))),
    };
    let result = result.unwrap_or_else(|error| panic!("{error}"));
    if let (Some(path), Some(result)) = (out, result) {
        fs::write(path, result.to_string()).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    finish(true);
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Seconds of an all_reduce of so many numbers.
fn all_reduce(line: &dyn Communicator, numbers: usize) -> f64 {
    let mut x = vec![1.0; numbers];
    let calls = (1 << 22) / (numbers + (1 << 14));
    let mut once = || {
        let start = Instant::now();
        line.all_reduce(&mut x).unwrap_or_else(|error| panic!("{error}"));
        start.elapsed().as_secs_f64()
    };
    (0..calls / 8).for_each(|_| _ = once());
    median((0..calls).map(|_| once()).collect())
}

fn row(comm: &str, ranks: usize, numbers: usize, seconds: f64) -> Value {
    println!("all_reduce, {comm}, {ranks} ranks: {numbers:>8} numbers {:>9.1} µs", seconds * 1e6);
    json!({"comm": comm, "ranks": ranks, "numbers": numbers, "seconds": seconds})
}

fn over_threads() -> Vec<Value> {
    let mut rows = Vec::new();
    for ranks in [2, 4] {
        for numbers in NUMBERS {
            let lines = Threads::group(0..ranks, Duration::from_secs(60));
            let seconds = thread::scope(|scope| {
                let run = |line: Threads| scope.spawn(move || all_reduce(&line, numbers));
                let running: Vec<_> = lines.into_iter().map(run).collect();
                let seconds = running.into_iter().map(|rank| rank.join().expect("a rank")).collect();
                median(seconds)
            });
            rows.push(row("threads", ranks, numbers, seconds));
        }
    }
    rows
}

/// The same in processes; rank 0 tells.
fn over_mpi() -> Result<Option<Value>> {
    let ranks = processes_here().unwrap_or(1);
    let lines = mpi_lines(Topology { tensor: ranks, pipeline: 1 }, TIMEOUT)?;
    let seconds: Vec<f64> = NUMBERS.iter().map(|numbers| all_reduce(&*lines.world, *numbers)).collect();
    let rows =
        || NUMBERS.iter().zip(&seconds).map(|(numbers, seconds)| row("mpi", ranks, *numbers, *seconds));
    Ok((lines.rank() == 0).then(|| json!({"all_reduce": rows().collect::<Vec<_>>()})))
}

/// Tokens a second of a prompt and of decode steps, and what ranks did for it, for every cut.
fn grid() -> Vec<Value> {
    let dir = env::temp_dir().join("stairwell-bench-step7");
    fs::create_dir_all(&dir).expect("a folder for config.json");
    fs::write(dir.join("config.json"), QWEN3_0_6B).expect("config.json");
    let mut seconds = vec![(Vec::new(), Vec::new()); CUTS.len()];
    let (mut bubbles, mut reports) = (vec![Vec::new(); CUTS.len()], vec![None; CUTS.len()]);
    for _ in 0..ROUNDS {
        for (i, cut) in CUTS.iter().enumerate() {
            let measured = on_its_cores(Directory::Disk(dir.clone()), *cut);
            seconds[i].0.push(measured.prefill);
            seconds[i].1.push(measured.decode);
            bubbles[i].push(measured.bubble);
            reports[i] = Some(measured);
        }
    }
    let measured = seconds.into_iter().zip(bubbles).zip(reports);
    let rows = CUTS.iter().zip(measured);
    rows.map(|(cut, (((prefill, decode), bubble), last))| {
        let last = last.map(|last: Measured| Measured { bubble: median(bubble), ..last });
        grid_row(*cut, median(prefill), median(decode), last)
    })
    .collect()
}

fn grid_row(
    (tp, pp, micro_batches): (usize, usize, Option<usize>),
    prefill: f64,
    decode: f64,
    last: Option<Measured>,
) -> Value {
    let said = last.as_ref().map_or(Traffic::default(), |measured| measured.said);
    let (prefill, decode) = (PROMPT as f64 / prefill, (SEQUENCES * STEPS) as f64 / decode);
    let bubble = last.as_ref().map_or(0.0, |measured| measured.bubble);
    let formula = (pp - 1) as f64 / (micro_batches.unwrap_or(1) + pp - 1) as f64;
    let pieces = micro_batches.unwrap_or(1);
    println!(
        "tp {tp}, pp {pp}, micro-batches {pieces}: prefill {prefill:6.1} tok/s, decode {decode:5.1} tok/s, the prefill's bubble {bubble:.2}, by the formula {formula:.2}"
    );
    json!({
        "tp": tp,
        "pp": pp,
        "micro_batches": micro_batches.unwrap_or(1),
        "prefill_tokens_per_second": prefill,
        "decode_tokens_per_second": decode,
        "bubble": bubble,
        "bubble_formula": formula,
        "all_reduces": said.all_reduces,
        "all_reduce_bytes": said.all_reduce_bytes,
        "weight_bytes": last.as_ref().map(|measured| measured.weights.held),
        "weight_bytes_copied": last.as_ref().map(|measured| measured.weights.copied),
    })
}

#[derive(Clone)]
struct Measured {
    prefill: f64,
    decode: f64,
    /// The part of the prefill's time in which a stage waited, as a mean over the stages.
    bubble: f64,
    /// What rank 0 said in the prefill, and what it holds.
    said: Traffic,
    weights: Weights,
}

/// Rank 0 has as many threads as the others.
fn on_its_cores(
    directory: Directory,
    (tensor, pipeline, micro_batches): (usize, usize, Option<usize>),
) -> Measured {
    let topology = Topology { tensor, pipeline };
    let threads = threads_of_a_rank(topology.world_size());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    pool.install(|| {
        let format = LoadFormat::Dummy;
        let setup = Setup { format, micro_batches, ..Setup::new(directory, topology) };
        let kv = KvOptions {
            max_num_seqs: Some(SEQUENCES),
            max_model_len: Some(PROMPT + STEPS + 1),
            ..KvOptions::default()
        };
        let workload = Workload { max_length: None, kv };
        measure(in_threads(Cpu::default(), &setup, workload, None).unwrap_or_else(|error| panic!("{error}")))
    })
}

fn measure(mut leader: Leader<Cpu>) -> Measured {
    let blocks = (PROMPT + STEPS + 1).div_ceil(16) as u32;
    let table = |i: u32| (i * blocks..(i + 1) * blocks).collect::<Vec<u32>>();
    let forward = |leader: &mut Leader<Cpu>, tokens: usize, start: usize, sequences: usize| {
        let mut batch = Batch::default();
        for i in 0..sequences {
            batch.push(&vec![17 + i as u32; tokens], start, &table(i as u32));
        }
        let started = Instant::now();
        leader.logits(&batch).unwrap_or_else(|error| panic!("{error}"));
        started.elapsed().as_secs_f64()
    };
    forward(&mut leader, 1, 0, SEQUENCES); // pages are touched, workspaces are filled
    let report = |leader: &mut Leader<Cpu>| leader.ranks().unwrap_or_else(|error| panic!("{error}"));
    let before = report(&mut leader);
    let prefill = forward(&mut leader, PROMPT, 0, 1);
    let after = report(&mut leader);
    let busy = |report: &RanksReport| -> f64 {
        report.ranks.iter().filter(|rank| rank.slice == 0).map(|rank| rank.busy_seconds).sum()
    };
    let said = after.ranks[0].traffic - before.ranks[0].traffic;
    let bubble = 1.0 - (busy(&after) - busy(&before)) / (after.pipeline_parallel as f64 * prefill);
    let decode = (0..STEPS).map(|step| forward(&mut leader, 1, 1 + step, SEQUENCES)).sum();
    Measured { prefill, decode, bubble, said, weights: leader.runner.weights }
}
