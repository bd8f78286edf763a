//! Ranks that are threads of one process. They meet in one place: each brings what it has, and when all have come, each takes what all brought.

use super::communicator::{no_root, other};
use super::{Communicator, Lines, Topology};
use crate::error::{Error, Result};
use crate::{engine::Traffic, model::Rank};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::{collections::VecDeque, sync::Arc};

/// See the module's documentation. When a rank's line is dropped before the others are done, they are told.
pub struct Threads {
    rank: Rank,
    place: Arc<Place>,
    traffic: Mutex<Traffic>,
    /// The numbers that this rank brought to its last two sums. When it comes to the next sum, all ranks have read the first of them, so its memory is used
    /// again: fresh memory of this size costs more than the sum.
    brought: Mutex<[Arc<Vec<f32>>; 2]>,
}

/// The place where ranks meet.
struct Place {
    /// The ranks' numbers among all, which messages name.
    names: Vec<usize>,
    timeout: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Meetings that are over.
    meetings: u64,
    /// The data that each rank has brought to the meeting that goes on.
    brought: Vec<Option<Brought>>,
    /// The data that all ranks brought to the last meeting.
    all: Arc<Vec<Brought>>,
    /// Messages on their way, by sender and receiver.
    mail: Vec<Vec<VecDeque<Vec<u8>>>>,
    /// The rank that can't go on, and why.
    failed: Option<(usize, String)>,
    /// Whether each rank's line was dropped.
    gone: Vec<bool>,
}

/// An operation that a rank calls, with its data.
#[derive(Clone, Debug, PartialEq)]
enum Brought {
    AllReduce(Arc<Vec<f32>>),
    AllGather(Vec<u8>),
    Broadcast { root: usize, bytes: Vec<u8> },
    Barrier,
}

impl Brought {
    /// What must be alike in all ranks.
    fn call(&self) -> String {
        match self {
            Brought::AllReduce(x) => format!("all_reduce of {} numbers", x.len()),
            Brought::AllGather(_) => "all_gather".into(),
            Brought::Broadcast { root, .. } => format!("broadcast from rank {root}"),
            Brought::Barrier => "barrier".into(),
        }
    }
}

impl Threads {
    /// The lines of a group of ranks. Messages call them by these numbers. To wait longer than `timeout` for somebody is an error.
    pub fn group(names: impl IntoIterator<Item = usize>, timeout: Duration) -> Vec<Threads> {
        let names: Vec<usize> = names.into_iter().collect();
        let world_size = names.len();
        let state = State {
            brought: vec![None; world_size],
            mail: vec![vec![VecDeque::new(); world_size]; world_size],
            gone: vec![false; world_size],
            ..State::default()
        };
        let place = Arc::new(Place { names, timeout, state: Mutex::new(state), changed: Condvar::new() });
        let line = |rank| Threads {
            rank: Rank { rank, world_size },
            place: place.clone(),
            traffic: Mutex::default(),
            brought: Mutex::default(),
        };
        (0..world_size).map(line).collect()
    }

    /// The lines of all ranks that share a model.
    pub fn lines(topology: Topology, timeout: Duration) -> Vec<Lines> {
        let group = |ranks| Threads::group(ranks, timeout).into_iter().map(|line| Arc::new(line) as Arc<_>);
        let world = group(0..topology.world_size());
        let stages = (0..topology.pipeline).flat_map(|stage| group(topology.ranks_of(stage)));
        let line = |(number_here, (world, stage))| {
            let here = topology.world_size();
            Lines { topology, world, stage, here, number_here }
        };
        world.zip(stages).enumerate().map(line).collect()
    }

    // ANCHOR: meet
    /// Brings something, and gives what all ranks brought, in their order.
    fn meet(&self, mine: Brought) -> Result<Arc<Vec<Brought>>> {
        let (call, me) = (mine.call(), self.rank.rank);
        let mut state = self.place.state.lock();
        let meeting = state.meetings;
        state.brought[me] = Some(mine);
        if state.brought.iter().all(Option::is_some) {
            // The others have taken what was there before: each took it before it came here.
            state.all = Arc::new(state.brought.iter_mut().filter_map(Option::take).collect());
            state.meetings += 1;
            self.place.changed.notify_all();
        } else {
            let missing =
                |state: &State| (0..state.brought.len()).find(|rank| state.brought[*rank].is_none());
            let deadline = (!matches!(state.brought[me], Some(Brought::Broadcast { .. })))
                .then(|| Instant::now() + self.place.timeout);
            state = self.wait(state, &call, deadline, missing, |state| state.meetings > meeting)?;
        }
        let all = state.all.clone();
        match all.iter().position(|theirs| theirs.call() != call) {
            None => Ok(all),
            Some(other) => Err(Error::Parallel(format!(
                "rank {} calls {call}, and rank {} {}: they have drifted apart",
                self.place.names[me],
                self.place.names[other],
                all[other].call()
            ))),
        }
    }
    // ANCHOR_END: meet

