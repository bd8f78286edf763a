//! Flags of step 5: how a model runs on a GPU, real or simulated.

use super::model_args::{Activations, Arithmetic, LoadArgs};
use clap::Args;
use stairwell::backend::cuda::{AttentionVersion, CudaOptions, VERSIONS};
use stairwell::error::{Error, Result};
use stairwell::tensor::DType;

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
    /// The version of a kernel, such as paged_attention=v2; a plain one runs where its limits don't fit. Once for each kernel [default: the
    /// fastest that fits]
    #[arg(long, value_name = "NAME=VERSION", value_parser = kernel_version)]
    kernel: Vec<(&'static str, usize)>,
}

/// A kernel and the number of its version.
fn kernel_version(text: &str) -> Result<(&'static str, usize), String> {
    let names: Vec<&str> = VERSIONS.iter().map(|(name, _)| *name).collect();
    let unknown =
        || format!("'{text}': there are versions of {}; write {}=v1", names.join(" and of "), names[0]);
    let (name, version) = text.split_once('=').ok_or_else(unknown)?;
    let (name, count) = VERSIONS.iter().find(|(known, _)| *known == name).ok_or_else(unknown)?;
    let number = (0..*count).find(|number| version == format!("v{number}"));
    let all: Vec<String> = (0..*count).map(|number| format!("v{number}")).collect();
    let number =
        number.ok_or_else(|| format!("{name} has no version '{version}'; there are {}", all.join(", ")))?;
    Ok((name, number))
}

fn fraction(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| *number > 0.0 && *number <= 1.0);
    number.ok_or_else(|| format!("'{text}' is no fraction; give a number above 0, and at most 1"))
}

impl GpuArgs {
    /// The number of the version that is asked for; the last one counts.
    fn version(&self, kernel: &str) -> Option<usize> {
        self.kernel.iter().rev().find(|(name, _)| *name == kernel).map(|(_, number)| *number)
    }

    /// Refuses flags that only the CPU knows.
    ///
    /// # Errors
    /// [`Error::Usage`], with the flag.
    pub fn check(&self, load: &LoadArgs) -> Result<()> {
        match load.act_dtype {
            Activations::Auto => Ok(()),
            Activations::Int8 => {
                let message =
                    "--act-dtype int8: only the CPU multiplies so; leave it out, or give --device cpu";
                Err(Error::Usage(message.into()))
            }
        }
    }

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
            attention: self.version("paged_attention").map(|number| AttentionVersion::ALL[number]),
            prefill: self.version("flash_attention"),
        }
    }
}
