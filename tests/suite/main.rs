//! The tests of every step, in one program: `cargo test --features stepN --test suite stepN::` runs those of one file.

#[allow(dead_code, unused_imports)] // the exercises use the rest
#[path = "../../steps/contracts/mod.rs"]
mod contracts;

// Step 1.
mod bad_checkpoint;
mod bad_header;
mod bad_request;
mod command_line;
mod common;
mod cpu_dtypes;
mod files;
mod generation;
mod step1;
mod tokenizer;
mod verify;
mod weights;

// Step 2.
#[cfg(feature = "step2")]
mod step2;

// Step 3.
#[cfg(feature = "step3")]
mod batch_command;
#[cfg(feature = "step3")]
mod batch_lines;
#[cfg(feature = "step3")]
mod bench_command;
#[cfg(feature = "step3")]
mod serving;
#[cfg(feature = "step3")]
mod step3;

// Step 4.
#[cfg(feature = "step4")]
mod bench_blocks;
#[cfg(feature = "step4")]
mod blocks_command;
#[cfg(feature = "step4")]
mod instruction_sets;
#[cfg(feature = "step4")]
mod paged_attention;
#[cfg(feature = "step4")]
mod paged_command;
#[cfg(feature = "step4")]
mod plan_command;
#[cfg(feature = "step4")]
mod server_needs;
#[cfg(feature = "step4")]
mod step4;

// Step 5.
#[cfg(feature = "step5")]
mod device;
#[cfg(feature = "step5")]
mod device_command;
#[cfg(feature = "step5")]
mod device_dtypes;
#[cfg(feature = "step5")]
mod device_sampling;
#[cfg(feature = "step5")]
mod gpu;
#[cfg(feature = "step5")]
mod paged_case;
#[cfg(feature = "step5")]
mod probes;
#[cfg(feature = "step5")]
mod profile;
#[cfg(feature = "step5")]
mod random;
#[cfg(feature = "step5")]
mod simulator;
#[cfg(feature = "step5")]
mod step5;
#[cfg(feature = "step5")]
mod step5_attention;
#[cfg(feature = "step5")]
mod step5_kernels;

// Step 6.
#[cfg(feature = "step6")]
mod step6;
#[cfg(feature = "step6")]
mod step6_engine;

// Step 7.
#[cfg(feature = "step7")]
mod communicator;
#[cfg(feature = "step7")]
mod parallel_command;
#[cfg(feature = "step7")]
mod step7;

// Step 8.
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "serve")]
mod serve_chat;

// Step 9.
#[cfg(feature = "quantized")]
mod convert;
#[cfg(feature = "quantized")]
mod gguf;
#[cfg(feature = "quantized")]
mod gguf_convert;
#[cfg(feature = "quantized")]
mod gguf_file;
#[cfg(all(feature = "step7", feature = "quantized"))]
mod gguf_parallel;
#[cfg(feature = "quantized")]
mod gguf_tokenizer;
#[cfg(feature = "quantized")]
mod int8;
#[cfg(feature = "quantized")]
mod kv_scales;
#[cfg(feature = "quantized")]
mod kv_scales_case;
#[cfg(feature = "quantized")]
mod mistral_layout;
#[cfg(all(feature = "step5", feature = "quantized"))]
mod quant_case;
#[cfg(all(feature = "step5", feature = "quantized"))]
mod quant_kernels;
#[cfg(all(feature = "step5", feature = "quantized"))]
mod quant_profile;
#[cfg(feature = "quantized")]
mod step9;
#[cfg(all(feature = "step7", feature = "quantized"))]
mod step9_device;
#[cfg(feature = "quantized")]
mod torch_files;
#[cfg(feature = "quantized")]
mod torch_refused;
#[cfg(feature = "quantized")]
mod torch_writer;

// Models by name.
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod hub_lies;
#[cfg(feature = "hub")]
mod hub_server;
#[cfg(feature = "hub")]
mod versions;
