//! OpenAI's API over the engine.

pub mod http;
pub mod metrics;
