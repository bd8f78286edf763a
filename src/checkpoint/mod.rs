//! From files on disk to named tensors.
//!
//! ```text
//! --model ─ locate ─▶ Directory ─ index ─▶ shards ─ header ─▶ StateDict ─ view ─▶ (name, HostTensor) ─ names ─▶ parameter
//!                                             (mmap)                                                 (rename, skip)
//! ```
//! Each shard is opened once and memory-mapped. A tensor is a view of the map: nothing is copied, and what is not used is not
//! read. The last arrow, into a model's parameters, is [`crate::model::load_weights`].

mod checksum;
mod directory;
mod dummy;
mod error;
mod foreign;
#[cfg(feature = "quantized")]
pub(crate) mod gguf;
#[cfg(not(feature = "quantized"))]
#[path = "no_gguf.rs"]
mod gguf;
mod header;
mod index;
mod load_format;
mod locate;
#[cfg(feature = "quantized")]
mod mistral;
mod model_name;
mod names;
#[cfg(feature = "quantized")]
mod pickle;
mod prefetch;
mod state_dict;
mod write;

pub use checksum::{Checksums, checksums, hex};
pub use directory::Directory;
pub use dummy::{check_memory, dummy_tensor};
pub use error::CheckpointError;
use error::Result;
pub(crate) use foreign::foreign;
#[cfg(feature = "quantized")]
pub use gguf::Gguf;
pub use header::{Header, TensorInfo};
pub use index::Index;
pub use load_format::LoadFormat;
pub use locate::{Variable, cached_snapshot, hf_home, hub_cache, hub_path, locate, locate_path};
pub use model_name::ModelName;
pub use names::{LoadRules, Mapper, NameMismatch, Resolution, natural_order};
#[cfg(feature = "quantized")]
pub use pickle::{open_training, shards as torch_shards};
pub use prefetch::prefetch;
#[cfg(feature = "quantized")]
use state_dict::FileFormat;
pub use state_dict::{Entry, Shard, StateDict};
pub use write::write_safetensors;
