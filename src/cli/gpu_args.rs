//! Flags of step 5: how a model runs on a GPU, real or simulated.

use super::model_args::{Arithmetic, LoadArgs};
use clap::Args;
use stairwell::{
    backend::cuda::{AttentionVersion, CudaOptions},
    tensor::DType,
};

/// How it runs on a device.
#[derive(Args)]
#[command(next_help_heading = "Device")]
pub struct GpuArgs {
    /// The part of a GPU's memory that may be used; what weights and activations leave of it is for K and V
    #[arg(long, value_name = "FRACTION", default_value_t = 0.9, value_parser = fraction)]
    gpu_memory_utilization: f64,
    /// Launch the kernels of every decode step one by one, instead of recording them once (CUDA graphs)
    #[arg(long)]
    enforce_eager: bool,
    /// The version of a kernel, such as paged_attention=v2; the plain one runs where its limits don't fit [default: the fastest that fits]
    #[arg(long, value_name = "NAME=VERSION", value_parser = attention_version)]
    kernel: Option<AttentionVersion>,
}

fn attention_version(text: &str) -> Result<AttentionVersion, String> {
    match text.split_once('=') {
        Some(("paged_attention", version)) => version.parse(),
        _ => Err(format!("'{text}': there are versions of paged_attention; write paged_attention=v2")),
    }
}

fn fraction(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| *number > 0.0 && *number <= 1.0);
    number.ok_or_else(|| format!("'{text}' is no fraction; give a number above 0, and at most 1"))
}

impl GpuArgs {
    /// The flags as options.
    pub fn options(&self, load: &LoadArgs) -> CudaOptions {
        let dtype = match load.dtype {
            Arithmetic::Auto => None,
            Arithmetic::F32 => Some(DType::F32),
            Arithmetic::Bf16 => Some(DType::BF16),
            Arithmetic::F16 => Some(DType::F16),
        };
        CudaOptions {
            dtype,
            utilization: self.gpu_memory_utilization,
            graphs: !self.enforce_eager,
            attention: self.kernel,
        }
    }
}
