//! One request as the world writes it: OpenAI's fields, a checkpoint that is read once, and what the two make of each other. The
//! command line and the lines of `batch` come in here, and so will a server.

mod checkpoint;
mod fields;
#[cfg(feature = "step3")]
mod line;
#[cfg(feature = "step3")]
mod members;
mod resolve;

pub use checkpoint::Checkpoint;
pub use fields::{Fields, Logprobs};
#[cfg(feature = "step3")]
pub use line::Line;
#[cfg(feature = "step3")]
pub use members::{Members, WrongMember};
pub use resolve::{DEFAULT_MAX_TOKENS, MAX_STOP_BYTES, MAX_STOPS, Resolved};
