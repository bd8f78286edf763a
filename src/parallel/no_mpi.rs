//! The place of `mpi/` in builds without MPI.

use super::{Lines, Topology};
use crate::error::{Error, Result};
use std::time::Duration;

/// There are processes with the feature `mpi`.
///
/// # Errors
/// Always.
pub fn mpi_lines(_topology: Topology, _timeout: Duration) -> Result<Lines> {
    Err(Error::Usage(
        "--comm mpi: it is not in this build; build with --features full,mpi where Open MPI is installed (libopenmpi-dev, libclang-dev)"
            .into(),
    ))
}

/// Whether it is for this process to say what went wrong: there is no other.
pub fn speaks(_error: &Error) -> bool {
    true
}

/// Ends what ranks have begun together: nothing.
pub fn finish(_well: bool) {}
