//! Several workers for one model: what they say to each other, and by what means.
//!
//! - [`Communicator`]: what ranks say to each other, the same by every means: [`Threads`] of one process, or processes under MPI (`Mpi`, with the feature
//!   `mpi`);
//! - [`Topology`]: who has which slice and which stage; [`stages()`]: which layers a stage has; [`check_ranks`]: into how many slices a model can be cut;
//! - [`ThroughHost`]: a model's collectives over any communicator, by way of host memory;
//! - [`Setup`]: how a rank loads its part and meets the others; [`in_threads`]: all of them in this process;
//! - [`Leader`]: rank 0, the engine's worker, which leads every pass; [`follow`]: the others;
//! - [`micro_batches`]: a batch in pieces, so that stages work at the same time.

mod communicator;
mod launch;
mod micro_batch;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(not(feature = "mpi"))]
mod no_mpi;
mod processes;
mod ranks;
mod sizes;
mod stages;
mod task;
mod threads;
mod through_host;
mod topology;

pub use crate::engine::Traffic;
pub use communicator::{Communicator, bytes, numbers};
pub use launch::{OnProgress, Setup, TIMEOUT, in_threads, serve_rank, threads_of_a_rank};
pub use micro_batch::{MICRO_BATCH_ROWS, micro_batch_count, micro_batches};
#[cfg(feature = "mpi")]
pub use mpi::{Mpi, finish, mpi_lines, speaks};
#[cfg(not(feature = "mpi"))]
pub use no_mpi::{finish, mpi_lines, speaks};
pub use processes::{check_alone, processes_here};
pub use ranks::{Leader, Member, follow};
pub use sizes::check_ranks;
pub use stages::{check_stages, stages};
pub use task::{Task, Workload};
pub use threads::Threads;
pub use through_host::ThroughHost;
pub use topology::{Lines, Topology};
