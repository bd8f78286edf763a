//! The place of `gpu_args.rs` in builds without step 5.

use clap::Args;

/// There are GPUs from step 5 on.
#[derive(Args)]
pub struct GpuArgs {}
