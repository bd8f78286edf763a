//! The contracts of step 7, for the exercises of chapter 7: which part of a weight a rank holds, and a sum over ranks that goes round in a ring.

use super::story::{Storyteller, check_story};
use stairwell::{
    attention::KvOptions,
    backend::{Backend, Slice, cpu::Cpu},
    checkpoint::StateDict,
    demo,
    engine::{Continuous, Engine, Limits},
    error::{Error, Result},
    generate::GenerateParams,
    model::Rank,
    parallel::{Communicator, Leader, Lines, Setup, Threads, Topology, Traffic, Workload, follow},
    runner::ModelRunner,
};
use std::{ops::Range, sync::Arc, thread, time::Duration};

/// How a weight, stored [outputs, inputs], is cut among ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Column-parallel: by outputs. Where they don't divide, the last ranks have fewer, or none.
    Column,
    /// Row-parallel: by inputs. Where they don't divide, as for outputs.
    Row,
    /// K or V: by whole heads of so many outputs. Where ranks outnumber heads, neighbours hold the same one.
    KvHeads { head_dim: usize },
}

/// Which rows and columns of a weight, stored [rows, cols], a rank holds.
pub type Slicer = fn(cut: Cut, rows: usize, cols: usize, rank: Rank) -> (Range<usize>, Range<usize>);

/// Every rank holds its part, and all of them together hold everything.
///
/// # Panics
/// If it is not so.
#[track_caller]
pub fn slice(slice: Slicer) {
    let of = |cut, rows, cols, world_size| -> Vec<(Range<usize>, Range<usize>)> {
        (0..world_size).map(|rank| slice(cut, rows, cols, Rank { rank, world_size })).collect()
    };
    assert_eq!(of(Cut::Column, 8, 6, 1), [(0..8, 0..6)], "one rank alone holds everything");
    let halves = of(Cut::Column, 8, 6, 2);
    assert_ne!(
        halves,
        [(0..8, 0..3), (0..8, 3..6)],
        "column-parallel cuts outputs, and outputs are the rows of a weight as it is stored: did you cut the inputs?"
    );
    assert_ne!(
        halves,
        [(4..8, 0..6), (0..4, 0..6)],
        "the order of ranks: did you take the neighbour's part?"
    );
    assert_eq!(halves, [(0..4, 0..6), (4..8, 0..6)], "column-parallel, [8, 6] on 2 ranks");
    assert_eq!(of(Cut::Row, 6, 8, 2), [(0..6, 0..4), (0..6, 4..8)], "row-parallel, [6, 8] on 2 ranks");

    let vocabulary: Vec<Range<usize>> = of(Cut::Column, 7, 2, 4).into_iter().map(|(rows, _)| rows).collect();
    let held: usize = vocabulary.iter().map(Range::len).sum();
    assert_eq!(held, 7, "rows of 7 that 4 ranks hold together, {vocabulary:?}: did you round down?");
    assert_eq!(
        vocabulary,
        [0..2, 2..4, 4..6, 6..7],
        "7 rows on 4 ranks: the parts are equal but for the last"
    );
    let few: Vec<usize> = of(Cut::Column, 3, 2, 4).into_iter().map(|(rows, _)| rows.len()).collect();
    assert_eq!(
        few,
        [1, 1, 1, 0],
        "3 rows on 4 ranks: how many each holds; the last one has none, and that is no error"
    );

    let inputs: Vec<Range<usize>> = of(Cut::Row, 2, 7, 4).into_iter().map(|(_, cols)| cols).collect();
    assert_eq!(inputs, [0..2, 2..4, 4..6, 6..7], "7 inputs on 4 ranks: did you round down?");

    let heads = Cut::KvHeads { head_dim: 3 };
    assert_eq!(of(heads, 12, 5, 2), [(0..6, 0..5), (6..12, 0..5)], "4 heads of 3 outputs on 2 ranks");
    let shared: Vec<Range<usize>> = of(heads, 6, 5, 4).into_iter().map(|(rows, _)| rows).collect();
    assert!(
        shared.iter().all(|rows| rows.len() == 3),
        "2 heads of 3 outputs on 4 ranks: each needs a whole head, and they hold {shared:?}: did you cut a head?"
    );
    assert_eq!(
        shared,
        [0..3, 0..3, 3..6, 3..6],
        "2 heads of 3 outputs on 4 ranks: neighbours hold the same one"
    );
}

