//! Many requests on one model: what vLLM and SGLang call the engine.
//!
//! ```text
//! add ─▶ waiting ─▶ running ─▶ finished        Engine::step = schedule → forward → sample → update
//!                   prefill, then decode        Engine → Scheduler → Worker → ModelRunner
//! ```
//! - `request`: one prompt on its way to one output;
//! - `policy`: which requests compute how many tokens in a step, continuous or static batching;
//! - `scheduler`: the two queues, and the batch of a step;
//! - `no_preempt`: how the scheduler asks for room; from step 4 on `preempt` instead, where memory is shared and may run short;
//! - `pause` (step 4): new weights while requests run; `hold` (step 4): requests whose readers are behind;
//! - `limits`: bounds on the queue, deadlines, failed steps; `prompt_logprobs`: what the model thought of a prompt;
//! - `worker`: what carries a batch out; `report`: what it is and has done;
//! - `engine`: the loop; `stats`: what it has done. A [`Trace`](crate::trace::Trace) records what ran when.

#[allow(clippy::module_inception)] // engine/engine.rs is where a reader looks for it
mod engine;
#[cfg(feature = "step4")]
mod hold;
mod limits;
#[cfg(not(feature = "step4"))]
mod no_preempt;
#[cfg(feature = "step4")]
mod pause;
mod policy;
#[cfg(feature = "step4")]
mod preempt;
mod prompt_logprobs;
mod report;
mod request;
mod scheduler;
mod stats;
mod worker;

pub use crate::{
    kv::{BlockCounts, KvManager, KvUsage, RequestId, Slots},
    trace::Phase,
};
pub use engine::Engine;
pub use limits::QueueLimits;
#[cfg(not(feature = "step4"))]
use no_preempt::Pause;
#[cfg(feature = "step4")]
use pause::Pause;
#[cfg(feature = "step4")]
pub use pause::PauseMode;
pub use policy::{Continuous, Limits, Policy, Queues, Static};
pub use report::{RankReport, RanksReport, Traffic, WorkerReport};
pub use request::{Finished, NewRequest, Request, SharesWith, Times, Update};
pub use scheduler::{Chunk, Scheduler};
pub use stats::EngineStats;
pub use worker::{LocalWorker, Output, Worker};
