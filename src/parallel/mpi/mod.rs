//! Ranks that are processes, started by mpirun on one machine or several.
//!
//! Every operation is one of MPI's that return at once, and is then asked for its end until it comes: so a rank that hangs or is gone is noticed
//! (`heartbeat`), and nobody waits for it for ever. Sums are taken here, from what all ranks have, in their order: `MPI_Allreduce` leaves the order to the
//! implementation, and with it the last bits.

mod comm;
mod heartbeat;
mod pending;
mod session;

pub use session::{finish, mpi_lines, speaks};

use super::communicator::{bytes, no_root, numbers, other};
use super::{Communicator, threads::late};
use crate::error::{Error, Result};
use crate::{engine::Traffic, model::Rank};
use comm::Comm;
use heartbeat::Heartbeat;
use mpi::topology::Communicator as _;
use mpi::traits::*;
use mpi::{collective::CommunicatorCollectives, point_to_point::Source, request::Request};
use parking_lot::Mutex;
use pending::{Buffer, Pending};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{mem, thread};

/// Waits shorter than this are spent asking, without sleep.
const EAGER: Duration = Duration::from_millis(2);
/// Sleep between two questions afterwards.
const NAP: Duration = Duration::from_micros(50);

/// Bytes of one broadcast: MPI counts in 32 bits, and a matrix of new weights may have more.
const LARGEST: usize = 1 << 30;

/// See the module's documentation.
pub struct Mpi {
    comm: Comm,
    rank: Rank,
    /// The number among all of this group's first rank: groups are consecutive.
    first: usize,
    /// The longest time that ranks wait for each other. A rank that waits for work has no limit, as long as the others are alive.
    timeout: Option<Duration>,
    heartbeat: Arc<Heartbeat>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    traffic: Traffic,
    /// Messages that are not known to have come.
    sent: Vec<Pending>,
}

impl Mpi {
    fn new(comm: Comm, first: usize, timeout: Duration, heartbeat: Arc<Heartbeat>) -> Mpi {
        let rank = Rank { rank: comm.0.rank() as usize, world_size: comm.0.size() as usize };
        Mpi { comm, rank, first, timeout: Some(timeout), heartbeat, state: Mutex::default() }
    }

    // ANCHOR: wait
    /// Asks until `done` gives something, as long as everybody's heart beats, and for at most `timeout` where there is one.
    fn poll<T>(
        &self,
        call: &str,
        timeout: Option<Duration>,
        mut done: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let start = Instant::now();
        self.heartbeat.calls();
        loop {
            if let Some(result) = done() {
                return Ok(result);
            }
            let waited = start.elapsed();
            if waited < EAGER {
                thread::yield_now();
                continue;
            }
            self.heartbeat.check()?;
            if let Some(timeout) = timeout.filter(|timeout| waited > *timeout) {
                let group = self.first..self.first + self.rank.world_size;
                return Err(late(self.heartbeat.last_of(group), call, timeout));
            }
            thread::sleep(NAP);
        }
    }
    // ANCHOR_END: wait

    /// Waits for the end of a request. If the end does not come, MPI keeps the request and its buffers, so they are never freed.
    fn complete<D: ?Sized>(
        &self,
        call: &str,
        timeout: Option<Duration>,
        request: Request<'static, D, ::mpi::request::StaticScope>,
    ) -> Result<()> {
        let mut open = Some(request);
        let done = self.poll(call, timeout, || match open.take()?.test() {
            Ok(_) => Some(()),
            Err(request) => {
                open = Some(request);
                None
            }
        });
        mem::forget(open);
        done
    }

    /// The bytes of every rank, one after the other. All ranks give the same number of bytes.
    fn gather(&self, call: &str, mine: &[u8]) -> Result<Vec<u8>> {
        let mine = Buffer::of(mine.to_vec());
        let all = Buffer::of(vec![0; mine.len() * self.rank.world_size]);
        let request =
            self.comm.0.immediate_all_gather_into(::mpi::request::StaticScope, mine.get(), all.get_mut());
        self.complete(call, self.timeout, request)?;
        drop(mine.back());
        Ok(all.back())
    }

