//! Who is alive: every process tells every other one twice a second, from a thread of its own.
//!
//! A collective of MPI does not say who is missing, and does not end if somebody is. So a rank that computes for long is told from one whose process was
//! stopped or whose machine is gone by its heartbeat, and a rank that can't go on says why in it.

use super::{comm::Comm, pending::Pending};
use crate::error::{Error, Result};
use crate::parallel::task::{decode, encode};
use mpi::{point_to_point::Source, traits::*};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};
use std::{ops::Range, sync::atomic::Ordering::Relaxed, thread};

/// Between two beats.
const BEAT: Duration = Duration::from_millis(500);
/// Between two looks at what has come.
const LOOK: Duration = Duration::from_millis(50);
/// A process that has not been heard of for so long is taken for dead.
const SILENCE: Duration = Duration::from_secs(10);

/// The message of a heartbeat.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Beat {
    /// Operations that it has begun.
    calls: u64,
    failed: Option<Failure>,
}

/// Who can't go on, and why; no reason for one that is silent.
type Failure = (usize, Option<String>);

/// When this process last listened, and when it last heard of each rank.
struct Seen {
    listened: Instant,
    heard: Vec<Instant>,
}

impl Seen {
    /// Whether this process itself was stopped, or had no time to listen: then it can't tell who is silent.
    fn was_away(&self) -> bool {
        self.listened.elapsed() > SILENCE / 2
    }
}

/// What is known of all ranks.
pub struct Heartbeat {
    me: usize,
    seen: Mutex<Seen>,
    calls: Vec<AtomicU64>,
    failed: Mutex<Option<Failure>>,
    stopped: AtomicBool,
}

impl Heartbeat {
    /// All of them are here now.
    pub fn new(me: usize, world_size: usize) -> Heartbeat {
        Heartbeat {
            me,
            seen: Mutex::new(Seen { listened: Instant::now(), heard: vec![Instant::now(); world_size] }),
            calls: (0..world_size).map(|_| AtomicU64::new(0)).collect(),
            failed: Mutex::default(),
            stopped: AtomicBool::new(false),
        }
    }

    /// Beats and listens until it is stopped.
    pub fn run(&self, comm: &Comm) {
        let mut sent: Vec<Option<Pending>> = self.calls.iter().map(|_| None).collect();
        let (mut last, mut told) = (None::<Instant>, false);
        while !self.stopped.load(Relaxed) {
            self.listen(comm);
            let failed = self.failed();
            let news = failed.is_some() && !told;
            if news || last.is_none_or(|last| last.elapsed() >= BEAT) {
                let beat = encode(&Beat { calls: self.calls[self.me].load(Relaxed), failed });
                for (rank, sent) in sent.iter_mut().enumerate().filter(|(rank, _)| *rank != self.me) {
                    // Who does not take the last one gets no more.
                    if sent.as_mut().is_none_or(Pending::is_done) {
                        *sent = Some(Pending::send(comm, rank as i32, beat.clone()));
                    }
                }
                (last, told) = (Some(Instant::now()), told || news);
            }
            thread::sleep(LOOK);
        }
    }

    fn listen(&self, comm: &Comm) {
        let mut seen = self.seen.lock();
        if seen.was_away() {
            seen.heard.fill(Instant::now());
        }
        seen.listened = Instant::now();
        while let Some(message) = comm.0.any_process().immediate_matched_probe() {
            let (beat, status) = message.matched_receive_vec::<u8>();
            let rank = status.source_rank() as usize;
            seen.heard[rank] = Instant::now();
            let Ok(Beat { calls, failed }) = decode(&beat) else { continue };
            self.calls[rank].store(calls, Relaxed);
            if let Some((rank, why)) = failed {
                self.fail(rank, why);
            }
        }
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// A rank can't go on; the first one counts.
    pub fn fail(&self, rank: usize, why: Option<String>) {
        self.failed.lock().get_or_insert((rank, why));
    }

    fn failed(&self) -> Option<Failure> {
        self.failed.lock().clone()
    }

    /// This rank begins an operation.
    pub fn calls(&self) {
        self.calls[self.me].fetch_add(1, Relaxed);
    }

    /// The rank of a group that has begun the fewest operations: it is the one that the others wait for.
    pub fn last_of(&self, group: Range<usize>) -> Option<usize> {
        group.min_by_key(|rank| self.calls[*rank].load(Relaxed))
    }

    /// Whether all can go on.
    ///
    /// # Errors
    /// If one can't, or has not been heard of for long.
    pub fn check(&self) -> Result<()> {
        let silent = {
            let seen = self.seen.lock();
            let is_silent = |rank: &usize| *rank != self.me && seen.heard[*rank].elapsed() > SILENCE;
            (0..seen.heard.len()).filter(|_| !seen.was_away()).find(is_silent)
        };
        if let Some(rank) = silent {
            self.fail(rank, None);
        }
        match self.failed() {
            None => Ok(()),
            Some((rank, Some(why))) => Err(Error::RankFailed { rank, why }),
            Some((rank, None)) => Err(Error::RankSilent { rank, seconds: SILENCE.as_secs() }),
        }
    }
}