/// Four ranks, each with the parts of the demo's weights that it is told to hold, write the demo story.
///
/// # Panics
/// If they don't.
#[track_caller]
pub fn slices_write_the_story(slice: Slicer) {
    // What is not written yet says so once, and not on every rank.
    slice(Cut::Column, 1, 1, Rank::ALONE);
    check_story(on_ranks(4, |line| Arc::new(line), move |runner, rank| hold(runner, slice, rank)));
}

/// Loads the reader's slices into the parameters of a rank.
fn hold(runner: &mut ModelRunner<Cpu>, slice: Slicer, rank: Rank) -> Result<()> {
    let state_dict = StateDict::open(&demo::directory())?;
    let head_dim = runner.config.head_dim;
    let ModelRunner { model, backend, .. } = runner;
    model.visit(&mut |param| {
        for (part, source) in param.sources.iter().enumerate() {
            let cut = match source.name.rsplit('.').nth(1) {
                Some("k_proj" | "v_proj") => Cut::KvHeads { head_dim },
                Some("q_proj" | "gate_proj" | "up_proj" | "embed_tokens") => Cut::Column,
                Some("o_proj" | "down_proj") => Cut::Row,
                _ => continue,
            };
            let tensor = state_dict.tensor(&source.name).expect("the demo has all its weights");
            let (rows, cols) = tensor.matrix_shape();
            let (rows, cols) = slice(cut, rows, cols, rank);
            let (yours, ours) = ([rows.len(), cols.len()], [source.rows.len(), source.cols.len()]);
            if yours != ours {
                let (name, rank) = (&source.name, rank.rank);
                let message =
                    format!("your part of {name} is {yours:?}, and rank {rank} computes with {ours:?}");
                return Err(Error::Request(message));
            }
            backend.load(&mut param.weight, part, &Slice { tensor, rows, cols, transposed: false }.into())?;
        }
        Ok(())
    })
}

/// The demo model on ranks in threads. `line` makes a rank's line to the others; `ready` is told of each runner once it is loaded.
fn on_ranks(
    ranks: usize,
    line: impl Fn(Threads) -> Arc<dyn Communicator>,
    ready: impl Fn(&mut ModelRunner<Cpu>, Rank) -> Result<()> + Copy + Send + 'static,
) -> Result<Engine<Leader<Cpu>>> {
    let topology = Topology { tensor: ranks, pipeline: 1 };
    let load = move |lines: &Lines| {
        let workload = Workload { max_length: None, kv: KvOptions::default() };
        let setup = Setup::new(demo::directory(), topology);
        let (mut runner, member) = setup.load(Cpu::default(), lines, &workload, None)?;
        ready(&mut runner, topology.slice(lines.rank()))?;
        Ok((runner, member))
    };
    let serve = move |lines: Lines| {
        let served = load(&lines).and_then(|(mut runner, mut member)| follow(&mut runner, &mut member));
        served.unwrap_or_else(|error| lines.fail(&error));
    };
    let groups = Threads::group(0..ranks, PATIENCE).into_iter().zip(Threads::group(0..ranks, PATIENCE));
    let lines = groups.enumerate().map(|(number_here, (world, stage))| {
        let (world, stage) = (Arc::new(world), line(stage));
        Lines { topology, world, stage, here: ranks, number_here }
    });
    let mut lines: Vec<Lines> = lines.collect();
    let others = lines.split_off(1).into_iter().map(|lines| thread::spawn(move || serve(lines))).collect();
    let (runner, member) = load(&lines[0]).inspect_err(|error| lines[0].fail(error))?;
    let limits = Limits { max_num_seqs: 1, max_batched_tokens: 256 };
    Ok(Engine::new(Leader::new(runner, member, None, others), Box::new(Continuous), limits))
}

impl Storyteller for Engine<Leader<Cpu>> {
    fn tell(&mut self, prompt: &[u32], params: &GenerateParams) -> Result<(Vec<u32>, u64)> {
        self.add(prompt.to_vec(), params.clone())?;
        let story = self.run()?.pop().expect("the request has finished");
        Ok((story.output, self.worker.runner.tokens_computed()))
    }
}

/// x becomes the sum over ranks, by `send` and `recv` alone.
pub type AllReduce = fn(line: &dyn Communicator, x: &mut [f32]) -> Result<()>;

