//! Several workers for one model: what they say to each other, and by what means.
//!
//! - [`Communicator`]: the operations, the same for every means;
//! - [`Threads`]: ranks are threads of one process;
//! - [`check_ranks`]: into how many a model can be cut;
//! - [`ThroughHost`]: a model's collectives over any communicator, by way of host memory.

mod communicator;
mod sizes;
mod threads;
mod through_host;

pub use communicator::{Communicator, Traffic};
pub use sizes::check_ranks;
pub use threads::Threads;
pub use through_host::ThroughHost;
