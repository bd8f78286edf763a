//! Weights of 8 bits and less (step 9): how each tool lays them out, and how numbers are made of them.
//!
//! ```text
//! tensors of a checkpoint ─ assemble ─▶ (parameter, Matrix) ─ load_weights ─▶ the model
//!   q_proj.qweight, .qzeros, .scales          q_proj.weight
//! ```
//! A layout is a [`Format`]: codes, scales and how they become numbers; each has a file. The CPU multiplies [`PackedRows`], which a load
//! makes of it, and a device [`DeviceCodes`].

mod arena;
mod assemble;
mod awq;
mod bitsandbytes;
mod compressed_tensors;
mod config;
mod device;
mod dummy;
mod fields;
mod format;
pub mod gguf;
mod gptq;
mod kv_scales;
pub mod quantize;
mod rows;
mod scaled;
mod squeezellm;

pub(crate) use assemble::assemble;
pub use awq::AwqVersion;
pub use config::{GptqConfig, Quantization, Scheme};
pub use device::{CodeWords, DeviceCodes, FP8_BLOCK, Fp8Blocks};
pub use dummy::dummy_tensors;
pub use format::{Coded, Format, Numbers};
pub use kv_scales::read_kv_scales;
pub(crate) use kv_scales::{is_kv_scale, kv_scales};
pub use rows::{BLOCK, CHUNK, NO_INPUT, PackedRows};