/// Long enough for any machine, and short enough for somebody who waits for a message that never comes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Every rank has the sum, and has sent its share of messages and no more.
///
/// # Panics
/// If it is not so.
#[track_caller]
pub fn ring(all_reduce: AllReduce) {
    for (ranks, length) in [(1, 3), (2, 8), (3, 9), (4, 12), (3, 7), (4, 3), (4, 0)] {
        let of = |rank: usize| (0..length).map(move |i| (10 * rank + i) as f32);
        let want: Vec<f32> =
            (0..length).map(|i| (0..ranks).map(|rank| (10 * rank + i) as f32).sum()).collect();
        let lines = Threads::group(0..ranks, PATIENCE);
        let done: Vec<(Result<Vec<f32>>, Traffic)> = thread::scope(|scope| {
            let run = |line: Threads| {
                scope.spawn(move || {
                    let mut x: Vec<f32> = of(line.rank().rank).collect();
                    let done = all_reduce(&line, &mut x);
                    (done.map(|()| x), line.traffic())
                })
            };
            let running: Vec<_> = lines.into_iter().map(run).collect();
            running.into_iter().map(join).collect()
        });
        for (rank, (sum, traffic)) in done.into_iter().enumerate() {
            let place = format!("{length} numbers on {ranks} ranks, rank {rank}");
            let sum =
                sum.unwrap_or_else(|e| panic!("{place}: {e}: does everybody receive what is sent to him?"));
            check_sum(&place, &sum, &want, (ranks, rank));
            check_traffic(&place, traffic, ranks, length);
        }
    }
}

/// What a thread gave, or its panic in this one.
fn join<T>(thread: thread::ScopedJoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[track_caller]
fn check_sum(place: &str, sum: &[f32], want: &[f32], (ranks, rank): (usize, usize)) {
    let Some(at) = sum.iter().zip(want).position(|(got, want)| got != want) else { return };
    let right = sum.iter().zip(want).filter(|(got, want)| got == want).count();
    let own = (10 * rank + at) as f32;
    let hint = match sum[at] {
        got if got == want[at] + own => ": did you add your own numbers twice?",
        _ if right > 0 && right <= want.len().div_ceil(ranks) => {
            ": only a part of it is the sum: did you pass the sums on, all the way round?"
        }
        _ if at >= want.len() / ranks * ranks => {
            ": it is of the last ones, which don't divide: is the last chunk as long as the rest?"
        }
        _ => "",
    };
    panic!("{place}: number {at} is {}, expected {}{hint}", sum[at], want[at]);
}

#[track_caller]
fn check_traffic(place: &str, traffic: Traffic, ranks: usize, length: usize) {
    let Traffic { all_reduces, all_gathers, sends, send_bytes, .. } = traffic;
    assert_eq!(
        (all_reduces, all_gathers),
        (0, 0),
        "{place}: sums and gathers of the line itself; use send and recv"
    );
    let most = 2 * (ranks as u64 - 1);
    let bytes = most * (4 * length.div_ceil(ranks)) as u64;
    assert!(
        send_bytes <= bytes,
        "{place}: {send_bytes} bytes were sent, and a ring needs {bytes}: did you send all numbers each time?"
    );
    assert!(sends <= most, "{place}: {sends} messages were sent, and a ring needs {most}");
}

/// A line whose sums are the reader's.
struct Ring {
    line: Threads,
    all_reduce: AllReduce,
}

impl Communicator for Ring {
    fn name(&self) -> &'static str {
        "ring"
    }
    fn rank(&self) -> Rank {
        self.line.rank()
    }
    fn all_reduce(&self, x: &mut [f32]) -> Result<()> {
        (self.all_reduce)(&self.line, x)
    }
    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.line.all_gather(mine)
    }
    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
        self.line.broadcast(root, bytes)
    }
    fn send(&self, to: usize, bytes: Vec<u8>) -> Result<()> {
        self.line.send(to, bytes)
    }
    fn recv(&self, from: usize) -> Result<Vec<u8>> {
        self.line.recv(from)
    }
    fn barrier(&self) -> Result<()> {
        self.line.barrier()
    }
    fn fail(&self, error: &Error) {
        self.line.fail(error);
    }
    fn count(&self, more: Traffic) {
        self.line.count(more);
    }
    fn traffic(&self) -> Traffic {
        self.line.traffic()
    }
}

/// The demo model on 2 ranks, whose sums are the reader's, writes the demo story.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn ring_writes_the_story(all_reduce: AllReduce) {
    // What is not written yet says so once, and not on every rank.
    let alone = Threads::group(0..1, PATIENCE).remove(0);
    all_reduce(&alone, &mut [1.0]).expect("a rank alone has nothing to wait for");
    check_story(on_ranks(2, |line| Arc::new(Ring { line, all_reduce }), |_, _| Ok(())));
}
