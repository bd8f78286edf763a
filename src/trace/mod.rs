//! The record of a run, which says what ran when, and a page that draws it.
//!
//! ```text
//! Engine::step ─▶ Trace ─▶ trace.json ─┬─▶ page: viewer.html with the record in it, for a browser
//!                                      └─▶ Schedule, PoolHistory: what commands and tests read of it
//! ```
//! - `recorder`: [`Trace`], which writes the record. It takes plain data, so it knows no engine;
//! - `record`: the record's file, and what is refused as none;
//! - `schedule`: the requests and steps of a record;
//! - `pool`: the KV cache's blocks in a record, written and read (step 4);
//! - `page`: the record in `viewer.html`, one file that needs nothing else.

#[cfg(not(feature = "step4"))]
mod no_pool;
mod page;
#[cfg(feature = "step4")]
mod pool;
mod record;
mod recorder;
mod schedule;

#[cfg(not(feature = "step4"))]
use no_pool::PoolTrace;
pub use page::{Tab, View, page};
#[cfg(feature = "step4")]
use pool::PoolTrace;
#[cfg(feature = "step4")]
pub use pool::{PoolHistory, PoolState};
pub use recorder::{Part, Phase, Trace};
pub use schedule::Schedule;
