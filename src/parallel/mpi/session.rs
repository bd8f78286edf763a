//! MPI's beginning and end in this process. There is one of each.

use super::{Mpi, comm::Comm, heartbeat::Heartbeat};
use crate::error::{Error, Result};
use crate::model::Rank;
use crate::parallel::processes::{processes_here, told};
use crate::parallel::{Lines, Topology};
use mpi::{Threading, environment::Universe, topology::Color, traits::*};
use parking_lot::Mutex;
use std::{sync::Arc, thread, thread::JoinHandle, time::Duration};

/// What was begun.
struct Session {
    universe: Universe,
    heartbeat: Arc<Heartbeat>,
    thread: JoinHandle<()>,
    world: Arc<Mpi>,
}

static SESSION: Mutex<Option<Session>> = Mutex::new(None);

/// How long others are given to hear why this process ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Session {
    fn begin(timeout: Duration) -> Result<Session> {
        let begun = mpi::initialize_with_threading(Threading::Multiple);
        let (universe, threading) = begun.ok_or_else(|| Error::Parallel("MPI was started before".into()))?;
        if threading != Threading::Multiple {
            let message =
                "this MPI library can't be called by several threads (MPI_THREAD_MULTIPLE); use one that can";
            return Err(Error::Parallel(message.into()));
        }
        let world = universe.world();
        let heartbeat = Arc::new(Heartbeat::new(world.rank() as usize, world.size() as usize));
        let (beats, beating) = (Comm::of(world.duplicate()), heartbeat.clone());
        let thread = thread::Builder::new().name("heartbeat".into()).spawn(move || beating.run(&beats));
        let thread = thread.map_err(|e| Error::Parallel(format!("no thread for the heartbeat: {e}")))?;
        let world = Arc::new(Mpi::new(Comm::of(world.duplicate()), 0, timeout, heartbeat.clone()));
        Ok(Session { universe, heartbeat, thread, world })
    }
}

/// This process's lines to the others that mpirun has started with it. All of them ask for the same.
///
/// # Errors
/// If they are not as many as the topology has ranks, or MPI can't be used by several threads.
pub fn mpi_lines(topology: Topology, timeout: Duration) -> Result<Lines> {
    let mut session = SESSION.lock();
    let session = match &mut *session {
        Some(session) => session,
        none => none.insert(Session::begin(timeout)?),
    };
    let Rank { rank: me, world_size: processes } = session.world.rank;
    let ranks = topology.world_size();
    if processes != ranks && me > 0 {
        let why = "it was told a number of ranks that is not that of the processes".into();
        return Err(Error::RankFailed { rank: 0, why });
    }
    if processes != ranks {
        let Topology { tensor, pipeline } = topology;
        return Err(Error::Usage(format!(
            "--comm mpi: --tp {tensor} --pp {pipeline} is {ranks} ranks, and mpirun has started {processes} processes; give mpirun -n {ranks}"
        )));
    }
    let number = topology.stage(me);
    let stage = session.universe.world().split_by_color(Color::with_value(number as i32)).expect("a color");
    let first = topology.ranks_of(number).start;
    let stage = Arc::new(Mpi::new(Comm::of(stage), first, timeout, session.heartbeat.clone()));
    let (here, number_here) = (processes_here().unwrap_or(ranks), told("LOCAL_RANK").unwrap_or(0));
    Ok(Lines { topology, world: session.world.clone(), stage, here, number_here })
}

/// Whether it is for this process to say what went wrong, and not for another one: rank 0 speaks for all, or rank 1 where that is silent. What a rank
/// has met itself it says in any case: others may not come to it before the end.
pub fn speaks(error: &Error) -> bool {
    let me = SESSION.lock().as_ref().map_or(0, |session| session.world.rank.rank);
    match error {
        Error::RankSilent { rank: 0, .. } => me == 1,
        Error::RankSilent { .. } | Error::RankFailed { .. } | Error::Parallel(_) => me == 0,
        _ => true,
    }
}

/// Ends MPI, if it was begun: together with the others if all went well, or else at once, which ends them too.
pub fn finish(well: bool) {
    let begun = SESSION.lock().take();
    let Some(Session { universe, heartbeat, thread, world }) = begun else { return };
    if well && crate::parallel::Communicator::barrier(&*world).is_ok() {
        heartbeat.stop();
        let _ = thread.join();
        return drop(universe);
    }
    thread::sleep(LAST_WORDS);
    universe.world().abort(1);
}
