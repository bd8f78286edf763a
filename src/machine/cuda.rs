//! [`Machine`] for the CUDA backend, and which device a run gets.

use super::{DeviceKind, Machine, MachineReport};
use crate::{
    backend::cuda::{Cuda, Simulated},
    error::{Error, Result},
    kv::{AttentionKind, KvOptions, PagedCuda},
    model::{Attention, AttentionShape},
};
use std::sync::Arc;

/// The device that is asked for; `None` for the CPU, which is also the default, until there is a driver for GPUs.
///
/// # Errors
/// If it is not there, with the reason.
pub fn open(asked: Option<DeviceKind>) -> Result<Option<Cuda>> {
    match asked {
        None | Some(DeviceKind::Cpu) => Ok(None),
        Some(DeviceKind::Sim) => Ok(Some(Cuda::new(Arc::new(Simulated::default())))),
        Some(DeviceKind::Cuda) => {
            let message = "--device cuda: this build has no driver for GPUs yet; use --device sim or cpu";
            Err(Error::Usage(message.into()))
        }
    }
}

impl Machine for Cuda {
    fn attention(&self, shape: AttentionShape, options: &KvOptions) -> Result<Box<dyn Attention<Cuda>>> {
        match options.attention {
            None | Some(AttentionKind::Paged) => Ok(Box::new(PagedCuda::new(self.device(), shape, options)?)),
            Some(other) => {
                let (name, device) = (other.name(), self.device().name());
                let message = format!(
                    "--attention {name}: on --device {device} K and V are in blocks; leave the flag out"
                );
                Err(Error::Usage(message))
            }
        }
    }

    fn report(&self) -> MachineReport {
        let device = self.device().name().to_owned();
        MachineReport { device, isa: None, kernel_launches: Some(self.launches()) }
    }
}
