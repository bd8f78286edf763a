//! The machines that run a model: a backend together with the attention that belongs to it.

#[cfg(feature = "step5")]
mod cuda;

#[cfg(feature = "step5")]
pub use cuda::open;

use crate::error::{Error, Result};
use crate::model::{Attention, Model, Rank, Share};
use crate::{attention, attention::KvOptions, backend::Backend, backend::cpu::Cpu, memory::free_memory};
use std::{env, thread};

/// Threads beyond which more of them are a mistake, on a machine with fewer cores.
const MOST_THREADS: usize = 256;

/// Threads that the variable `RAYON_NUM_THREADS` asks for, to a bound: a system that can't start them all would end the program. 0 is as
/// many as there are cores.
pub fn threads_asked() -> Option<usize> {
    let number = |name| env::var(name).ok()?.parse::<usize>().ok();
    let asked = number("RAYON_NUM_THREADS").or_else(|| number("RAYON_RS_NUM_CPUS"))?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Some(asked.min(cores.max(MOST_THREADS)))
}

/// Makes a machine, or says why there is none.
pub type MakeMachine<B> = Box<dyn FnOnce() -> Result<B> + Send>;

/// A backend that knows its attention.
pub trait Machine: Backend {
    /// The attention that the options ask for, or the best one built so far, for a model that is loaded.
    ///
    /// # Errors
    /// If the machine does not have it, or has too little memory for it.
    fn attention(&self, model: &dyn Model<Self>, options: &KvOptions) -> Result<Box<dyn Attention<Self>>>;

    /// Makes the machine of another rank in this process, like this one, on that rank's thread. (Step 7.)
    fn for_rank(&self, rank: usize) -> MakeMachine<Self>;

    /// The machine's own means to add up the results of a group of ranks, if it has them. (Step 7.)
    ///
    /// # Errors
    /// Those of the means.
    fn sums(&self, _rank: Rank, _share: Share) -> Result<Option<Sums<Self>>> {
        Ok(None)
    }

    /// Bytes that this machine could give for weights, activations, K and V, before anything is loaded.
    fn room(&self) -> u64 {
        free_memory()
    }

    /// A report for stats: the device and its arithmetic.
    fn report(&self) -> MachineReport;
}

/// Makes a tensor its sum over a group of ranks. The errors are those of the means by which it does.
pub type AllReduce<Tensor> = Box<dyn Fn(&mut Tensor) -> Result<()> + Send + Sync>;

/// Sums over a group of ranks, where the numbers are.
pub struct Sums<B: Backend> {
    /// The name in stats.
    pub name: &'static str,
    /// x becomes its sum over the ranks.
    pub all_reduce: AllReduce<B::Tensor>,
}

/// The device that ran, and how it computed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MachineReport {
    /// `cpu`, `sim`, `cuda`.
    pub device: String,
    /// The dtype that linear layers multiply in.
    pub dtype: String,
    /// The instruction set, on a CPU.
    pub isa: Option<&'static str>,
    /// Kernels that were launched, on a device.
    pub kernel_launches: Option<u64>,
    /// Forward passes that were recorded before, and replayed.
    pub graph_replays: Option<u64>,
}

impl Machine for Cpu {
    fn attention(&self, model: &dyn Model<Cpu>, options: &KvOptions) -> Result<Box<dyn Attention<Cpu>>> {
        if self.has_int8_activations() && !self.holds_int8_weights() {
            let why = "no matrix of this checkpoint is packed in 4 or 8 bits that int8 multiplies; leave the flag out";
            return Err(Error::Parameter { field: "act_dtype", value: "int8".into(), why: why.into() });
        }
        attention::build(model.attention_shape(), options)
    }

    fn for_rank(&self, _rank: usize) -> MakeMachine<Cpu> {
        let (isa, arithmetic, int8) = (self.isa(), self.arithmetic(), self.has_int8_activations());
        Box::new(move || Ok(Cpu::with_isa(isa).with_arithmetic(arithmetic).with_int8_activations(int8)))
    }

    fn report(&self) -> MachineReport {
        let (dtype, isa) = (self.dtype().to_string().to_lowercase(), Some(self.isa().name()));
        MachineReport { device: "cpu".into(), dtype, isa, kernel_launches: None, graph_replays: None }
    }
}

/// A kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum DeviceKind {
    /// Step 1
    Cpu,
    /// An NVIDIA GPU (step 5)
    Cuda,
    /// CUDA kernels on the CPU (step 5)
    Sim,
}

impl DeviceKind {
    /// The name on the command line and in stats.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The error of a build without this machine.
    pub fn needs_a_feature(self) -> Error {
        let why = "it is not in this build; build with --features step5".into();
        Error::Parameter { field: "device", value: self.name().into(), why }
    }
}