    /// Waits until something is true; `missing` is who has to come.
    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        call: &str,
        deadline: Option<Instant>,
        missing: impl Fn(&State) -> Option<usize>,
        there: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'a, State>> {
        let name = |rank: usize| self.place.names[rank];
        loop {
            if there(&state) {
                return Ok(state);
            }
            if let Some((rank, why)) = &state.failed {
                return Err(Error::RankFailed { rank: *rank, why: why.clone() });
            }
            let who = missing(&state);
            if let Some(rank) = who.filter(|rank| state.gone[*rank]) {
                let rank = name(rank);
                return Err(Error::Parallel(format!(
                    "rank {rank} has ended, and others wait for it in {call}"
                )));
            }
            let left = deadline.map_or(BETWEEN_LOOKS, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(late(who.map(name), call, self.place.timeout));
            }
            self.place.changed.wait_for(&mut state, left);
        }
    }

    /// A copy of x, in memory that was used before.
    fn bring(&self, x: &[f32]) -> Arc<Vec<f32>> {
        let mut brought = self.brought.lock();
        brought.reverse();
        match Arc::get_mut(&mut brought[0]) {
            Some(numbers) => {
                numbers.clear();
                numbers.extend_from_slice(x);
            }
            None => brought[0] = Arc::new(x.to_vec()),
        }
        brought[0].clone()
    }
}

impl Communicator for Threads {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn rank(&self) -> Rank {
        self.rank
    }

    fn all_reduce(&self, x: &mut [f32]) -> Result<()> {
        let all = self.meet(Brought::AllReduce(self.bring(x)))?;
        x.fill(0.0);
        for brought in all.iter() {
            let Brought::AllReduce(theirs) = brought else { unreachable!("`meet` compares calls") };
            x.iter_mut().zip(&**theirs).for_each(|(sum, number)| *sum += number);
        }
        self.count(Traffic::all_reduce(size_of_val(x)));
        Ok(())
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        let all = self.meet(Brought::AllGather(mine.to_vec()))?;
        self.count(Traffic::all_gather(mine.len()));
        let theirs = |brought: &Brought| match brought {
            Brought::AllGather(theirs) => theirs.clone(),
            _ => unreachable!("`meet` compares calls"),
        };
        Ok(all.iter().map(theirs).collect())
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
        let mine = if root == self.rank.rank { bytes.clone() } else { Vec::new() };
        let all = self.meet(Brought::Broadcast { root, bytes: mine })?;
        let Some(Brought::Broadcast { bytes: theirs, .. }) = all.get(root) else {
            return Err(no_root(root, self.rank));
        };
        bytes.clone_from(theirs);
        self.count(Traffic { broadcasts: 1, ..Traffic::default() });
        Ok(())
    }

    fn send(&self, to: usize, bytes: Vec<u8>) -> Result<()> {
        let to = other(self.rank, to)?;
        self.count(Traffic::send(bytes.len()));
        self.place.state.lock().mail[self.rank.rank][to].push_back(bytes);
        self.place.changed.notify_all();
        Ok(())
    }

    fn recv(&self, from: usize) -> Result<Vec<u8>> {
        let (from, me) = (other(self.rank, from)?, self.rank.rank);
        let there = |state: &State| !state.mail[from][me].is_empty();
        let deadline = Some(Instant::now() + self.place.timeout);
        let mut state = self.wait(self.place.state.lock(), "send", deadline, |_| Some(from), there)?;
        Ok(state.mail[from][me].pop_front().expect("a message is there"))
    }

    fn barrier(&self) -> Result<()> {
        self.meet(Brought::Barrier).map(drop)
    }

    fn fail(&self, error: &Error) {
        let failed = match error {
            Error::RankFailed { rank, why } => (*rank, why.clone()),
            own => (self.place.names[self.rank.rank], own.to_string()),
        };
        self.place.state.lock().failed.get_or_insert(failed);
        self.place.changed.notify_all();
    }

    fn count(&self, more: Traffic) {
        let mut traffic = self.traffic.lock();
        *traffic = *traffic + more;
    }

    fn traffic(&self) -> Traffic {
        *self.traffic.lock()
    }
}

/// Between two looks at who is still there.
const BETWEEN_LOOKS: Duration = Duration::from_secs(60);

/// Somebody did not come in time.
pub(super) fn late(rank: Option<usize>, call: &str, timeout: Duration) -> Error {
    let rank = rank.map_or("a rank".into(), |rank| format!("rank {rank}"));
    let seconds = timeout.as_secs_f64();
    Error::Parallel(format!(
        "{rank} did not come to {call} within {seconds} s; it hangs, or it is slow and needs a longer --comm-timeout"
    ))
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.place.state.lock().gone[self.rank.rank] = true;
        self.place.changed.notify_all();
    }
}
