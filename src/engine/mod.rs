//! Many requests on one model: what vLLM and SGLang call the engine.
//!
//! ```text
//! add ─▶ waiting ─▶ running ─▶ finished        Engine::step = schedule → forward → sample → update
//!                   prefill, then decode        Engine → Scheduler → Worker → ModelRunner
//! ```
//! - `request`: one prompt on its way to one output;
//! - `policy`: which requests compute how many tokens in a step, continuous or static batching;
//! - `scheduler`: the two queues, and the batch of a step;
//! - `worker`: what carries a batch out; `report`: what it is and has done;
//! - `engine`: the loop. A [`Trace`](crate::trace::Trace) records what ran when.

#[allow(clippy::module_inception)] // engine/engine.rs is where a reader looks for it
mod engine;
mod policy;
mod report;
mod request;
mod scheduler;
mod worker;

pub use crate::kv::{BlockCounts, BlockSnapshot, KvManager, KvUsage, Prefix, RequestId, Slots};
pub use engine::{Engine, EngineStats, OnUpdate};
pub use policy::{Continuous, Limits, Policy, Queues, Static};
pub use report::{RankReport, RanksReport, Traffic, WorkerReport};
pub use request::{Finished, NewRequest, Phase, Request, Sharing, Times, Update};
pub use scheduler::{Chunk, Scheduler};
pub use worker::{LocalWorker, Output, Worker};
