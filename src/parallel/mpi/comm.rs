//! A communicator of MPI's that any thread may use.

use mpi::topology::SimpleCommunicator;

/// A communicator of MPI's. It is never freed: that would wait for all ranks, and MPI's end frees it.
#[derive(Clone, Copy)]
pub struct Comm(pub &'static SimpleCommunicator);

// SAFETY: MPI was started with MPI_THREAD_MULTIPLE, so any thread may call it, several at a time.
unsafe impl Send for Comm {}
// SAFETY: as above.
unsafe impl Sync for Comm {}

impl Comm {
    /// A communicator that lives as long as the process.
    pub fn of(comm: SimpleCommunicator) -> Comm {
        Comm(Box::leak(Box::new(comm)))
    }
}
