//! The variables by which mpirun tells a process its number, before MPI is started.

use super::Topology;
use crate::error::{Error, Result};
use std::env;

/// A number that Open MPI's mpirun puts into the environment of a process that it starts.
pub(super) fn told(name: &str) -> Option<usize> {
    env::var(format!("OMPI_COMM_WORLD_{name}")).ok()?.parse().ok()
}

/// How many processes mpirun has started on this machine.
pub fn processes_here() -> Option<usize> {
    told("LOCAL_SIZE")
}

/// Checks that ranks which are threads are not started by mpirun: each of its processes would have all of them.
///
/// # Errors
/// [`Error::Usage`], if they are.
pub fn check_alone(topology: Topology) -> Result<()> {
    match told("SIZE") {
        Some(processes) if processes > 1 && topology != Topology::ALONE => Err(Error::Usage(format!(
            "mpirun has started {processes} processes, and each would have {} ranks of its own; give --comm mpi too",
            topology.world_size()
        ))),
        _ => Ok(()),
    }
}
