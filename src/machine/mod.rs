//! The machines that run a model: a backend together with the attention that belongs to it.

#[cfg(feature = "step5")]
mod cuda;

#[cfg(feature = "step5")]
pub use cuda::open;

use crate::{
    backend::{Backend, cpu::Cpu},
    error::{Error, Result},
    kv::{self, KvOptions},
    model::{Attention, Model},
    tensor::DType,
};
use std::{fmt, str::FromStr};

/// A backend that knows its attention.
pub trait Machine: Backend {
    /// The attention that the options ask for, or the best one built so far, for a model that is loaded.
    ///
    /// # Errors
    /// If the machine does not have it, or there is no memory for what it reserves.
    fn attention(&self, model: &dyn Model<Self>, options: &KvOptions) -> Result<Box<dyn Attention<Self>>>;

    /// What ran, for stats.
    fn report(&self) -> MachineReport;
}

/// What ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineReport {
    /// `cpu`, `sim`, `cuda`.
    pub device: String,
    /// What linear layers multiply.
    pub dtype: DType,
    /// The instruction set, on a CPU.
    pub isa: Option<&'static str>,
    /// Kernels that were launched, on a device.
    pub kernel_launches: Option<u64>,
    /// Forward passes that were recorded before, and replayed.
    pub graph_replays: Option<u64>,
}

impl Machine for Cpu {
    fn attention(&self, model: &dyn Model<Cpu>, options: &KvOptions) -> Result<Box<dyn Attention<Cpu>>> {
        kv::build(model.attention_shape(), options)
    }

    fn report(&self) -> MachineReport {
        let (device, dtype, isa) = ("cpu".into(), self.dtype(), Some(self.isa().name()));
        MachineReport { device, dtype, isa, kernel_launches: None, graph_replays: None }
    }
}

/// A kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Step 1.
    Cpu,
    /// An NVIDIA GPU. (Step 5.)
    Cuda,
    /// CUDA kernels on the CPU. (Step 5.)
    Sim,
}

impl DeviceKind {
    /// All of them, whatever this build has.
    pub const ALL: [DeviceKind; 3] = [DeviceKind::Cpu, DeviceKind::Cuda, DeviceKind::Sim];

    /// The name on the command line and in stats.
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Cpu => "cpu",
            DeviceKind::Cuda => "cuda",
            DeviceKind::Sim => "sim",
        }
    }

    /// What to say where it was not built.
    pub fn needs_a_feature(self) -> Error {
        let name = self.name();
        Error::Usage(format!("--device {name}: it is not in this build; build with --features step5"))
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DeviceKind {
    type Err = String;
    fn from_str(text: &str) -> Result<DeviceKind, String> {
        let kind = DeviceKind::ALL.into_iter().find(|kind| kind.name() == text);
        kind.ok_or_else(|| format!("there is no device '{text}'; there are cpu, cuda, sim"))
    }
}
