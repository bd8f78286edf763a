//! **stairwell**: a nano LLM inference engine that a reader climbs one step at a time.
//!
//! This file is the staircase: each module stands under the step that adds it. Build a step with
//! `cargo build --features stepN`; the plain crate is step 1.
//!
//! ```text
//! prompt ─ tokenizer ─▶ ids ─▶ Batch ─▶ Model::forward ─▶ logits ─▶ Sampler ─▶ token ─▶ detokenizer ─▶ text
//!                                            │
//!                                            └── Attention: the only place where tokens meet
//! ```
//!
//! ```
//! use stairwell::{demo, generate::{GenerateParams, generate}, runner::{LoadOptions, ModelRunner}, tokenizer::Tokenizer};
//! use std::ops::ControlFlow;
//!
//! let directory = demo::directory();
//! let tokenizer = Tokenizer::new(demo::tokenizer_files())?;
//! let mut runner = ModelRunner::load(&directory, LoadOptions::default())?;
//!
//! let prompt = tokenizer.encode_prompt("Once upon a time")?;
//! let mut params = GenerateParams { max_tokens: 8, ..GenerateParams::default() };
//! params.sampling.temperature = 0.0;
//! let output = generate(&mut runner, &prompt, &params, &mut |_| ControlFlow::Continue(()))?;
//! println!("{}", tokenizer.decode(&output.ids, true));
//! # assert_eq!(output.ids.len(), 8);
//! # Ok::<(), stairwell::error::Error>(())
//! ```

// Step 1: one correct forward pass, the whole sequence again for every token.
pub mod attention;
pub mod backend;
pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod demo;
mod dtype;
pub mod error;
pub mod files;
pub mod generate;
mod json;
pub mod machine;
mod memory;
pub mod model;
pub mod packed;
#[cfg(not(feature = "quantized"))]
#[path = "no_quant.rs"]
mod quant;
pub mod request;
pub mod runner;
pub mod sampling;
pub mod tensor;
pub mod tokenizer;
pub mod words;

// Step 2: a contiguous KV cache: attention/contiguous.rs, attention/slot_memory.rs, attention/cpu/group.rs
// (files of modules above).

// Step 3: many requests: prefill and decode, continuous batching, chunked prefill.
#[cfg(feature = "step3")]
pub mod engine;
#[cfg(feature = "step3")]
pub mod kv;
#[cfg(feature = "step3")]
pub mod trace;

// Step 4: the KV cache in blocks, prefix cache, preemption: kv/block_*.rs, kv/prefix_cache.rs, kv/sharing.rs, engine/preempt.rs,
// engine/update.rs, attention/paged.rs, attention/memory_plan.rs and trace/pool.rs (files of modules above).
// Step 5: the CUDA backend: backend/cuda/ and kernels/, which a simulator runs where there is no GPU; attention/cuda/,
// machine/cuda.rs.
// Step 6: flash-style prefill: kernels/flash_attention*.cu, backend/cuda/flash_attention.rs, attention/cuda/flash.rs.
// Step 7: one model on several ranks: tensor parallelism, pipeline parallelism; threads and MPI.
#[cfg(feature = "step7")]
pub mod parallel;

// Step 9: weights of 8 bits and less, and checkpoints in another format.
#[cfg(feature = "quantized")]
pub mod convert;
#[cfg(feature = "quantized")]
pub mod quant;

// Models by name: download, cache. It needs no step but the first.
#[cfg(feature = "hub")]
pub mod hub;

// Step 8: OpenAI's API over the engine.
#[cfg(feature = "serve")]
pub mod server;
