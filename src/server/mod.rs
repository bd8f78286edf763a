//! Step 8: OpenAI's API over the engine, in three components, as SGLang has them.
//!
//! ```text
//! client ◀─HTTP─▶ TokenizerManager ── token ids ──▶ Scheduler ── token ids ──▶ Detokenizer ── text ──▶ TokenizerManager
//!                 async, many clients               one thread: the engine      one thread             (outbox.rs)
//! ```
//! - `io_struct`: the messages between them;
//! - `tokenizer_manager`: checks a request, makes it token ids (`prepare`), follows it to its end, and takes it back if its client leaves;
//! - `scheduler`: the engine's loop, which waits for nobody;
//! - `detokenizer`: ids to text, with what stop strings and half characters hold back;
//! - `outbox`: what waits for a client that reads slowly; `status`: gauges that everybody may read; `metrics`: counters for Prometheus;
//! - `components`: the three, wired, for `serve` and for `chat` in the terminal;
//! - `http`: connections, keys, OpenAI's and SGLang's interfaces; `lifecycle`: from the port that is bound to the process that ends.

pub mod components;
pub mod detokenizer;
pub mod error;
pub mod http;
pub mod io_struct;
pub mod lifecycle;
pub mod metrics;
pub mod outbox;
pub mod prepare;
pub mod scheduler;
pub mod status;
pub mod tokenizer_manager;