    fn broadcast_exactly(&self, root: usize, data: Vec<u8>) -> Result<Vec<u8>> {
        let data = Buffer::of(data);
        let root = self.comm.0.process_at_rank(root as i32);
        for piece in data.get_mut().chunks_mut(LARGEST) {
            let request = root.immediate_broadcast_into(::mpi::request::StaticScope, piece);
            self.complete("broadcast", None, request)?;
        }
        Ok(data.back())
    }
}

impl Communicator for Mpi {
    fn name(&self) -> &'static str {
        "mpi"
    }

    fn rank(&self) -> Rank {
        self.rank
    }

    fn all_reduce(&self, x: &mut [f32]) -> Result<()> {
        let call = format!("all_reduce of {} numbers", x.len());
        let all = if x.is_empty() { Vec::new() } else { self.gather(&call, &bytes(x))? };
        let size = size_of_val(x);
        x.fill(0.0);
        for theirs in all.chunks_exact(size.max(1)) {
            x.iter_mut().zip(numbers(theirs)).for_each(|(sum, number)| *sum += number);
        }
        self.count(Traffic::all_reduce(size));
        Ok(())
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        let lengths = self.gather("all_gather", &(mine.len() as u64).to_le_bytes())?;
        let lengths = lengths.as_chunks::<8>().0.iter().map(|n| u64::from_le_bytes(*n) as usize);
        let longest = lengths.clone().max().unwrap_or(0).max(1);
        let mut padded = mine.to_vec();
        padded.resize(longest, 0);
        let all = self.gather("all_gather", &padded)?;
        self.count(Traffic::all_gather(mine.len()));
        Ok(all.chunks_exact(longest).zip(lengths).map(|(theirs, n)| theirs[..n].to_vec()).collect())
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
        if root >= self.rank.world_size {
            return Err(no_root(root, self.rank));
        }
        let length = self.broadcast_exactly(root, (bytes.len() as u64).to_le_bytes().to_vec())?;
        let length = u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize;
        bytes.resize(length, 0);
        *bytes = self.broadcast_exactly(root, mem::take(bytes))?;
        self.count(Traffic { broadcasts: 1, ..Traffic::default() });
        Ok(())
    }

    fn send(&self, to: usize, bytes: Vec<u8>) -> Result<()> {
        let to = other(self.rank, to)? as i32;
        self.count(Traffic::send(bytes.len()));
        let sent = &mut self.state.lock().sent;
        sent.retain_mut(|message| !message.is_done());
        sent.push(Pending::send(&self.comm, to, bytes));
        Ok(())
    }

    fn recv(&self, from: usize) -> Result<Vec<u8>> {
        let from = self.comm.0.process_at_rank(other(self.rank, from)? as i32);
        let (message, status) = self.poll("send", self.timeout, || from.immediate_matched_probe())?;
        let length = status.count(u8::equivalent_datatype()) as usize;
        let data = Buffer::of(vec![0; length]);
        let request = message.immediate_matched_receive_into(::mpi::request::StaticScope, data.get_mut());
        self.complete("send", self.timeout, request)?;
        Ok(data.back())
    }

    fn barrier(&self) -> Result<()> {
        self.complete("barrier", self.timeout, self.comm.0.immediate_barrier())
    }

    fn fail(&self, error: &Error) {
        match error {
            Error::RankSilent { .. } => {} // everybody hears that by himself
            Error::RankFailed { rank, why } => self.heartbeat.fail(*rank, Some(why.clone())),
            own => self.heartbeat.fail(self.first + self.rank.rank, Some(own.to_string())),
        }
    }

    fn count(&self, more: Traffic) {
        let mut state = self.state.lock();
        state.traffic = state.traffic + more;
    }

    fn traffic(&self) -> Traffic {
        self.state.lock().traffic
    }
}
